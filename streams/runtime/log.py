"""The log side of one partition: its transactional producer, and its changelog read back.

The transactional id is application and partition, so that whoever fences a partition shuts out every earlier owner,
even one that was paused and wakes up later. Nothing in aiokafka times out by itself: deadlines are the caller's.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from aiokafka import AIOKafkaProducer
from aiokafka.errors import IllegalOperation, KafkaError, OffsetOutOfRangeError, ProducerFenced
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.structs import ConsumerRecord, RecordMetadata

from streams.core.records import Output
from streams.core.state import Change
from streams.runtime import kafka
from streams.runtime.bounds import Looker
from streams.runtime.kafka import TopicPartition
from streams.runtime.settings import Settings
from streams.runtime.store import StateRecord, names_table, state_record
from streams.runtime.topics import JOURNAL, STATE, TopicNames

log = logging.getLogger(__name__)

_CLOSE_TIMEOUT_S = 5.0


class LogError(RuntimeError):
    """The log refused or lost something. Fatal for the worker: what is durable is only known after a restore."""


class FencedError(LogError):
    """Another worker has taken the partition over: nothing more can be written for it here."""


class Restored(NamedTuple):
    """A stretch of the changelog: its records, and the offset to go on from."""

    records: Sequence[StateRecord]
    position: int


def state_records(place: TopicPartition, records: Iterable[ConsumerRecord]) -> list[StateRecord]:
    """What a changelog holds, as it is kept. Raises LogError for a key that names no table: it is none of ours."""
    found: list[StateRecord] = []
    for record in records:
        key = record.key or b""
        if not names_table(key):
            where = f"changelog {place.topic} {place.partition}@{record.offset}"
            raise LogError(f"{where}: key {key[:64]!r} names no table")
        found.append((key, record.value))
    return found


class Log(Protocol):
    """What a partition's owner may do with the log. Every exception is fatal."""

    async def fence(self) -> None:
        """Shut out all earlier owners; afterwards everything that they wrote is either committed or aborted."""

    async def changelog_end(self) -> int:
        """The offset after the last record of the changelog, committed or not."""

    def changelog(self, start: int, end: int) -> AsyncGenerator[Restored, None]:
        """The committed records from ``start`` up to ``end``; the last position is at or past ``end``."""

    async def begin(self) -> None:
        """Begin a transaction."""

    async def send(self, outputs: Iterable[Output], changes: Iterable[Change], journal: bytes) -> int:
        """Put records into the transaction and wait until brokers hold them all.

        Returns the changelog offset after the last change, or -1 if there was none.
        """

    async def commit(self) -> None:
        """End the transaction: all of it is visible from now on."""

    async def close(self) -> None:
        """Release what is held. An open transaction is left for the next owner's fence to abort."""


