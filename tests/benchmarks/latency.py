"""Item 2: from a record to its read-committed output, beside a bare transactional echo; and a breach amid a burst."""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from infra.brokers import KafkaCluster
from streams.core.records import PNL
from streams.runtime.kafka import partition_of_key
from tests.benchmarks.engines import TIDEGATE, Engine, Peer, Tidegate, start
from tests.benchmarks.figures import Figure, Median, median_of, percentile
from tests.benchmarks.paced import Breaches, Probe, paced
from tests.benchmarks.peers.setup import Setup
from tests.benchmarks.processes import BROKER_CORE, pinned_to
from tests.benchmarks.stream import Encoded, encoded
from tests.benchmarks.workload import Event, Workload, account_name

ECHO = Engine("echo", "bare transactional echo", "none: no offsets in its transaction", "none", batches=True)
ACCOUNTS = 1_000
PARTITIONS = 4
RATES = (200, 2_000)
BREACHES_PER_S = 10
BURST = 10_000
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_DEADLINE_S = 60.0
_PROBED, _BURSTING = 0, 1
_PROBE_GAP_S = 0.02
_PROBES_OF_A_BURST = 60
"""At most; a burst takes less than half a second."""
_UNREAD = "unread"


class Size(NamedTuple):
    """How much is measured."""

    seconds: int
    """At each rate, after ``warm_up_s``."""
    warm_up_s: int
    rounds: int
    idle_probes: int
    """Before each burst."""
    warm_up_bursts: int
    bursts: int


FULL = Size(seconds=20, warm_up_s=6, rounds=5, idle_probes=20, warm_up_bursts=2, bursts=8)
QUICK = Size(seconds=5, warm_up_s=3, rounds=5, idle_probes=20, warm_up_bursts=2, bursts=3)


def run(size: Size) -> dict[str, Any]:
    """Tidegate and the echo in turns, ``size.rounds`` times. Latencies in ms, by engine, kind, rate and round."""
    found: dict[str, list[list[float]]] = {}
    with pinned_to(BROKER_CORE), KafkaCluster() as cluster:
        for number in range(size.rounds):
            for engine in (TIDEGATE, ECHO):
                for name, values in _measure(engine, cluster.bootstrap, f"{engine.name}-{number}-", size).items():
                    found.setdefault(f"{engine.name} {name}", []).append(values)
                    line = ", ".join(f"{label} {percentile(values, share):.1f}" for label, share in SHARES.items())
                    print(f"round {number + 1}: {engine.title}: {name}: {line} ms (n = {len(values)})", file=sys.stderr)
    return {"size": size._asdict(), "latencies": {name: _summary(rounds) for name, rounds in found.items()}}


def _summary(rounds: list[list[float]]) -> dict[str, Any]:
    """Percentiles of each round; p99.9 of all rounds together, for one has too few values."""
    per_round = {label: [percentile(one, SHARES[label]) for one in rounds] for label in ("p50", "p99")}
    together = [value for one in rounds for value in one]
    return per_round | {"p99.9": percentile(together, SHARES["p99.9"]), "count": len(together)}


