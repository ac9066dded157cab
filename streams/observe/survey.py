"""The figures of the accounts that a worker owns, kept up to date beside the gate.

Looking at every account at every scrape would stop the event loop for as long, and so delay locks. So a survey goes
round in the loop's free time: it takes what changed since the last round (a partition notes that once a batch), a few
accounts at a time, and rests 99 times as long as it worked. It never takes more than a hundredth of the loop, whatever
the number of accounts; with many, figures are older instead (``tidegate_accounts_unsurveyed`` counts those that wait).

What could break it: an account that is on its way in and out of ``changed`` while it is read. All of this runs on the
loop, and no slice waits for anything. A fault in here is logged and costs figures, never a decision.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from mode import Service

from streams.core.rules import Rules
from streams.core.state import Account
from streams.observe.figures import Figures, figures_of
from streams.runtime import clock

log = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_SLICE = 10
_ADDED_AT_ONCE = 200
_REST_PER_WORK = 99
_SIZE_INTERVAL_S = 15.0


class Owned(Protocol):
    """A partition as the survey sees it."""

    changed: dict[str, Account] | None
    """Accounts that commits changed since it was last taken; None: nobody asks."""

    def account(self, account_id: str) -> Account | None:
        """As of the last commit."""


class Totals:
    """Figures of many accounts together, by labels."""

    def __init__(self) -> None:
        self.states: Counter[tuple[str, ...]] = Counter()
        """By profile and trading state."""
        self.feeds: Counter[tuple[str, ...]] = Counter()
        """By profile and how the P&L stands."""
        self.locks: Counter[tuple[str, ...]] = Counter()
        """By reason."""
        self.positions: Counter[tuple[str, ...]] = Counter()
        self.orders: Counter[tuple[str, ...]] = Counter()
        """By profile."""
        self.drawdowns: dict[tuple[str, ...], float] = {}
        """The highest by profile and limit."""

    def add(self, one: Figures, feed: str) -> None:
        self.states[one.profile, one.state] += 1
        self.feeds[one.profile, feed] += 1
        self.positions[one.profile,] += one.positions
        self.orders[one.profile,] += one.orders
        for reason in one.locks:
            self.locks[reason,] += 1
        for limit, ratio in one.drawdowns:
            self.drawdowns[one.profile, limit] = max(self.drawdowns.get((one.profile, limit), 0.0), ratio)


class Survey(Service):
    """Goes round the accounts of the partitions that are served."""

    def __init__(
        self,
        *,
        owned: Callable[[], Mapping[int, Owned]],
        rules: Callable[[], Rules],
        partition_of: Callable[[str], int],
        state_dir: Path,
    ) -> None:
        """``owned``: the partitions that are open and serve at this moment; ``state_dir``: a directory for each."""
        super().__init__()
        self._owned = owned
        self._rules = rules
        self._state_dir = state_dir
        self._home = {account_id: partition_of(account_id) for account_id in rules().accounts}
        self._by_partition: dict[int, list[str]] = {}
        for account_id, number in self._home.items():
            self._by_partition.setdefault(number, []).append(account_id)
        self._seen: dict[int, Owned] = {}
        self._judged_by: Rules | None = None
        self._pending: dict[int, dict[str, Account | None]] = {}
        self._measured_s = float("-inf")
        self.figures: dict[int, dict[str, Figures]] = {}
        """By partition and account; a partition that is handed on is gone at the next look."""
        self.totals = Totals()
        """Of all accounts, as of the last round."""
        self.state_bytes: dict[int, int] = {}

    @property
    def pending(self) -> int:
        """Accounts whose figures are older than their state."""
        return sum(map(len, self._pending.values()))

    @property
    def count(self) -> int:
        """Accounts that were looked at and are still owned."""
        owned = self._owned()
        return sum(len(figures) for number, figures in self.figures.items() if number in owned)

    def of(self, account_ids: Iterable[str]) -> Iterator[tuple[str, Figures]]:
        """Those of these accounts that were looked at and are still owned."""
        owned = self._owned()
        for account_id in account_ids:
            number = self._home[account_id]
            if number in owned and account_id in self.figures.get(number, ()):
                yield account_id, self.figures[number][account_id]

    @Service.task
    async def _rounds(self) -> None:
        while not self.should_stop:
            try:
                await self.go_round()
            except Exception:  # figures must never end a gate
                log.exception("the account figures could not be brought up to date")
            await self.sleep(_INTERVAL_S)

    async def go_round(self) -> None:
        """Look at everything that changed, and add up what there is."""
        while True:
            started = time.perf_counter()
            self._note_changes()
            if not self._look_at_some():
                break
            await asyncio.sleep((time.perf_counter() - started) * _REST_PER_WORK)
        await self._add_up()
        self._measure()

    def _note_changes(self) -> None:
        owned, rules = self._owned(), self._rules()
        for gone in self._seen.keys() - owned.keys():
            for held in (self._seen, self._pending, self.figures):
                held.pop(gone, None)
        for number, partition in owned.items():
            pending = self._pending.setdefault(number, {})
            if partition is not self._seen.get(number) or rules is not self._judged_by:
                pending |= dict.fromkeys(self._by_partition.get(number, ()))
            changed, partition.changed = partition.changed or {}, {}
            # Signals of unknown accounts change state too; only configured ones have figures.
            pending |= {one: account for one, account in changed.items() if one in rules.accounts}
            self._seen[number] = partition
        self._judged_by = rules

    def _look_at_some(self) -> bool:
        """Whether there was anything to look at."""
        rules, left = self._rules(), _SLICE
        for number, pending in self._pending.items():
            figures = self.figures.setdefault(number, {})
            while pending and left:
                account_id = next(iter(pending))
                account = pending.pop(account_id) or self._seen[number].account(account_id)
                figures[account_id] = figures_of(account_id, account, rules)
                left -= 1
        return left < _SLICE

    async def _add_up(self) -> None:
        totals, rules, now_ms = Totals(), self._rules(), clock.now_ms()
        everything = [one for figures in self.figures.values() for one in figures.values()]
        for begin in range(0, len(everything), _ADDED_AT_ONCE):
            started = time.perf_counter()
            for one in everything[begin : begin + _ADDED_AT_ONCE]:
                totals.add(one, one.feed(now_ms, rules))
            if begin + _ADDED_AT_ONCE < len(everything):
                await asyncio.sleep((time.perf_counter() - started) * _REST_PER_WORK)
        self.totals = totals

    def _measure(self) -> None:
        """Disk space by partition; a walk over some dozen files each, so not at every round."""
        now_s = time.monotonic()
        if now_s - self._measured_s < _SIZE_INTERVAL_S:
            return
        self._measured_s = now_s
        self.state_bytes = {number: _size_of(self._state_dir / str(number)) for number in self._seen}


def _size_of(directory: Path) -> int:
    size_bytes = 0
    for path in directory.glob("*"):
        try:
            size_bytes += path.stat().st_size
        except FileNotFoundError:  # a compaction replaced it meanwhile
            continue
    return size_bytes
