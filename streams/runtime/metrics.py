"""What a worker counts. Plain numbers, added up once a batch: whoever exports them reads them (`streams.observe`).

Nothing in here is an id: the keys are topics, closed codes, profiles and tiers, so that their number is bounded.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

from streams.core.records import INPUTS, Output

LATENCY_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
"""Bounds of a record's age at its commit, ms: fine where a healthy gate is, coarse where any figure is too slow."""
DURATION_MS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000)
BATCH_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500)

_TALLY = attrgetter("topic", "tally")


class Buckets:
    """A histogram: how many values fell at or below each bound (and one more for all above), and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        """``bounds`` ascend."""
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_ages(self, now_ms: int, timestamps_ms: Iterable[int]) -> None:
        """How old these moments are, ms. One in the future (another machine's clock) counts as just now."""
        moments = sorted(timestamps_ms)
        if moments and moments[-1] > now_ms:
            moments = [min(now_ms, one) for one in moments]
        count = len(moments)
        counted = 0
        # A batch's ages fall into few buckets: to look for the buckets' edges is quicker than for each age's bucket.
        for number, bound_ms in enumerate(self.bounds):
            if counted == count:
                break
            younger = count - bisect_left(moments, now_ms - bound_ms)
            self.counts[number] += younger - counted
            counted = younger
        self.counts[-1] += count - counted
        self.total += count * now_ms - sum(moments)


@dataclass(slots=True)
class PartitionMetrics:
    """What one partition did since it was assigned to this worker."""

    restored_records: int = 0
    restore_target: int = 0
    """End offset of the changelog when the restore began."""
    restore_position: int = 0
    """Next changelog offset to restore; equal to or above the target when done."""
    lag_records: int = 0
    """Records known to exist and not yet applied, over the four inputs."""
    waiting_since_ms: int | None = None
    """Timestamp of the oldest record that was read and is not decided; None: there is none."""


@dataclass(slots=True)
class Metrics:
    """What a worker did since it started. Histograms of durations are in ms; sums and counts of them are theirs."""

    batches: int = 0
    forgotten_ids: int = 0
    rebalances: int = 0
    partitions: dict[int, PartitionMetrics] = field(default_factory=dict)
    records: Counter[str] = field(default_factory=Counter)
    """Applied records by input."""
    tallies: Counter[tuple[str, tuple[str, ...]]] = field(default_factory=Counter)
    """Committed outputs by topic and ``Output.tally``."""
    fold_ms: Buckets = field(default_factory=lambda: Buckets(DURATION_MS))
    commit_ms: Buckets = field(default_factory=lambda: Buckets(DURATION_MS))
    batch_records: Buckets = field(default_factory=lambda: Buckets(BATCH_RECORDS))
    end_to_end_ms: dict[str, Buckets] = field(default_factory=lambda: {topic: Buckets(LATENCY_MS) for topic in INPUTS})
    """From a record's timestamp to the commit of what it did, by input."""
    lock_ms: Buckets = field(default_factory=lambda: Buckets(LATENCY_MS))
    """From the timestamp of the record that locked to the commit of its ``account-locked``."""

    def of(self, partition: int) -> PartitionMetrics:
        return self.partitions.setdefault(partition, PartitionMetrics())

    def tally(self, outputs: Iterable[Output]) -> None:
        """Count committed outputs by what they are."""
        self.tallies.update(map(_TALLY, outputs))
