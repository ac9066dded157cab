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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from mode import Service

from streams.core.rules import Rules
from streams.core.state import Account
from streams.observe.figures import Figures, figures_of

log = logging.getLogger(__name__)

_INTERVAL_S = 1.0
_SLICE = 10
_REST_PER_WORK = 99
_SIZE_INTERVAL_S = 15.0


class Owned(Protocol):
    """A partition as the survey sees it."""

    changed: dict[str, Account] | None
    """Accounts that commits changed since it was last taken; None: nobody asks."""

    def account(self, account_id: str) -> Account | None:
        """As of the last commit."""


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
        self._by_partition: dict[int, list[str]] = {}
        for account_id in rules().accounts:
            self._by_partition.setdefault(partition_of(account_id), []).append(account_id)
        self._seen: dict[int, Owned] = {}
        self._judged_by: Rules | None = None
        self._pending: dict[int, dict[str, Account | None]] = {}
        self._measured_s = float("-inf")
        self.figures: dict[int, dict[str, Figures]] = {}
        """By partition and account; a partition that is handed on is gone at the next look."""
        self.state_bytes: dict[int, int] = {}

    @property
    def pending(self) -> int:
        """Accounts whose figures are older than their state."""
        return sum(map(len, self._pending.values()))

    def each(self) -> Iterator[tuple[str, Figures]]:
        """All accounts that were looked at and are still owned."""
        owned = self._owned()
        for number, figures in self.figures.items():
            if number in owned:
                yield from figures.items()

    @Service.task
    async def _rounds(self) -> None:
        while not self.should_stop:
            try:
                await self.go_round()
            except Exception:  # figures must never end a gate
                log.exception("the account figures could not be brought up to date")
            await self.sleep(_INTERVAL_S)

    async def go_round(self) -> None:
        """Look at everything that changed."""
        while True:
            started = time.perf_counter()
            self._note_changes()
            if not self._look_at_some():
                break
            await asyncio.sleep((time.perf_counter() - started) * _REST_PER_WORK)
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
