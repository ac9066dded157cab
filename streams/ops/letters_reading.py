"""Dead letters and their originals as they are on the gate's topics, read committed; nothing here publishes.

A letter's original is read from its coordinates and held against the letter's SHA-256. What was resubmitted is told by
the header ``tidegate-resubmitted-from`` on the target topic, which is looked through from an hour before the oldest
letter in question on (clocks differ).
"""

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from aiokafka.structs import ConsumerRecord, TopicPartition

from streams.core.fold import FORWARDED
from streams.core.records import DEAD_LETTERS, Headers, Record, text_of
from streams.core.state import DECISIONS, Remembered, decode_remembered
from streams.ops import broker as kafka_broker
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.letters import Letter, Place
from streams.runtime.settings import Settings
from streams.runtime.store import changelog_key
from streams.runtime.topics import STATE, Layout, TopicNames

RESUBMITTED = "tidegate-resubmitted-from"
_CLOCK_SLACK_MS = 3_600_000
_READ_DEADLINE_S = 15.0
_POLL_MS = 200


class Selection(NamedTuple):
    """Which dead letters; None: any."""

    topic: str | None = None
    reason: str | None = None
    account: str | None = None
    since_ms: int | None = None

    def holds(self, letter: Letter) -> bool:
        """Whether it is one of them."""
        return (
            self.topic in (None, letter.topic)
            and self.reason in (None, letter.reason)
            and self.account in (None, letter.account_id)
            and (self.since_ms is None or letter.at_ms >= self.since_ms)
        )


class Original(NamedTuple):
    """The input as it is on its topic; ``record`` None: why it is not."""

    record: Record | None
    why_not: str = ""


class LetterReader:
    """Reads of the gate's topics with one consumer, read committed."""

    def __init__(self, settings: Settings, layout: Layout, consumer: Any) -> None:
        self.layout = layout
        self.names = TopicNames.of(settings)
        self._consumer = consumer

    def places(self, topic: str) -> list[TopicPartition]:
        return self.layout.places(self.names, topic)

    async def letters(self, selection: Selection, limit: int) -> tuple[list[Letter], int]:
        """The latest of them in order of publication, and how many there are."""
        latest: deque[Letter] = deque(maxlen=limit)
        total = 0

        def take(record: ConsumerRecord) -> None:
            nonlocal total
            letter = letter_of(record)
            if letter is not None and selection.holds(letter):
                total += 1
                latest.append(letter)

        # Partition by partition would keep the latest of one: what is kept is chosen by time, once all are read.
        kept: list[Letter] = []
        for place in self.places(DEAD_LETTERS):
            latest.clear()
            await self.every([place], take)
            kept += latest
        kept.sort(key=lambda letter: letter.at_ms)
        return kept[-limit:], total

    async def letter_at(self, wanted: Place) -> Letter:
        """The dead letter of a place, its own or its input's. Raises CommandError where there is none."""
        if wanted.topic is None:
            place = TopicPartition(self.names.physical(DEAD_LETTERS), wanted.partition)
            record = await self.at(place, wanted.offset)
            if record is not None and (letter := letter_of(record)) is not None:
                return letter
        else:
            found: list[Letter] = []

            def take(record: ConsumerRecord) -> None:
                letter = letter_of(record)
                if letter is not None and letter.source == wanted:
                    found.append(letter)

            await self.every(self.places(DEAD_LETTERS), take)
            if found:
                return found[-1]
        raise no_letter(wanted)

    async def original(self, letter: Letter) -> Original:
        """The input that a letter is about, as it is on its topic now."""
        source = letter.source
        if source.partition >= self.layout.counts.get(letter.topic, 0):
            return Original(None, f"{letter.topic} has no partition {source.partition} any more")
        place = TopicPartition(self.names.physical(letter.topic), source.partition)
        record = await self.at(place, source.offset)
        if record is None:
            return Original(None, "it is no longer retained on its topic")
        value = record.value
        if letter.body["payload_sha256"] != (None if value is None else hashlib.sha256(value).hexdigest()):
            return Original(None, "another record is there now (the SHA-256 differs): the topic was recreated")
        headers = tuple((name, value or b"") for name, value in record.headers)
        return Original(
            Record(letter.topic, record.partition, record.offset, record.timestamp, record.key, value, headers)
        )

    async def resubmitted(self, letters: Iterable[Letter]) -> Mapping[Place, Place]:
        """Where the originals of letters were sent again, by source."""
        found: dict[Place, Place] = {}
        oldest: dict[str, int] = {}
        for letter in letters:
            oldest[letter.topic] = min(letter.at_ms, oldest.get(letter.topic, letter.at_ms))
        for topic, at_ms in oldest.items():

            def take(record: ConsumerRecord, topic: str = topic) -> None:
                origin = resubmitted_from(record.headers)
                if origin is not None and not _is_forwarded(record.headers):
                    found[origin] = Place(topic, record.partition, record.offset)

            since_ms = max(0, at_ms - _CLOCK_SLACK_MS)
            await kafka_broker.read_since(self._consumer, self.places(topic), since_ms, take)
        return found

    async def remembered(self, wanted: Mapping[bytes, int]) -> Mapping[bytes, Remembered]:
        """What the state still remembers of ids; ``wanted``: their keys and the partition of their account."""
        found: dict[bytes, Remembered] = {}
        keys = {changelog_key(DECISIONS, key): key for key in wanted}

        def take(record: ConsumerRecord) -> None:
            key = keys.get(record.key or b"")
            if key is None:
                return
            if record.value is None:
                found.pop(key, None)
            else:
                found[key] = decode_remembered(record.value)

        topic = self.names.physical(STATE)
        await self.every([TopicPartition(topic, number) for number in sorted(set(wanted.values()))], take)
        return found

    async def every(self, places: Sequence[TopicPartition], take: Any) -> None:
        """Hand over every record of some partitions up to their present ends."""
        if not places:
            return
        self._consumer.assign(list(places))
        ends = await kafka_broker.ends_of(self._consumer, places)
        await self._consumer.seek_to_beginning(*places)
        await kafka_broker.read_to(self._consumer, ends, take)

    async def at(self, place: TopicPartition, offset: int) -> ConsumerRecord | None:
        """The record at an offset; None where there is none (any more). Raises TimeoutError."""
        self._consumer.assign([place])
        first = (await self._consumer.beginning_offsets([place]))[place]
        ends = await kafka_broker.ends_of(self._consumer, [place])
        if not first <= offset < ends[place]:
            return None
        self._consumer.seek(place, offset)
        until = time.monotonic() + _READ_DEADLINE_S
        while time.monotonic() < until:
            try:
                fetched = await self._consumer.getmany(place, timeout_ms=_POLL_MS, max_records=1)
            except UnicodeDecodeError:
                return None  # a header's name is not UTF-8: no client of ours can read it
            for record in fetched.get(place, ()):
                return record if record.offset == offset else None
            if await self._consumer.position(place) > offset:
                return None
        raise TimeoutError


