"""What the run knows while it runs, read from the topics like any client would: applied offsets, lag, probes.

*Lag* is the number of input records that no committed journal record covers. *Recovery* is measured with probes: twice
a second a signal of each partition's probe account is published; the gate owes it a decision like any other. A blow (a
process killed or stopped, connections cut, …) is recovered from when every partition has decided a probe that was
published after the blow, so the time includes the detection, the rebalance, the restore and whatever backlog lies
before the probe.
"""

import asyncio
import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.types import write_time
from streams.core.records import INPUTS, SIGNALS
from streams.runtime.settings import Settings
from streams.runtime.topics import JOURNAL, TopicNames
from tests.chaos.desk import PROBING
from tests.chaos.schedule import PARTITIONS

_PROBE_EVERY_S = 0.5
_LAG_EVERY_S = 1.0
_DECISIONS = ("approved-orders", "rejected-signals")


@dataclass(slots=True)
class Blow:
    """One moment that took something away from the group."""

    at_s: float
    """By ``time.monotonic``."""
    waiting: set[int]
    """Partitions that have not decided a later probe yet."""
    recovered_s: float | None = None
    """Seconds from the blow until the last of them did."""


class Monitor:
    """Start it when the topics are there and the partitions are served; it runs until stopped."""

    def __init__(self, settings: Settings, probes: Mapping[int, str]) -> None:
        self._names = TopicNames.of(settings)
        self._settings = settings
        self._probes = dict(probes)
        self._partition_of = {account: number for number, account in probes.items()}
        self._count = 0
        self._tasks: list[asyncio.Task[None]] = []
        self._inputs = [
            TopicPartition(self._names.physical(topic), number) for topic in INPUTS for number in range(PARTITIONS)
        ]
        self._applied: dict[TopicPartition, int] = {}
        self._recovered = asyncio.Event()
        self.blows: list[Blow] = []
        self.probed = 0
        """Probes that were acknowledged."""
        self.applied = 0
        """Input records that committed transactions cover."""
        self.lag = 0
        """As of the last look; transaction markers count as records here, so it may stay a little above 0."""

    async def start(self) -> None:
        """Begin to read and to probe."""
        for work in (self._read_journal, self._read_decisions, self._probe, self._look_at_lag):
            self._tasks.append(asyncio.create_task(self._for_ever(work), name=f"monitor {work.__name__}"))

    async def stop(self) -> None:
        """Read and probe no more."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop_probing(self) -> None:
        """Publish no more."""
        for task in self._tasks:
            if task.get_name() == "monitor _probe":
                task.cancel()

    def blow(self) -> Blow:
        """Something was just taken away."""
        blow = Blow(time.monotonic(), set(range(PARTITIONS)))
        self.blows.append(blow)
        return blow

    async def until_recovered(self, deadline_s: float) -> None:
        """Wait until no blow is left to recover from, but not beyond the deadline."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_s):
                while any(blow.recovered_s is None for blow in self.blows):
                    await self.next_recovery()

    async def next_recovery(self) -> None:
        """Wait until one more blow is recovered from, or a second has passed: things change in other ways, too."""
        self._recovered.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._recovered.wait(), 1)

    @property
    def last_recovery_s(self) -> float | None:
        """Of the last blow that was recovered from."""
        return next((blow.recovered_s for blow in reversed(self.blows) if blow.recovered_s is not None), None)

    async def drained(self) -> bool:
        """Whether every input record is applied, exactly: what lies between may only be transaction markers."""
        async with self._consumer() as consumer:
            consumer.assign(self._inputs)
            ends = await consumer.end_offsets(self._inputs)
            behind = {place for place, end in ends.items() if self._applied.get(place, -1) + 1 < end}
            for place in set(self._inputs) - behind:
                consumer.pause(place)
            for place in behind:
                consumer.seek(place, self._applied.get(place, -1) + 1)
            end_s = time.monotonic() + 5
            while behind and time.monotonic() < end_s:
                if await consumer.getmany(*behind, timeout_ms=200):
                    return False
                behind = {place for place in behind if await consumer.position(place) < ends[place]}
            return not behind

    async def _for_ever(self, work: Any) -> None:
        while True:
            # Brokers die in here all the time: what breaks is begun again where it was.
            with contextlib.suppress(KafkaError, OSError):
                await work()
            await asyncio.sleep(0.2)

    def _consumer(self, **options: Any) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            bootstrap_servers=self._settings.bootstrap,
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            metadata_max_age_ms=5_000,
            **options,
        )

    async def _read_journal(self) -> None:
        places = [TopicPartition(self._names.physical(JOURNAL), number) for number in range(PARTITIONS)]
        applied: dict[TopicPartition, int] = {}
        count = 0
        async with self._consumer() as consumer:
            consumer.assign(places)
            while True:
                for records in (await consumer.getmany(timeout_ms=500)).values():
                    for record in records:
                        for topic, (first, last) in orjson.loads(record.value)["offsets"].items():
                            applied[TopicPartition(self._names.physical(topic), record.partition)] = last
                            count += last - first + 1
                if count >= self.applied:
                    # A journal that is read again from its beginning is behind for a moment.
                    self._applied, self.applied = dict(applied), count

    async def _read_decisions(self) -> None:
        places = [
            TopicPartition(self._names.physical(topic), number) for topic in _DECISIONS for number in range(PARTITIONS)
        ]
        async with self._consumer() as consumer:
            consumer.assign(places)
            await consumer.seek_to_end(*places)
            while True:
                for records in (await consumer.getmany(timeout_ms=200)).values():
                    for record in records:
                        if (partition := self._partition_of.get((record.key or b"").decode())) is not None:
                            sent_s = float(json.loads(record.value)["signal_id"].rpartition("-")[2])
                            self._decided(partition, sent_s)

    def _decided(self, partition: int, sent_s: float) -> None:
        now_s = time.monotonic()
        for blow in self.blows:
            if blow.recovered_s is None and blow.at_s <= sent_s:
                blow.waiting.discard(partition)
                if not blow.waiting:
                    blow.recovered_s = now_s - blow.at_s
                    self._recovered.set()

    async def _probe(self) -> None:
        async with AIOKafkaProducer(
            bootstrap_servers=self._settings.bootstrap,
            acks="all",
            enable_idempotence=True,
            linger_ms=0,
            request_timeout_ms=30_000,
            metadata_max_age_ms=5_000,
        ) as producer:
            sending: set[asyncio.Future[Any]] = set()
            while True:
                for account in self._probes.values():
                    self._count += 1
                    sent = await producer.send(self._names.physical(SIGNALS), self._signal(account), account.encode())
                    sending.add(sent)
                    sent.add_done_callback(self._acknowledged)
                    sent.add_done_callback(sending.discard)
                await asyncio.sleep(_PROBE_EVERY_S)

    def _acknowledged(self, sent: "asyncio.Future[Any]") -> None:
        if not sent.cancelled() and sent.exception() is None:
            self.probed += 1

    def _signal(self, account: str) -> bytes:
        value = {
            "signal_id": f"probe-{self._count}-{time.monotonic():.6f}",
            "account_id": account,
            "strategy_id": PROBING,
            "instrument": "BTC-USD",
            "side": "buy",
            "quantity": "0.001",
            "price": "16500",
            "stop_loss": "16170",
            "created_at": write_time(time.time_ns() // 1_000_000),
        }
        return json.dumps(value).encode()

    async def _look_at_lag(self) -> None:
        async with self._consumer() as consumer:
            while True:
                ends = await consumer.end_offsets(self._inputs)
                self.lag = sum(max(0, end - self._applied.get(place, -1) - 1) for place, end in ends.items())
                await asyncio.sleep(_LAG_EVERY_S)
