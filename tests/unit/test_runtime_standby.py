"""A standby on changelogs in memory: what it follows, what it drops, what it never trusts."""

import asyncio
from collections.abc import AsyncIterator, Collection, Mapping

import pytest

from streams.core.state import Change
from streams.runtime.bounds import Bounds
from streams.runtime.log import Restored
from streams.runtime.standby import OutOfRange, Standby
from streams.runtime.store import MemoryStore, Store, state_record
from tests.integration.support import wait_for


def put(key: str, value: str | None) -> Change:
    return Change("accounts", key.encode(), None if value is None else value.encode())


class MemoryFeed:
    """Changelogs by partition. What is committed is read; what an open transaction has written only counts."""

    def __init__(self) -> None:
        self.committed: dict[int, list[Change | None]] = {}
        self.open: dict[int, int] = {}
        self.first: dict[int, int] = {}
        self.positions: dict[int, int] = {}
        self.asked: list[set[int]] = []
        self.holding = asyncio.Event()
        self.holding.set()
        self.closed = False

    async def bounds(self, numbers: Collection[int]) -> Mapping[int, Bounds]:
        self.asked.append(set(numbers))
        await self.holding.wait()
        return {
            number: Bounds(self.first.get(number, 0), len(self.committed.get(number, [])) + self.open.get(number, 0))
            for number in numbers
        }

    async def start(self, positions: Mapping[int, int]) -> None:
        self.positions = dict(positions)

    async def next(self) -> Mapping[int, Restored]:
        stretches: dict[int, Restored] = {}
        for number, position in self.positions.items():
            records = self.committed.get(number, [])
            if position > len(records):
                raise OutOfRange(f"{position} of partition {number}")
            if position < len(records):
                upto = min(position + 2, len(records))
                stretches[number] = Restored([*map(state_record, filter(None, records[position:upto]))], upto)
                self.positions[number] = upto
        await self.holding.wait()
        await asyncio.sleep(0)
        return stretches

    async def close(self) -> None:
        self.closed = True


class MemoryLender:
    """Stores that may be lent to one at a time."""

    def __init__(self) -> None:
        self.stores: dict[int, MemoryStore] = {}
        self.lent: set[int] = set()

    def lend(self, number: int) -> Store:
        assert number not in self.lent
        self.lent.add(number)
        return self.stores.setdefault(number, MemoryStore(lambda _value: 0))

    def hand_back(self, number: int) -> None:
        self.lent.discard(number)

    def held(self, number: int) -> dict[str, str]:
        records = self.stores[number].records()
        return {key.decode(): value.decode() for (_, key), value in records.items()}


class Desk:
    def __init__(self) -> None:
        self.feed = MemoryFeed()
        self.lender = MemoryLender()
        self.standby = Standby(self.feed, self.lender)

    async def follow(self, *numbers: int) -> None:
        """Follow, and catch up."""
        self.standby.follow(frozenset(numbers))
        await wait_for(lambda: self.is_level(*numbers), 10, f"{numbers} to be level")

    def is_level(self, *numbers: int) -> bool:
        ends = {number: len(self.feed.committed.get(number, [])) for number in numbers}
        return self.standby.positions == ends


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    one = Desk()
    await one.standby.start()
    yield one
    assert not one.standby.crashed
    await one.standby.stop()


async def test_it_keeps_level_with_what_is_committed(desk: Desk) -> None:
    desk.feed.committed = {1: [put("a", "1"), None, put("b", "1"), put("a", "2"), None], 2: [put("c", "1")]}
    await desk.follow(1, 2)
    assert (desk.lender.held(1), desk.lender.held(2)) == ({"a": "2", "b": "1"}, {"c": "1"})
    desk.feed.committed[1] += [put("b", None), None]
    await wait_for(lambda: desk.is_level(1, 2), 10, "the rest")
    assert desk.lender.held(1) == {"a": "2"}


async def test_it_goes_on_from_its_checkpoint(desk: Desk) -> None:
    desk.feed.committed = {0: [put("a", "old"), put("b", "1")]}
    desk.lender.lend(0).write([put("a", "mine")], 1)
    desk.lender.hand_back(0)
    await desk.follow(0)
    assert desk.lender.held(0) == {"a": "mine", "b": "1"}


