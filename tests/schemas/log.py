"""A recorded log and what the gate made of it."""

import json
from typing import Any, NamedTuple

import orjson

from streams.core.records import Output
from streams.core.rules import Rules
from streams.replay import Replay


class Written(NamedTuple):
    """One record out: the bytes as they were written, and what they say."""

    topic: str
    raw: bytes
    value: dict[str, Any]


class Log:
    """Feeds a replay line by line and keeps all that it writes."""

    def __init__(self, rules: Rules) -> None:
        self._replay = Replay(rules)
        self.written: list[Written] = []

    def put(self, topic: str, timestamp: str, value: Any, key: str | None = None) -> list[Written]:
        """One record in; ``value`` may be anything that JSON can hold. Returns what it yields."""
        return self.line(json.dumps({"topic": topic, "timestamp": timestamp, "key": key, "value": value}))

    def line(self, line: str) -> list[Written]:
        """One line in, as it stands. Returns what it yields."""
        outputs = [_read(output) for output in self._replay.feed(line)]
        self.written += outputs
        return outputs

    def on(self, topic: str) -> list[Written]:
        """What was written to one topic."""
        return [record for record in self.written if record.topic == topic]


def _read(output: Output) -> Written:
    return Written(output.topic, output.value, orjson.loads(output.value))
