"""What must hold after every record of any sequence, whatever the rules in detail say."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from schemas.types import write_time
from streams.core.guard import CODES
from streams.core.state import Account
from tests.model.strategies import Record, generate
from tests.property.gate import Gate, Json

RECORDS = 80
seeds = st.integers(0, 2**32 - 1)
thorough = settings(max_examples=100, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
DECISIONS = ("approved-orders", "rejected-signals")


def _played(seed: int) -> Iterator[tuple[Gate, Record, dict[str, Account], list[Json]]]:
    """The gate after each record, with the accounts before it and what came out."""
    config, records = generate(seed, RECORDS)
    gate = Gate(config)
    for record in records:
        before = dict(gate.replay.accounts)
        yield gate, record, before, gate.feed(record)


@thorough
@given(seeds)
def test_a_repeated_record_changes_nothing_and_decides_nothing(seed: int) -> None:
    for gate, record, _, _ in _played(seed):
        if record.topic == "policies":
            continue
        once = dict(gate.replay.accounts)
        again = gate.feed(record._replace(offset=record.offset + 1_000_000))
        assert gate.replay.accounts == once
        assert not [one for one in again if one["topic"] in (*DECISIONS, "account-locked")]
        assert [one["topic"] for one in again].count("dead-letters") == 1


@thorough
@given(seeds)
def test_nothing_that_adds_exposure_is_approved_unless_the_account_is_active(seed: int) -> None:
    for gate, _, before, outputs in _played(seed):
        for order in _values(outputs, "approved-orders"):
            account = before.get(order["account_id"])
            if _only_reduces(order, account):
                continue
            assert order["trading_state"] == "ACTIVE"
            standing = gate.account(order["account_id"]).standing
            assert (standing.locks, standing.halted, standing.fill_unusable) == ((), False, False)


@thorough
@given(seeds)
def test_an_approved_entry_fits_into_the_slots_with_all_that_is_reserved(seed: int) -> None:
    for gate, _, before, outputs in _played(seed):
        for order in _values(outputs, "approved-orders"):
            account = gate.account(order["account_id"])
            reserved = account.orders.open[order["order_id"]]
            assert reserved.filled == 0
            if _only_reduces(order, before.get(order["account_id"])):
                continue
            working = (one for one in account.orders.open.values() if not one.reduces and one.quantity > one.filled)
            slots = set(account.book.positions) | {one.instrument for one in working}
            assert len(slots) <= gate.replay.rules.profiles[order["profile"]].max_open_positions


@thorough
@given(seeds)
def test_an_approval_passed_every_check_and_a_rejection_names_the_first_that_failed(seed: int) -> None:
    for _, record, _, outputs in _played(seed):
        decided = [one for one in outputs if one["topic"] in DECISIONS]
        assert len(decided) <= (record.topic == "signals")
        for order in _values(outputs, "approved-orders"):
            assert order["checks"]
            assert all(check["passed"] for check in order["checks"])
            assert _in_order(order["checks"])
        for rejection in _values(outputs, "rejected-signals"):
            assert rejection["code"] == rejection["reasons"][0]["code"]
            assert _in_order(rejection["reasons"])


@thorough
@given(seeds)
def test_a_signal_is_answered_once(seed: int) -> None:
    for _, record, _, outputs in _played(seed):
        if record.topic == "signals":
            assert sum(one["topic"] in (*DECISIONS, "dead-letters") for one in outputs) == 1


@thorough
@given(seeds)
def test_state_encodes_and_decodes_to_itself(seed: int) -> None:
    for gate, _, _, _ in _played(seed):
        for account_id in gate.replay.accounts:
            assert gate.restored(account_id) == gate.account(account_id)


@thorough
@given(seeds, st.decimals("-0.9", "20", places=3))
def test_no_cash_flow_changes_a_drawdown(seed: int, share: Decimal) -> None:
    config, records = generate(seed, RECORDS)
    gate = Gate(config)
    for record in records:
        gate.feed(record)
    funded = [
        (account_id, account)
        for account_id, account in gate.replay.accounts.items()
        if account.drawdown.usable and (account.drawdown.equity or 0) > 0 and not account.drawdown.carried
    ]
    assume(funded)
    for number, (account_id, account) in enumerate(funded):
        before = account.drawdown
        assert before.equity is not None
        flow = round(before.equity * share, 6)
        assume(before.equity + flow > 0)
        update = {
            "account_id": account_id,
            "sequence": (before.sequence or 0) + 1,
            "equity": str(before.equity + flow),
            "balance": str(before.equity + flow),
            "cash_flow": str(flow),
            "as_of": write_time(before.as_of_ms),
        }
        gate.feed(
            Record("pnl", account_id.encode(), json.dumps(update).encode(), records[-1].timestamp_ms, 10**6 + number)
        )
        after = gate.account(account_id).drawdown
        assert after.sequence == update["sequence"]
        capital = gate.replay.rules.accounts[account_id].initial_capital
        if gate.replay.rules.accounts[account_id].loss_basis != "initial":
            capital = None
        for one, other in zip(_bases(account), _bases(gate.account(account_id)), strict=True):
            if one > 0:
                was, now = (one - before.equity) / (capital or one), (other - _equity(after)) / (capital or other)
                assert abs(was - now) < Decimal("1e-20")


def _equity(drawdown: Any) -> Decimal:
    equity: Decimal = drawdown.equity
    return equity


def _bases(account: Account) -> tuple[Decimal, ...]:
    drawdown = account.drawdown
    assert drawdown.day is not None
    assert drawdown.week is not None
    assert drawdown.hwm is not None
    return drawdown.day.base, drawdown.week.base, drawdown.hwm


def _only_reduces(order: Json, account: Account | None) -> bool:
    """By the position alone: on its other side, and not more than all of it."""
    held = account.book.at(order["instrument"], order["venue"]) if account else None
    if held is None:
        return False
    opposite = (held.quantity > 0) == (order["side"] == "sell")
    return opposite and Decimal(order["quantity"]) <= abs(held.quantity)


def _values(outputs: list[Json], topic: str) -> list[Json]:
    return [one["value"] for one in outputs if one["topic"] == topic]


def _in_order(checks: list[Json]) -> bool:
    places = [CODES.index(check["code"]) for check in checks]
    return places == sorted(places)
