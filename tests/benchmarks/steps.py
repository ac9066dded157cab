"""The pure step alone: decode, fold in batches of 500, encode what is to be written."""

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import orjson

from streams.config import parse_config
from streams.core.fold import Batch, fold
from streams.core.records import Record
from streams.core.rules import rules_of
from streams.core.state import Account, Remembered, decode_remembered
from streams.runtime.worker import quieten_gc
from tests.benchmarks.workload import Event, Workload, configuration

ACCOUNTS = 1_000
BATCH = 500
EVENTS = 20_000
ROUNDS = 5
_START_MS = 1_700_000_000_000


class MemoryView:
    """State as a partition would hold it, with its remembered ids encoded as RocksDB has them."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.offsets: Mapping[str, int] = {}
        self._ids: dict[bytes, bytes] = {}

    def account(self, account_id: str) -> Account | None:
        """The live object, as a warm cache has it."""
        return self.accounts.get(account_id)

    def remembered(self, key: bytes) -> Remembered | None:
        """Decoded anew at each look-up."""
        value = self._ids.get(key)
        return None if value is None else decode_remembered(value)


class Microseconds(NamedTuple):
    """Per event."""

    cpu: float
    wall: float


class Bench:
    """One gate in memory, fed batch by batch."""

    def __init__(self) -> None:
        self._rules = rules_of(parse_config(configuration(ACCOUNTS), {}))
        self._view = MemoryView()
        self._offsets: dict[str, int] = {}
        self._now_ms = _START_MS

    def microseconds(self, events: Iterable[Event]) -> "Microseconds":
        """µs per event: from record bytes to bytes of outputs and state."""
        batches = list(self._batches(events))
        count = sum(len(records) for batch in batches for records in batch.records.values())
        cpu, wall = time.process_time_ns(), time.perf_counter_ns()
        for batch in batches:
            commit = fold(batch, self._view, self._rules, lambda _account_id: 0)
            self._view.accounts.update(commit.accounts)
            self._view.offsets = commit.offsets
            for change in commit.changes:
                if change.table == "decisions" and change.value is not None:
                    self._view._ids[change.key] = change.value
        spent = time.process_time_ns() - cpu, time.perf_counter_ns() - wall
        return Microseconds(*(nanoseconds / count / 1_000 for nanoseconds in spent))

    def _batches(self, events: Iterable[Event]) -> Iterator[Batch]:
        records: dict[str, list[Record]] = {}
        size = 0
        for event in events:
            self._now_ms += 1
            offset = self._offsets[event.topic] = self._offsets.get(event.topic, -1) + 1
            value = orjson.dumps(event.at(self._now_ms))
            record = Record(event.topic, 0, offset, self._now_ms, event.account_id.encode(), value)
            records.setdefault(event.topic, []).append(record)
            size += 1
            if size == BATCH:
                yield Batch(0, records, self._now_ms)
                records, size = {}, 0
        if size:
            yield Batch(0, records, self._now_ms)


def measure() -> Iterator[tuple[str, Microseconds]]:
    """Medians, by kind and for the mixture."""
    for name in ("pnl", "signals", "fills"):
        yield f"step_{name}", _median(name)
    yield "step_mixture", _median(None)


def _median(topic: str | None) -> Microseconds:
    rounds: list[Microseconds] = []
    for number in range(ROUNDS):
        workload, bench = Workload(ACCOUNTS, seed=number, fill_delay=1_000), Bench()
        bench.microseconds(workload.first_marks())
        if topic is None:
            bench.microseconds(workload.events(EVENTS))  # until orders are open and positions held
        quieten_gc()  # as a worker does
        rounds.append(bench.microseconds(workload.events(EVENTS) if topic is None else workload.of(topic, EVENTS)))
    return Microseconds(*map(statistics.median, zip(*rounds, strict=True)))
