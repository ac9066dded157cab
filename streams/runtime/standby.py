"""Warm standby: a worker follows the changelog of partitions that others serve, into the stores it would use.

The leader of the group names the partitions (``assignor``). When their owner dies and this worker gets one, it takes
over as always: fence, note the changelog's end, restore up to it. Only that its store is there already, and what is
left to restore is what was committed since the last look. Nothing else depends on a standby: with none, or one that is
far behind, taking over just takes longer.

What it promises, and what keeps the promise:

- *It writes nothing to Kafka.* It has a consumer and no producer, and fences nobody.
- *Its store is never ahead of what is committed.* It reads committed records only, and writes changes and position in
  one batch as a restore does. A transaction that is aborted later was never handed out.
- *A store has one user.* ``Stores`` lends it. It is handed back before the partition is made, in one step of the event
  loop; a stretch of changelog that was on its way by then is dropped, since it may be older than the store when the
  store comes back.
- *What cannot be trusted is not followed.* As in ``Partition.open``: a store of another cluster, application or
  partition is wiped when it is opened, one that is past the changelog's end (it was lost, or made anew) when it is
  first followed, and again if the broker says so later.
- *Owners come first.* One poll is bounded in records and bytes, and after each write it rests for as long as that took,
  so that following never takes more than half of the time that serving leaves.

What could break it: a changelog that is deleted and made anew while all workers are down, and has grown past the
checkpoint before the first one looks. Nothing tells it from the old one; owners have the same blind spot.
"""

import asyncio
import logging
import time
from collections.abc import Collection, Mapping
from typing import Protocol

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import OffsetOutOfRangeError
from mode import Service

from streams.runtime import kafka
from streams.runtime.bounds import Bounds, Looker
from streams.runtime.kafka import TopicPartition
from streams.runtime.log import Restored, state_records
from streams.runtime.settings import Settings
from streams.runtime.store import Store
from streams.runtime.topics import STATE, TopicNames

log = logging.getLogger(__name__)

_POLL_MS = 500
_POLL_MAX_RECORDS = 500
_FETCH_MAX_BYTES = 4 * 1024 * 1024


class OutOfRange(Exception):
    """A changelog does not have the offset that was asked for."""


class Feed(Protocol):
    """The committed records of the changelogs that are followed."""

    async def bounds(self, numbers: Collection[int]) -> Mapping[int, Bounds]:
        """Where the changelogs of these partitions begin and end."""

    async def start(self, positions: Mapping[int, int]) -> None:
        """Follow these partitions, and no others, from these offsets."""

    async def next(self) -> Mapping[int, Restored]:
        """What came since, after a while at most; only partitions that got further. Raises OutOfRange."""

    async def close(self) -> None:
        """Release what is held."""


class Lender(Protocol):
    """Where stores come from (see ``stores.Stores``)."""

    def lend(self, number: int) -> Store: ...
    def hand_back(self, number: int) -> None: ...


class _Copy:
    """One followed partition. Another one is made each time that it is followed anew."""

    def __init__(self, number: int, store: Store) -> None:
        self.number = number
        self.store = store


