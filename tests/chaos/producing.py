"""Publishes the workload: ``python -m tests.chaos.producing SETTINGS SEED EVENTS RATE PARENT``, a process of its own.

It follows the gate: what is approved on ``approved-orders`` (read committed, from the beginning) becomes fills.
Publishing never waits for that: while nothing is approved, all else goes on at its rate.

Idempotent, acks=all: what a broker's death interrupts is tried again until two brokers hold it. RATE is in records a
second. A line on standard input tells it to ``hold``, ``go`` on, or to ``finish``: to publish what is left of EVENTS at
its rate and end. A JSON line on standard output says each second how much was acknowledged, and at the end the mix.
"""

import asyncio
import json
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from streams.core.records import INPUTS, POLICIES
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames
from tests.chaos.schedule import PARTITIONS
from tests.chaos.worker_process import die_with
from tests.chaos.workload import Message, Workload

_TICK_S = 0.05
_IN_FLIGHT_MAX = 4_000
_GIVE_UP_MS = 30_000
_APPROVED = "approved-orders"


class _Publisher:
    """Sends messages until each is acknowledged."""

    def __init__(self, producer: AIOKafkaProducer, names: TopicNames) -> None:
        self._producer = producer
        self._physical = {topic: names.physical(topic) for topic in (*INPUTS, POLICIES)}
        self._in_flight: deque[tuple[Message, asyncio.Future[Any]]] = deque()
        self.acknowledged = 0
        self.repeated = 0

    async def publish(self, message: Message) -> None:
        self._in_flight.append((message, await self._send(message)))
        if len(self._in_flight) > _IN_FLIGHT_MAX:
            await self.settle(_IN_FLIGHT_MAX // 2)

    async def settle(self, left: int = 0) -> None:
        """Wait until at most ``left`` are not acknowledged."""
        while len(self._in_flight) > left or (self._in_flight and self._in_flight[0][1].done()):
            message, sent = self._in_flight.popleft()
            try:
                await sent
                self.acknowledged += 1
            except KafkaError as error:
                # It may be there all the same. Twice is something that a gate has to bear, and never is not.
                sys.stderr.write(f"publishing again after {error!r}\n")
                self.repeated += 1
                self._in_flight.append((message, await self._send(message)))

    async def _send(self, message: Message) -> asyncio.Future[Any]:
        topic = self._physical[message.topic]
        while True:
            try:
                sent: asyncio.Future[Any] = await self._producer.send(
                    topic, message.value, message.key, partition=message.partition
                )
            except KafkaError as error:
                sys.stderr.write(f"publishing again after {error!r}\n")
                await asyncio.sleep(0.2)
            else:
                return sent


async def _follow(settings: Settings, workload: Workload) -> None:
    """Hand every approval to the load, for ever, each once: after a failure reading goes on where it was."""
    name = TopicNames.of(settings).physical(_APPROVED)
    positions = {TopicPartition(name, number): 0 for number in range(PARTITIONS)}
    while True:
        try:
            await _follow_from(settings, workload, positions)
        except (KafkaError, OSError) as error:
            sys.stderr.write(f"reading approvals again after {error!r}\n")
            await asyncio.sleep(0.2)


async def _follow_from(settings: Settings, workload: Workload, positions: dict[TopicPartition, int]) -> None:
    async with AIOKafkaConsumer(
        bootstrap_servers=settings.bootstrap,
        isolation_level="read_committed",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        metadata_max_age_ms=5_000,
    ) as consumer:
        consumer.assign(list(positions))
        for place, position in positions.items():
            consumer.seek(place, position)
        while True:
            for place, records in (await consumer.getmany(timeout_ms=200)).items():
                for record in records:
                    workload.approved(orjson.loads(record.value), time.time_ns() // 1_000_000)
                    positions[place] = record.offset + 1


async def _publish(settings: Settings, seed: int, events: int, rate: float) -> None:
    workload = Workload(seed)
    async with asyncio.TaskGroup() as group:
        # Should the reading break, the load ends with it: unfollowed it would be a load of strangers' fills.
        following = group.create_task(_follow(settings, workload))
        await _publish_all(settings, workload, events, rate)
        following.cancel()


async def _publish_all(settings: Settings, workload: Workload, events: int, rate: float) -> None:
    orders = await _standard_input()
    holding = finishing = False
    published, told_at, budget, last = 0, 0.0, 0.0, time.monotonic()
    async with AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=10,
        request_timeout_ms=_GIVE_UP_MS,
        metadata_max_age_ms=5_000,
    ) as producer:
        publisher = _Publisher(producer, TopicNames.of(settings))
        while not (finishing and published >= events):
            while not orders.empty():
                order = orders.get_nowait()
                holding = order == "hold" or (holding and order != "go")
                finishing = finishing or order == "finish"
            now = time.monotonic()
            budget = 0.0 if holding else min(rate, budget + rate * (now - last))
            last = now
            while budget >= 1 and not (finishing and published >= events):
                budget -= 1
                published += 1
                await publisher.publish(workload.next(time.time_ns() // 1_000_000))
            await publisher.settle(_IN_FLIGHT_MAX)
            if now - told_at >= 1:
                told_at = now
                _tell(published=published, acknowledged=publisher.acknowledged)
            await asyncio.sleep(_TICK_S)
        await publisher.settle()
    _tell(
        published=published,
        acknowledged=publisher.acknowledged,
        repeated=publisher.repeated,
        mix=dict(workload.mix.most_common()),
    )


async def _standard_input() -> asyncio.Queue[str]:
    """Lines as they come; ``finish`` when there are no more."""
    orders: asyncio.Queue[str] = asyncio.Queue()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def read() -> None:
        async for line in reader:
            orders.put_nowait(line.decode().strip())
        orders.put_nowait("finish")

    orders.reading = asyncio.create_task(read())  # type: ignore[attr-defined]
    return orders


def _tell(**values: object) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def main(settings_json: str, seed: str, events: str, rate: str, parent: str) -> None:
    die_with(int(parent))
    values = json.loads(settings_json)
    settings = Settings(**values | {"data_dir": Path(values["data_dir"])})
    asyncio.run(_publish(settings, int(seed), int(events), float(rate)))


if __name__ == "__main__":
    main(*sys.argv[1:])
