"""One session of the mirror: open the model, go on from the positions that it holds, write what the topics bring.

The consumer has no group: positions are in Redis, in the same atomic write as what they stand for, so a session resumes
exactly where the model is, and two mirrors may run at once (the one that comes second with a stretch writes nothing).
A session ends with :class:`Superseded` when the model turns out to be another than the one that it opened (wiped,
rebuilt, an older copy); the next one opens what is there. Policies are read from their beginning each time: they are
few, and the rules in force are folded in memory.

Each poll's records go through the ``mirror`` agent, one batch a place, several places at once; the next poll follows
when all of them are in Redis. While Redis is away nothing is polled and nothing piles up.
"""

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord
from redis.exceptions import RedisError

from streams.core.records import APPROVED, LOCKED, POLICIES, REJECTED, Record
from streams.core.rules import Rules, apply_policy
from streams.mirror.content import accounts_content, decisions_content, locks_content, refreshed, touched
from streams.mirror.freshness import Answers, Freshness, RemoteClock
from streams.mirror.model import Model, Opened, Progress, Stretch
from streams.mirror.settings import MirrorSettings
from streams.mirror.view import rules_view
from streams.observe.mirror import MirrorMetrics
from streams.runtime import kafka
from streams.runtime.kafka import TopicPartition
from streams.runtime.settings import Settings
from streams.runtime.topics import STATE, Layout, TopicNames

log = logging.getLogger(__name__)

MIRRORED = (STATE, APPROVED, REJECTED, LOCKED)
_POLL_MS = 50
_BATCH_MAX = 500
# The broker's answers are what freshness is made of: an idle topic is confirmed this often.
_FETCH_MAX_WAIT_MS = 100
# So many are looked at before the topics have their turn again.
_REFRESHED_AT_ONCE = 25

HandOut = Callable[["Work"], Awaitable[None]]


@dataclass(eq=False, slots=True)
class Work:
    """One batch of one place on its way through the ``mirror`` agent. ``done`` tells its fate."""

    write: Callable[[], Awaitable[None]]
    done: asyncio.Future[None]

    async def run(self) -> None:
        """Write the batch. A failure goes to whoever waits: an agent that raises would be restarted without it."""
        try:
            await self.write()
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for ``done``
            if not self.done.done():
                self.done.set_exception(error)
        else:
            if not self.done.done():
                self.done.set_result(None)


@dataclass(slots=True)
class Place:
    """One partition of one mirrored topic."""

    topic: str
    at: TopicPartition
    position: int
    """Up to where it is in Redis."""
    through: int = 0
    """Up to where it has been read and written, transaction markers included."""
    target: int = 0
    """Where it ended when the session began: a model that is being built is whole from there on."""

    @property
    def name(self) -> str:
        return f"{self.topic}/{self.at.partition}"


