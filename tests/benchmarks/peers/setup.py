"""What every peer is given, and the gate's own pure step for those that go event by event."""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from streams.config import parse_config
from streams.core.decode import decode
from streams.core.fold import now_of
from streams.core.records import FILLS, PNL, SIGNALS, Output, Record
from streams.core.routing import account_of
from streams.core.rules import Rules, rules_of
from streams.core.state import DECISIONS, Account, Change, Remembered, changes_of, encode_state
from streams.core.step import step
from streams.runtime.kafka import partition_of_key
from tests.benchmarks.progress import ProgressFile
from tests.benchmarks.workload import configuration

INPUTS = (SIGNALS, FILLS, PNL)


@dataclass(frozen=True)
class Setup:
    """Where a peer works. Passed as JSON on its command line."""

    bootstrap: str
    prefix: str
    directory: str
    partitions: int
    accounts: int

    @classmethod
    def of(cls, argument: str) -> "Setup":
        return cls(**json.loads(argument))

    def argument(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @property
    def progress(self) -> ProgressFile:
        return ProgressFile(Path(self.directory) / "progress", self.partitions)

    @property
    def rules(self) -> Rules:
        return rules_of(parse_config(configuration(self.accounts), {}))

    def topic(self, logical: str) -> str:
        """The broker's name."""
        return self.prefix + logical

    def partition_of(self, account_id: str) -> int:
        return partition_of_key(account_id.encode(), self.partitions)

    def logical(self, topic: str) -> str:
        return topic.removeprefix(self.prefix)


class Decided(NamedTuple):
    """What one event did, encoded."""

    account_id: str
    account: Account
    outputs: tuple[Output, ...]
    changes: list[Change]


class OneByOne:
    """Decode, step and encode a single event, as ``fold`` does for a batch."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._offsets: dict[int, dict[str, int]] = {}

    def decide(
        self,
        record: Record,
        read: Callable[[str], Account],
        recall: Callable[[bytes], Remembered | None],
    ) -> Decided:
        """``read`` gives an account as it is stored, ``recall`` a remembered id."""
        offsets = self._offsets.setdefault(record.partition, {})
        offsets[record.topic] = record.offset
        event = decode(record)
        account_id = account_of(event, self._rules)
        assert account_id is not None  # the workload names one in every event
        before = read(account_id)
        now_ms = now_of(record, time.time_ns() // 1_000_000, self._rules)

        def basis() -> dict[str, object]:
            return {"partition": record.partition, "offsets": dict(offsets), "policy_version": self._rules.version}

        done = step(event, account_id, before, recall, self._rules, now_ms, basis)
        changes = [
            *changes_of(account_id, before, done.account),
            *(Change(DECISIONS, key, encode_state(memory)) for key, memory in done.remember),
        ]
        return Decided(account_id, done.account, done.outputs, changes)