class Standby(Service):
    """Follows what it is told to. Whatever fails crashes it, and with it the worker."""

    def __init__(self, feed: Feed, stores: Lender) -> None:
        super().__init__()
        self._feed = feed
        self._stores = stores
        self._wanted: frozenset[int] = frozenset()
        self._copies: dict[int, _Copy] = {}
        self._is_current = True
        self._changed = asyncio.Event()
        self._following: asyncio.Future[None] | None = None

    @property
    def positions(self) -> Mapping[int, int]:
        """The changelog offset up to which each followed partition's store is."""
        return {number: copy.store.checkpoint for number, copy in self._copies.items()}

    def follow(self, numbers: frozenset[int]) -> None:
        """Follow these partitions from now on. Stores of others are handed back before this returns."""
        if numbers != self._wanted:
            log.info("standing by for partitions %s", sorted(numbers) or "none")
        self._wanted = numbers
        for number in [number for number in self._copies if number not in numbers]:
            del self._copies[number]
            self._stores.hand_back(number)
        self._is_current = False
        self._changed.set()

    async def on_start(self) -> None:
        """Follow as soon as there is something to follow."""
        self._following = self.add_future(self._keep_following())

    async def on_stop(self) -> None:
        """Hand all stores back."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})
        self.follow(frozenset())
        await self._feed.close()

    async def _keep_following(self) -> None:
        while True:
            if self._is_current and not self._copies:
                self._changed.clear()
                await self._changed.wait()
            await self.advance()

    async def advance(self) -> None:
        """One round: begin to follow what is new, read on, write it down."""
        if not self._is_current:
            await self._begin()
        copies = dict(self._copies)
        if not copies:
            return
        try:
            stretches = await self._feed.next()
        except OutOfRange as error:
            log.warning("the changelog that is followed was cut or made anew: %s", error)
            self._is_current = False
            return
        for number, (records, position) in stretches.items():
            copy = copies.get(number)
            if copy is None or self._copies.get(number) is not copy:
                continue
            began_s = time.perf_counter()
            copy.store.restore(records, position)
            await asyncio.sleep(time.perf_counter() - began_s)

    async def _begin(self) -> None:
        self._is_current = True
        wanted = self._wanted
        bounds = await self._feed.bounds(wanted)
        positions: dict[int, int] = {}
        for number, (first, end) in bounds.items():
            if number not in self._wanted:
                continue
            copy = self._copies.get(number)
            if copy is not None:
                self._stores.hand_back(number)
            copy = self._copies[number] = _Copy(number, self._stores.lend(number))
            if copy.store.checkpoint > end:
                copy.store.wipe()
            positions[number] = max(first, copy.store.checkpoint)
            await asyncio.sleep(0)
        await self._feed.start({number: at for number, at in positions.items() if number in self._copies})


class KafkaFeed:
    """``Feed`` on aiokafka: one consumer for all partitions, in no group."""

    def __init__(self, settings: Settings, looker: Looker) -> None:
        self._settings = settings
        self._looker = looker
        self._topic = TopicNames.of(settings).physical(STATE)
        self._consumer: AIOKafkaConsumer | None = None
        self._positions: dict[int, int] = {}

    async def bounds(self, numbers: Collection[int]) -> Mapping[int, Bounds]:
        found = await self._looker.bounds([self._place(number) for number in sorted(numbers)])
        return {place.partition: bounds for place, bounds in found.items()}

    async def start(self, positions: Mapping[int, int]) -> None:
        if self._consumer is None:
            if not positions:
                return
            consumer = kafka.consumer(
                self._settings, fetch_max_bytes=_FETCH_MAX_BYTES, max_poll_records=_POLL_MAX_RECORDS
            )
            self._consumer = await kafka.started(consumer)
        self._consumer.assign([self._place(number) for number in positions])
        for number, position in positions.items():
            self._consumer.seek(self._place(number), position)
        self._positions = dict(positions)

    async def next(self) -> Mapping[int, Restored]:
        consumer = self._consumer
        if consumer is None:
            raise RuntimeError("a feed is read only after it was started")
        try:
            batches = await consumer.getmany(timeout_ms=_POLL_MS)
        except OffsetOutOfRangeError as error:
            raise OutOfRange(str(error)) from error
        stretches: dict[int, Restored] = {}
        for number, before in self._positions.items():
            place = self._place(number)
            # Not the last record: a transaction's marker and what was compacted away are never handed out.
            position = await consumer.position(place)
            if position != before:
                stretches[number] = Restored(state_records(place, batches.get(place, ())), position)
        self._positions |= {number: position for number, (_, position) in stretches.items()}
        return stretches

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    def _place(self, number: int) -> TopicPartition:
        return TopicPartition(self._topic, number)
