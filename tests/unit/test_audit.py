"""The journal's promise: inputs, journal, policies and configuration make every decision again, byte for byte."""

import json
import random
from collections.abc import Iterable, Mapping, Sequence

import pytest

from streams.audit import Audit, AuditError, RulesByVersion, Transaction, read_transaction, replayed
from streams.config import parse_config
from streams.core.fold import Batch, Commit, fold
from streams.core.records import INPUTS, POLICIES, Output, Record
from streams.core.rules import Rules, apply_policy, rules_of
from streams.core.state import decode_remembered
from tests.model.strategies import generate
from tests.property.gate import as_record
from tests.unit.desk import Json, rules_from
from tests.unit.test_fold import T0, TABLE, Memory, command, pnl, signal

WALL = rules_from(TABLE)


class Gate:
    """What a worker would have done with one partition: its outputs and journal."""

    def __init__(self, rules: Rules, partition: int = 3) -> None:
        self.rules = rules
        self.partition = partition
        self.inputs: list[Record] = []
        self.policies: list[Record] = []
        self.journal: list[bytes] = []
        self.outputs: list[tuple[Output, ...]] = []
        self._view = Memory()

    def decide(self, records: Mapping[str, Sequence[Record]], wall_ms: int = T0) -> Commit:
        commit = fold(Batch(self.partition, records, wall_ms), self._view, self.rules, lambda _: self.partition)
        self._view.accounts.update(commit.accounts)
        for change in commit.changes:
            if change.table == "decisions" and change.value is not None:
                self._view.ids[change.key] = decode_remembered(change.value)
        self._view.offsets = commit.offsets
        self.inputs += [record for topic in INPUTS for record in records.get(topic, ())]
        self.journal.append(commit.journal)
        self.outputs.append(commit.outputs)
        return commit

    def policy(self, name: str, rule: Json | None) -> None:
        value = json.dumps({"name": name, "rule": rule}).encode()
        self.apply(Record(POLICIES, 0, len(self.policies), T0, name.encode(), value))

    def apply(self, record: Record) -> None:
        self.policies.append(record)
        self.rules, _ = apply_policy(self.rules, record)


def again(gate: Gate, configured: Rules = WALL, **changed: Iterable[object]) -> list[tuple[Output, ...]]:
    parts: dict[str, object] = {"inputs": gate.inputs, "journal": gate.journal, "policies": gate.policies, **changed}
    made = replayed(gate.partition, configured=configured, partition_of=lambda _: gate.partition, **parts)  # type: ignore[arg-type]
    return [one.commit.outputs for one in made]


@pytest.fixture
def gate() -> Gate:
    """Five transactions under three policy versions, at their own times."""
    one = Gate(WALL)
    one.decide({"pnl": [pnl(0)], "signals": [signal(0), signal(1, account_id="other")]})
    one.policy("venue/kraken", {"up": False})
    one.policy("state/global", {"state": "REDUCING"})
    one.decide({"signals": [signal(2), signal(2)]}, T0 + 400)
    one.policy("state/global", None)
    one.decide(
        {"controls": [command(5, "lock", T0 + 2)], "signals": [signal(3, T0 + 1), signal(4, T0 + 3)]}, T0 + 2_000
    )
    one.decide({}, T0 + 2_500)  # of dead letters of policies alone
    one.decide({"pnl": [pnl(1)]}, T0 + 3_000)
    return one


def test_every_output_is_made_again_byte_for_byte(gate: Gate) -> None:
    assert again(gate) == gate.outputs
    assert [len(outputs) for outputs in gate.outputs] == [2, 2, 3, 0, 0]


@pytest.mark.parametrize("seed", range(8))
def test_any_records_in_any_batches_are_made_again(seed: int) -> None:
    config, records = generate(seed, 150)
    configured = rules_of(parse_config(config, {}))
    chance = random.Random(seed)
    gate = Gate(configured, partition=0)
    batch: dict[str, list[Record]] = {}
    for record in records:
        if record.topic == POLICIES:
            gate.apply(as_record(record))
            continue
        batch.setdefault(record.topic, []).append(as_record(record))
        if chance.random() < 0.2:
            gate.decide(batch, record.timestamp_ms + chance.randrange(3_000))
            batch = {}
    assert again(gate, configured) == gate.outputs
    assert sum(map(len, gate.outputs)) > 20


