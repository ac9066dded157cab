"""Where topics begin and end: one consumer for all questions of a process.

To ask takes a round trip. To make a consumer first, and to end it, takes half a dozen more: with one a question, those
were most of what a partition that stays where it is costs in a rebalance.
"""

import asyncio
from collections.abc import Collection, Mapping
from typing import NamedTuple

from aiokafka import AIOKafkaConsumer

from streams.runtime import kafka
from streams.runtime.kafka import TopicPartition
from streams.runtime.settings import Settings


class Bounds(NamedTuple):
    """First and next offset of a partition on the broker, committed or not."""

    first: int
    end: int


class Looker:
    """Asks brokers for offsets. Connects at the first question, and may be asked several at once."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None
        self._starting = asyncio.Lock()

    async def bounds(self, places: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        """First and next offsets. Raises KafkaError."""
        if not places:
            return {}
        consumer = await self._started()
        first, end = await asyncio.gather(consumer.beginning_offsets(places), consumer.end_offsets(places))
        return {place: Bounds(first[place], end[place]) for place in places}

    async def end(self, place: TopicPartition) -> int:
        """The next offset of a partition. Raises KafkaError."""
        consumer = await self._started()
        return int((await consumer.end_offsets([place]))[place])

    async def close(self) -> None:
        """Disconnect. A later question connects again."""
        async with self._starting:
            consumer, self._consumer = self._consumer, None
            if consumer is not None:
                await consumer.stop()

    async def _started(self) -> AIOKafkaConsumer:
        async with self._starting:
            if self._consumer is None:
                # Read uncommitted: a committed end could hide records that are only about to become visible.
                consumer = kafka.consumer(self._settings, isolation_level="read_uncommitted")
                self._consumer = await kafka.started(consumer)
            return self._consumer
