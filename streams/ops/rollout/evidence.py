"""Reads from the topics what the exit criteria ask for."""

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.structs import ConsumerRecord

from schemas.types import read_time
from streams.core.decode import parse_object
from streams.core.drawdown import MANUAL
from streams.core.records import DEAD_LETTERS, INPUTS, LOCKED
from streams.ops import broker, requests
from streams.ops.rollout.course import Course
from streams.ops.rollout.criteria import DrawdownLock, Evidence, Letter, Unread
from streams.runtime import clock
from streams.runtime.settings import Settings
from streams.runtime.topics import Layout, TopicNames

# Beyond this many, unread records are counted by their offsets and not looked at.
_LOOKED_AT_MAX = 10_000


async def read_evidence(settings: Settings, course: Course, applied: Mapping[int, Mapping[str, int]]) -> Evidence:
    """Everything that the criteria of the phase in force need; ``applied``: as :class:`SnapshotReader` has it.

    Raises TopicsError, KafkaError, TimeoutError.
    """
    layout = await broker.layout_of(settings)
    entries = await requests.read_entries(settings)
    named = course.rule.get("accounts")
    locks: list[DrawdownLock] = []
    letters: list[Letter] = []
    async with broker.reader(settings) as consumer:
        for record in await _since(settings, layout, consumer, LOCKED, course.since_ms):
            lock = _lock(record)
            if lock is not None and (named is None or lock.account_id in named):
                locks.append(lock)
        for record in await _since(settings, layout, consumer, DEAD_LETTERS, course.since_ms):
            reason = str((parse_object(record.value)[0] or {}).get("reason"))
            letters.append(Letter(reason, record.partition, record.offset))
        unread = await _unread(settings, layout, consumer, applied)
    return Evidence(clock.now_ms(), locks, letters, unread, entries)


async def dead_letter_ends(settings: Settings) -> dict[str, int]:
    """The end of each partition of the dead letters now."""
    layout = await broker.layout_of(settings)
    async with broker.reader(settings) as consumer:
        ends = await broker.ends_of(consumer, layout.places(TopicNames.of(settings), DEAD_LETTERS))
    return {str(place.partition): end for place, end in ends.items()}


async def _since(
    settings: Settings, layout: Layout, consumer: Any, topic: str, since_ms: int
) -> Sequence[ConsumerRecord]:
    """The records of a topic from a time on."""
    found: list[ConsumerRecord] = []
    await broker.read_since(consumer, layout.places(TopicNames.of(settings), topic), since_ms, found.append)
    return [record for record in found if record.timestamp >= since_ms]


def _lock(record: ConsumerRecord) -> DrawdownLock | None:
    body, _ = parse_object(record.value)
    if body is None or body.get("reason") == MANUAL:
        return None
    try:
        at_ms = read_time(body.get("locked_at"))
    except ValueError:
        at_ms = record.timestamp
    return DrawdownLock(str(body.get("account_id")), str(body.get("reason")), at_ms)


async def _unread(
    settings: Settings, layout: Layout, consumer: Any, applied: Mapping[int, Mapping[str, int]]
) -> Unread:
    """Input that the state does not include. Counted by reading: what a transaction's end takes up is no record."""
    names = TopicNames.of(settings)
    topics = {place: topic for topic in INPUTS for place in layout.places(names, topic)}
    consumer.assign(list(topics))
    ends, firsts = await broker.ends_of(consumer, topics), await consumer.beginning_offsets(list(topics))
    starts = {
        place: max(firsts[place], applied.get(place.partition, {}).get(topic, -1) + 1)
        for place, topic in topics.items()
    }
    widths = {place: ends[place] - starts[place] for place in topics if ends[place] > starts[place]}
    near = {place: ends[place] for place, width in widths.items() if width <= _LOOKED_AT_MAX}
    far = sum(width for width in widths.values() if width > _LOOKED_AT_MAX)
    times_ms: list[int] = []
    if near:
        consumer.assign(list(near))
        for place in near:
            consumer.seek(place, starts[place])
        await broker.read_to(consumer, near, lambda record: times_ms.append(record.timestamp))
    return Unread(far + len(times_ms), None if far else min(times_ms, default=None))
