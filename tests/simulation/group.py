"""Inputs, a consumer group and its consumers in memory: what of aiokafka and its brokers the reader builds on.

As there: a rebalance revokes everything first, and an assignment forgets positions and pauses; a heartbeat tells of
either, some time later; fetches go on behind the reader's back, and what they bring for a place that was paused or
sought meanwhile is dropped; a stopping consumer finishes a join that is under way before it leaves.
"""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, NamedTuple

from aiokafka.errors import IllegalStateError
from aiokafka.structs import ConsumerRecord
from msgspec.structs import replace

from streams.core.records import INPUTS, Record
from streams.runtime.bounds import Bounds
from streams.runtime.kafka import TopicPartition

HEARTBEAT_S = 0.05
SESSION_S = 0.4
REBALANCE_S = 3.0
_FETCH_RECORDS_MAX = 8


@dataclass
class Input:
    """One partition of one input. None stands for the marker of a pipeline's transaction."""

    entries: list[Record | None] = field(default_factory=list)
    stable: int = 0
    """Up to here it can be read: what follows is a transaction under way."""

    def append(self, record: Record) -> None:
        self.entries.append(replace(record, offset=len(self.entries)))

    def end_transaction(self) -> None:
        if self.stable < len(self.entries):
            self.entries.append(None)
        self.stable = len(self.entries)

    @property
    def records(self) -> list[Record]:
        return [entry for entry in self.entries if entry is not None]

    def record_between(self, start: int, end: int) -> bool:
        """Whether there is any record from ``start`` up to ``end``, and not only markers."""
        return any(entry is not None for entry in self.entries[start:end])


Inputs = Mapping[TopicPartition, Input]
Pause = Callable[[], Any]
"""Awaited wherever something takes its time."""


class InputBounds:
    """As the looker, of inputs."""

    def __init__(self, inputs: Inputs, pause: Pause) -> None:
        self._inputs = inputs
        self._pause = pause

    async def bounds(self, places: Collection[TopicPartition]) -> Mapping[TopicPartition, Bounds]:
        await self._pause()
        bounds = {place: Bounds(0, len(self._inputs[place].entries)) for place in places}
        await self._pause()
        return bounds


class Group:
    """The coordinator on a broker. How it shares out is left to chance."""

    def __init__(self, random: Random, partitions: int) -> None:
        self._random = random
        self._partitions = partitions
        self._seen_s: dict[SimulatedConsumer, float] = {}
        self._joined: dict[SimulatedConsumer, asyncio.Future[Sequence[int] | None]] = {}
        self._began_s = 0.0
        self.is_rebalancing = False

    @property
    def members(self) -> Collection["SimulatedConsumer"]:
        return self._seen_s.keys()

    def rebalance(self) -> None:
        """Have everybody join anew."""
        if not self.is_rebalancing:
            self.is_rebalancing = True
            self._began_s = _now_s()

    async def join(self, member: "SimulatedConsumer") -> Sequence[int] | None:
        """Wait for all members, and get a share. None: it was removed meanwhile."""
        self._seen_s[member] = _now_s()
        joining: asyncio.Future[Sequence[int] | None] = asyncio.get_running_loop().create_future()
        self._joined[member] = joining
        self.rebalance()
        self._share_out()
        return await joining

    def heartbeat(self, member: "SimulatedConsumer") -> bool:
        """Whether it may stay as it is."""
        if member not in self._seen_s:
            return False
        self._seen_s[member] = _now_s()
        return not self.is_rebalancing or member in self._joined

    def remove(self, member: "SimulatedConsumer") -> None:
        """It left, or is believed dead. If it lives it learns that from its next heartbeat."""
        if self._seen_s.pop(member, None) is None:
            return
        joining = self._joined.pop(member, None)
        if joining is not None and not joining.done():
            joining.set_result(None)
        self.rebalance()
        self._share_out()

    async def watch(self) -> None:
        """Remove whoever is not heard of, or keeps the others waiting for too long."""
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            now_s = _now_s()
            for member, seen_s in list(self._seen_s.items()):
                joining = self._joined.get(member)
                is_silent = seen_s < now_s - SESSION_S and (joining is None or joining.cancelled())
                if is_silent or (self.is_rebalancing and joining is None and self._began_s < now_s - REBALANCE_S):
                    member.was_cut_off = True
                    self.remove(member)

    def _share_out(self) -> None:
        if not self.is_rebalancing or self._joined.keys() != self._seen_s.keys():
            return
        joined, self._joined = self._joined, {}
        self.is_rebalancing = False
        members = list(joined)
        shares: dict[SimulatedConsumer, list[int]] = {member: [] for member in members}
        if members:
            self._random.shuffle(members)
            is_even = self._random.random() < 0.6
            for number in range(self._partitions):
                owner = members[number % len(members)] if is_even else self._random.choice(members)
                shares[owner].append(number)
        for member, future in joined.items():
            self._seen_s[member] = _now_s()
            if not future.done():
                future.set_result(shares[member])


