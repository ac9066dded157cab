"""Kafka as the commands use it: reach it within a deadline, read topics to their end, publish one record."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from aiokafka.errors import KafkaConnectionError, KafkaError
from aiokafka.structs import ConsumerRecord, RecordMetadata, TopicPartition

from streams.ops.exits import CommandError, ExitStatus
from streams.runtime import kafka
from streams.runtime.settings import Settings, SettingsError
from streams.runtime.topics import Layout, TopicsError, verify_topics

REACH_DEADLINE_S = 15.0
_POLL_MS = 100
_REMEDY = "is a broker running there, and reachable from here? It is named by --broker or TIDEGATE_BROKER"

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T], settings: Settings) -> T:
    """Run a command's work. Raises CommandError where Kafka is away, refuses, or lacks the topics."""
    try:
        with _quiet_client():
            return asyncio.run(work)
    except TopicsError as error:
        raise CommandError(str(error), ExitStatus.BROKER) from None
    except SettingsError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from None
    except TimeoutError:
        raise CommandError(f"{settings.broker} does not answer", ExitStatus.BROKER, _REMEDY) from None
    except KafkaConnectionError:
        raise CommandError(f"cannot connect to {settings.broker}", ExitStatus.BROKER, _REMEDY) from None
    except KafkaError as error:
        raise CommandError(f"{settings.broker}: {error}", ExitStatus.BROKER) from None


@contextmanager
def _quiet_client() -> Iterator[None]:
    """The client reports every refused connection at ERROR; the one message that matters is ours."""
    client = logging.getLogger("aiokafka")
    level = client.level
    client.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        client.setLevel(level)


async def layout_of(settings: Settings) -> Layout:
    """The topics as the broker has them. Raises TopicsError, KafkaError, TimeoutError."""
    async with asyncio.timeout(REACH_DEADLINE_S):
        return await verify_topics(settings)


@asynccontextmanager
async def reader(settings: Settings, **options: Any) -> AsyncIterator[Any]:
    """A consumer without a group, read committed unless ``options`` say otherwise. Raises KafkaError, TimeoutError."""
    consumer = kafka.consumer(settings, **options)
    try:
        async with asyncio.timeout(REACH_DEADLINE_S):
            await consumer.start()
        yield consumer
    finally:
        await consumer.stop()


async def ends_of(consumer: Any, places: Iterable[TopicPartition]) -> Mapping[TopicPartition, int]:
    """The offsets up to which the partitions can be read now."""
    async with asyncio.timeout(REACH_DEADLINE_S):
        ends: Mapping[TopicPartition, int] = await consumer.end_offsets(list(places))
        return ends


async def read_to(consumer: Any, ends: Mapping[TopicPartition, int], take: Callable[[ConsumerRecord], None]) -> None:
    """Hand over every record from the consumer's positions up to ``ends``.

    By position and not by the last record: a transaction ends with a marker that no consumer is handed.
    """
    open_places = set(ends)
    while open_places:
        for records in (await consumer.getmany(*open_places, timeout_ms=_POLL_MS)).values():
            for record in records:
                take(record)
        open_places = {place for place in open_places if await consumer.position(place) < ends[place]}


async def publish(settings: Settings, topic: str, key: str, value: bytes) -> RecordMetadata:
    """One record, durable on return, on the partition of its key (murmur2). Raises KafkaError, TimeoutError."""
    producer = kafka.producer(settings)
    try:
        async with asyncio.timeout(REACH_DEADLINE_S):
            await producer.start()
            return await producer.send_and_wait(topic, value, key.encode())
    finally:
        await producer.stop()