def letter_of(record: ConsumerRecord) -> Letter | None:
    """A record of ``dead-letters``; None for what is none of the gate's."""
    try:
        body = orjson.loads(record.value or b"")
        letter = Letter(Place(None, record.partition, record.offset), record.timestamp, body)
        return letter if letter.reason and letter.source.topic and "payload_sha256" in body else None
    except (ValueError, KeyError, TypeError):
        return None


def resubmitted_from(headers: Iterable[tuple[str, bytes | None]]) -> Place | None:
    """The source that a record's header names, if it was resubmitted."""
    for name, value in headers:
        topic, _, rest = (text_of(value) or "").partition("/") if name == RESUBMITTED else ("", "", "")
        partition, _, offset = rest.partition("/")
        if topic and partition.isdecimal() and offset.isdecimal():
            return Place(topic, int(partition), int(offset))
    return None


def _is_forwarded(headers: Iterable[tuple[str, bytes | None]]) -> bool:
    """A copy that the gate made on the account's partition, headers and all."""
    return any(name == FORWARDED for name, _ in headers)


def headers_for(letter: Letter, original: Headers) -> Headers:
    """The original's headers without what the gate or an earlier resubmission added, and where it comes from.

    Left in, a forward's mark would make the gate take it for one that it has forwarded already.
    """
    kept = tuple(one for one in original if one[0] not in (FORWARDED, RESUBMITTED))
    source = letter.source
    return (*kept, (RESUBMITTED, f"{source.topic}/{source.partition}/{source.offset}".encode()))


def no_letter(wanted: Place) -> CommandError:
    """The error for a place without a dead letter."""
    return CommandError(
        f"there is no dead letter {'of' if wanted.topic else 'at'} {wanted}",
        ExitStatus.REFUSED,
        "see `tidegate dead-letters list`; retention may have deleted it",
    )
