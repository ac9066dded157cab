"""Kafka as the commands use it: reach it within a deadline, read topics to their end, publish one record."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    KafkaConnectionError,
    KafkaError,
    TopicAuthorizationFailedError,
)
from aiokafka.structs import ConsumerRecord, RecordMetadata, TopicPartition

from schemas.roles import EVERY_TOPIC
from streams.ops.exits import CommandError, ExitStatus
from streams.runtime import access, kafka
from streams.runtime.access import AccessDenied, Entry, Kind, Operation
from streams.runtime.settings import Settings, SettingsError
from streams.runtime.topics import REQUESTS, Layout, TopicNames, TopicsError, verify_topics

REACH_DEADLINE_S = 15.0
_POLL_MS = 100
_REMEDY = "is a broker running there, and reachable from here? It is named by --broker or TIDEGATE_BROKER"
_ACCESS_REMEDY = (
    "an administrator of the brokers grants it: `tidegate access acls --role ROLE --principal User:NAME` says how, and "
    "`tidegate access check --role ROLE` lists all that is missing"
)

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
    except AccessDenied as error:
        raise CommandError(str(error), ExitStatus.BROKER, _ACCESS_REMEDY) from None
    except TopicAuthorizationFailedError as error:
        # Every reader tells its own denials.
        denied = _denied(settings, error, Operation.WRITE)
        raise CommandError(str(denied), ExitStatus.BROKER, _ACCESS_REMEDY) from None
    except TimeoutError:
        raise CommandError(
            _refusal(settings) or f"{settings.broker} does not answer", ExitStatus.BROKER, _REMEDY
        ) from None
    except KafkaConnectionError:
        raise CommandError(
            _refusal(settings) or f"cannot connect to {settings.broker}", ExitStatus.BROKER, _REMEDY
        ) from None
    except KafkaError as error:
        raise CommandError(f"{settings.broker}: {error}", ExitStatus.BROKER) from None


def _refusal(settings: Settings) -> str | None:
    with _quiet_client():
        return asyncio.run(kafka.refusal(settings))


def _denied(settings: Settings, error: KafkaError, operation: Operation) -> AccessDenied:
    """A denial of the brokers. The client library names the topics, as one or a set, and not what it was at."""
    topics = {one for names in error.args for one in ((names,) if isinstance(names, str) else names)}
    return AccessDenied(settings.security, [Entry(Kind.TOPIC, topic, operation) for topic in sorted(topics)])


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
    """The topics as the broker has them. Raises TopicsError, AccessDenied, KafkaError, TimeoutError."""
    async with asyncio.timeout(REACH_DEADLINE_S):
        try:
            layout = await verify_topics(settings)
        except TopicsError:
            await _refuse_hidden(settings)
            raise
        if REQUESTS not in layout.counts:
            await _refuse_hidden(settings)
        return layout


async def ready_for(role: str, settings: Settings) -> Layout:
    """``layout_of`` for a process that is about to start: also refused where an ACL of its role is missing."""
    async with asyncio.timeout(REACH_DEADLINE_S):
        await access.require(settings, role)
    return await layout_of(settings)


async def require_writes(settings: Settings, *topics: str) -> None:
    """Refuse before anything is published what could only be done by half. ``topics`` are logical names.

    Raises AccessDenied, KafkaError, TimeoutError.
    """
    names = [TopicNames.of(settings).physical(topic) for topic in topics]
    async with asyncio.timeout(REACH_DEADLINE_S):
        try:
            granted = await access.allowed(settings, names)
        except (IncompatibleBrokerVersion, NotImplementedError):
            return
    if denied := [name for name in names if (one := granted.get(name)) is not None and Operation.WRITE not in one]:
        raise AccessDenied(settings.security, [Entry(Kind.TOPIC, name, Operation.WRITE) for name in denied])


async def _refuse_hidden(settings: Settings) -> None:
    """A topic that this client may not see looks like one that is not there."""
    names = [TopicNames.of(settings).physical(topic) for topic in EVERY_TOPIC]
    try:
        granted = await access.allowed(settings, names)
    except (IncompatibleBrokerVersion, NotImplementedError):
        return
    if hidden := [name for name in names if (one := granted.get(name)) is not None and Operation.DESCRIBE not in one]:
        raise AccessDenied(settings.security, [Entry(Kind.TOPIC, name, Operation.DESCRIBE) for name in hidden])


@asynccontextmanager
async def reader(settings: Settings, **options: Any) -> AsyncIterator[Any]:
    """A consumer without a group, read committed unless ``options`` say otherwise. Raises KafkaError, TimeoutError."""
    consumer = kafka.consumer(settings, **options)
    try:
        async with asyncio.timeout(REACH_DEADLINE_S):
            await consumer.start()
        yield consumer
    except TopicAuthorizationFailedError as error:
        raise _denied(settings, error, Operation.READ) from None
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


async def read_since(
    consumer: Any, places: Collection[TopicPartition], since_ms: int, take: Callable[[ConsumerRecord], None]
) -> None:
    """Hand over every record of some partitions from a time on (``since_ms`` >= 0), up to their present ends.

    A partition is read from its first record of that time or later: what follows may carry an earlier timestamp.
    """
    consumer.assign(list(places))
    ends = await ends_of(consumer, places)
    starts = await consumer.offsets_for_times(dict.fromkeys(places, since_ms))
    for place, end in ends.items():
        start = starts.get(place)
        consumer.seek(place, end if start is None else start.offset)
    await read_to(consumer, ends, take)


async def publish(settings: Settings, topic: str, key: str, value: bytes) -> RecordMetadata:
    """One record, durable on return, on the partition of its key (murmur2). Raises KafkaError, TimeoutError."""
    producer = kafka.producer(settings)
    try:
        async with asyncio.timeout(REACH_DEADLINE_S):
            await producer.start()
            return await producer.send_and_wait(topic, value, key.encode())
    except (TopicAuthorizationFailedError, ClusterAuthorizationFailedError):
        raise AccessDenied(settings.security, [Entry(Kind.TOPIC, topic, Operation.WRITE)]) from None
    finally:
        await producer.stop()