@dataclass
class _Place:
    """What a consumer knows of one place of its assignment."""

    position: int | None = None
    paused: bool = False
    highwater: int | None = None


class _Fetched(NamedTuple):
    start: int
    end: int
    records: list[Record]


class SimulatedConsumer:
    """``AIOKafkaConsumer``, as far as the reader uses it. ``harm`` is told what no reader may do."""

    def __init__(
        self,
        random: Random,
        group: Group,
        inputs: Inputs,
        *,
        pause: Pause,
        applied: Callable[[TopicPartition], int],
        harm: Callable[[str], None],
        on_revoke: Callable[[], None],
        on_released: Callable[[], None],
    ) -> None:
        """``applied``: the last offset that a commit includes."""
        self._random = random
        self._group = group
        self._inputs = inputs
        self._pause = pause
        self._applied = applied
        self._harm = harm
        self._on_revoke = on_revoke
        self._on_released = on_released
        self._listener: Any = None
        self._places: dict[TopicPartition, _Place] = {}
        self._least: dict[TopicPartition, int] = {}
        self._fetched: dict[TopicPartition, _Fetched] = {}
        self._arrived = asyncio.Event()
        self._attention = asyncio.Event()
        self._rejoining = False
        self._closing = False
        self._lookers = 0
        self._at_rest = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._coordination: asyncio.Task[None] | None = None
        self.was_cut_off = False
        self.is_assigned = asyncio.Event()
        """From an assignment to the next revocation."""
        self.is_released = True
        """From the end of a revocation to the next assignment."""

    def subscribe(self, topics: Sequence[str], listener: Any) -> None:
        assert set(topics) == set(INPUTS)
        self._listener = listener

    async def start(self) -> None:
        self._rejoin()
        self._coordination = asyncio.create_task(self._coordinate(), name="coordination")
        self._tasks = [
            asyncio.create_task(self._heartbeat(), name="heartbeat"),
            asyncio.create_task(self._fetch(), name="fetch"),
        ]

    async def stop(self) -> None:
        assert self._coordination is not None
        if self.is_assigned.is_set():
            self._let_go()
        self._closing = True
        self._attention.set()
        await self._coordination
        for task in self._tasks:
            task.cancel()
        await self._pause()
        self._group.remove(self)

    # -- what the reader asks of it

    @property
    def numbers(self) -> frozenset[int]:
        """The partitions of its assignment."""
        return frozenset(place.partition for place in self._places)

    def pause(self, *places: TopicPartition) -> None:
        for place in places:
            self._assigned(place).paused = True

    def resume(self, *places: TopicPartition) -> None:
        for place in places:
            self._assigned(place).paused = False
            if not self.is_assigned.is_set():
                self._harm(f"{place} was resumed while it was revoked")

    def seek(self, place: TopicPartition, offset: int) -> None:
        self._assigned(place).position = offset

    def paused(self) -> set[TopicPartition]:
        return {place for place, state in self._places.items() if state.paused}

    def highwater(self, place: TopicPartition) -> int | None:
        return self._assigned(place).highwater

    def partitions_for_topic(self, topic: str) -> set[int]:
        return {place.partition for place in self._inputs if place.topic == topic}

    async def position(self, place: TopicPartition) -> int:
        """Takes its time, and what is known does not change meanwhile: in aiokafka it is at hand at once."""
        self._lookers += 1
        self._at_rest.clear()
        try:
            await self._pause()
        finally:
            self._lookers -= 1
            if not self._lookers:
                self._at_rest.set()
        position = self._assigned(place).position
        assert position is not None
        return position

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        for place in offsets:
            self._assigned(place)
        await self._pause()

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        await self._pause()
        until_s = _now_s() + timeout_ms / 1000
        while True:
            await self.is_assigned.wait()
            if drained := self._drained():
                return drained
            self._arrived.clear()
            try:
                async with asyncio.timeout_at(until_s):
                    await self._arrived.wait()
            except TimeoutError:
                return {}

    def _drained(self) -> dict[TopicPartition, list[ConsumerRecord]]:
        drained: dict[TopicPartition, list[ConsumerRecord]] = {}
        for place, fetched in self._fetched.items():
            state = self._places[place]
            if state.paused or state.position != fetched.start:
                continue
            state.position = fetched.end
            if fetched.records:
                drained[place] = [_as_consumed(record) for record in fetched.records]
        self._fetched.clear()
        return drained

    def _assigned(self, place: TopicPartition) -> _Place:
        if place not in self._places:
            raise IllegalStateError(f"no current assignment for partition {place}")
        return self._places[place]

    # -- its own tasks

    async def _fetch(self) -> None:
        while True:
            await asyncio.sleep(self._random.uniform(0.001, 0.02))
            asked = self._places
            starts = {place: state.position for place, state in asked.items() if self._is_fetched(place, state)}
            await self._pause()
            answers = {place: self._answer(place, start) for place, start in starts.items() if start is not None}
            await self._pause()
            while self._lookers:
                await self._at_rest.wait()
            if asked is not self._places:
                continue
            for place, (highwater, fetched) in answers.items():
                state = asked[place]
                if state.position == fetched.start:
                    state.highwater = highwater
                    if fetched.end > fetched.start:
                        self._fetched[place] = fetched
                        self._arrived.set()

    def _is_fetched(self, place: TopicPartition, state: _Place) -> bool:
        """Each broker is asked at its own pace."""
        if state.paused or place in self._fetched or self._random.random() < 0.3:
            return False
        if state.position is None or state.position < self._least[place]:
            self._harm(f"{place} is fetched from {state.position}, and {self._least[place]} is next")
        return True

    def _answer(self, place: TopicPartition, start: int) -> tuple[int, _Fetched]:
        log = self._inputs[place]
        end = max(start, min(log.stable, start + self._random.randint(1, _FETCH_RECORDS_MAX)))
        records = [entry for entry in log.entries[start:end] if entry is not None]
        return len(log.entries), _Fetched(start, end, records)

    async def _heartbeat(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            await self._pause()
            if not self._group.heartbeat(self) and self.is_assigned.is_set():
                self._rejoin()

    def _rejoin(self) -> None:
        self._rejoining = True
        self._attention.set()

    async def _coordinate(self) -> None:
        while not self._closing:
            if not self._rejoining:
                self._attention.clear()
                await self._attention.wait()
                continue
            if self.is_assigned.is_set():
                await self._revoke()
            await self._pause()
            share = await self._group.join(self)
            await self._pause()
            is_late = self not in self._group.members or (self._group.is_rebalancing and self._random.random() < 0.5)
            if share is None or is_late:
                # Removed, or another rebalance began before it could fetch its share: once more, without revoking.
                continue
            self._rejoining = False
            self._assign(TopicPartition(topic, number) for number in share for topic in INPUTS)

    async def _revoke(self) -> None:
        self.is_assigned.clear()
        self._on_revoke()
        await self._listener.on_partitions_revoked(list(self._places))
        self._let_go()

    def _let_go(self) -> None:
        self.is_assigned.clear()
        self.is_released = True
        self._on_released()

    def _assign(self, places: Iterable[TopicPartition]) -> None:
        self._places = {place: _Place() for place in places}
        self._least = {place: self._applied(place) + 1 for place in self._places}
        self._fetched.clear()
        self.is_released = False
        self.is_assigned.set()
        self._listener.on_partitions_assigned(list(self._places))


def _as_consumed(record: Record) -> ConsumerRecord:
    return ConsumerRecord(
        record.topic,
        record.partition,
        record.offset,
        record.timestamp_ms,
        0,
        record.key,
        record.value,
        None,
        len(record.key or b""),
        len(record.value or b""),
        record.headers,
    )


def _now_s() -> float:
    return asyncio.get_running_loop().time()
