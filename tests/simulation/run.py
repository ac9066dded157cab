"""One simulated life of a partition: owners come, die, pause and wake, until all input is applied; then the check."""

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any

import orjson

from schemas.config import ConfigFile
from schemas.types import read_time
from streams.core.fold import Batch, Commit, fold, fold_in_slices
from streams.core.records import INPUTS, Output, Record
from streams.core.rules import Rules, rules_of
from streams.core.state import TABLES, Account, Remembered, decode_account, decode_remembered
from streams.runtime.log import LogError
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Core, Limits, Partition
from streams.runtime.standby import Standby
from streams.runtime.store import MemoryStore
from tests.simulation.world import (
    ACCOUNTS,
    START_MS,
    Crash,
    Disks,
    Faults,
    Lender,
    SimulatedFeed,
    SimulatedLog,
    SimulatedStore,
    Topic,
    desk,
)

RECORDS = 60
OWNERS_MAX = 60
RULES: Rules = rules_of(
    ConfigFile.model_validate(
        {
            "accounts": {name: {"exchange": "x", "profile": "aggressive"} for name in ACCOUNTS},
            "limits": {"dedup_horizon": "20s"},
        }
    )
)
MakePartition = Callable[..., Partition]


class Harm(AssertionError):
    """A promise was broken."""


async def simulate(
    seed: int,
    make: MakePartition = Partition,
    *,
    make_standby: Callable[[SimulatedFeed, Lender], Standby] = Standby,
    make_feed: Callable[[Topic, Faults], SimulatedFeed] = SimulatedFeed,
) -> list[str]:
    """Live one life, and check it. Returns where faults struck; raises Harm."""
    random = Random(seed)
    life = _Life(random, make, make_standby, make_feed)
    await life.run()
    check(life.topic, life.inputs, life.disk)
    return life.struck


class _Life:
    def __init__(
        self,
        random: Random,
        make: MakePartition,
        make_standby: Callable[[SimulatedFeed, Lender], Standby],
        make_feed: Callable[[Topic, Faults], SimulatedFeed],
    ) -> None:
        self.random = random
        self.inputs = desk(random, RECORDS)
        self.topic = Topic()
        self.disk = MemoryStore(lambda value: decode_remembered(value).expires_ms)
        self.struck: list[str] = []
        self._make = make
        self._make_standby = make_standby
        self._make_feed = make_feed
        self._standby: _Following | None = None
        self._disks = Disks(random)
        self._followers: list[_Following] = []
        self._zombies: list[tuple[asyncio.Task[None], Faults]] = []
        self._wall_ms = START_MS

    async def run(self) -> None:
        for number in range(OWNERS_MAX):
            # The last owners are spared, so that every life ends.
            spared = number > OWNERS_MAX - 3
            faults = Faults(
                at=10**9 if spared else self.random.randrange(1, 120), pause=self.random.random() < 0.3 and not spared
            )
            if await self._own(faults):
                break
        for task, faults in self._zombies:
            faults.woken.set()
            await asyncio.gather(task, return_exceptions=True)
        for following in [*self._followers, *filter(None, [self._standby])]:
            await following.end()

    async def _stand_by(self) -> None:
        """Another process follows, beside the owner."""
        faults = Faults(at=self.random.randrange(1, 60))
        disk = copy.deepcopy(self._disks.pick())
        standby = self._make_standby(self._make_feed(self.topic, faults), Lender(SimulatedStore(disk, faults)))
        self._standby = _Following(standby, disk, faults)

    async def _take_over(self) -> MemoryStore:
        """The disk of the next owner: perhaps that of the standby, whatever it is at."""
        following, self._standby = self._standby, None
        if following is None:
            return self._disks.pick()
        if self.random.random() < 0.3:
            await following.end()
            if following.faults.where:
                self.struck.append(following.faults.where)
        following.standby.follow(frozenset())
        self._followers.append(following)
        return following.disk

    async def _own(self, faults: Faults) -> bool:
        """One process; whether it applied all there is."""
        self.disk = await self._take_over()
        if self.random.random() < 0.4:
            await self._stand_by()
        task = asyncio.ensure_future(self._serve(self._partition(faults)))
        pausing = asyncio.ensure_future(faults.paused.wait())
        await asyncio.wait({task, pausing}, return_when=asyncio.FIRST_COMPLETED)
        if faults.where:
            self.struck.append(faults.where)
        if not task.done():
            # Its session has timed out; it does not know. Its disk is its own from now on.
            self._zombies.append((task, faults))
            self._disks.keep(self.disk)
            self._wake_one()
            return False
        pausing.cancel()
        self._disks.keep(self.disk)
        self._wake_one()
        error = task.exception()
        if error is not None and not faults.where:
            raise error
        return error is None

    def _wake_one(self) -> None:
        if self._zombies and self.random.random() < 0.5:
            self.random.choice(self._zombies)[1].woken.set()

    def _partition(self, faults: Faults) -> Partition:
        return self._make(
            0,
            log=SimulatedLog(self.topic, faults),
            store=SimulatedStore(self.disk, faults),
            core=Core(fold_in_slices, decode_account, decode_remembered, TABLES),
            limits=Limits(2, 60_000, 0, 5),
            partitions=1,
            partition_of=lambda _account_id: 0,
            wall_ms=lambda: self._wall_ms,
            metrics=Metrics(),
        )

    async def _serve(self, partition: Partition) -> None:
        try:
            await partition.open()
            while batch := self._next(partition.offsets):
                await partition.process(batch, RULES)
                await asyncio.sleep(0)
        except LogError:
            if not self._zombies:
                raise

    def _next(self, applied: Mapping[str, int]) -> dict[str, Sequence[Record]]:
        """Some of what is next in each topic."""
        batch: dict[str, Sequence[Record]] = {}
        self._wall_ms = max(self._wall_ms, START_MS + 450 * sum(offset + 1 for offset in applied.values()))
        for topic in INPUTS:
            start = applied.get(topic, -1) + 1
            if records := self.inputs[topic][start : start + self.random.randrange(0, 6)]:
                batch[topic] = records
        if not batch and any(applied.get(topic, -1) + 1 < len(self.inputs[topic]) for topic in INPUTS):
            return self._next(applied)
        return batch