class Session:
    """From one ``open`` of the model to its end."""

    def __init__(
        self,
        settings: Settings,
        mirror: MirrorSettings,
        layout: Layout,
        rules: Rules,
        model: Model,
        hand_out: HandOut,
        metrics: MirrorMetrics,
    ) -> None:
        self._settings = settings
        self._mirror = mirror
        self._layout = layout
        self._rules = rules
        self._model = model
        self._hand_out = hand_out
        self._metrics = metrics
        self._names = TopicNames.of(settings)
        self._policies = TopicPartition(self._names.physical(POLICIES), 0)
        self._places: dict[TopicPartition, Place] = {}
        self._generation = ""
        self._writer = f"{socket.gethostname()}:{os.getpid()}"
        self._clock = RemoteClock()
        self._rules_changed = asyncio.Event()
        self.is_live = False
        self._freshness: Freshness[TopicPartition] = Freshness([])
        self._answers: Answers[TopicPartition] = Answers()
        self._began_ms = _steady_ms()

    @property
    def behind_records(self) -> int:
        """Records that are not in Redis yet, as far as brokers have told of them."""
        return self._freshness.behind_records or 0

    @property
    def behind_seconds(self) -> float:
        """For how long nobody has been able to say that the model is complete."""
        fresh_ms = self._freshness.fresh_ms
        return max(0.0, _steady_ms() - (self._began_ms if fresh_ms is None else fresh_ms)) / 1000

    async def run(self) -> None:
        """Mirror until cancelled. Raises Superseded, ModelError, KafkaError, ValueError (state of a newer release)."""
        opened = await self._model.open()
        consumer = await kafka.started(kafka.consumer(self._settings, fetch_max_wait_ms=_FETCH_MAX_WAIT_MS))
        try:
            opened = await self._assign(consumer, opened)
            log.info("mirroring into %s, generation %s", self._mirror.address, self._generation)
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat(consumer))
                tasks.create_task(self._refresh())
                tasks.create_task(self._read(consumer))
        except BaseExceptionGroup as group:
            # Whatever came first is the reason: the others were cancelled, or failed because of it.
            raise group.exceptions[0] from None
        finally:
            await consumer.stop()

    # -- where it begins

    async def _assign(self, consumer: AIOKafkaConsumer, opened: Opened) -> Opened:
        places = [place for topic in MIRRORED for place in self._layout.places(self._names, topic)]
        consumer.assign([*places, self._policies])
        ends = await consumer.end_offsets([*places, self._policies])
        firsts = await consumer.beginning_offsets(places)
        if any(opened.positions.get(self._name(at), 0) > ends[at] for at in places):
            log.warning("the topics end before what the model holds: they were made anew, and so is the model")
            opened = await self._model.rebuild(topics_are_new=True)
        self._generation, self.is_live = opened.generation, opened.is_live
        self._metrics.complete = self.is_live
        self._places = {}
        for at in places:
            position = opened.positions.get(self._name(at), 0)
            place = Place(self._names.logical(at.topic), at, position, position, ends[at])
            if position and position < firsts[at] and place.topic != STATE:
                log.warning("%s: records before offset %d were deleted before they were mirrored", at.topic, firsts[at])
            consumer.seek(at, max(position, firsts[at]))
            self._places[at] = place
        self._freshness = Freshness([*places, self._policies])
        await self._read_policies(consumer, ends[self._policies])
        return opened

    def _name(self, at: TopicPartition) -> str:
        return f"{self._names.logical(at.topic)}/{at.partition}"

    async def _read_policies(self, consumer: AIOKafkaConsumer, end: int) -> None:
        """The rules first: what is written of an account depends on them."""
        await consumer.seek_to_beginning(self._policies)
        others = list(self._places)
        consumer.pause(*others)
        while await consumer.position(self._policies) < end:
            for records in (await consumer.getmany(self._policies, timeout_ms=_POLL_MS)).values():
                self._fold(records)
        consumer.resume(*others)
        await self._model.put_rules(self._generation, self._rules.version, rules_view(self._rules))
        self._rules_changed.set()

    def _fold(self, records: Sequence[ConsumerRecord]) -> None:
        for record in records:
            self._rules, _ = apply_policy(self._rules, _record(POLICIES, record))

    # -- what it does

    async def _read(self, consumer: AIOKafkaConsumer) -> None:
        while True:
            self._observe(consumer, {at: await consumer.position(at) for at in (*self._places, self._policies)})
            if not self.is_live and all(place.through >= place.target for place in self._places.values()):
                await self._finish()
            polled = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH_MAX)
            policies = polled.pop(self._policies, None)
            if policies:
                self._fold(policies)
                await self._model.put_rules(self._generation, self._rules.version, rules_view(self._rules))
                self._rules_changed.set()
            works = [
                Work(_writer(self._write, self._places[at], records), asyncio.get_running_loop().create_future())
                for at, records in polled.items()
                if records
            ]
            for work in works:
                await self._hand_out(work)
            if works:
                await _all(works)

    def _observe(self, consumer: AIOKafkaConsumer, positions: dict[TopicPartition, int]) -> None:
        """Nothing is under way now: what has been read is in Redis."""
        now_ms, wall_ms = _steady_ms(), time.time() * 1000
        for at, position in positions.items():
            if (place := self._places.get(at)) is not None:
                place.through = max(place.position, position)
            end, answered_ms = consumer.last_stable_offset(at), consumer.last_poll_timestamp(at)
            if end is None or answered_ms is None:
                continue
            handled_ms = now_ms - max(0.0, wall_ms - answered_ms)
            seen_ms = self._answers.dated(at, stamp=answered_ms, handled_ms=handled_ms)
            if seen_ms is not None:
                self._freshness.observe(at, end=end, seen_ms=seen_ms, written=position)

    async def _write(self, place: Place, records: Sequence[ConsumerRecord]) -> None:
        batch = [_record(place.topic, record) for record in records]
        stretch = Stretch(place.name, place.position, batch[-1].offset + 1)
        unreadable: list[int] = []
        if place.topic == STATE:
            changes = touched(batch)
            held = await self._model.read_state(self._generation, list(changes.parts))
            content = accounts_content(changes, held, self._rules)
            await self._model.put_accounts(self._generation, stretch, content)
        elif place.topic == LOCKED:
            locks, unreadable = locks_content(batch)
            await self._model.put_locks(self._generation, stretch, locks)
        else:
            decisions, unreadable = decisions_content(place.topic, batch)
            await self._model.put_decisions(self._generation, stretch, decisions)
        if unreadable:
            log.warning("%s: %d records cannot be read, from offset %d", place.name, len(unreadable), unreadable[0])
        place.position = stretch.end
        self._metrics.records += len(batch)

    async def _finish(self) -> None:
        await self._refresh_some(sorted(self._rules.accounts), self._rules, without_state=True)
        await self._model.finish(self._generation)
        self.is_live = self._metrics.complete = True
        self._metrics.rebuilds += 1
        log.info("the model is whole: generation %s", self._generation)
        # What was written before the last change of the rules, or by an earlier session, is written once more.
        self._rules_changed.set()

    async def _beat(self, consumer: AIOKafkaConsumer) -> None:
        interval_s = self._mirror.heartbeat_interval_ms / 1000
        while True:
            places = [Progress(place.name, place.position, _end_of(consumer, place)) for place in self._places.values()]
            fresh_ms = self._freshness.fresh_ms
            told_ms = None if fresh_ms is None else self._clock.tell(fresh_ms)
            try:
                server_ms = await self._model.heartbeat(
                    self._generation, self._writer, told_ms, self._freshness.behind_records, places
                )
                self._clock.sample(server_ms, _steady_ms())
                self._metrics.redis_up = True
            except (RedisError, OSError, TimeoutError) as error:
                self._model.failed(error)
                self._metrics.redis_up = False
            await asyncio.sleep(interval_s)

    # -- other rules, the same state

    async def _refresh(self) -> None:
        while True:
            await self._rules_changed.wait()
            self._rules_changed.clear()
            if self.is_live:
                await self._refresh_all()

    async def _refresh_all(self) -> None:
        """Every account once more under the rules in force; those that are configured and have no state, too."""
        rules = self._rules
        waiting = set(rules.accounts)
        cursor = None
        while cursor != 0:
            cursor, found = await self._model.account_ids(cursor or 0)
            waiting.difference_update(found)
            await self._refresh_some(found, rules)
        await self._refresh_some(sorted(waiting), rules)

    async def _refresh_some(self, account_ids: Sequence[str], rules: Rules, *, without_state: bool = False) -> None:
        """``without_state``: only those that the changelog has not told of."""
        for first in range(0, len(account_ids), _REFRESHED_AT_ONCE):
            some = account_ids[first : first + _REFRESHED_AT_ONCE]
            held = await self._model.read_state(self._generation, some)
            # An account without state that is not configured either is left as it is.
            accounts = [
                refreshed(account_id, parts, rules)
                for account_id, parts in held.items()
                if (not parts and account_id in rules.accounts) or (parts and not without_state)
            ]
            await self._model.refresh_accounts(self._generation, rules.version, accounts)
            await asyncio.sleep(0)


def _writer(
    write: Callable[[Place, Sequence[ConsumerRecord]], Awaitable[None]], place: Place, records: Sequence[ConsumerRecord]
) -> Callable[[], Awaitable[None]]:
    return lambda: write(place, records)


async def _all(works: Sequence[Work]) -> None:
    """Wait for all; the first failure is raised when none is under way any more."""
    results = await asyncio.gather(*(work.done for work in works), return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result


def _end_of(consumer: AIOKafkaConsumer, place: Place) -> int:
    """Where the place's records end: what only transaction markers follow is the end."""
    end = consumer.last_stable_offset(place.at)
    return place.position if place.through >= (place.target if end is None else end) else end or place.target


def _record(topic: str, record: ConsumerRecord) -> Record:
    return Record(topic, record.partition, record.offset, record.timestamp, record.key, record.value)


def _steady_ms() -> float:
    return time.monotonic() * 1000
