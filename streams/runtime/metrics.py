"""Counters of one worker. Plain numbers: whoever exports them reads them."""

from dataclasses import dataclass, field


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


@dataclass(slots=True)
class Metrics:
    """What a worker did since it started. Durations in seconds."""

    batches: int = 0
    events: int = 0
    outputs: int = 0
    forwarded: int = 0
    forgotten_ids: int = 0
    fold_seconds: float = 0.0
    commit_seconds: float = 0.0
    commit_seconds_max: float = 0.0
    rebalances: int = 0
    partitions: dict[int, PartitionMetrics] = field(default_factory=dict)

    def of(self, partition: int) -> PartitionMetrics:
        return self.partitions.setdefault(partition, PartitionMetrics())