class _Following:
    """A standby under way. It ends when it crashes, or is told to."""

    def __init__(self, standby: Standby, disk: MemoryStore, faults: Faults) -> None:
        self.standby = standby
        self.disk = disk
        self.faults = faults
        self._over = False
        standby.follow(frozenset({0}))
        self._task = asyncio.ensure_future(self._follow())

    async def _follow(self) -> None:
        while not self._over:
            await self.standby.advance()
            await asyncio.sleep(0)

    async def end(self) -> None:
        """Let it come to its end; its death by a fault is one."""
        self._over = True
        await asyncio.wait({self._task})
        error = self._task.exception()
        if error is not None and not isinstance(error, Crash):
            raise error


# -- the checker ---------------------------------------------------------------------------------------------------


class _Sequential:
    """The state after some batches, kept in plain dicts: how it would be had nothing ever gone wrong."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.ids: dict[bytes, Remembered] = {}
        self.offsets: Mapping[str, int] = {}

    def account(self, account_id: str) -> Account | None:
        return self.accounts.get(account_id)

    def remembered(self, key: bytes) -> Remembered | None:
        return self.ids.get(key)

    def take(self, commit: Commit) -> None:
        self.accounts.update(commit.accounts)
        self.offsets = commit.offsets
        for change in commit.changes:
            if change.table == "decisions" and change.value is not None:
                self.ids[change.key] = decode_remembered(change.value)


def check(topic: Topic, inputs: Mapping[str, Sequence[Record]], disk: MemoryStore, number: int = 0) -> None:
    """What is committed is what one undisturbed process would have made of the journal's batches. Raises Harm.

    ``inputs``: all records of partition ``number``, in offset order; transaction markers between them are left out.
    """
    state = _Sequential()
    expected: list[Output] = []
    left = {name: deque(records) for name, records in inputs.items()}
    for entry in topic.journal:
        batch: dict[str, Sequence[Record]] = {}
        written = orjson.loads(entry)
        ranges: dict[str, Any] = written["offsets"]
        for name, (first, last) in ranges.items():
            queue = left[name]
            if not queue or first != queue[0].offset:
                raise Harm(f"{name}: {first} was applied where {queue[0].offset if queue else 'nothing'} was next")
            batch[name] = [queue.popleft() for _ in range(sum(one.offset <= last for one in queue))]
        commit = fold(Batch(number, batch, read_time(written["now"])), state, RULES, lambda _account_id: number)
        state.take(commit)
        expected += commit.outputs
    if lost := [name for name, records in left.items() if records]:
        raise Harm(f"never applied: {lost}")
    if topic.outputs != expected:
        raise Harm("decisions differ from those of an undisturbed run")
    _check_decided_once(topic.outputs)
    held = {(one.table, one.key): one.value for one in topic.changelog if one is not None}
    live = {key: value for key, value in held.items() if value is not None}
    for account_id, account in state.accounts.items():
        parts = {table: value for table in TABLES if (value := live.get((table, account_id.encode()))) is not None}
        if decode_account(parts) != account:
            raise Harm(f"the changelog holds another state of {account_id}")
    if disk.records() != live:
        raise Harm("the disk differs from the changelog")


def _check_decided_once(outputs: Sequence[Output]) -> None:
    decided: dict[tuple[str, str], int] = {}
    for output in outputs:
        if output.topic in ("approved-orders", "rejected-signals"):
            value = orjson.loads(output.value)
            key = (value["account_id"], value["signal_id"])
            decided[key] = decided.get(key, 0) + 1
    doubled = [key for key, count in decided.items() if count > 1]
    if doubled:
        raise Harm(f"decided more than once: {doubled}")