def test_the_journal_is_read_as_it_is_written(gate: Gate) -> None:
    assert read_transaction(gate.journal[2]) == Transaction(3, {"controls": (5, 5), "signals": (3, 4)}, T0 + 2_000, 3)
    assert read_transaction(gate.journal[2]).holds("signals", 4)
    assert not read_transaction(gate.journal[2]).holds("signals", 5)
    assert not read_transaction(gate.journal[2]).holds("pnl", 0)


@pytest.mark.parametrize("value", [b"", b"[]", b'{"schema_version":2}', b'{"schema_version":1}', b"null"])
def test_a_journal_record_of_another_kind_is_refused(value: bytes) -> None:
    with pytest.raises(AuditError, match="journal"):
        read_transaction(value)


def test_records_are_taken_as_they_come_and_it_says_what_it_lacks(gate: Gate) -> None:
    audit = Audit(3, RulesByVersion(WALL, gate.policies), lambda _: 3)
    transaction = read_transaction(gate.journal[0])
    assert audit.lacks(transaction) == ("pnl", "signals")
    signals = [one for one in gate.inputs if one.topic == "signals"]
    audit.take(pnl(0))
    audit.take(signals[0])
    assert audit.lacks(transaction) == ("signals",)
    audit.take(signals[1])
    audit.take(signals[2])
    assert audit.lacks(transaction) == ()
    assert audit.apply(transaction).outputs == gate.outputs[0]


def test_what_a_signal_saw_is_the_account_after_all_that_went_before_it(gate: Gate) -> None:
    """Signal 3 came before the lock of its transaction, signal 4 after it."""
    audit = Audit(3, RulesByVersion(WALL, gate.policies), lambda _: 3)
    for record in gate.inputs:
        audit.take(record)
    for value in gate.journal[:2]:
        audit.apply(read_transaction(value))
    transaction = read_transaction(gate.journal[2])
    before, after = (audit.seen_by(transaction, "signals", offset, "main") for offset in (3, 4))
    assert before.account is not None
    assert after.account is not None
    assert (before.account.standing.locks, len(before.account.orders.open)) == ((), 1)
    assert ([lock.reason for lock in after.account.standing.locks], len(after.account.orders.open)) == (["MANUAL"], 2)
    assert (after.rules.version, after.now_ms, after.record.offset) == (3, T0 + 2_000, 4)
    assert audit.apply(transaction).outputs == gate.outputs[2], "a look changes nothing"


def test_an_account_that_was_never_heard_of_was_seen_as_nothing(gate: Gate) -> None:
    audit = Audit(3, RulesByVersion(WALL, ()), lambda _: 3)
    for record in gate.inputs:
        audit.take(record)
    assert audit.seen_by(read_transaction(gate.journal[0]), "signals", 1, "other").account is None


# -- what is missing -----------------------------------------------------------------------------------------------


def test_inputs_that_retention_deleted_are_named(gate: Gate) -> None:
    kept = [record for record in gate.inputs if record != pnl(0)]
    with pytest.raises(AuditError, match=r"pnl 3@0 .*no longer retained"):
        again(gate, inputs=kept)


def test_the_last_input_of_a_transaction_may_not_be_missing_either(gate: Gate) -> None:
    kept = [record for record in gate.inputs if (record.topic, record.offset) != ("signals", 4)]
    with pytest.raises(AuditError, match=r"signals 3@3 to 4 .*no longer retained"):
        again(gate, inputs=kept)


def test_a_journal_that_begins_later_proves_nothing(gate: Gate) -> None:
    with pytest.raises(AuditError, match="journal is no longer retained from its beginning"):
        again(gate, journal=gate.journal[1:])


def test_a_policy_that_is_not_there_is_named(gate: Gate) -> None:
    with pytest.raises(AuditError, match="policy version 2 is not on the policies topic"):
        again(gate, policies=gate.policies[:1])


def test_another_configuration_makes_another_decision(gate: Gate) -> None:
    accounts = TABLE["accounts"] | {"main": {"exchange": "kraken", "profile": "normal"}}
    assert again(gate, rules_from(TABLE | {"accounts": accounts})) != gate.outputs
