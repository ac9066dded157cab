"""One transaction's fold: the order of its records, its now, its journal, and records on the wrong partition."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from schemas.outputs import Journal
from streams.core.fold import FORWARD_BYTES_MAX, Batch, fold, fold_in_slices, merge, now_of
from streams.core.records import Record
from streams.core.rules import Rules
from streams.core.state import (
    DECISIONS,
    NEW_ACCOUNT,
    Account,
    Remembered,
    decode_account,
    decode_remembered,
    remembered_key,
)
from tests.unit.desk import Json, rules_from

T0 = 1513681200000
TABLE: Json = {"accounts": {"main": {"exchange": "binance", "profile": "normal"}, "other": {"exchange": "binance"}}}


class Memory:
    """A View of what earlier commits left."""

    def __init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self.ids: dict[bytes, Remembered] = {}
        self.offsets: Mapping[str, int] = {}

    def account(self, account_id: str) -> Account | None:
        return self.accounts.get(account_id)

    def remembered(self, key: bytes) -> Remembered | None:
        return self.ids.get(key)


def record(topic: str, offset: int, at_ms: int = T0, value: Json | None = None, **fields: Any) -> Record:
    return Record(topic, 3, offset, at_ms, b"main", json.dumps(value or {}).encode(), **fields)


def pnl(offset: int, at_ms: int = T0, equity: str = "10000", account_id: str = "main") -> Record:
    as_of = "2017-12-19T11:00:00Z"
    value = {"account_id": account_id, "sequence": offset, "equity": equity, "as_of": as_of}
    return record("pnl", offset, at_ms, value)


def signal(offset: int, at_ms: int = T0, account_id: str | None = "main", **fields: Any) -> Record:
    value = {
        "signal_id": f"s-{offset}",
        "account_id": account_id,
        "strategy_id": "trend",
        "instrument": "BTC-USD",
        "side": "buy",
        "quantity": "1",
        "price": "100",
        "stop_loss": "99",
        "created_at": "2017-12-19T11:00:00Z",
    }
    return record("signals", offset, at_ms, value, **fields)


def command(offset: int, kind: str, at_ms: int = T0) -> Record:
    value = {"command_id": f"c-{offset}", "account_id": "main", "type": kind, "operator": "ann", "reason": "r"}
    return record("controls", offset, at_ms, value | {"issued_at": "2017-12-19T11:00:00Z"})


def run(
    records: Mapping[str, Sequence[Record]], view: Memory | None = None, rules: Rules | None = None, wall_ms: int = T0
) -> Any:
    return fold(Batch(3, records, wall_ms), view or Memory(), rules or rules_from(TABLE), lambda _: 3)


def topics(commit: Any) -> list[str]:
    return [output.topic for output in commit.outputs]


def values(commit: Any) -> list[Json]:
    return [json.loads(output.value) for output in commit.outputs]


# -- merge ---------------------------------------------------------------------------------------------------------


def order(**records: Sequence[tuple[int, int]]) -> list[tuple[str, int]]:
    """Topics and offsets as merged; records given as (offset, time)."""
    queues = {topic: [record(topic, offset, at_ms) for offset, at_ms in ones] for topic, ones in records.items()}
    return [(one.topic, one.offset) for one in merge(queues)]


def test_the_topic_whose_next_record_is_oldest_goes_first() -> None:
    assert order(signals=[(0, 1), (1, 4)], pnl=[(0, 2), (1, 3)]) == [
        ("signals", 0),
        ("pnl", 0),
        ("pnl", 1),
        ("signals", 1),
    ]


def test_ties_go_to_controls_fills_pnl_signals() -> None:
    tied = order(signals=[(0, 5)], pnl=[(0, 5)], fills=[(0, 5)], controls=[(0, 5)])
    assert [topic for topic, _ in tied] == ["controls", "fills", "pnl", "signals"]


def test_each_topic_keeps_its_own_offset_order_even_where_its_times_run_back() -> None:
    """Offset 1 of pnl is older than all, but is not next before offset 0 has gone."""
    assert order(signals=[(0, 5), (1, 6)], pnl=[(0, 9), (1, 1)]) == [
        ("signals", 0),
        ("signals", 1),
        ("pnl", 0),
        ("pnl", 1),
    ]
    assert order(signals=[(0, 5), (1, 1)], controls=[(0, 5), (1, 7)]) == [
        ("controls", 0),
        ("signals", 0),
        ("signals", 1),
        ("controls", 1),
    ]


def test_topics_without_records_do_not_matter() -> None:
    assert order(signals=[], pnl=[(0, 1)]) == [("pnl", 0)]
    assert order() == []


# -- now -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("clock", "at_ms", "wall_ms", "now_ms"), [("wall", 5, 9, 9), ("wall", 9, 5, 9), ("record", 5, 9, 5)]
)
def test_now(clock: str, at_ms: int, wall_ms: int, now_ms: int) -> None:
    assert now_of(record("pnl", 0, at_ms), wall_ms, rules_from({"clock": clock})) == now_ms


def test_now_is_that_of_the_transactions_start_for_all_of_its_records() -> None:
    commit = run({"pnl": [pnl(0)], "signals": [signal(0), signal(1)]}, wall_ms=T0 + 1_500)
    assert {value["decided_at"] for value in values(commit)} == {"2017-12-19T11:00:01.500Z"}


# -- one fold ------------------------------------------------------------------------------------------------------


def test_a_fold_in_slices_pauses_and_comes_to_the_same() -> None:
    batch = Batch(3, {"pnl": [pnl(offset) for offset in range(7)], "signals": [signal(0), signal(1)]}, T0)
    slices = fold_in_slices(batch, Memory(), rules_from(TABLE), lambda _: 3, 4)
    pauses = 0
    while True:
        try:
            next(slices)
            pauses += 1
        except StopIteration as end:
            commit = end.value
            break
    assert (pauses, commit) == (2, fold(batch, Memory(), rules_from(TABLE), lambda _: 3))


def test_a_lock_at_the_same_time_as_a_signal_wins() -> None:
    commit = run({"signals": [signal(0)], "pnl": [pnl(0)], "controls": [command(0, "lock")]})
    assert topics(commit) == ["account-locked", "rejected-signals"]


def test_records_of_one_batch_see_each_other() -> None:
    commit = run({"signals": [signal(0), signal(1), signal(1)], "pnl": [pnl(0)]})
    assert topics(commit) == ["approved-orders", "approved-orders", "dead-letters"]
    assert values(commit)[2]["reason"] == "DUPLICATE_SIGNAL"
    assert len(commit.accounts["main"].orders.open) == 2


def test_basis_counts_what_was_applied_and_includes_the_record_itself() -> None:
    view = Memory()
    view.offsets = {"signals": 6, "fills": 2}
    commit = run({"pnl": [pnl(4, T0), pnl(5, T0 + 9)], "signals": [signal(7, T0 + 5)]}, view)
    assert values(commit)[0]["basis"] == {
        "partition": 3,
        "offsets": {"signals": 7, "fills": 2, "pnl": 4},
        "policy_version": 0,
    }
    assert commit.offsets == {"signals": 7, "fills": 2, "pnl": 5}


def test_the_journal_says_what_one_transaction_was() -> None:
    commit = run({"pnl": [pnl(4), pnl(5)], "signals": [signal(7)], "fills": []}, wall_ms=T0 + 250)
    journal = json.loads(commit.journal)
    assert Journal.model_validate(journal).partition == 3
    assert journal == {
        "partition": 3,
        "offsets": {"pnl": [4, 5], "signals": [7, 7]},
        "now": "2017-12-19T11:00:00.250Z",
        "policy_version": 0,
        "schema_version": 1,
    }


def test_changes_are_one_record_per_touched_account_and_table_and_one_per_id() -> None:
    commit = run({"pnl": [pnl(0), pnl(1), pnl(0, account_id="other")], "signals": [signal(0)]})
    touched = [(change.table, change.key) for change in commit.changes if change.table != DECISIONS]
    assert len(touched) == len(set(touched))
    assert {table for table, key in touched if key == b"main"} == {"drawdown", "orders"}
    assert {table for table, key in touched if key == b"other"} == {"drawdown"}
    ids = [change for change in commit.changes if change.table == DECISIONS]
    assert [one.key for one in ids] == [remembered_key("main", "signal", "s-0")]
    assert decode_remembered(ids[0].value or b"").first_id.startswith("o-")


def test_the_next_batch_goes_on_from_what_the_last_one_made_durable() -> None:
    """Two batches with a restart in between are one batch."""
    records = {"pnl": [pnl(0)], "signals": [signal(0), signal(1)]}
    whole = run(records)
    view = Memory()
    first = run({"pnl": [pnl(0)], "signals": [signal(0)]}, view)
    parts = {change.table: change.value for change in first.changes if change.key == b"main" and change.value}
    view.accounts = {"main": decode_account(parts)}
    view.ids = {c.key: decode_remembered(c.value) for c in first.changes if c.table == DECISIONS and c.value}
    view.offsets = first.offsets
    second = run({"signals": [signal(1)]}, view)
    assert first.outputs + second.outputs == whole.outputs
    assert second.accounts["main"] == whole.accounts["main"]
    repeated = run({"signals": [signal(1)]}, view)
    assert repeated.outputs == second.outputs, "a transaction that was aborted is decided the same again"


def test_an_account_is_new_until_something_is_known_of_it() -> None:
    commit = run({"signals": [signal(0, account_id="ghost")]})
    assert commit.accounts.get("ghost", NEW_ACCOUNT) == NEW_ACCOUNT
    assert [change.table for change in commit.changes if change.key == b"ghost"] == []


def test_the_headers_of_a_signal_travel_to_its_decision() -> None:
    headers = (("traceparent", b"00-1-2-01"), ("x", b"\xff"))
    commit = run({"pnl": [pnl(0)], "signals": [signal(0, headers=headers), signal(1)]})
    assert [output.headers for output in commit.outputs] == [headers, ()]


# -- wrong partition -----------------------------------------------------------------------------------------------


def elsewhere(account_id: str) -> int:
    return 3 if account_id == "main" else 5


def routed(records: Mapping[str, Sequence[Record]], view: Memory | None = None) -> Any:
    table = TABLE | {"strategies": {"routes": {"trend": {"account": "other"}}}}
    return fold(Batch(3, records, T0), view or Memory(), rules_from(table), elsewhere)


def test_a_record_of_another_partitions_account_is_forwarded_unchanged_with_its_headers_and_time() -> None:
    sent = signal(7, T0 - 5, account_id=None, headers=(("traceparent", b"t"),))
    commit = routed({"signals": [sent]})
    (output,) = commit.outputs
    assert (output.topic, output.key, output.value, output.timestamp_ms) == ("signals", b"other", sent.value, T0 - 5)
    assert output.headers[0] == ("traceparent", b"t")
    assert commit.offsets == {"signals": 7}
    assert [change.table for change in commit.changes if change.key == b"other"] == []


def test_where_an_account_belongs_is_worked_out_once_and_then_known_by_its_state() -> None:
    asked: list[str] = []

    def noting(account_id: str) -> int:
        asked.append(account_id)
        return elsewhere(account_id)

    view = Memory()
    first = fold(Batch(3, {"pnl": [pnl(0), pnl(1)]}, T0), view, rules_from(TABLE), noting)
    assert asked == ["main"]
    view.accounts |= first.accounts
    fold(Batch(3, {"pnl": [pnl(2)]}, T0), view, rules_from(TABLE), noting)
    assert asked == ["main"]


def test_a_forwarded_record_is_decided_where_its_account_lives() -> None:
    forwarded = routed({"signals": [signal(7, account_id="other")]}).outputs[0]
    arrived = Record("signals", 5, 0, T0, forwarded.key, forwarded.value, forwarded.headers)
    commit = fold(Batch(5, {"signals": [arrived]}, T0), Memory(), rules_from(TABLE), elsewhere)
    assert topics(commit) == ["rejected-signals"]


def test_a_record_is_never_forwarded_twice() -> None:
    """Two workers whose routes disagree would send it to and fro for ever."""
    forwarded = routed({"signals": [signal(7, account_id=None)]}).outputs[0]
    again = Record("signals", 3, 8, T0, forwarded.key, forwarded.value, forwarded.headers)
    commit = routed({"signals": [again]})
    assert topics(commit) == ["dead-letters"]


def test_every_input_topic_is_forwarded() -> None:
    commit = routed({"pnl": [pnl(0, account_id="other")], "fills": [record("fills", 0, value={"account_id": "other"})]})
    assert topics(commit) == ["fills", "pnl"]


def test_a_value_too_large_to_be_sent_on_is_a_dead_letter() -> None:
    """A compressed record can be larger than what a transaction may send: it must not fail every one after it."""
    large = signal(0)
    large = replace(large, value=(large.value or b"")[:-1] + b', "x": "' + b"x" * FORWARD_BYTES_MAX + b'"}')
    commit = fold(Batch(0, {"signals": [large]}, T0), Memory(), rules_from(TABLE), lambda _account_id: 1)
    assert [output.topic for output in commit.outputs] == ["dead-letters"]
    assert json.loads(commit.outputs[0].value)["reason"] == "MALFORMED"
