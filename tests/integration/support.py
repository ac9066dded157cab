"""What integration tests do to a broker: wait for a condition, produce like any desk, read a topic to its end."""

import asyncio
import inspect
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar, overload

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import for_code

from infra.jars import KafkaUnavailable, class_path, java

REQUIRE_KAFKA = "TIDEGATE_REQUIRE_KAFKA"
REQUIRE_ALL = "TIDEGATE_REQUIRE_ALL"

_POLL_INTERVAL_S = 0.02
_DEADLINE_S = 30.0

T = TypeVar("T")
Plain = TypeVar("Plain", bound=Sized | int | None)
"""What a condition that is no coroutine returns."""


@dataclass(frozen=True)
class Names:
    """A test's own corner of the shared broker."""

    app_id: str
    """Prefix of transactional ids and name of the consumer group."""

    @property
    def prefix(self) -> str:
        """Goes before every topic's name."""
        return f"{self.app_id}."

    def topic(self, name: str) -> str:
        """The name on the broker of one of this test's topics."""
        return self.prefix + name


def skip_or_fail(reason: str, variable: str = REQUIRE_ALL) -> NoReturn:
    """Skip the test for what is missing, or fail it where the environment's `variable` says that it must be there."""
    if os.environ.get(variable):
        pytest.fail(f"{variable} is set, but there is {reason}", pytrace=False)
    pytest.skip(reason)


def require_local_kafka() -> None:
    """Skip (or fail where `TIDEGATE_REQUIRE_KAFKA` is set) where Apache Kafka cannot run from its jars."""
    try:
        java()
        class_path()
        return
    except KafkaUnavailable as error:
        reason = str(error)
    skip_or_fail(f"no Apache Kafka from its jars: {reason}", REQUIRE_KAFKA)


def poll(condition: Callable[[], T], deadline_s: float, what: str) -> T:
    """Wait until `condition` returns something true, and return that.

    Raises:
        TimeoutError: it did not within `deadline_s`; the message says for `what` it waited and what it saw last.
    """
    end_s = time.monotonic() + deadline_s
    while not (seen := condition()):
        if time.monotonic() > end_s:
            raise TimeoutError(f"waited {deadline_s} s for {what}; last seen: {seen!r}")
        time.sleep(_POLL_INTERVAL_S)
    return seen


@overload
async def wait_for(condition: Callable[[], Awaitable[T]], deadline_s: float, what: str) -> T: ...
@overload
async def wait_for(condition: Callable[[], Plain], deadline_s: float, what: str) -> Plain: ...
async def wait_for(condition: Callable[[], Any], deadline_s: float, what: str) -> Any:
    """`poll` for coroutines: the condition may be one, and the loop runs on between two looks."""
    end_s = time.monotonic() + deadline_s
    while True:
        result = condition()
        seen = await result if inspect.isawaitable(result) else result
        if seen:
            return seen
        if time.monotonic() > end_s:
            raise TimeoutError(f"waited {deadline_s} s for {what}; last seen: {seen!r}")
        await asyncio.sleep(_POLL_INTERVAL_S)


async def create_topic(
    bootstrap: str, topic: str, partitions: int = 1, replication_factor: int = 1, **config: str
) -> None:
    """Create a topic; `config` with underscores for dots (`cleanup_policy="compact"`).

    Raises:
        KafkaError: the broker refused.
    """
    configs = {name.replace("_", "."): value for name, value in config.items()}
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        response = await admin.create_topics([NewTopic(topic, partitions, replication_factor, topic_configs=configs)])
    finally:
        await admin.close()
    for _, code, *message in response.topic_errors:
        if code:
            raise for_code(code)(*message)


async def grow_topics(bootstrap: str, topics: Sequence[str], partitions: int) -> None:
    """Give topics more partitions, and wait until the broker tells of them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()

    async def have_grown() -> bool:
        return all(len(one["partitions"]) == partitions for one in await admin.describe_topics(list(topics)))

    try:
        await admin.create_partitions({topic: NewPartitions(partitions) for topic in topics})
        await wait_for(have_grown, _DEADLINE_S, f"{partitions} partitions of {', '.join(topics)}")
    finally:
        await admin.close()


async def produce(
    bootstrap: str, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], **options: Any
) -> list[tuple[int, int]]:
    """Send keys and values with Kafka's default (murmur2) partitioner; returns each record's partition and offset.

    `options` go to every send: `partition`, `timestamp_ms`, `headers`.
    """
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=0, enable_idempotence=True)
    await producer.start()
    try:
        sent = [await producer.send(topic, value, key, **options) for key, value in records]
        return [(done.partition, done.offset) for done in await asyncio.gather(*sent)]
    finally:
        await producer.stop()


async def produce_in_transaction(
    bootstrap: str, topic: str, records: Iterable[tuple[bytes | None, bytes | None]], *, commit: bool, **options: Any
) -> None:
    """Send keys and values in one transaction, and commit or abort it; `options` as for `produce`."""
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap, transactional_id=f"{topic}-test")
    await producer.start()
    try:
        await producer.begin_transaction()
        for key, value in records:
            await producer.send_and_wait(topic, value, key, **options)
        await (producer.commit_transaction() if commit else producer.abort_transaction())
    finally:
        await producer.stop()


async def read_topic(
    bootstrap: str,
    topic: str,
    *,
    isolation_level: Literal["read_committed", "read_uncommitted"] = "read_committed",
    deadline_s: float = _DEADLINE_S,
) -> list[ConsumerRecord]:
    """All records of a topic up to its present end, in offset order per partition.

    Read committed, the end is the last stable offset: what an open transaction has written is left out, and so is
    what follows it.

    Raises:
        TimeoutError: the end was not reached within `deadline_s`.
    """
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        isolation_level=isolation_level,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        async with asyncio.timeout(deadline_s):
            # Without a group the consumer takes all partitions as soon as it has heard of the topic.
            partitions = await wait_for(consumer.assignment, deadline_s, f"the partitions of {topic}")
            return await _read_to(consumer, await consumer.end_offsets(partitions))
    except TimeoutError as error:
        raise TimeoutError(f"{topic} was not read to its end in {deadline_s} s") from error
    finally:
        await consumer.stop()


async def _read_to(consumer: Any, ends: Mapping[TopicPartition, int]) -> list[ConsumerRecord]:
    records: list[ConsumerRecord] = []
    # By position and not by the last record: a transaction ends in a control record, which no consumer is handed.
    while any([await consumer.position(partition) < end for partition, end in ends.items()]):
        for batch in (await consumer.getmany(timeout_ms=100)).values():
            records += batch
    return records
