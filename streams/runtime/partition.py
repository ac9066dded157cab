"""One partition in the hands of one worker: fence → restore → serve. No Kafka and no Faust in here.

The order of steps is what makes a decision exactly one:

- *open*: fence first, so that no earlier owner can commit any more; then note the changelog's end; then restore up to
  it. Restored before fenced, a commit of the old owner could slip in unseen.
- *process*: send everything, commit, write the store, publish the cache. The log decides; the store only follows it.
  A crash before the commit leaves nothing behind, a crash after it costs the store one transaction, which the next
  restore brings back.

The log and the store are protocols, so that a simulation can crash them at every boundary. Any exception out of here is
fatal for the worker: only a new fence and restore can tell what is durable.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

from streams.core.fold import Batch, Commit, View
from streams.core.records import Output, Record, timestamp_of
from streams.core.rules import Rules
from streams.core.state import (
    DECISIONS,
    OFFSETS_KEY,
    PARTITION,
    PARTITIONS_KEY,
    Account,
    Change,
    Remembered,
    decode_offsets,
)
from streams.runtime import partitioning
from streams.runtime.log import Log
from streams.runtime.logs import log_decisions
from streams.runtime.metrics import Metrics, PartitionMetrics
from streams.runtime.policies import (
    DEAD_LETTERS_PER_BATCH,
    POLICIES_KEY,
    PolicyDeadLetter,
    reported_offset,
    reported_record,
)
from streams.runtime.recent import Recent
from streams.runtime.store import Store
from streams.runtime.turns import SLICE_RECORDS, Turns

# Brokers still write a transaction's markers when its commit has been answered, and refuse the same producer's next one
# meanwhile; aiokafka asks again only after 20 ms.
_SETTLE_MIN_S = 0.005
_SETTLE_AFTER_SEVERAL_S = 0.010
_SEVERAL_RECORDS = 3


class Core(NamedTuple):
    """The pure functions that a partition calls; simulations put others in their place."""

    fold: Callable[[Batch, View, Rules, Callable[[str], int], int], Generator[None, None, Commit]]
    """See :func:`streams.core.fold.fold_in_slices`."""
    decode_account: Callable[[Mapping[str, bytes]], Account]
    decode_remembered: Callable[[bytes], Remembered]
    tables: tuple[str, ...]


class Limits(NamedTuple):
    """What bounds a partition's memory and time."""

    cached_accounts: int
    transaction_deadline_ms: int
    forget_slack_ms: int
    forget_max_per_batch: int
    """Beyond as many as the batch remembers."""


