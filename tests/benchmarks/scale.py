"""Item 4: one worker and two: CPU per event, and how long decisions pause when one joins or leaves.

Both workers share the engine's core (a machine of two cores has no other to give), so wall clock says nothing here; CPU
per event tells what sharing the work costs. The pause is the longest that any signal waited for its decision while
the group changed hands, under a steady load on all partitions.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from infra.brokers import KafkaCluster
from tests.benchmarks.engines import TIDEGATE, Tidegate, start, written_bytes
from tests.benchmarks.figures import Figure, Median, median_of, percentile
from tests.benchmarks.paced import Breaches, Probe, paced
from tests.benchmarks.peers.setup import Setup
from tests.benchmarks.processes import BROKER_CORE, pinned_to
from tests.benchmarks.stream import AHEAD, FILL_DELAY, Encoded, Feed, encoded
from tests.benchmarks.workload import Workload

ACCOUNTS = 1_000
PARTITIONS = 4
RATE = 500
_SETTLE_S = 2
_DEADLINE_S = 300.0


class Size(NamedTuple):
    """How much is measured."""

    warm_up: int
    events: int
    rounds: int


FULL = Size(warm_up=20_000, events=60_000, rounds=5)
QUICK = Size(warm_up=5_000, events=10_000, rounds=2)


def run(size: Size) -> dict[str, Any]:
    """One and two workers in turns, then joins and leaves in turns."""
    cpu_us: dict[str, list[float]] = {"1": [], "2": []}
    bytes_per_event: dict[str, float] = {}
    pauses: dict[str, list[float]] = {"steady": [], "join": [], "leave": []}
    with (
        pinned_to(BROKER_CORE),
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        KafkaCluster() as cluster,
    ):
        for number in range(size.rounds):
            for workers in (1, 2):
                name = f"scale-{workers}-{number}-"
                one = _throughput(workers, cluster.bootstrap, name, Path(directory) / name, size)
                cpu_us[str(workers)].append(one.cpu_us)
                bytes_per_event = one.bytes_per_event
                print(f"round {number + 1}: {workers} worker(s): {one.cpu_us:.1f} µs CPU", file=sys.stderr)
        for number in range(size.rounds):
            name = f"hand-over-{number}-"
            for kind, value in _pauses(cluster.bootstrap, name, Path(directory) / name).items():
                pauses[kind].append(value)
            print(
                f"round {number + 1}: longest wait (ms): { ({k: round(v[-1]) for k, v in pauses.items()}) }",
                file=sys.stderr,
            )
    return {"size": size._asdict(), "cpu_us": cpu_us, "pauses_ms": pauses, "bytes_per_event": bytes_per_event}


class _Throughput(NamedTuple):
    cpu_us: float
    bytes_per_event: dict[str, float]


def _throughput(workers: int, bootstrap: str, prefix: str, directory: Path, size: Size) -> _Throughput:
    directory.mkdir()
    setup = Setup(bootstrap, prefix, str(directory), PARTITIONS, ACCOUNTS)
    workload = Workload(ACCOUNTS, fill_delay=FILL_DELAY)
    stream = encoded([*workload.first_marks(), *workload.events(size.warm_up + size.events + AHEAD)], PARTITIONS)
    feed = Feed(bootstrap, prefix, stream, ACCOUNTS)
    first = start(TIDEGATE, setup)
    assert isinstance(first, Tidegate)
    with first:
        _wait_owned(first, PARTITIONS)
        if workers == 1:
            return _spent([first], first, feed, size, stream)
        with Tidegate(setup, directory="second", log="second.log") as second:
            _wait_owned(second, PARTITIONS // 2)
            return _spent([first, second], first, feed, size, stream)


def _spent(workers: list[Tidegate], reader: Tidegate, feed: Feed, size: Size, stream: list[Encoded]) -> _Throughput:
    count = len(stream)
    marks: list[tuple[int, float]] = []
    bounds = (ACCOUNTS + size.warm_up, ACCOUNTS + size.warm_up + size.events, count + 1)
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        positions = reader.positions()
        done = sum(positions.values())
        if done >= bounds[len(marks)]:
            marks.append((done, sum(worker.process.cpu_s() for worker in workers)))
        if done == count:
            break
        if not feed.publish(positions):
            time.sleep(0.002)
            for worker in workers:
                worker.process.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"stalled at {done} of {count} events")
    (events_before, cpu_before), (events_after, cpu_after) = marks
    read = sum(len(one.value) + len(one.key) for one in stream)
    sizes = {"input": read, **written_bytes(reader.settings, PARTITIONS)}
    cpu_us = (cpu_after - cpu_before) / (events_after - events_before) * 1e6
    return _Throughput(cpu_us, {name: size / count for name, size in sizes.items()})


def _pauses(bootstrap: str, prefix: str, directory: Path) -> dict[str, float]:
    """The longest wait of a signal, in ms: undisturbed, while a second worker joins, while it leaves."""
    directory.mkdir()
    setup = Setup(bootstrap, prefix, str(directory), PARTITIONS, ACCOUNTS)
    workload = Workload(ACCOUNTS, fill_delay=5_000)
    first = start(TIDEGATE, setup)
    assert isinstance(first, Tidegate)
    with first, Probe(setup) as probe:
        _wait_owned(first, PARTITIONS)
        for one in encoded(workload.first_marks(), PARTITIONS):
            probe.send(one)
        steady = _longest_wait(probe, first, workload, lambda: None)
        second: list[Tidegate] = []

        def join() -> None:
            second.append(Tidegate(setup, directory="second", log="second.log"))
            _wait_owned(second[0], PARTITIONS // 2)

        try:
            joined = _longest_wait(probe, first, workload, join)

            def leave() -> None:
                second[0].process.terminate()

            left = _longest_wait(probe, first, workload, leave)
        finally:
            for worker in second:
                worker.__exit__(None, None, None)
    return {"steady": steady, "join": joined, "leave": left}


def _longest_wait(probe: Probe, worker: Tidegate, workload: Workload, change: Callable[[], None]) -> float:
    """Steady load before, during and after a change."""
    changing = threading.Thread(target=change)
    signals: list[str] = []
    none = Breaches(0, 0, PARTITIONS)
    settled = False
    while not settled:
        # The change begins after the first second of load; a last stretch follows its end.
        settled = len(signals) > 0 and not changing.is_alive()
        stream = encoded(workload.events(RATE * _SETTLE_S), PARTITIONS)
        signals += paced(probe, stream, RATE, none, 0)[0]
        if changing.ident is None:
            changing.start()
    changing.join()
    return percentile(probe.latencies_ms(signals, _DEADLINE_S, worker.process.check), 1.0)


def _wait_owned(worker: Tidegate, count: int) -> None:
    """Wait until the worker serves ``count`` partitions at least."""
    deadline = time.monotonic() + _DEADLINE_S
    while worker.says("serving partition") < count:
        worker.process.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"does not serve {count} partitions; its log:\n{worker.process.log[-3_000:]}")
        time.sleep(0.02)


class Pauses(NamedTuple):
    """Longest waits, ms."""

    steady: Median
    join: Median
    leave: Median


def pauses(results: Mapping[str, Any]) -> Pauses:
    """Medians of the rounds."""
    return Pauses(*(median_of(results["pauses_ms"][name]) for name in Pauses._fields))


def figures(results: Mapping[str, Any]) -> list[Figure]:
    """The item's figures; none has a goal."""
    one, two = (median_of(results["cpu_us"][name]).value for name in ("1", "2"))
    waits = pauses(results)
    return [
        Figure("scale_cpu_1_worker", one, "µs CPU per event"),
        Figure("scale_cpu_2_workers", two, "µs CPU per event, both together", "1 worker", two / one),
        Figure("hand_over_join", waits.join.value, "ms, longest wait", "steady", waits.join.value / waits.steady.value),
        Figure(
            "hand_over_leave", waits.leave.value, "ms, longest wait", "steady", waits.leave.value / waits.steady.value
        ),
    ]
