"""Figures of the Redis mirror, which sets them as it goes; ``exposition("mirror", metrics.samples)`` shows them."""

from collections.abc import Iterator
from dataclasses import dataclass

from streams.observe import families
from streams.observe.exposition import Sample


@dataclass(slots=True)
class MirrorMetrics:
    """What the mirror did since it started, and how far behind it is."""

    lag_records: int = 0
    """Committed records that are not in Redis yet."""
    lag_seconds: float = 0.0
    """Age of the model: whatever was committed longer ago is in Redis."""
    complete: bool = False
    """Whether Redis holds a whole model."""
    redis_up: bool = False
    """Whether the last request to Redis was answered."""
    records: int = 0
    errors: int = 0
    rebuilds: int = 0

    def samples(self) -> Iterator[Sample]:
        yield Sample(families.MIRROR_LAG_RECORDS, self.lag_records)
        yield Sample(families.MIRROR_LAG_SECONDS, self.lag_seconds)
        yield Sample(families.MIRROR_COMPLETE, self.complete)
        yield Sample(families.MIRROR_REDIS_UP, self.redis_up)
        yield Sample(families.MIRROR_RECORDS, self.records)
        yield Sample(families.MIRROR_ERRORS, self.errors)
        yield Sample(families.MIRROR_REBUILDS, self.rebuilds)