class Partition:
    """State and transactions of one partition."""

    def __init__(
        self,
        number: int,
        *,
        log: Log,
        store: Store,
        core: Core,
        limits: Limits,
        partitions: int,
        partition_of: Callable[[str], int],
        wall_ms: Callable[[], int],
        metrics: Metrics,
        turns: Turns | None = None,
        release_store: Callable[[], None] | None = None,
    ) -> None:
        """``partitions``: how many the inputs have. ``turns``: shared by a worker's partitions.

        ``release_store``: what to do with the store at the end, other than to close it.
        """
        self.number = number
        self._log = log
        self._store = store
        self._release_store = release_store or store.close
        self._core = core
        self._limits = limits
        self._partitions = partitions
        self._has_beginning = False
        self._partition_of = partition_of
        self._wall_ms = wall_ms
        self._metrics = metrics
        self._turns = turns or Turns()
        self._marked_s = self._settled_s = 0.0
        self._view = _StoreView(store, core, limits.cached_accounts)
        self.changed: dict[str, Account] | None = None
        """Accounts that commits changed, for whoever sets and takes it (see `streams.observe.survey`)."""

    @property
    def offsets(self) -> Mapping[str, int]:
        """Last applied offset by topic, as of the last commit."""
        return self._view.offsets

    def account(self, account_id: str) -> Account | None:
        """An account as of the last commit; None: nothing is known of it."""
        return self._view.account(account_id)

    @property
    def reported_policies(self) -> int:
        """The policy offset up to which unusable policies were dead-lettered; -1 for none."""
        return reported_offset(self._store.get(PARTITION, POLICIES_KEY))

    async def open(self) -> None:
        """Take the partition over and bring its state up to date.

        Raises PartitionsChanged, and what the log or the store raise.
        """
        progress = self._metrics.of(self.number)
        await self._log.fence()
        end = await self._log.changelog_end()
        if self._store.checkpoint > end:
            # The log lost what the store has seen (or was made anew): the log is right.
            self._store.wipe()
        await self._restore(end, progress)
        self._check_partitions()
        self._view.reset()

    def _check_partitions(self) -> None:
        held = self._store.get(PARTITION, PARTITIONS_KEY)
        self._has_beginning = held is not None
        if held is not None:
            partitioning.refuse_other(self.number, held, self._partitions)

    async def _restore(self, end: int, progress: PartitionMetrics) -> None:
        progress.restored_records = 0
        progress.restore_target = end
        progress.restore_position = self._store.checkpoint
        async with contextlib.aclosing(self._log.changelog(self._store.checkpoint, end)) as stretches:
            async for records, position in stretches:
                self._store.restore(records, position)
                progress.restore_position = position
                progress.restored_records += len(records)

    async def process(
        self, records: Mapping[str, Sequence[Record]], rules: Rules, unreported: Sequence[PolicyDeadLetter] = ()
    ) -> None:
        """Decide a batch and make it durable, in one transaction.

        Raises TimeoutError past the deadline, and whatever the log, the store or the core raise. The partition must not
        be used after that.
        """
        async with asyncio.timeout(self._limits.transaction_deadline_ms / 1000):
            with self._turns.transaction(_count_of(records)):
                await self._process(records, rules, unreported)

    async def _process(
        self, records: Mapping[str, Sequence[Record]], rules: Rules, unreported: Sequence[PolicyDeadLetter]
    ) -> None:
        started = time.perf_counter()
        count = _count_of(records)
        async with self._turns.fold(count):
            batch, commit = await self._fold(records, rules)
        outputs, changes = self._with_policy_dead_letters(commit, unreported)
        changes += self._forgotten(batch, rules, commit)
        if not self._has_beginning:
            changes.insert(0, partitioning.beginning(self._partitions))
        folded = time.perf_counter()

        await self._log.begin()
        changelog_position = await self._log.send(outputs, changes, commit.journal)
        await self._log.commit()
        committed_ms = self._wall_ms()
        self._store.write(changes, changelog_position if changelog_position >= 0 else self._store.checkpoint)
        self._has_beginning = True
        self._view.publish(commit)
        log_decisions(self.number, commit.outputs)

        ended = time.perf_counter()
        settle_s = _SETTLE_AFTER_SEVERAL_S if count >= _SEVERAL_RECORDS else _SETTLE_MIN_S
        self._marked_s = ended + _SETTLE_MIN_S
        self._settled_s = ended + max(settle_s, ended - folded)
        self._count(records, commit, outputs, folded - started, ended - folded, committed_ms)

    async def _fold(self, records: Mapping[str, Sequence[Record]], rules: Rules) -> tuple[Batch, Commit]:
        batch = Batch(self.number, records, self._wall_ms())
        count = _count_of(records)
        slices = self._core.fold(batch, self._view, rules, self._partition_of, SLICE_RECORDS)
        number = 0
        while True:
            try:
                next(slices)
            except StopIteration as end:
                return batch, end.value
            number += 1
            if self._turns.is_over(number, count):
                await asyncio.sleep(0)

    async def settle(self, *, batch_waits: bool) -> None:
        """Wait as long as the last transaction took, counted from its end: at least 5 ms, 10 if it had several records.

        What arrives meanwhile makes one batch. Without it a busy partition would make transactions of two or three
        records as fast as brokers take them, and brokers that are busy with those take everything else late.
        ``batch_waits``: a whole one has arrived already, so only brokers' markers are waited for.
        """
        until_s = self._marked_s if batch_waits else self._settled_s
        if (left_s := until_s - time.perf_counter()) > 0:
            await asyncio.sleep(left_s)

    async def close(self) -> None:
        """Release log and store, and forget the accounts: whoever still knows the partition must not hold them all."""
        self._view.forget()
        self.changed = None
        try:
            await self._log.close()
        finally:
            self._release_store()

    def _with_policy_dead_letters(
        self, commit: Commit, unreported: Sequence[PolicyDeadLetter]
    ) -> tuple[Sequence[Output], list[Change]]:
        changes = list(commit.changes)
        letters = unreported[:DEAD_LETTERS_PER_BATCH]
        if not letters:
            return commit.outputs, changes
        changes.append(Change(PARTITION, POLICIES_KEY, reported_record(letters[-1].offset)))
        return (*commit.outputs, *(letter.output for letter in letters)), changes

    def _forgotten(self, batch: Batch, rules: Rules, commit: Commit) -> list[Change]:
        """Tombstones for ids that no record can be a repeat of any more."""
        if rules.clock == "record":
            # There time is what the records say, and one that is far ahead would forget what others may still repeat.
            # Replays and demos end before that costs anything.
            return []
        remembered = {change.key for change in commit.changes if change.table == DECISIONS}
        # More than the batch remembers, or a worker that stays behind would hold ever more of them.
        limit = len(remembered) + self._limits.forget_max_per_batch
        due = self._store.due(batch.wall_ms - self._limits.forget_slack_ms, limit)
        forgotten = [Change(DECISIONS, key, None) for key, _ in due if key not in remembered]
        self._metrics.forgotten_ids += len(forgotten)
        return forgotten

    def _count(
        self,
        records: Mapping[str, Sequence[Record]],
        commit: Commit,
        outputs: Sequence[Output],
        fold_seconds: float,
        commit_seconds: float,
        committed_ms: int,
    ) -> None:
        """Once a batch, and a few tenths of a microsecond a record: this is the hot path."""
        if self.changed is not None:
            self.changed.update(commit.accounts)
        metrics = self._metrics
        for topic, applied in records.items():
            metrics.records[topic] += len(applied)
            metrics.end_to_end_ms[topic].observe_ages(committed_ms, map(timestamp_of, applied))
        metrics.lock_ms.observe_ages(committed_ms, commit.locked_by_ms)
        metrics.tally(outputs)
        metrics.batch_records.observe(_count_of(records))
        metrics.fold_ms.observe(fold_seconds * 1000)
        metrics.commit_ms.observe(commit_seconds * 1000)
        metrics.batches += 1


