"""What the core calls its outputs for those who count, and how a partition adds them up."""

from collections.abc import Mapping
from typing import Any

import orjson

from streams.config import parse_config
from streams.core.fold import MISKEYED, ROUTED, Batch, Commit, fold
from streams.core.records import (
    APPROVED,
    CONTROLS,
    DEAD_LETTERS,
    EVENTS,
    FILLS,
    INPUTS,
    LOCKED,
    PNL,
    REJECTED,
    SIGNALS,
    Record,
)
from streams.core.rules import rules_of
from streams.core.state import Account, Remembered
from streams.runtime.metrics import Metrics

NOW_MS = 1_800_000_000_000
NOW = "2027-01-15T08:00:00Z"
RULES = rules_of(
    parse_config(
        {
            "accounts": {"main": {"exchange": "x", "profile": "normal"}, "far": {"exchange": "x"}},
            "strategies": {"routes": {"routed": {"account": "far"}}},
        },
        {},
    )
)
ORDER = {"strategy_id": "t", "instrument": "BTC-USD", "side": "buy", "quantity": "1", "price": "100", "stop_loss": "99"}


class View:
    """Nothing is known before the batch."""

    offsets: Mapping[str, int] = {}

    def account(self, account_id: str) -> Account | None:
        return None

    def remembered(self, key: bytes) -> Remembered | None:
        return None


def folded(*events: tuple[str, dict[str, Any]]) -> Commit:
    """One batch, a millisecond apart; account ``far`` belongs to another partition."""
    records: dict[str, list[Record]] = {}
    for number, (topic, body) in enumerate(events):
        key = str(body.get("account_id", "")).encode()
        record = Record(topic, 0, number, NOW_MS + number, key, orjson.dumps(body))
        records.setdefault(topic, []).append(record)
    return fold(Batch(0, records, NOW_MS), View(), RULES, lambda account_id: int(account_id == "far"))


def signal(signal_id: str, **fields: Any) -> tuple[str, dict[str, Any]]:
    return SIGNALS, {"signal_id": signal_id, "account_id": "main", "created_at": NOW, **ORDER, **fields}


def pnl(sequence: int, equity: str) -> tuple[str, dict[str, Any]]:
    return PNL, {"account_id": "main", "sequence": sequence, "equity": equity, "as_of": NOW}


def tallies(commit: Commit) -> dict[tuple[str, tuple[str, ...]], int]:
    metrics = Metrics()
    metrics.tally(commit.outputs)
    return dict(metrics.tallies)


def test_decisions_by_code_and_profile() -> None:
    commit = folded(
        pnl(1, "10000"),
        signal("s-1"),
        signal("s-2", stop_loss=None),
        signal("s-3", account_id="stranger"),
        signal("s-1"),
    )
    assert tallies(commit) == {
        (APPROVED, ("APPROVED", "normal")): 1,
        (REJECTED, ("STOP_LOSS_REQUIRED", "normal")): 1,
        (REJECTED, ("UNKNOWN_ACCOUNT", "none")): 1,
        (DEAD_LETTERS, ("DUPLICATE_SIGNAL", SIGNALS)): 1,
    }


def test_locks_by_reason_and_profile_with_the_time_of_what_locked() -> None:
    commit = folded(pnl(1, "10000"), pnl(2, "9890"), pnl(3, "9000"))
    assert tallies(commit) == {
        (EVENTS, ("WARNING", "DAILY_DRAWDOWN", "0.5")): 1,
        (EVENTS, ("WARNING", "DAILY_DRAWDOWN", "0.8")): 1,
        (EVENTS, ("WARNING", "WEEKLY_DRAWDOWN", "0.5")): 1,
        (EVENTS, ("WARNING", "WEEKLY_DRAWDOWN", "0.8")): 1,
        (LOCKED, ("DAILY_DRAWDOWN", "normal")): 1,
        (LOCKED, ("WEEKLY_DRAWDOWN", "normal")): 1,
    }
    assert commit.locked_by_ms == (NOW_MS + 2, NOW_MS + 2)


def test_events_by_type_and_what_cannot_be_read_by_reason_and_input() -> None:
    who = {"operator": "ann", "reason": "x", "issued_at": NOW}
    commit = folded(
        (CONTROLS, {"command_id": "c-1", "account_id": "main", "type": "halt", **who}),
        (CONTROLS, {"command_id": "c-2", "account_id": "main", "type": "unlock", **who}),
        (FILLS, {"account_id": "nobody"}),
        (SIGNALS, {"signal_id": 7}),
    )
    assert tallies(commit) == {
        (EVENTS, ("HALTED",)): 1,
        (DEAD_LETTERS, ("COMMAND_REFUSED", CONTROLS)): 1,
        (DEAD_LETTERS, ("UNKNOWN_ACCOUNT", FILLS)): 1,
        (DEAD_LETTERS, ("SCHEMA", SIGNALS)): 1,
    }


def test_a_record_on_the_wrong_partition_by_whose_doing_it_is() -> None:
    routed = signal("s-1", account_id=None, strategy_id="routed")
    commit = folded(routed, signal("s-2", account_id="far"), (FILLS, {"account_id": "far"}))
    assert tallies(commit) == {(SIGNALS, (ROUTED,)): 1, (SIGNALS, (MISKEYED,)): 1, (FILLS, (MISKEYED,)): 1}


def test_no_tally_holds_an_id() -> None:
    commit = folded(pnl(1, "10000"), signal("s-secret"), signal("s-secret"), signal("s-2", account_id="stranger"))
    words = {word for output in commit.outputs for word in output.tally}
    assert words.isdisjoint({"s-secret", "main", "stranger", "t", "BTC-USD"})
    assert words & set(INPUTS) == {SIGNALS}
