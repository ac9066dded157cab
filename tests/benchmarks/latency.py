"""Item 2: from a record to its read-committed output, beside a bare transactional echo."""

import sys
import tempfile
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from infra.brokers import KafkaCluster
from tests.benchmarks.engines import TIDEGATE, Engine, Peer, Tidegate, start
from tests.benchmarks.figures import Figure, Median, median_of, percentile
from tests.benchmarks.paced import Breaches, Probe, paced
from tests.benchmarks.peers.setup import Setup
from tests.benchmarks.processes import BROKER_CORE, pinned_to
from tests.benchmarks.stream import encoded
from tests.benchmarks.workload import Event, Workload

ECHO = Engine("echo", "bare transactional echo", "none: no offsets in its transaction", "none", batches=True)
ACCOUNTS = 1_000
PARTITIONS = 4
RATES = (200, 2_000)
BREACHES_PER_S = 10
SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
_DEADLINE_S = 60.0


class Size(NamedTuple):
    """How much is measured."""

    seconds: int
    """At each rate, after ``warm_up_s``."""
    warm_up_s: int
    rounds: int


FULL = Size(seconds=20, warm_up_s=6, rounds=5)
QUICK = Size(seconds=5, warm_up_s=3, rounds=5)


def run(size: Size) -> dict[str, Any]:
    """Tidegate and the echo in turns, ``size.rounds`` times. Latencies in ms, by engine, kind, rate and round."""
    found: dict[str, list[list[float]]] = {}
    with pinned_to(BROKER_CORE), KafkaCluster() as cluster:
        for number in range(size.rounds):
            for engine in (TIDEGATE, ECHO):
                for name, values in _measure(engine, cluster.bootstrap, f"{engine.name}-{number}-", size).items():
                    found.setdefault(f"{engine.name} {name}", []).append(values)
                    say(number, f"{engine.title}: {name}", values)
    return {"size": size._asdict(), "latencies": {name: summary(rounds) for name, rounds in found.items()}}


def say(number: int, name: str, values: list[float]) -> None:
    """What a round has found, for whoever watches."""
    line = ", ".join(f"{label} {percentile(values, share):.1f}" for label, share in SHARES.items())
    print(f"round {number + 1}: {name}: {line} ms (n = {len(values)})", file=sys.stderr)


def summary(rounds: list[list[float]]) -> dict[str, Any]:
    """Percentiles of each round, in ms; p99.9 of all rounds together, for one has too few values."""
    per_round = {label: [percentile(one, SHARES[label]) for one in rounds] for label in ("p50", "p99")}
    together = [value for one in rounds for value in one]
    return per_round | {"p99.9": percentile(together, SHARES["p99.9"]), "count": len(together)}


def _measure(engine: Engine, bootstrap: str, prefix: str, size: Size) -> dict[str, list[float]]:
    span_s = size.warm_up_s + size.seconds
    breaches = Breaches(ACCOUNTS, len(RATES) * span_s * BREACHES_PER_S, PARTITIONS)
    workload = Workload(ACCOUNTS, fill_delay=5_000)
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        setup = Setup(bootstrap, prefix, directory, PARTITIONS, ACCOUNTS + len(breaches.names))
        with start(engine, setup) as running, Probe(setup) as probe:
            publish(probe, running, [*workload.first_marks(), *breaches.marks()])
            for rate in RATES:
                paced(
                    probe, encoded(workload.events(rate * size.warm_up_s), PARTITIONS), rate, breaches, BREACHES_PER_S
                )
                stream = encoded(workload.events(rate * size.seconds), PARTITIONS)
                signals, locked = paced(probe, stream, rate, breaches, BREACHES_PER_S)
                check = running.process.check
                found[f"signal at {rate}/s"] = probe.latencies_ms(signals, _DEADLINE_S, check)
                found[f"breach at {rate}/s"] = probe.latencies_ms(locked, _DEADLINE_S, check)
    return found


def publish(probe: Probe, running: Peer | Tidegate, events: list[Event]) -> None:
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
    return found
