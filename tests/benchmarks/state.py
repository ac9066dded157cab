"""Item 3: what the number of accounts costs: throughput, memory, disk, latency, and the restore of it all.

Each size has a worker and topics of its own on one broker; all workers stay up, and the rounds go through them in
turns, first with Zipf access and then with uniform access. Before the first round of each kind, events fill the cache
as they will find it. At the end each worker is started again on an empty disk.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from infra.brokers import KafkaCluster
from tests.benchmarks.engines import TIDEGATE, Tidegate, start
from tests.benchmarks.figures import Figure, Median, median_of, percentile
from tests.benchmarks.paced import Breaches, Probe, paced
from tests.benchmarks.peers.setup import Setup
from tests.benchmarks.processes import BROKER_CORE, ENGINE_CORE, directory_bytes, pinned_to
from tests.benchmarks.stream import FILL_DELAY, Feed, encoded
from tests.benchmarks.workload import Workload

PARTITIONS = 4
ACCESS = {"zipf": True, "uniform": False}
_RATE = 1_000
_DEADLINE_S = 900.0


class Size(NamedTuple):
    """How much is measured."""

    accounts: Sequence[int]
    fill: int
    """Events before the first round of an access."""
    warm_up: int
    events: int
    """Of each access in each round."""
    paced_s: int
    rounds: int
    restores: int


FULL = Size(
    accounts=(1_000, 100_000, 1_000_000),
    fill=200_000,
    warm_up=5_000,
    events=30_000,
    paced_s=5,
    rounds=5,
    restores=3,
)
QUICK = Size(accounts=(1_000, 20_000), fill=20_000, warm_up=5_000, events=10_000, paced_s=3, rounds=2, restores=2)


class Desk:
    """One size: its worker, its events, what was measured of it."""

    def __init__(self, accounts: int, bootstrap: str, directory: Path) -> None:
        directory.mkdir()
        self.setup = Setup(bootstrap, f"desk-{accounts}-", str(directory), PARTITIONS, accounts)
        # An order waits for its fill at most as long as there are accounts without one.
        self.workload = Workload(accounts, fill_delay=min(FILL_DELAY, 10 * accounts))
        self.applied = 0
        self.found: dict[str, Any] = {"accounts": accounts}

    def add(self, name: str, value: float) -> None:
        self.found.setdefault(name, []).append(value)

    def drive(self, worker: Tidegate, count: int, *, marks: bool = False) -> tuple[float, float]:
        """Publish events, wait until they are applied. µs of wall clock and CPU per event."""
        events = self.workload.first_marks() if marks else self.workload.events(count)
        stream = encoded(events, PARTITIONS)
        feed = Feed(self.setup.bootstrap, self.setup.prefix, stream, 0, _published(worker))
        before, cpu, began = self.applied, worker.process.cpu_s(), time.perf_counter()
        deadline = time.monotonic() + _DEADLINE_S
        while True:
            positions = worker.positions()
            self.applied = sum(positions.values())
            if self.applied == before + count:
                break
            if not feed.publish(positions):
                time.sleep(0.002)
                worker.process.check()
                if time.monotonic() > deadline:
                    raise RuntimeError(f"stalled; its log:\n{worker.process.log[-3_000:]}")
        return (time.perf_counter() - began) / count * 1e6, (worker.process.cpu_s() - cpu) / count * 1e6


def _published(worker: Tidegate) -> Mapping[tuple[str, int], int]:
    """Where the next record of each topic and partition goes: all that was published has been applied."""
    return dict(worker.positions())


def run(size: Size) -> dict[str, Any]:
    """Measure all sizes."""
    with (
        pinned_to(BROKER_CORE),
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory,
        KafkaCluster() as cluster,
    ):
        desks = [Desk(accounts, cluster.bootstrap, Path(directory) / str(accounts)) for accounts in size.accounts]
        with ExitStack() as stack:
            workers = [stack.enter_context(_started(desk)) for desk in desks]
            for desk, worker in zip(desks, workers, strict=True):
                desk.drive(worker, desk.setup.accounts, marks=True)
                _say(desk, "has its first marks")
            for access, zipf in ACCESS.items():
                for desk, worker in zip(desks, workers, strict=True):
                    desk.workload.access(zipf=zipf)
                    desk.drive(worker, size.fill)
                for _ in range(size.rounds):
                    for desk, worker in zip(desks, workers, strict=True):
                        _round(desk, worker, size, access)
            for desk, worker in zip(desks, workers, strict=True):
                desk.found["resident_bytes"] = worker.process.resident_bytes()
                desk.found["disk_bytes"] = directory_bytes(Path(desk.setup.directory) / "data")
        for desk in desks:
            for number in range(size.restores):
                _restore(desk, number)
    return {"size": size._asdict(), "desks": [desk.found for desk in desks]}


def _started(desk: Desk) -> Tidegate:
    began = time.perf_counter()
    worker = start(TIDEGATE, desk.setup)
    assert isinstance(worker, Tidegate)
    _wait_serving(worker)
    desk.found["start_s"] = time.perf_counter() - began
    return worker


def _round(desk: Desk, worker: Tidegate, size: Size, access: str) -> None:
    desk.drive(worker, size.warm_up)
    wall_us, cpu_us = desk.drive(worker, size.events)
    desk.add(f"{access}_wall_us", wall_us)
    desk.add(f"{access}_cpu_us", cpu_us)
    with Probe(desk.setup) as probe:
        stream = encoded(desk.workload.events(_RATE * size.paced_s), PARTITIONS)
        signals, _ = paced(probe, stream, _RATE, Breaches(0, 0, PARTITIONS), 0)
        latencies = probe.latencies_ms(signals, _DEADLINE_S, worker.process.check)
    desk.add(f"{access}_p99_ms", percentile(latencies, 0.99))
    while sum(worker.positions().values()) < desk.applied + len(stream):
        worker.process.check()
        time.sleep(0.01)
    desk.applied += len(stream)
    _say(desk, f"{access}: {wall_us:.1f} µs, {cpu_us:.1f} µs CPU, p99 {desk.found[f'{access}_p99_ms'][-1]:.1f} ms")


def _restore(desk: Desk, number: int) -> None:
    """A worker on an empty disk, and the bare reading of what it restores from."""
    worker = Tidegate(desk.setup, directory=f"restored-{number}", log=f"restore-{number}.log")
    with worker:
        seconds = _wait_serving(worker)
    with pinned_to(ENGINE_CORE):
        command = [sys.executable, "-m", "tests.benchmarks.changelog", desk.setup.argument()]
        read = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    desk.add("restore_s", seconds)
    desk.add("read_s", read["seconds"])
    desk.found["changelog_records"] = read["records"]
    _say(desk, f"restored in {seconds:.2f} s, read in {read['seconds']:.2f} s")


def _wait_serving(worker: Tidegate) -> float:
    """Seconds from the assignment until all partitions are restored and served."""
    deadline = time.monotonic() + _DEADLINE_S
    assigned: float | None = None
    while worker.says("serving partition") < PARTITIONS:
        if assigned is None and worker.says("assigned partitions"):
            assigned = time.perf_counter()
        worker.process.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"does not serve; its log:\n{worker.process.log[-3_000:]}")
        time.sleep(0.005)
    return time.perf_counter() - (assigned or time.perf_counter())


def _say(desk: Desk, text: str) -> None:
    print(f"{desk.setup.accounts:,} accounts: {text}", file=sys.stderr, flush=True)


class Row(NamedTuple):
    """One size and access."""

    accounts: int
    access: str
    wall_us: Median
    cpu_us: Median
    p99_ms: Median


def rows(results: Mapping[str, Any]) -> list[Row]:
    """The table's lines."""
    return [
        Row(
            desk["accounts"], access, *(median_of(desk[f"{access}_{name}"]) for name in ("wall_us", "cpu_us", "p99_ms"))
        )
        for desk in results["desks"]
        for access in ACCESS
    ]


