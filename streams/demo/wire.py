"""The loop's way through Kafka: publish, wait until the gate has applied it all, and hand over what it answered.

No answer is awaited by time. A transaction's journal record says which inputs it applied; once all that was published
is applied, the ends of the output topics are asked for, uncommitted records included, and the answers are read up to
there. Whatever the gate said about the input is below those ends, because it is in the same transactions.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.demo.chronicle import Heard
from streams.demo.desk import Message
from streams.demo.verify import FORWARDED_HEADER, INPUTS, OUTPUTS, Seen
from streams.runtime import kafka
from streams.runtime.settings import Settings
from streams.runtime.topics import JOURNAL, TopicNames

ANSWER_DEADLINE_S = 60.0
POLL_MS = 1_000
# The order in which one phase's answers are told: bases first, then what they led to.
TELLING = ("account-events", "account-locked", "approved-orders", "rejected-signals", "dead-letters")


class GateSilentError(RuntimeError):
    """The gate did not answer in time. The message names what it owes."""


@dataclass
class _Answers:
    """What has been read so far, and the last input offset that the gate has applied, by topic and partition."""

    applied: dict[tuple[str, int], int] = field(default_factory=dict)
    records: list[tuple[str, ConsumerRecord]] = field(default_factory=list)

    def take(self) -> list[Heard]:
        taken, self.records = self.records, []
        taken.sort(key=lambda one: (one[1].key or b"", TELLING.index(one[0]), one[1].partition, one[1].offset))
        return [Heard(topic, orjson.loads(record.value)) for topic, record in taken]


class KafkaGate:
    """`loop.Gate` over a broker with workers. Made by `connect`."""

    def __init__(
        self,
        settings: Settings,
        partitions: int,
        *,
        producer: AIOKafkaProducer,
        answers: AIOKafkaConsumer,
        ends: AIOKafkaConsumer,
    ) -> None:
        self._names = TopicNames.of(settings)
        self._partitions = partitions
        self._producer = producer
        self._consumer = answers
        self._ends = ends
        self._outputs = [TopicPartition(self._names.physical(topic), n) for topic in OUTPUTS for n in range(partitions)]
        self._journal = self._names.physical(JOURNAL)
        self._answers = _Answers()
        self._news = asyncio.Condition()
        self._failure: Exception | None = None

    async def submit(self, messages: Sequence[Message]) -> list[Heard]:
        """Publish the messages, wait for everything that the gate has to say about them. Raises GateSilentError."""
        sending = [await self._send(message) for message in messages]
        published = await asyncio.gather(*sending)
        last = {(self._names.logical(place.topic), place.partition): place.offset for place in published}
        await self._until_nothing(lambda: self._owed(last))
        # A record on the wrong partition is decided where it belongs, by a second transaction.
        strays = {orjson.loads(message.value)["signal_id"] for message in messages if message.is_stray}
        await self._until_nothing(lambda: self._undecided(strays))
        ends = await self._ends.end_offsets(self._outputs)
        await self._until_nothing(lambda: self._unread(ends))
        return self._answers.take()

    async def read_answers(self) -> None:
        """Read what the gate publishes, for as long as the task lives. What it dies of, `submit` raises."""
        while self._failure is None:
            try:
                for place, records in (await self._consumer.getmany(timeout_ms=POLL_MS)).items():
                    self._note(place, records)
            except Exception as error:  # noqa: BLE001  # raised where answers are awaited
                self._failure = error
            async with self._news:
                self._news.notify_all()

    async def _send(self, message: Message) -> Any:
        key = message.key.encode()
        partition = (kafka.partition_of_key(key, self._partitions) + message.is_stray) % self._partitions
        return await self._producer.send(
            self._names.physical(message.topic),
            key=key,
            value=message.value,
            timestamp_ms=message.timestamp_ms,
            partition=partition,
        )

    def _note(self, place: TopicPartition, records: Sequence[ConsumerRecord]) -> None:
        if place.topic == self._journal:
            for record in records:
                entry = orjson.loads(record.value)
                for topic, (_, last) in entry["offsets"].items():
                    self._answers.applied[topic, entry["partition"]] = last
        else:
            topic = self._names.logical(place.topic)
            self._answers.records += [(topic, record) for record in records]

    async def _owed(self, published: Mapping[tuple[str, int], int]) -> str:
        """Input that the gate has not applied yet."""
        late = {place: offset for place, offset in published.items() if self._answers.applied.get(place, -1) < offset}
        return ", ".join(f"{topic}-{partition}@{offset} is not applied" for (topic, partition), offset in late.items())

    async def _undecided(self, signal_ids: AbstractSet[str]) -> str:
        """Forwarded signals without a decision yet."""
        decided = {orjson.loads(record.value).get("signal_id") for _, record in self._answers.records}
        return ", ".join(f"{signal_id} was forwarded, but not decided" for signal_id in sorted(signal_ids - decided))

    async def _unread(self, ends: Mapping[TopicPartition, int]) -> str:
        """Output partitions that have not been read to these ends yet."""
        short = [place for place, end in ends.items() if await self._consumer.position(place) < end]
        return ", ".join(f"{topic}-{partition} is not committed to its end" for topic, partition in short)

    async def _until_nothing(self, lacking: Callable[[], Awaitable[str]]) -> None:
        """Wait until nothing is lacking any more."""
        async with self._news:
            try:
                async with asyncio.timeout(ANSWER_DEADLINE_S):
                    while await lacking():
                        if self._failure is not None:
                            raise self._failure
                        await self._news.wait()
            except TimeoutError:
                raise GateSilentError(f"no answer for {ANSWER_DEADLINE_S:.0f} s: {await lacking()}") from None


@asynccontextmanager
async def connect(settings: Settings, partitions: int) -> AsyncIterator[KafkaGate]:
    """A gate to talk to. The topics must exist and be empty."""
    names = TopicNames.of(settings)
    places = [TopicPartition(names.physical(topic), n) for topic in (*OUTPUTS, JOURNAL) for n in range(partitions)]
    async with AsyncExitStack() as stack:
        producer = kafka.producer(settings)
        answers = kafka.consumer(settings, auto_offset_reset="earliest")
        ends = kafka.consumer(settings, isolation_level="read_uncommitted")
        for client in (producer, answers, ends):
            await client.start()
            stack.push_async_callback(client.stop)
        answers.assign(places)
        gate = KafkaGate(settings, partitions, producer=producer, answers=answers, ends=ends)
        reading = asyncio.create_task(gate.read_answers())
        stack.callback(reading.cancel)
        yield gate


async def read_all(settings: Settings, partitions: int, topics: Iterable[str] = (*INPUTS, *OUTPUTS)) -> list[Seen]:
    """Every committed record of the topics from the first to the last, for the verifier."""
    names = TopicNames.of(settings)
    places = [TopicPartition(names.physical(topic), n) for topic in topics for n in range(partitions)]
    async with AsyncExitStack() as stack:
        uncommitted = kafka.consumer(settings, isolation_level="read_uncommitted")
        committed = kafka.consumer(settings, auto_offset_reset="earliest")
        for client in (uncommitted, committed):
            await client.start()
            stack.push_async_callback(client.stop)
        ends = await uncommitted.end_offsets(places)
        committed.assign(places)
        records: list[Seen] = []
        async with asyncio.timeout(ANSWER_DEADLINE_S):
            while any([await committed.position(place) < end for place, end in ends.items()]):
                for place, batch in (await committed.getmany(timeout_ms=POLL_MS)).items():
                    records += [_seen(names.logical(place.topic), record) for record in batch]
        return records


def _seen(topic: str, record: ConsumerRecord) -> Seen:
    origin = next((value.decode() for name, value in record.headers if name == FORWARDED_HEADER), None)
    return Seen(topic, record.partition, record.offset, record.value, origin)