def _count_of(records: Mapping[str, Sequence[Record]]) -> int:
    return sum(map(len, records.values()))


class _StoreView:
    """The state as of the last commit: live accounts from the cache, all else from the store."""

    def __init__(self, store: Store, core: Core, cached_accounts: int) -> None:
        self._store = store
        self._core = core
        self._accounts: Recent[str, Account] = Recent(cached_accounts)
        self._offsets: Mapping[str, int] = {}

    @property
    def offsets(self) -> Mapping[str, int]:
        return self._offsets

    def account(self, account_id: str) -> Account | None:
        held = self._accounts.get(account_id)
        if held is not None:
            return held
        key = account_id.encode()
        parts = {table: value for table in self._core.tables if (value := self._store.get(table, key)) is not None}
        return self._core.decode_account(parts) if parts else None

    def remembered(self, key: bytes) -> Remembered | None:
        value = self._store.get(DECISIONS, key)
        return None if value is None else self._core.decode_remembered(value)

    def forget(self) -> None:
        self._accounts.clear()

    def reset(self) -> None:
        self.forget()
        held = self._store.get(PARTITION, OFFSETS_KEY)
        self._offsets = {} if held is None else decode_offsets(held)

    def publish(self, commit: Commit) -> None:
        self._offsets = commit.offsets
        self._accounts.update(commit.accounts)
