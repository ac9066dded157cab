"""Item 2, its last sentence: a breach of one partition while another one takes a burst.

Beside breaches without other load, and beside the same burst sent to a topic that Tidegate does not read, which is what
broker and load make of it on the core that they share. The three take turns within each worker's life. What publishes
the burst takes only what the broker leaves of that core (see ``bulk``).
"""

import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from infra.brokers import KafkaCluster
from streams.core.records import PNL
from streams.runtime.kafka import partition_of_key
from tests.benchmarks.bulk import Bulk
from tests.benchmarks.engines import TIDEGATE, Peer, Tidegate, make_topics, start
from tests.benchmarks.figures import Figure
from tests.benchmarks.latency import ACCOUNTS, PARTITIONS, publish, rows, say, summary
from tests.benchmarks.paced import Breaches, Probe
from tests.benchmarks.peers.setup import Setup
from tests.benchmarks.processes import BROKER_CORE, pinned_to
from tests.benchmarks.stream import Encoded, encoded
from tests.benchmarks.workload import Event, Workload, account_name

UPDATES = 10_000
IDLE, AMID, UNREAD = "breach, idle", "breach amid a burst", "breach, burst unread"
_PROBED, _BURSTING = 0, 1
_PROBE_GAP_S = 0.02
_PROBES_OF_A_BURST = 60
"""At most; a burst takes less than half a second."""
_DEADLINE_S = 60.0
_TOPIC = "unread"


class Size(NamedTuple):
    """How much is measured."""

    rounds: int
    """Lives of a worker."""
    idle_probes: int
    """Before each burst."""
    warm_up_bursts: int
    bursts: int


FULL = Size(rounds=5, idle_probes=20, warm_up_bursts=2, bursts=8)
QUICK = Size(rounds=5, idle_probes=20, warm_up_bursts=2, bursts=3)


def run(size: Size) -> dict[str, Any]:
    """Latencies in ms, by what goes on meanwhile and round."""
    found: dict[str, list[list[float]]] = {IDLE: [], AMID: [], UNREAD: []}
    with pinned_to(BROKER_CORE), KafkaCluster() as cluster:
        for number in range(size.rounds):
            for name, values in _measure(cluster.bootstrap, f"burst-{number}-", size).items():
                found[name].append(values)
                say(number, name, values)
    return {"size": size._asdict(), "latencies": {name: summary(rounds) for name, rounds in found.items()}}


def _measure(bootstrap: str, prefix: str, size: Size) -> dict[str, list[float]]:
    # Probes are all on one partition, and partitions do not share names quite evenly.
    on_one = _PROBES_OF_A_BURST * (size.warm_up_bursts + 2 * size.bursts) + size.idle_probes * size.bursts
    breaches = Breaches(ACCOUNTS, PARTITIONS * on_one * 5 // 4, PARTITIONS)
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        setup = Setup(bootstrap, prefix, directory, PARTITIONS, ACCOUNTS + len(breaches.names))
        make_topics(bootstrap, [setup.topic(_TOPIC)])
        with start(TIDEGATE, setup) as running, Probe(setup) as probe, Bulk(setup) as bulk:
            publish(probe, running, [*Workload(ACCOUNTS).first_marks(), *breaches.marks()])
            return _in_turns(probe, running, breaches, bulk, size)


def _in_turns(
    probe: Probe, running: Peer | Tidegate, breaches: Breaches, bulk: Bulk, size: Size
) -> dict[str, list[float]]:
    for _ in range(size.warm_up_bursts):
        bulk.load(_updates())
        _burst(probe, running, breaches, bulk)
    idle: list[float] = []
    amid: list[float] = []
    unread: list[float] = []
    for _ in range(size.bursts):
        bulk.load(_updates())
        idle += _probed(probe, running, breaches, size.idle_probes * _PROBE_GAP_S)
        latencies, seconds = _burst(probe, running, breaches, bulk)
        amid += latencies
        bulk.load([one._replace(topic=_TOPIC, partition=0) for one in _updates()])
        bulk.go()
        unread += _probed(probe, running, breaches, seconds)
    return {IDLE: idle, AMID: amid, UNREAD: unread}


def _burst(probe: Probe, running: Peer | Tidegate, breaches: Breaches, bulk: Bulk) -> tuple[list[float], float]:
    """Breaches of one partition while another one works off the updates that ``bulk`` holds; and how many seconds that
    took."""
    end = running.positions().get((PNL, _BURSTING), 0) + UPDATES
    began_s = ended_s = time.perf_counter()

    def is_over() -> bool:
        nonlocal ended_s
        ended_s = time.perf_counter()
        return running.positions().get((PNL, _BURSTING), 0) >= end

    bulk.go()
    return _until(is_over, probe, running, breaches), ended_s - began_s


def _probed(probe: Probe, running: Peer | Tidegate, breaches: Breaches, seconds: float) -> list[float]:
    """Breaches of one partition for a time."""
    end = time.perf_counter() + seconds

    def is_over() -> bool:
        running.positions()  # as often as amid a burst: it asks the broker
        return time.perf_counter() >= end

    return _until(is_over, probe, running, breaches)


def _until(is_over: Callable[[], bool], probe: Probe, running: Peer | Tidegate, breaches: Breaches) -> list[float]:
    """Breaches of one partition, in ms each until it is locked."""
    accounts: list[str] = []
    next_at = time.perf_counter()
    while not is_over():
        running.process.check()
        if time.perf_counter() >= next_at:
            accounts.append(_breach(probe, breaches))
            next_at = time.perf_counter() + _PROBE_GAP_S
        time.sleep(0.005)
    return probe.latencies_ms(accounts, _DEADLINE_S, running.process.check)


def _breach(probe: Probe, breaches: Breaches) -> str:
    """Send one; the account."""
    one = breaches.next(_PROBED)
    account = one.key.decode()
    probe.send(one, account)
    return account


def _updates() -> list[Encoded]:
    names = [account_name(number) for number in range(ACCOUNTS)]
    names = [name for name in names if partition_of_key(name.encode(), PARTITIONS) == _BURSTING]
    base = time.time_ns() // 1_000_000
    values = (
        (names[number % len(names)], {"sequence": base + number, "equity": "100010", "marks": {"BTC-USD": "16500"}})
        for number in range(UPDATES)
    )
    return encoded([Event(PNL, name, {"account_id": name, **value}) for name, value in values], PARTITIONS)


def figures(results: Mapping[str, Any]) -> list[Figure]:
    """The item's figures, with the goal that they are held against."""
    p99 = {row.name: row.p99.value for row in rows(results)}
    return [
        Figure("breach_amid_burst_p99", p99[AMID], "ms", "idle", p99[AMID] / p99[IDLE], "<= 1.5"),
        Figure("breach_burst_unread_p99", p99[UNREAD], "ms", "idle", p99[UNREAD] / p99[IDLE]),
    ]