def figures(results: Mapping[str, Any]) -> list[Figure]:
    """The item's figures, with the goals that they are held against."""
    found: list[Figure] = []
    smallest = results["desks"][0]
    for access in ACCESS:
        base = median_of(smallest[f"{access}_wall_us"]).value
        for desk in results["desks"]:
            wall_us = median_of(desk[f"{access}_wall_us"]).value
            goal = ">= 0.8" if desk["accounts"] == results["size"]["accounts"][-1] and access == "zipf" else None
            against = f"{smallest['accounts']} accounts"
            found.append(
                Figure(f"state_{access}_{desk['accounts']}", 1e6 / wall_us, "events/s", against, base / wall_us, goal)
            )
    for desk in results["desks"]:
        restore, read = median_of(desk["restore_s"]).value, median_of(desk["read_s"]).value
        goal = ">= 0.7" if desk["accounts"] == results["size"]["accounts"][-1] else None
        found.append(
            Figure(f"restore_{desk['accounts']}", restore, "s", "bare read of the changelog", read / restore, goal)
        )
        found.append(Figure(f"memory_{desk['accounts']}", desk["resident_bytes"] / 1e6, "MB"))
        found.append(Figure(f"disk_{desk['accounts']}", desk["disk_bytes"] / 1e6, "MB"))
    return found
