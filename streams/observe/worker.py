"""A worker's samples: what it counted, where its partitions stand, and the accounts that it owns."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol, get_args

from schemas.outputs import DeadLetterReason
from schemas.types import write_amount
from streams.core.drawdown import LIMITS
from streams.core.fold import MISKEYED, ROUTED
from streams.core.lock import REASONS
from streams.core.records import APPROVED, DEAD_LETTERS, EVENTS, INPUTS, LOCKED, POLICIES, REJECTED
from streams.core.rules import ACTIVE, Rules
from streams.observe import families
from streams.observe.ends import Ends
from streams.observe.exposition import Distribution, Sample, exposition
from streams.observe.families import Family
from streams.observe.figures import Figures
from streams.observe.survey import Owned, Survey
from streams.runtime import clock
from streams.runtime.metrics import Buckets, Metrics
from streams.runtime.settings import Settings
from streams.runtime.web import Report

_MS = 1_000.0
_BY_TOPIC = {
    APPROVED: families.DECISIONS,
    REJECTED: families.DECISIONS,
    LOCKED: families.LOCKS,
    DEAD_LETTERS: families.DEAD_LETTERS,
}


class Reading(Protocol):
    """What the observer wants to know of the reader."""

    @property
    def serving(self) -> Collection[int]:
        """Partitions that are open and decide."""


class Observer:
    """Collects what a worker shows, and serves it as ``/metrics``."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        *,
        rules: Callable[[], Rules],
        health: Callable[[], Report],
        ready: Callable[[], Report],
        ends: Ends,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._rules = rules
        self._health = health
        self._ready = ready
        self._ends = ends
        self._reader: Reading | None = None
        self._survey: Survey | None = None
        self._count = 0
        self._open: dict[int, Owned] = {}
        # By the configuration of all accounts, so that a hand-over changes nobody's place.
        self._shown = sorted(rules().accounts)[: settings.metrics_accounts]
        self.exposition = exposition("worker", self.samples)

    def opened(self, number: int, partition: Owned) -> None:
        """A partition that this worker is about to take over; it takes the place of an earlier one of its number."""
        self._open[number] = partition

    async def start(self, reader: Reading, partitions: int, partition_of: Callable[[str], int]) -> None:
        """Begin to survey the accounts."""
        self._reader = reader
        self._count = partitions
        self._survey = Survey(
            owned=self._owned, rules=self._rules, partition_of=partition_of, state_dir=self._settings.data_dir / "state"
        )
        await self._survey.start()

    async def stop(self) -> None:
        """Before the reader closes its partitions."""
        if self._survey is not None:
            await self._survey.stop()

    def _owned(self) -> Mapping[int, Owned]:
        serving = () if self._reader is None else self._reader.serving
        return {number: self._open[number] for number in sorted(serving) if number in self._open}

    def samples(self) -> Iterator[Sample]:
        """Everything that this worker shows."""
        yield Sample(families.HEALTHY, self._health().ok)
        yield Sample(families.READY, self._ready().ok)
        yield Sample(families.STARTS, self._ends.starts)
        for reason, count in self._ends.counts.items():
            yield Sample(families.ENDS, count, (reason,))
        yield from self._decided()
        yield from self._speed()
        yield from self._partitions()
        yield from self._policies()
        if self._survey is not None:
            yield from self._accounts(self._survey)

    # -- what was decided, and how fast

    def _decided(self) -> Iterator[Sample]:
        counts = Counter(dict.fromkeys(self._from_zero(), 0))
        for (topic, tally), count in self._metrics.tallies.items():
            if topic in _BY_TOPIC:
                if len(tally) == len(_BY_TOPIC[topic].labels):
                    counts[_BY_TOPIC[topic], tally] += count
            elif topic == EVENTS and tally:
                counts[families.EVENTS, tally[:1]] += count
                if tally[1:]:
                    counts[families.WARNINGS, tally[1:]] += count
            elif topic in INPUTS and tally:
                counts[families.WRONG_PARTITION, (topic, *tally)] += count
        for (family, labels), count in counts.items():
            yield Sample(family, count, labels)

    def _from_zero(self) -> Iterator[tuple[Family, tuple[str, ...]]]:
        """What is watched for its first increase: a counter that begins at 1 would not have risen."""
        profiles = self._rules().profiles
        yield from ((families.DECISIONS, ("APPROVED", profile)) for profile in profiles)
        for reason in REASONS:
            yield from ((families.LOCKS, (reason, profile)) for profile in profiles)
        for dead in get_args(DeadLetterReason):
            yield from ((families.DEAD_LETTERS, (dead, topic)) for topic in (*INPUTS, POLICIES))
        for topic in INPUTS:
            yield from ((families.WRONG_PARTITION, (topic, cause)) for cause in (ROUTED, MISKEYED))
        yield families.WARNINGS, ("ORDER_OVERDUE", "none")
        for tier in {tier for profile in profiles.values() for tier in profile.warning}:
            yield from ((families.WARNINGS, (limit, write_amount(tier))) for limit in LIMITS)

    def _speed(self) -> Iterator[Sample]:
        metrics = self._metrics
        for topic in INPUTS:
            yield Sample(families.RECORDS, metrics.records[topic], (topic,))
            yield Sample(families.END_TO_END, _seconds(metrics.end_to_end_ms[topic]), (topic,))
        yield Sample(families.LOCK_LATENCY, _seconds(metrics.lock_ms))
        yield Sample(families.FOLD, _seconds(metrics.fold_ms))
        yield Sample(families.COMMIT, _seconds(metrics.commit_ms))
        yield Sample(families.BATCH_RECORDS, Distribution(metrics.batch_records))
        yield Sample(families.REBALANCES, metrics.rebalances)
        yield Sample(families.FORGOTTEN, metrics.forgotten_ids)

    def _partitions(self) -> Iterator[Sample]:
        serving = () if self._reader is None else self._reader.serving
        if self._count:
            yield Sample(families.PARTITIONS, self._count)
        state_bytes = {} if self._survey is None else self._survey.state_bytes
        now_ms = clock.now_ms()
        for number, one in sorted(self._metrics.partitions.items()):
            labels = (str(number),)
            yield Sample(families.SERVING, number in serving, labels)
            yield Sample(families.RESTORED, one.restored_records, labels)
            yield Sample(families.RESTORE_REMAINING, max(0, one.restore_target - one.restore_position), labels)
            yield Sample(families.LAG_RECORDS, one.lag_records, labels)
            waited_ms = 0 if one.waiting_since_ms is None else max(0, now_ms - one.waiting_since_ms)
            yield Sample(families.LAG_SECONDS, waited_ms / _MS, labels)
            if number in state_bytes:
                yield Sample(families.STATE_BYTES, state_bytes[number], labels)

    def _policies(self) -> Iterator[Sample]:
        rules = self._rules()
        yield Sample(families.POLICY_VERSION, rules.version)
        yield Sample(families.MAX_PNL_AGE, rules.limits.max_pnl_age_ms / _MS)
        for policy, state in sorted(rules.states.items()):
            if state != ACTIVE:
                yield Sample(families.POLICY_STATE, 1, (policy, state))

    # -- accounts

    def _accounts(self, survey: Survey) -> Iterator[Sample]:
        totals = survey.totals
        by_labels: tuple[tuple[Family, Mapping[tuple[str, ...], float]], ...] = (
            (families.ACCOUNTS, totals.states),
            (families.PNL_FEEDS, totals.feeds),
            (families.LOCKED_ACCOUNTS, totals.locks),
            (families.OPEN_POSITIONS, totals.positions),
            (families.OPEN_ORDERS, totals.orders),
            (families.DRAWDOWN_MAX, totals.drawdowns),
        )
        for family, values in by_labels:
            for labels, value in values.items():
                yield Sample(family, value, labels)
        named = 0
        for account_id, one in survey.of(self._shown):
            named += 1
            yield from _named(account_id, one)
        yield Sample(families.UNLABELLED, survey.count - named)
        yield Sample(families.SURVEY_PENDING, survey.pending)


def _named(account_id: str, one: Figures) -> Iterator[Sample]:
    labels = (account_id,)
    yield Sample(families.ACCOUNT_INFO, 1, (account_id, one.profile, one.state, one.currency))
    for reason in one.locks:
        yield Sample(families.ACCOUNT_LOCK, 1, (account_id, reason))
    for limit, ratio in one.drawdowns:
        yield Sample(families.ACCOUNT_DRAWDOWN, ratio, (account_id, limit))
    if one.equity is not None:
        yield Sample(families.ACCOUNT_EQUITY, one.equity, labels)
    if one.headroom is not None:
        yield Sample(families.ACCOUNT_HEADROOM, one.headroom, labels)
    yield Sample(families.ACCOUNT_POSITIONS, one.positions, labels)
    yield Sample(families.ACCOUNT_ORDERS, one.orders, labels)
    if one.as_of_ms is not None:
        yield Sample(families.ACCOUNT_AS_OF, one.as_of_ms / _MS, labels)


def _seconds(buckets: Buckets) -> Distribution:
    return Distribution(buckets, _MS)
