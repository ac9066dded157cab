"""What a dump's decisions are counted as."""

import json
from pathlib import Path

from tests.chaos.mix import Approvals, approvals_of, mix_of
from tests.chaos.recording import Rec, write_configuration, write_frames


def _write(dumped: Path, topic: str, partition: int, *values: dict[str, str]) -> None:
    records = [Rec(number, 0, b"desk-00", json.dumps(value).encode()) for number, value in enumerate(values)]
    write_frames(dumped / "topics" / f"{topic}-{partition}.gz", records)


def test_approvals_and_rejections_are_counted_over_all_partitions(tmp_path: Path) -> None:
    topics = ("approved-orders", "rejected-signals", "account-locked", "account-events", "dead-letters")
    write_configuration(tmp_path, "", {}, dict.fromkeys(topics, 2))
    _write(tmp_path, "approved-orders", 0, {"signal_id": "entry-1-2"}, {"signal_id": "exit-2-2"})
    _write(tmp_path, "approved-orders", 1, {"signal_id": "s-3-2"}, {"signal_id": "entry-4-2"})
    _write(
        tmp_path, "rejected-signals", 1, {"signal_id": "entry-5-2", "code": "A"}, {"signal_id": "s-6-2", "code": "B"}
    )
    assert approvals_of(tmp_path) == Approvals(approved=4, sound_entries=3, sound_entries_approved=2)
    outputs = mix_of(tmp_path)
    assert outputs["approved-orders"] == {"approved": 4}
    assert outputs["rejected-signals"] == {"A": 1, "B": 1}
