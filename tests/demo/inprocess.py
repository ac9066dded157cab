"""The demo's loop without a broker: the pure core as its gate, and its records as the verifier reads them."""

import asyncio
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence

import orjson

from schemas.config import ConfigFile
from streams.core.fold import Batch, fold
from streams.core.records import Record
from streams.core.rules import rules_of
from streams.core.state import Account, Remembered, decode_remembered
from streams.demo.accounts import config_toml
from streams.demo.chronicle import Heard
from streams.demo.desk import Desk, Message
from streams.demo.loop import run
from streams.demo.market import Tick, hours, ticks
from streams.demo.verify import Seen


class InProcessGate:
    """One partition, one transaction a phase."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.records: list[Seen] = []
        self.offsets: Mapping[str, int] = {}
        self._accounts: dict[str, Account] = {}
        self._decisions: dict[bytes, bytes | None] = {}
        self._next: Counter[str] = Counter()
        self._rules = rules_of(ConfigFile.model_validate(tomllib.loads(config_toml())))

    def account(self, account_id: str) -> Account | None:
        return self._accounts.get(account_id)

    def remembered(self, key: bytes) -> Remembered | None:
        value = self._decisions.get(key)
        return None if value is None else decode_remembered(value)

    async def submit(self, messages: Sequence[Message]) -> list[Heard]:
        self.messages += messages
        batch: dict[str, list[Record]] = {}
        for message in messages:
            offset = self._append(message.topic, message.value)
            record = Record(message.topic, 0, offset, message.timestamp_ms, message.key.encode(), message.value)
            batch.setdefault(message.topic, []).append(record)
        commit = fold(Batch(0, batch, 0), self, self._rules, lambda _: 0)
        self._accounts |= commit.accounts
        self._decisions |= {change.key: change.value for change in commit.changes if change.table == "decisions"}
        self.offsets = commit.offsets
        for output in commit.outputs:
            self._append(output.topic, output.value)
        return [Heard(output.topic, orjson.loads(output.value)) for output in commit.outputs]

    def _append(self, topic: str, value: bytes) -> int:
        offset = self._next[topic]
        self._next[topic] += 1
        self.records.append(Seen(topic, 0, offset, value))
        return offset


def play(bars: int) -> tuple[Desk, InProcessGate]:
    """The first bars of the month, played to their end."""
    desk, gate = Desk(), InProcessGate()
    asyncio.run(run(desk, gate, ticks(hours(bars)), _nobody_watches))
    return desk, gate


async def _nobody_watches(_: Tick) -> None:
    """The loop's watcher where nothing is shown."""
