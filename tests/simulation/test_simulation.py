"""Thousands of seeded lives of a partition, and proof that the checker sees what it is there for."""

import asyncio
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pytest

from streams.core.records import Output, Record
from streams.core.rules import Rules
from streams.core.state import Change
from streams.runtime.log import LogError
from streams.runtime.partition import Partition
from streams.runtime.policies import PolicyDeadLetter
from streams.runtime.standby import Standby
from tests.simulation.run import Harm, MakePartition, simulate
from tests.simulation.world import Crash, SimulatedFeed, SimulatedLog

FIRST_SEED = int(os.environ.get("TIDEGATE_SIMULATION_SEED", "0"))
SEEDS = int(os.environ.get("TIDEGATE_SIMULATION_SEEDS", "600"))
BOUNDARIES = {
    "before fence",
    "after fence",
    "end",
    "restore",
    "begin",
    "before send",
    "each send",
    "after send",
    "before commit",
    "after commit",
    "before store write",
    "after store write",
    "standby looks",
    "standby reads",
}


def test_nothing_is_lost_or_doubled_whatever_dies_wherever() -> None:
    async def live() -> Counter[str]:
        struck: Counter[str] = Counter()
        for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
            try:
                struck.update(await simulate(seed))
            except (Exception, Crash) as error:
                again = f"TIDEGATE_SIMULATION_SEED={seed} TIDEGATE_SIMULATION_SEEDS=1 python -m pytest {__file__}"
                raise AssertionError(f"seed {seed}: {error!r}; again: {again}") from error
        return struck

    struck = asyncio.run(live())
    if SEEDS >= 600:  # a death while a standby looks comes once in 300 seeds
        assert set(struck) == BOUNDARIES


class StoreBeforeCommit(Partition):
    """RocksDB ahead of Kafka, as Faust's tables have it."""

    async def _process(
        self, records: Mapping[str, Sequence[Record]], rules: Rules, unreported: Sequence[PolicyDeadLetter]
    ) -> None:
        log, store = self._log, self._store

        class Eager:
            async def begin(self) -> None:
                await log.begin()

            async def send(self, outputs: Iterable[Output], changes: Iterable[Change], journal: bytes) -> int:
                kept = list(changes)
                position = await log.send(outputs, kept, journal)
                store.write(kept, position)
                return position

            async def commit(self) -> None:
                await log.commit()

        self._log = Eager()  # type: ignore[assignment]
        try:
            await super()._process(records, rules, unreported)
        finally:
            self._log = log


class StateAfterCommit(Partition):
    """Decisions in one transaction, the state that knows of them in the next."""

    async def _process(
        self, records: Mapping[str, Sequence[Record]], rules: Rules, unreported: Sequence[PolicyDeadLetter]
    ) -> None:
        log = self._log

        class Split:
            async def begin(self) -> None:
                await log.begin()

            async def send(self, outputs: Iterable[Output], changes: Iterable[Change], journal: bytes) -> int:
                await log.send(outputs, (), journal)
                await log.commit()
                await log.begin()
                return await log.send((), changes, b'{"offsets":{},"now":"2023-11-14T22:13:20Z"}')

            async def commit(self) -> None:
                await log.commit()

        self._log = Split()  # type: ignore[assignment]
        try:
            await super()._process(records, rules, unreported)
        finally:
            self._log = log


class WithoutFence(Partition):
    """Whoever was paused writes on as if nothing had happened."""

    async def open(self) -> None:
        assert isinstance(self._log, SimulatedLog)
        topic = self._log._topic
        await super().open()
        topic.epoch -= 1
        self._log._epoch = topic.epoch


class RestoreBeforeFence(Partition):
    """Looks at the changelog's end first, and misses what the old owner commits meanwhile."""

    async def open(self) -> None:
        end = await self._log.changelog_end()
        await self._restore(end, self._metrics.of(self.number))
        await self._log.fence()
        self._view.reset()


class ReadsUncommitted(SimulatedFeed):
    """Follows what may yet be aborted."""

    def readable(self) -> Sequence[Change | None]:
        return [*self._topic.changelog, *self._topic.pending]


class WritesLate(Standby):
    """Writes down what was on its way although an owner has got the store by then."""

    async def advance(self) -> None:
        if not self._is_current:
            await self._begin()
        copies = dict(self._copies)
        if copies:
            for number, (records, position) in (await self._feed.next()).items():
                copies[number].store.restore(records, position)


@pytest.mark.parametrize(
    "broken", [{"make_feed": ReadsUncommitted}, {"make_standby": WritesLate}], ids=["uncommitted", "late"]
)
def test_a_broken_standby_is_caught(broken: dict[str, Any]) -> None:
    async def caught() -> bool:
        for seed in range(2_000):
            try:
                await simulate(seed, **broken)
            except (Harm, LogError, ValueError, LookupError):
                return True
        return False

    assert asyncio.run(caught())


@pytest.mark.parametrize("broken", [StoreBeforeCommit, StateAfterCommit, WithoutFence, RestoreBeforeFence])
def test_a_broken_partition_is_caught(broken: MakePartition) -> None:
    async def caught() -> bool:
        for seed in range(2_000):
            try:
                await simulate(seed, broken)
            except (Harm, LogError, ValueError, LookupError):
                return True
        return False

    assert asyncio.run(caught())