def _measure(engine: Engine, bootstrap: str, prefix: str, size: Size) -> dict[str, list[float]]:
    span_s = size.warm_up_s + size.seconds
    needed = len(RATES) * span_s * BREACHES_PER_S
    # Probes of the bursts are all on one partition, and partitions do not share names quite evenly.
    on_one = _PROBES_OF_A_BURST * (size.warm_up_bursts + 2 * size.bursts) + size.idle_probes * size.bursts
    breaches = Breaches(ACCOUNTS, needed + PARTITIONS * on_one * 5 // 4, PARTITIONS)
    workload = Workload(ACCOUNTS, fill_delay=5_000)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        setup = Setup(bootstrap, prefix, directory, PARTITIONS, ACCOUNTS + len(breaches.names))
        with start(engine, setup) as running, Probe(setup) as probe:
            _publish(probe, running, [*workload.first_marks(), *breaches.marks()])
            for rate in RATES:
                paced(
                    probe, encoded(workload.events(rate * size.warm_up_s), PARTITIONS), rate, breaches, BREACHES_PER_S
                )
                stream = encoded(workload.events(rate * size.seconds), PARTITIONS)
                signals, locked = paced(probe, stream, rate, breaches, BREACHES_PER_S)
                check = running.process.check
                found[f"signal at {rate}/s"] = probe.latencies_ms(signals, _DEADLINE_S, check)
                found[f"breach at {rate}/s"] = probe.latencies_ms(locked, _DEADLINE_S, check)
            if engine is TIDEGATE:
                found |= _bursts(probe, running, breaches, size)
    return found


def _publish(probe: Probe, running: Peer | Tidegate, events: list[Event]) -> None:
    """Publish and wait until all is processed."""
    for one in encoded(events, PARTITIONS):
        probe.send(one)
    probe.flush()
    deadline = time.monotonic() + _DEADLINE_S
    while sum(running.positions().values()) < len(events):
        running.process.check()
        if time.monotonic() > deadline:
            raise TimeoutError(
                f"the first {len(events)} events were not processed; its log:\n{running.process.log[-3_000:]}"
            )
        time.sleep(0.02)


def _bursts(probe: Probe, running: Peer | Tidegate, breaches: Breaches, size: Size) -> dict[str, list[float]]:
    """Breaches of one partition in turns: without other load, while another partition works off a burst, and while the
    same burst goes to a topic that Tidegate does not read: what of it is the broker's and the load's."""
    probe.make_topic(_UNREAD)
    for _ in range(size.warm_up_bursts):
        _burst(probe, running, breaches)
    idle: list[float] = []
    amid: list[float] = []
    unread: list[float] = []
    for _ in range(size.bursts):
        idle += _probed(probe, running, breaches, size.idle_probes * _PROBE_GAP_S)
        began = time.perf_counter()
        amid += _burst(probe, running, breaches)
        seconds = time.perf_counter() - began
        elsewhere = [one._replace(topic=_UNREAD, partition=0) for one in _updates(_BURSTING)]
        unread += _probed(probe, running, breaches, seconds, elsewhere)
    return {"breach, idle": idle, "breach amid a burst": amid, "breach, burst unread": unread}


def _burst(probe: Probe, running: Peer | Tidegate, breaches: Breaches) -> list[float]:
    """Breaches of one partition while another one works off a burst of updates."""
    end = running.positions().get((PNL, _BURSTING), 0) + BURST
    updates = _updates(_BURSTING)
    return _amid(probe, running, breaches, updates, lambda: running.positions().get((PNL, _BURSTING), 0) >= end)


def _probed(
    probe: Probe, running: Peer | Tidegate, breaches: Breaches, seconds: float, updates: Sequence[Encoded] = ()
) -> list[float]:
    """Breaches of one partition for a time that begins with ``updates``."""
    end = time.perf_counter() + seconds

    def is_over() -> bool:
        running.positions()  # as often as amid a burst: it asks the broker
        return time.perf_counter() >= end

    return _amid(probe, running, breaches, updates, is_over)


def _amid(
    probe: Probe,
    running: Peer | Tidegate,
    breaches: Breaches,
    updates: Sequence[Encoded],
    is_over: Callable[[], bool],
) -> list[float]:
    """Breaches of one partition while and after ``updates`` are published."""
    accounts: list[str] = []
    next_at = time.perf_counter()
    for number, one in enumerate(updates):
        probe.send_in_bulk(one)
        if number % 500 == 0 and time.perf_counter() >= next_at:
            next_at = _breach(probe, breaches, accounts)
    while not is_over():
        running.process.check()
        if time.perf_counter() >= next_at:
            next_at = _breach(probe, breaches, accounts)
        time.sleep(0.005)
    return probe.latencies_ms(accounts, _DEADLINE_S, running.process.check)


def _breach(probe: Probe, breaches: Breaches, accounts: list[str]) -> float:
    """Send one; when the next is due."""
    one = breaches.next(_PROBED)
    accounts.append(one.key.decode())
    probe.send(one, accounts[-1])
    return time.perf_counter() + _PROBE_GAP_S


def _updates(partition: int) -> list[Encoded]:
    names = [account_name(number) for number in range(ACCOUNTS)]
    names = [name for name in names if partition_of_key(name.encode(), PARTITIONS) == partition]
    base = time.time_ns() // 1_000_000
    values = (
        (names[number % len(names)], {"sequence": base + number, "equity": "100010", "marks": {"BTC-USD": "16500"}})
        for number in range(BURST)
    )
    return encoded([Event(PNL, name, {"account_id": name, **value}) for name, value in values], PARTITIONS)


class Row(NamedTuple):
    """One line of the table: medians of the rounds' percentiles, p99.9 of all rounds together."""

    name: str
    samples: int
    p50: Median
    p99: Median
    p999: float


def rows(results: Mapping[str, Any]) -> list[Row]:
    """The table's lines."""
    return [
        Row(name, one["count"], median_of(one["p50"]), median_of(one["p99"]), one["p99.9"])
        for name, one in results["latencies"].items()
    ]


def figures(results: Mapping[str, Any]) -> list[Figure]:
    """The item's figures, with the goals that they are held against."""
    by_name = {row.name: row for row in rows(results)}
    found: list[Figure] = []
    for rate in RATES:
        for kind in ("signal", "breach"):
            ours, echo = by_name[f"tidegate {kind} at {rate}/s"], by_name[f"echo {kind} at {rate}/s"]
            name = f"latency_{kind}_{rate}"
            found.append(Figure(f"{name}_p50", ours.p50.value, "ms", "echo", ours.p50.value / echo.p50.value))
            found.append(Figure(f"{name}_p99", ours.p99.value, "ms", "echo", ours.p99.value / echo.p99.value, "<= 1.5"))
            found.append(Figure(f"{name}_p99.9", ours.p999, "ms", "echo", ours.p999 / echo.p999))
    burst, unread = by_name["tidegate breach amid a burst"], by_name["tidegate breach, burst unread"]
    for name, other, against, goal in (
        ("latency_breach_amid_burst_p99", by_name["tidegate breach, idle"], "idle", "<= 1.5"),
        ("latency_breach_amid_burst_over_unread_p99", unread, "the burst unread", None),
    ):
        found.append(Figure(name, burst.p99.value, "ms", against, burst.p99.value / other.p99.value, goal))
    return found
