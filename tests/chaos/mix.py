"""What a dump holds, counted: that a run without harm was not one in which nothing happened."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from tests.chaos.recording import OUTPUTS, Directory

_NAMED_BY = {
    "rejected-signals": "code",
    "account-locked": "reason",
    "account-events": "type",
    "dead-letters": "reason",
}


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