async def test_a_store_past_the_end_is_wiped_but_not_for_an_open_transaction(desk: Desk) -> None:
    desk.feed.committed = {0: [put("a", "1")], 1: [put("b", "1")]}
    for number in (0, 1):
        desk.lender.lend(number).write([put("x", "stale")], 3)
        desk.lender.hand_back(number)
    desk.feed.open[1] = 2
    desk.standby.follow(frozenset({0}))
    await wait_for(lambda: desk.is_level(0), 10, "partition 0")
    assert desk.lender.held(0) == {"a": "1"}
    desk.standby.follow(frozenset({1}))
    await wait_for(lambda: desk.standby.positions == {1: 3}, 10, "partition 1")
    desk.feed.committed[1] += [put("c", "1"), None]
    desk.feed.open[1] = 0
    await wait_for(lambda: desk.is_level(1), 10, "partition 1 to go on")
    assert desk.lender.held(1)["x"] == "stale"


async def test_a_changelog_that_is_made_anew_under_it_is_followed_from_its_beginning(desk: Desk) -> None:
    desk.feed.committed = {0: [put("a", "1"), put("b", "1"), put("c", "1")]}
    await desk.follow(0)
    desk.feed.committed[0] = [put("z", "1")]
    await wait_for(lambda: desk.is_level(0), 10, "the new changelog")
    assert desk.lender.held(0) == {"z": "1"}


async def test_a_changelog_that_begins_later_is_followed_from_there(desk: Desk) -> None:
    desk.feed.committed = {0: [None, None, put("c", "1")]}
    desk.feed.first[0] = 2
    await desk.follow(0)
    assert desk.feed.asked == [{0}]
    assert desk.lender.held(0) == {"c": "1"}


async def test_a_store_is_handed_back_before_follow_returns(desk: Desk) -> None:
    desk.feed.committed = {0: [put("a", "1")], 1: [put("b", "1")]}
    await desk.follow(0, 1)
    desk.standby.follow(frozenset({1}))
    assert desk.lender.lent == {1}
    owned = desk.lender.lend(0)
    await desk.follow(1)
    owned.write([put("a", "by its owner")], 7)
    desk.lender.hand_back(0)
    desk.standby.follow(frozenset())
    assert desk.lender.lent == set()


async def test_what_was_on_its_way_to_a_store_that_its_owner_had_meanwhile_is_dropped(desk: Desk) -> None:
    desk.feed.committed = {0: [put("a", "1")]}
    await desk.follow(0)
    desk.feed.holding.clear()
    desk.feed.committed[0].append(put("a", "2"))
    await wait_for(lambda: desk.feed.positions == {0: 2}, 10, "the stretch to be read")
    desk.standby.follow(frozenset())
    desk.feed.committed[0].append(put("a", "3"))
    desk.lender.lend(0).write([put("a", "3")], 3)
    desk.lender.hand_back(0)
    desk.standby.follow(frozenset({0}))
    desk.feed.holding.set()
    await wait_for(lambda: desk.standby.positions == {0: 3}, 10, "to be followed anew")
    assert desk.lender.held(0) == {"a": "3"}


async def test_what_is_taken_away_before_it_is_followed_is_never_lent(desk: Desk) -> None:
    desk.feed.holding.clear()
    desk.standby.follow(frozenset({0, 1}))
    await wait_for(lambda: desk.feed.asked, 10, "the question where they begin")
    desk.standby.follow(frozenset({1}))
    owned = desk.lender.lend(0)
    desk.feed.holding.set()
    await wait_for(lambda: desk.is_level(1), 10, "partition 1")
    assert desk.lender.lent == {0, 1}
    assert owned.checkpoint == 0


async def test_a_store_that_fails_crashes_it() -> None:
    class Full(MemoryStore):
        def write(self, changes: object, checkpoint: int) -> None:
            raise OSError("no space left")

    desk = Desk()
    desk.lender.stores[0] = Full(lambda _value: 0)
    desk.feed.committed = {0: [put("a", "1")]}
    await desk.standby.start()
    desk.standby.follow(frozenset({0}))
    await wait_for(lambda: desk.standby.crashed, 10, "the crash")
    assert str(desk.standby.crash_reason) == "no space left"
    await desk.standby.stop()
    assert desk.feed.closed
    assert desk.lender.lent == set()
