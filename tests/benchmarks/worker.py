"""One worker on real Kafka, fed while it runs: events a second, and its CPU time per event.

Events are published in slices, a few ahead of what the journal says is applied, so that the worker always has a
backlog and a fill never comes before its order. The measured span begins when the warm-up is applied and ends with the
last event.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from infra.brokers import KafkaCluster
from streams.runtime.settings import Settings
from streams.runtime.topics import JOURNAL, TopicNames, create_topics
from tests.benchmarks.workload import Event, Workload, configuration

ACCOUNTS = 1_000
PARTITIONS = 4
SLICE = 5_000
AHEAD = 20_000
WARM_UP = 30_000
EVENTS = 150_000
_DEADLINE_S = 300.0


class Figures(NamedTuple):
    """Of one run."""

    events_per_s: float
    cpu_us_per_event: float


def measure() -> Figures:
    """Run broker, worker and load. Raises RuntimeError if the worker ends or stalls."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as directory, KafkaCluster() as cluster:
        return asyncio.run(_measure(Path(directory), cluster.bootstrap))


async def _measure(directory: Path, bootstrap: str) -> Figures:
    settings = Settings(broker=f"kafka://{bootstrap}", data_dir=directory / "data")
    await create_topics(settings, partitions=PARTITIONS)
    config = directory / "tidegate.toml"
    config.write_text(_toml())
    log = (directory / "worker.log").open("wb")
    command = [sys.executable, "-m", "streams.ops.cli", "worker", "--config", str(config)]
    environment = os.environ | {"TIDEGATE_BROKER": settings.broker, "TIDEGATE_DATA_DIR": str(settings.data_dir)}
    worker = subprocess.Popen(command, stdout=log, stderr=log, env=environment)  # noqa: ASYNC220 - nothing else runs
    try:
        async with (
            _Progress(settings) as progress,
            AIOKafkaProducer(bootstrap_servers=bootstrap, acks=1, linger_ms=5, max_batch_size=262_144) as producer,
        ):
            load = _Load(producer, progress, worker)
            workload = Workload(ACCOUNTS, fill_delay=2 * AHEAD)
            await load.publish(list(workload.first_marks()))
            await load.run(workload, WARM_UP)
            started, cpu, before = time.perf_counter(), _cpu_s(worker.pid), progress.applied
            await load.run(workload, EVENTS)
            count = progress.applied - before
            return Figures(count / (time.perf_counter() - started), (_cpu_s(worker.pid) - cpu) / count * 1e6)
    except Exception:
        sys.stderr.write((directory / "worker.log").read_text()[-2_000:])
        raise
    finally:
        worker.terminate()
        worker.wait(30)
        log.close()


class _Progress:
    """How many input records the journal says are applied."""

    def __init__(self, settings: Settings) -> None:
        topic = TopicNames.of(settings).physical(JOURNAL)
        self._places = [TopicPartition(topic, number) for number in range(PARTITIONS)]
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap, isolation_level="read_committed", auto_offset_reset="earliest"
        )
        self.applied = 0

    async def __aenter__(self) -> "_Progress":
        await self._consumer.start()
        self._consumer.assign(self._places)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()

    async def poll(self) -> None:
        for records in (await self._consumer.getmany(timeout_ms=20)).values():
            for record in records:
                offsets = orjson.loads(record.value)["offsets"]
                self.applied += sum(last - first + 1 for first, last in offsets.values())


class _Load:
    def __init__(self, producer: AIOKafkaProducer, progress: _Progress, worker: "subprocess.Popen[bytes]") -> None:
        self._producer = producer
        self._progress = progress
        self._worker = worker
        self._published = 0

    async def publish(self, events: list[Event]) -> None:
        now_ms = time.time_ns() // 1_000_000
        for event in events:
            await self._producer.send(event.topic, orjson.dumps(event.at(now_ms)), event.account_id.encode())
        await self._producer.flush()
        self._published += len(events)

    async def run(self, workload: Workload, count: int) -> None:
        """Publish ``count`` events and wait until all that was published is applied."""
        for _ in range(count // SLICE):
            await self._until(AHEAD)
            await self.publish(list(workload.events(SLICE)))
        await self._until(0)

    async def _until(self, ahead: int) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while self._published - self._progress.applied > ahead:
            if self._worker.poll() is not None:
                raise RuntimeError(f"the worker ended with status {self._worker.returncode}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"the worker stalled at {self._progress.applied} of {self._published} events")
            await self._progress.poll()


def _cpu_s(pid: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _toml() -> str:
    tables = configuration(ACCOUNTS)
    lines = []
    for kind, entries in tables.items():
        for name, values in entries.items():
            lines.append(f'[{kind}."{name}"]')
            lines += [f'{key} = "{value}"' for key, value in values.items()]
    return "\n".join(lines) + "\n"
