"""What a dump holds, counted: that a run without harm was not one in which nothing happened."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from tests.chaos.recording import OUTPUTS, Directory
from tests.chaos.workload import ENTRY

_NAMED_BY = {
    "rejected-signals": "code",
    "account-locked": "reason",
    "account-events": "type",
    "dead-letters": "reason",
}


class Approvals(NamedTuple):
    """How much the gate approved: where nothing is, no approval can be doubled, contradicted or too late."""

    approved: int
    """All of them, exits too."""
    sound_entries: int
    """Decisions on entries that the load had no reason to think refused."""
    sound_entries_approved: int


def approvals_of(dumped: Path) -> Approvals:
    """What came of the load's signals, by the ids that it gave them."""
    recording = Directory(dumped)
    kinds = {topic: Counter(_kinds(recording, topic)) for topic in ("approved-orders", "rejected-signals")}
    approved, rejected = kinds["approved-orders"], kinds["rejected-signals"]
    return Approvals(approved.total(), approved[ENTRY] + rejected[ENTRY], approved[ENTRY])


def _kinds(recording: Directory, topic: str) -> Iterator[str]:
    for partition in range(recording.partitions(topic)):
        for record in recording.records(topic, partition):
            yield orjson.loads(record.value or b"{}")["signal_id"].partition("-")[0]


def mix_of(dumped: Path) -> Mapping[str, Mapping[str, int]]:
    """Records of each output topic by code, reason or type, most frequent first."""
    recording = Directory(dumped)
    return {topic: dict(Counter(_names(recording, topic)).most_common()) for topic in OUTPUTS}


def _names(recording: Directory, topic: str) -> Iterator[str]:
    field = _NAMED_BY.get(topic)
    for partition in range(recording.partitions(topic)):
        for record in recording.records(topic, partition):
            value: dict[str, Any] = orjson.loads(record.value or b"{}")
            yield value[field] if field else "approved"
