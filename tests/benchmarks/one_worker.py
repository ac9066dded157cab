"""Item 1: one worker beside its peers, on one broker, with the same events, each on one pinned core.

The stream is published as far ahead of the engine as it keeps up with (see ``stream``). CPU time and wall clock are
read when the warm-up is through and again ``events`` later, amid the flow at both ends. Each run is verified: the
decisions are those of a fold of the same stream without any broker, and who keeps state on disk has left some. What
the pure step costs alone is measured in every round too, on the engine's core; the rest of a total is the engine's own.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from infra.brokers import KafkaCluster
from tests.benchmarks.engines import (
    KAFKA_STREAMS,
    PEERS,
    TIDEGATE,
    TIDEGATE_REDUCED,
    Decisions,
    Engine,
    Outputs,
    Peer,
    Tidegate,
    key_of,
    start,
)
from tests.benchmarks.figures import Figure, Median, median_of
from tests.benchmarks.memory import MemoryView, rules_for
from tests.benchmarks.peers.setup import Setup
from tests.benchmarks.processes import BROKER_CORE, directory_bytes, pinned_to
from tests.benchmarks.steps import batched_us, one_by_one_us
from tests.benchmarks.stream import AHEAD, FILL_DELAY, Encoded, Feed, batches, encoded
from tests.benchmarks.workload import Workload

ACCOUNTS = 1_000
PARTITIONS = 4
ENGINES = (TIDEGATE, *PEERS, TIDEGATE_REDUCED, KAFKA_STREAMS)
_DEADLINE_S = 120.0
# A thousand accounts take several times as much in any store.
_DISK_MIN_BYTES = 100_000


class Size(NamedTuple):
    """How much is measured."""

    warm_up: int
    events: int
    rounds: int


FULL = Size(warm_up=30_000, events=100_000, rounds=5)
QUICK = Size(warm_up=6_000, events=20_000, rounds=5)


class Run(NamedTuple):
    """One engine, once. µs per event."""

    cpu_us: float
    wall_us: float
    own_us: float | None
    """CPU without the pure step; None where the step is not Python's."""
    disk_bytes: int
    resident_bytes: int


def stream_of(size: Size) -> list[Encoded]:
    """First an equity mark for each account; last a backlog's worth, so that the measured span ends amid the flow."""
    workload = Workload(ACCOUNTS, fill_delay=FILL_DELAY)
    events = [*workload.first_marks(), *workload.events(size.warm_up + size.events + AHEAD)]
    return encoded(events, PARTITIONS)


def expected(stream: list[Encoded], engine: Engine) -> Decisions:
    """The decisions of a fold of the stream in its own order."""
    view, rules = MemoryView(), rules_for(ACCOUNTS)
    ids: dict[str, list[str]] = {"approved-orders": [], "rejected-signals": []}
    counts: dict[str, int] = {}
    for batch in batches(stream, 1):
        commit = engine.fold(batch, view, rules, lambda _account_id: 0)
        view.apply(commit)
        for output in commit.outputs:
            counts[output.topic] = counts.get(output.topic, 0) + 1
            if output.topic in ids:
                ids[output.topic].append(key_of(orjson.loads(output.value)))
    return Decisions(frozenset(ids["approved-orders"]), frozenset(ids["rejected-signals"]), counts)