class KafkaLog:
    """``Log`` on aiokafka."""

    def __init__(
        self,
        settings: Settings,
        partition: int,
        partitions_of: Mapping[str, int],
        partition_for: Callable[[bytes, int], int],
        looker: Looker,
    ) -> None:
        """``partitions_of``: the number of partitions of every logical topic that outputs may name."""
        self._settings = settings
        self._partition = partition
        self._partitions_of = partitions_of
        self._partition_for = partition_for
        self._looker = looker
        self._names = TopicNames.of(settings)
        self._state = TopicPartition(self._names.physical(STATE), partition)
        self._journal = TopicPartition(self._names.physical(JOURNAL), partition)
        self._producer: AIOKafkaProducer | None = None

    async def fence(self) -> None:
        producer = kafka.producer(
            self._settings,
            transactional_id=f"{self._settings.topic_prefix}{self._settings.app_id}-{self._partition}",
            transaction_timeout_ms=2 * self._settings.transaction_deadline_ms,
        )
        self._producer = producer
        await producer.start()

    async def changelog_end(self) -> int:
        return await self._looker.end(self._state)

    async def changelog(self, start: int, end: int) -> AsyncGenerator[Restored, None]:
        if start >= end:
            return
        reader = await kafka.started(kafka.consumer(self._settings, auto_offset_reset="earliest"))
        try:
            reader.assign([self._state])
            reader.seek(self._state, start)
            position = start
            # The position, not the last record: transaction markers and compacted offsets are never handed out.
            while position < end:
                batches = await reader.getmany(timeout_ms=200)
                records = batches.get(self._state, ())
                position = await reader.position(self._state)
                yield Restored(state_records(self._state, records), position)
        except OffsetOutOfRangeError as error:
            raise LogError(
                f"changelog {self._state.topic} lost offset {start} of partition {self._partition}"
            ) from error
        finally:
            await reader.stop()

    async def begin(self) -> None:
        with self._fencing_told():
            await self._open_producer().begin_transaction()

    async def send(self, outputs: Iterable[Output], changes: Iterable[Change], journal: bytes) -> int:
        sending = _Sending(self._open_producer())
        with self._fencing_told():
            for output in outputs:
                sending.add(self._place_of(output), output.key, output.value, output.timestamp_ms, output.headers)
            for change in changes:
                sending.add(self._state, *state_record(change))
            sending.add(self._journal, None, journal)
            return (await sending.finish()).get(self._state, -1)

    async def commit(self) -> None:
        with self._fencing_told():
            await self._open_producer().commit_transaction()

    async def close(self) -> None:
        producer, self._producer = self._producer, None
        if producer is None:
            return
        with contextlib.suppress(Exception):
            await asyncio.wait_for(producer.stop(), _CLOSE_TIMEOUT_S)

    @contextlib.contextmanager
    def _fencing_told(self) -> Iterator[None]:
        """That another worker took over is no fault of the records that it shows at."""
        try:
            yield
        except (KafkaError, LogError) as error:
            if isinstance(error, ProducerFenced) or isinstance(error.__cause__, ProducerFenced):
                raise FencedError(
                    f"fenced: another worker has taken partition {self._partition} over; this one was cut off or paused"
                ) from error
            raise

    def _place_of(self, output: Output) -> TopicPartition:
        partition = output.partition
        if partition is None:
            key = output.key
            partition = self._partition if key is None else self._partition_for(key, self._partitions_of[output.topic])
        return TopicPartition(self._names.physical(output.topic), partition)

    def _open_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            raise LogError(f"partition {self._partition} was not fenced, or is closed")
        return self._producer


class _Sending:
    """The records of one transaction, packed per partition: a future per batch instead of one per record."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self._open: dict[TopicPartition, BatchBuilder] = {}
        self._packed: list[tuple[TopicPartition, BatchBuilder]] = []
        self._sent: list[tuple[TopicPartition, int, asyncio.Future[RecordMetadata]]] = []

    def add(
        self,
        place: TopicPartition,
        key: bytes | None,
        value: bytes | None,
        timestamp_ms: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        listed = list(headers)  # aiokafka takes nothing else
        batch = self._open.get(place) or self._new_batch(place)
        if batch.append(timestamp=timestamp_ms, key=key, value=value, headers=listed) is None:
            # Full. An empty batch takes a record of any size; a broker that finds it too large refuses it.
            self._new_batch(place).append(timestamp=timestamp_ms, key=key, value=value, headers=listed)

    def _new_batch(self, place: TopicPartition) -> BatchBuilder:
        batch = self._open[place] = self._producer.create_batch()
        self._packed.append((place, batch))
        return batch

    async def finish(self) -> dict[TopicPartition, int]:
        """Submit everything and wait for it. Returns the offset after the last record, by partition."""
        for place, batch in self._packed:
            await self._submit(place, batch)
        ends: dict[TopicPartition, int] = {}
        # A transaction commits although one of its sends failed: each future has to be looked at.
        for place, count, future in self._sent:
            metadata = await _written(place, count, future)
            ends[place] = metadata.offset + count
        return ends

    async def _submit(self, place: TopicPartition, batch: BatchBuilder) -> None:
        batch.close()
        try:
            future = await self._producer.send_batch(batch, place.topic, partition=place.partition)
        except IllegalOperation:
            # The transaction is in error because a former send failed meanwhile. That one knows why.
            for sent in self._sent:
                if sent[-1].done():
                    await _written(*sent)
            raise
        future.add_done_callback(_noticed)
        self._sent.append((place, batch.record_count(), future))


def _noticed(future: asyncio.Future[RecordMetadata]) -> None:
    """One failure ends the worker; the others of its transaction would be logged after what it says last."""
    if not future.cancelled():
        future.exception()


async def _written(place: TopicPartition, count: int, future: asyncio.Future[RecordMetadata]) -> RecordMetadata:
    try:
        return await future
    except KafkaError as error:
        where = f"topic {place.topic}, partition {place.partition}"
        raise LogError(f"{where}: {count} records were not written: {error!r}") from error
