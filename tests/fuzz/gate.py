"""A gate of two partitions in memory: rounds are played through decode and step, and every record accounted for."""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from random import Random
from time import perf_counter
from typing import Any, NamedTuple

from schemas.outputs import MODELS
from streams.config import parse_config
from streams.core.fold import Batch, Commit, View, fold
from streams.core.records import INPUTS, POLICIES, Output, Record
from streams.core.rules import Rules, apply_policy, rules_of
from streams.core.state import (
    DECISIONS,
    TABLES,
    Account,
    Change,
    Remembered,
    decode_account,
    decode_offsets,
    decode_remembered,
    decode_state,
    encode_state,
)
from streams.runtime.kafka import partition_of_key
from tests.fuzz.accounting import unaccounted
from tests.fuzz.mutations import PARTITIONS, Sent
from tests.fuzz.sessions import Round

BATCH_SIZES = (1, 1, 2, 5, 20, 64)
# Validation by the published models costs as much as ten decisions: of every so many transactions, one.
SAMPLED = 16

Fold = Callable[[Batch, View, Rules, Callable[[str], int]], Commit]


class Harm(AssertionError):
    """A promise was broken."""


class Tally(NamedTuple):
    """What a round came to."""

    inputs: int
    broken: int
    outputs: Counter[str]
    slowest_ms: float


class Store:
    """One partition's state as its records hold it. ``cold``: nothing else; otherwise live objects before them."""

    def __init__(self, *, cold: bool) -> None:
        self.offsets: Mapping[str, int] = {}
        self._cold = cold
        self._records: dict[tuple[str, bytes], bytes] = {}
        self._live: dict[str, Account] = {}

    def account(self, account_id: str) -> Account | None:
        if not self._cold and account_id in self._live:
            return self._live[account_id]
        return self.stored(account_id)

    def stored(self, account_id: str) -> Account | None:
        """The account as a restart finds it."""
        key = account_id.encode()
        parts = {table: self._records[table, key] for table in TABLES if (table, key) in self._records}
        return decode_account(parts) if parts else None

    def remembered(self, key: bytes) -> Remembered | None:
        value = self._records.get((DECISIONS, key))
        return None if value is None else decode_remembered(value)

    def write(self, commit: Commit) -> None:
        """Take over one commit. Raises Harm where what is written is not what is meant."""
        for change in commit.changes:
            if change.value is None:
                raise Harm(f"the fold deletes {change.table} {change.key!r}")
            self._records[change.table, change.key] = change.value
            _check_round_trip(change)
        self._live.update(commit.accounts)
        for account_id, account in commit.accounts.items():
            stored = self.stored(account_id)
            if stored is not None and stored != account:
                raise Harm(f"{account_id} is restored as {stored!r}, and was {account!r}")
        held = decode_offsets(self._records["partition", b"offsets"])
        if held != commit.offsets:
            raise Harm(f"offsets are restored as {held!r}, and were {commit.offsets!r}")
        self.offsets = held


def _check_round_trip(change: Change) -> None:
    if change.table not in (*TABLES, DECISIONS) or change.value is None:
        return
    again = encode_state(decode_state(change.table, change.value))
    if again != change.value:
        raise Harm(f"{change.table} {change.key!r}: {change.value!r} is written again as {again!r}")


class Gate:
    """Plays one round. ``fold`` may be replaced: the fuzzer's own test breaks it."""

    def __init__(self, config: Mapping[str, Any], *, cold: bool, fold: Fold = fold) -> None:
        self.rules = rules_of(parse_config(dict(config), {}))
        self.outputs: Counter[str] = Counter()
        self.slowest_ms = 0.0
        self._fold = fold
        self._stores = [Store(cold=cold) for _ in range(PARTITIONS)]
        self._next: defaultdict[tuple[str, int], int] = defaultdict(int)
        self._transactions = 0

    def policy(self, sent: Sent) -> None:
        """One record of ``policies``: in force or dead-lettered, and its version counted either way."""
        record = self._record(sent)
        self.rules, letter = apply_policy(self.rules, record)
        if self.rules.version != record.offset + 1:
            raise Harm(f"policy {record.offset} made version {self.rules.version}")
        if letter is not None:
            self._take([letter], [record], {}, {})

    def transact(self, sent: list[Sent]) -> list[Sent]:
        """Some inputs, as one transaction for each partition. Returns what it published to inputs."""
        published: list[Sent] = []
        for partition in range(PARTITIONS):
            records = [self._record(one) for one in sent if one.partition == partition]
            if records:
                wall_ms = max(one.wall_ms for one in sent)
                published += self._fold_one(partition, records, wall_ms)
        return published

    def _record(self, sent: Sent) -> Record:
        place = sent.topic, sent.partition
        offset = self._next[place]
        self._next[place] += 1
        return Record(sent.topic, sent.partition, offset, sent.timestamp_ms, sent.key, sent.value, sent.headers)

    def _fold_one(self, partition: int, records: list[Record], wall_ms: int) -> list[Sent]:
        by_topic: dict[str, list[Record]] = {}
        for record in records:
            by_topic.setdefault(record.topic, []).append(record)
        store = self._stores[partition]
        batch = Batch(partition, by_topic, wall_ms)
        started = perf_counter()
        commit = self._fold(batch, store, self.rules, _partition_of)
        self.slowest_ms = max(self.slowest_ms, (perf_counter() - started) * 1000)
        if self._transactions % SAMPLED == 0:
            again = self._fold(batch, store, self.rules, _partition_of)
            if (again.outputs, again.changes, again.journal) != (commit.outputs, commit.changes, commit.journal):
                raise Harm("the same transaction made twice differs")
        store.write(commit)
        keys = {change.key for change in commit.changes if change.table == DECISIONS}
        return self._take(commit.outputs, records, keys, commit.accounts)

    def _take(
        self, outputs: Any, records: list[Record], remembered: Any, accounts: Mapping[str, Account]
    ) -> list[Sent]:
        if faults := unaccounted(records, outputs, remembered, accounts, self.rules):
            raise Harm("; ".join(faults))
        self._transactions += 1
        self.outputs.update(output.topic for output in outputs)
        if self._transactions % SAMPLED == 0:
            for output in outputs:
                if output.topic not in INPUTS:
                    MODELS[output.topic].model_validate_json(output.value)
        return [_sent(output) for output in outputs if output.topic in INPUTS]


def play(one: Round, *, fold: Fold = fold) -> Tally:
    """One round to its end, copies and children included. Raises Harm, or whatever the gate raises."""
    gate = Gate(one.config, cold=one.cold, fold=fold)
    rng = Random(one.batches)
    waiting: list[Sent] = []
    size = rng.choice(BATCH_SIZES)
    for sent in one.sent:
        if sent.topic == POLICIES:
            gate.policy(sent)
            continue
        waiting.append(sent)
        if len(waiting) >= size:
            waiting = gate.transact(waiting)
            size = rng.choice(BATCH_SIZES)
    while waiting:
        waiting = gate.transact(waiting)
    return Tally(len(one.sent), one.broken, gate.outputs, gate.slowest_ms)


def _sent(output: Output) -> Sent:
    partition = _partition_of((output.key or b"").decode())
    assert output.timestamp_ms is not None
    return Sent(output.topic, partition, output.timestamp_ms, output.key, output.value, output.headers)


def _partition_of(account_id: str) -> int:
    return partition_of_key(account_id.encode(), PARTITIONS)