def measure(engine: Engine, bootstrap: str, stream: list[Encoded], wanted: Decisions, size: Size, name: str) -> Run:
    """One run. Raises RuntimeError if the engine ends, stalls or decides otherwise than it should."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory:
        setup = Setup(bootstrap, f"{name}-", directory, PARTITIONS, ACCOUNTS)
        with start(engine, setup) as running:
            cpu_us, wall_us = _drive(running, Feed(bootstrap, setup.prefix, stream, ACCOUNTS), len(stream), size)
            _verify(setup, running, wanted)
            resident = running.process.resident_bytes()
            running.process.terminate()
        disk = directory_bytes(Path(directory))
        if "RocksDB" in engine.state and disk < _DISK_MIN_BYTES:
            raise RuntimeError(f"{engine.title} left {disk} bytes on disk: its state is not there")
        return Run(cpu_us, wall_us, None, disk, resident)


def _drive(running: Peer | Tidegate, feed: Feed, count: int, size: Size) -> tuple[float, float]:
    first, last = ACCOUNTS + size.warm_up, ACCOUNTS + size.warm_up + size.events
    marks: list[tuple[int, float, float]] = []
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        positions = running.positions()
        done = sum(positions.values())
        if done >= (first, last, count + 1)[len(marks)]:
            marks.append((done, time.perf_counter(), running.process.cpu_s()))
        if done == count:
            break
        if not feed.publish(positions):
            time.sleep(0.002)
            running.process.check()
            if time.monotonic() > deadline:
                raise RuntimeError(f"stalled at {done} of {count} events; its log:\n{running.process.log[-3_000:]}")
    (events_before, wall_before, cpu_before), (events_after, wall_after, cpu_after) = marks
    events = events_after - events_before
    return (cpu_after - cpu_before) / events * 1e6, (wall_after - wall_before) / events * 1e6


def _verify(setup: Setup, running: Peer | Tidegate, wanted: Decisions) -> None:
    outputs = Outputs(setup)
    decisions = outputs.read(0)
    deadline = time.monotonic() + 60
    while decisions != wanted:
        if time.monotonic() > deadline:
            raise RuntimeError(f"decided {decisions.counts} instead of {wanted.counts}; {running.process.log[-2_000:]}")
        running.process.check()
        decisions = outputs.read(0.2)
    outputs.close()


def run(size: Size) -> dict[str, Any]:
    """All engines, ``size.rounds`` times, interleaved; what is missing here is left out and said."""
    engines = [engine for engine in ENGINES if not engine.missing]
    for engine in ENGINES:
        if engine.missing:
            print(f"{engine.title}: left out, {engine.needs} is not installed", file=sys.stderr)
    stream = stream_of(size)
    wanted = {engine.name: expected(stream, engine) for engine in (TIDEGATE, TIDEGATE_REDUCED)}
    runs: dict[str, list[Run]] = {engine.name: [] for engine in engines}
    steps: dict[str, list[float]] = {}
    with pinned_to(BROKER_CORE), KafkaCluster() as cluster:
        for number in range(size.rounds):
            spent = _steps(stream, size)
            for name, us in spent.items():
                steps.setdefault(name, []).append(us)
            for engine in engines:
                rules = TIDEGATE if engine.fold is TIDEGATE.fold else TIDEGATE_REDUCED
                one = measure(engine, cluster.bootstrap, stream, wanted[rules.name], size, f"{engine.name}-{number}")
                step_us = spent.get(_step_of(engine))
                one = one._replace(own_us=None if step_us is None else one.cpu_us - step_us)
                runs[engine.name].append(one)
                print(
                    f"round {number + 1}: {engine.title}: {one.cpu_us:.1f} µs CPU, {one.wall_us:.1f} µs",
                    file=sys.stderr,
                )
    return {
        "size": size._asdict(),
        "steps": steps,
        "runs": {name: [one._asdict() for one in of_engine] for name, of_engine in runs.items()},
        "decisions": dict(wanted[TIDEGATE.name].counts),
    }


def _steps(stream: list[Encoded], size: Size) -> dict[str, float]:
    """µs of CPU per event of the pure step alone, as the engines call it."""
    warm_up, measured = stream[: ACCOUNTS + size.warm_up], stream[ACCOUNTS + size.warm_up :]
    return {
        "batched": batched_us(TIDEGATE.fold, warm_up, measured, ACCOUNTS, PARTITIONS),
        "one_by_one": one_by_one_us(warm_up, measured, ACCOUNTS),
        "reduced": batched_us(TIDEGATE_REDUCED.fold, warm_up, measured, ACCOUNTS, PARTITIONS),
    }


def _step_of(engine: Engine) -> str:
    if engine is KAFKA_STREAMS:
        return "none: it has its own, in Java"
    if engine is TIDEGATE_REDUCED:
        return "reduced"
    return "batched" if engine.batches else "one_by_one"


class Row(NamedTuple):
    """One engine's line in the table."""

    engine: Engine
    cpu_us: Median
    own_us: Median | None
    wall_us: Median
    resident_mb: float


def rows(results: Mapping[str, Any]) -> list[Row]:
    """The table's lines, in the order of ``ENGINES``."""
    table = []
    for engine in ENGINES:
        runs = results["runs"].get(engine.name)
        if not runs:
            continue
        own = [one["own_us"] for one in runs if one["own_us"] is not None]
        table.append(
            Row(
                engine,
                median_of(one["cpu_us"] for one in runs),
                median_of(own) if own else None,
                median_of(one["wall_us"] for one in runs),
                statistics.median(one["resident_bytes"] for one in runs) / 1e6,
            )
        )
    return table


_GOALS = {"faust_plain": 8.0, "faust_tuned": 3.0, "quix": 2.5}
_LIMIT_OVER_BARE = 1.3
_BARE = ("aiokafka_loop", "librdkafka_loop")


def figures(results: Mapping[str, Any]) -> list[Figure]:
    """The item's figures, with the goals that they are held against."""
    by_name = {row.engine.name: row for row in rows(results)}
    found: list[Figure] = []
    for kind, unit in (("cpu", "µs CPU per event"), ("wall", "µs wall clock per event")):
        values = {name: getattr(row, f"{kind}_us") for name, row in by_name.items()}
        ours = values[TIDEGATE.name].value
        found.append(Figure(f"one_worker_{kind}_tidegate", values[TIDEGATE.name].value, unit))
        for name, least in _GOALS.items():
            if name in values:
                ratio = values[name].value / ours
                found.append(
                    Figure(f"one_worker_{kind}_{name}", values[name].value, unit, "tidegate", ratio, f">= {least:g}")
                )
        bare = {name: values[name].value for name in _BARE if name in values}
        for name, value in bare.items():
            found.append(Figure(f"one_worker_{kind}_{name}", value, unit, "tidegate", value / ours))
        if bare:
            best = min(bare, key=lambda name: bare[name])
            found.append(
                Figure(f"one_worker_{kind}_over_bare", ours, unit, best, ours / bare[best], f"<= {_LIMIT_OVER_BARE:g}")
            )
        if KAFKA_STREAMS.name in values:
            reduced = values[TIDEGATE_REDUCED.name].value
            found.append(Figure(f"one_worker_{kind}_tidegate_reduced", reduced, unit))
            value = values[KAFKA_STREAMS.name].value
            found.append(Figure(f"one_worker_{kind}_kafka_streams", value, unit, "tidegate_reduced", value / reduced))
    return found
