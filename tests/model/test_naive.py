"""Worked examples of the contract, so that the model which the gate is compared with is itself trusted."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings

from tests.model.naive import (
    BAD,
    Json,
    NaiveGate,
    NotFinite,
    Number,
    read_amount,
    read_time,
    take,
    write_amount,
    write_payload,
    write_time,
)
from tests.model.strategies import Record, generate, minimal, sequences

NOON = "2017-12-19T12:00:00Z"  # a Tuesday

REJECT_CODES = [
    "INVALID_SIGNAL",
    "UNKNOWN_ACCOUNT",
    "STALE_SIGNAL",
    "EXPIRED_SIGNAL",
    "INVALID_PRICE",
    "INVALID_QUANTITY",
    "TRADING_HALTED",
    "TRADING_STATE_REDUCING",
    "ROLLOUT_PHASE",
    "ACCOUNT_LOCKED_DAILY_DRAWDOWN",
    "ACCOUNT_LOCKED_WEEKLY_DRAWDOWN",
    "ACCOUNT_LOCKED_TRAILING_DRAWDOWN",
    "ACCOUNT_LOCKED_MANUAL",
    "REDUCE_ONLY_WOULD_INCREASE_POSITION",
    "STRATEGY_BLACKLISTED",
    "STRATEGY_NOT_WHITELISTED",
    "NO_VENUE",
    "VENUE_UNAVAILABLE",
    "RISK_DATA_MISSING",
    "RISK_DATA_STALE",
    "DRAWDOWN_UNCONFIRMED",
    "DAILY_DRAWDOWN_REACHED",
    "WEEKLY_DRAWDOWN_REACHED",
    "TRAILING_DRAWDOWN_REACHED",
    "SPOT_ONLY",
    "LEVERAGE_EXCEEDED",
    "MAX_OPEN_POSITIONS_EXCEEDED",
    "STOP_LOSS_REQUIRED",
    "TRADE_RISK_EXCEEDED",
    "RISK_HEADROOM_EXCEEDED",
    "NOTIONAL_EXCEEDS_MAX_PER_ORDER",
    "PRICE_COLLAR_EXCEEDED",
    "RATE_LIMIT_EXCEEDED",
]
EVENT_TYPES = [
    "UNLOCKED",
    "HALTED",
    "RESUMED",
    "PROFILE_CHANGED",
    "WARNING",
    "ORDER_RELEASED",
    "OVERFILL",
    "LATE_FILL",
    "UNKNOWN_ORDER",
    "FILL_UNUSABLE",
    "PERIOD_CLOSED",
]
DEAD_LETTER_REASONS = [
    "MALFORMED",
    "SCHEMA",
    "TOO_OLD",
    "DUPLICATE_SIGNAL",
    "DUPLICATE_FILL",
    "DUPLICATE_COMMAND",
    "STALE_SEQUENCE",
    "UNKNOWN_ACCOUNT",
    "COMMAND_REFUSED",
    "POLICY_UNUSABLE",
]
LOCK_REASONS = ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN", "TRAILING_DRAWDOWN", "MANUAL"]


class Desk:
    """One gate with an account ``a`` at venue ``x``, and a clock that the records carry."""

    def __init__(self, account: Json | None = None, **tables: Any) -> None:
        named = {"exchange": "x", "failover": ["y"], "profile": "normal"} | (account or {})
        self.gate = NaiveGate({"accounts": {"a": named}, **tables})
        self.at = NOON
        self.offsets = dict.fromkeys(("signals", "fills", "pnl", "controls", "policies"), -1)

    def send(self, topic: str, value: Json | bytes | None, key: bytes | None = b"a") -> list[Json]:
        self.offsets[topic] += 1
        data = json.dumps(value).encode() if isinstance(value, dict) else value
        return self.gate.feed(topic, data, key=key, timestamp_ms=read_time(self.at), offset=self.offsets[topic])

    def pnl(self, equity: Any, at: str | None = None, **more: Any) -> list[Json]:
        self.at = at or self.at
        sequence = (self.gate.accounts["a"].sequence or 0) + 1
        update = {"account_id": "a", "sequence": sequence, "equity": equity, "as_of": self.at}
        return self.send("pnl", update | more)

    def signal(self, signal_id: str = "s-1", **more: Any) -> Json:
        *_, output = self.send("signals", self.signal_value(signal_id, **more))
        value: Json = output["value"] | {"topic": output["topic"]}
        return value

    def signal_value(self, signal_id: str, **more: Any) -> Json:
        value = {
            "signal_id": signal_id,
            "account_id": "a",
            "strategy_id": "trend",
            "instrument": "BTC-USD",
            "side": "buy",
            "quantity": "0.1",
            "price": "10000",
            "stop_loss": "9900",
            "created_at": self.at,
        }
        return value | more

    def fill(self, fill_id: str = "f-1", order_id: str | None = None, **more: Any) -> list[Json]:
        value = {
            "fill_id": fill_id,
            "order_id": order_id,
            "account_id": "a",
            "instrument": "BTC-USD",
            "side": "buy",
            "quantity": "0.1",
            "price": "10000",
            "status": "filled",
            "filled_at": self.at,
        }
        return self.send("fills", value | more)

    def command(self, kind: str, command_id: str = "", **more: Any) -> list[Json]:
        value = {
            "command_id": command_id or f"unnamed-{self.offsets['controls']}",
            "account_id": "a",
            "type": kind,
            "operator": "ann",
            "reason": "desk",
            "issued_at": self.at,
        }
        return self.send("controls", value | more)

    def policy(self, name: str, rule: Any) -> list[Json]:
        return self.send("policies", {"name": name, "rule": rule}, key=name.encode())


def kinds(outputs: list[Json]) -> list[str]:
    return [output["value"].get("type") or output["value"].get("reason") or output["topic"] for output in outputs]


def codes(decision: Json) -> list[str]:
    return [reason["code"] for reason in decision.get("reasons", [])]


def line_of(decision: Json, code: str, scope: str | None = None) -> Json:
    lines = decision.get("checks") or decision["reasons"]
    (line,) = [one for one in lines if one["code"] == code and scope in (None, one["scope"])]
    found: Json = line
    return found


# --------------------------------------------------------------------------------------------------- reading, writing


@pytest.mark.parametrize(
    ("written", "amount"),
    [
        ("0.5", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("-1e-3", Fraction(-1, 1000)),
        (Number("0.12345678901234567890123456"), Fraction(12345678901234567890123456, 10**26)),
        ("0e99", Fraction(0)),
        ("-inf", NotFinite.MINUS_INFINITY),
        (Number("NaN"), NotFinite.NAN),
        ("nan", NotFinite.NAN),
    ],
)
def test_an_amount_is_read(written: Any, amount: Any) -> None:
    assert take({"x": written}, "x", read_amount) == amount


@pytest.mark.parametrize(
    "written", ["", " 1", "1_0", "5.", "1e30", "1e-31", "1" * 41, "0" * 65, "٣", "0x1", True, {}, Number("1e999999999")]
)
def test_an_amount_is_not_read(written: Any) -> None:
    assert take({"x": written}, "x", read_amount) is BAD


@pytest.mark.parametrize(
    ("amount", "written"),
    [
        (Fraction(10**20), "100000000000000000000"),
        (Fraction(-1, 10), "-0.1"),
        (Fraction(1, 3), "0.333333333333"),
        (Fraction(5, 10**13), "0"),
        (Fraction(-5, 10**13), "0"),
        (Fraction(15, 10**13), "0.000000000002"),
        (NotFinite.INFINITY, "Infinity"),
    ],
)
def test_an_amount_is_written_plainly(amount: Any, written: str) -> None:
    assert write_amount(amount) == written


def test_times_are_cut_to_milliseconds_and_written_in_utc() -> None:
    assert write_time(read_time("2017-12-19t13:00:00.0019+01:00")) == "2017-12-19T12:00:00.001Z"
    assert write_time(read_time("2017-12-19 12:00:00z")) == NOON
    for naive in ("2017-12-19T12:00:00", "2017-12-19", 1513681200, "2017-02-30T00:00:00Z"):
        assert take({"x": naive}, "x", read_time) is BAD


def test_a_payload_is_cut_at_a_character() -> None:
    assert write_payload(b"x" + "ø".encode() * 3_000) == "x" + "ø" * 2_047
    assert write_payload(b"\xff") == "/w=="


# ----------------------------------------------------------------------------------------------------------- approval


def test_an_approval_names_its_order_and_its_basis() -> None:
    desk = Desk()
    desk.pnl("10000")
    order = desk.signal(expires_at="2017-12-19T12:00:10Z")
    assert order["topic"] == "approved-orders"
    assert order["order_id"] == "o-" + hashlib.sha256(b"a\0s-1").hexdigest()[:32]
    assert order["valid_until"] == "2017-12-19T12:00:10Z"
    assert order["basis"] == {"partition": 0, "offsets": {"pnl": 0, "signals": 0}, "policy_version": 0}
    assert all(line["passed"] for line in order["checks"])
    assert (order["venue"], order["quantity"], order["leverage"]) == ("x", "0.1", None)


def test_trade_risk_is_stop_distance_fees_and_slippage() -> None:
    desk = Desk(instruments={"BTC-USD": {"fee_rate": "0.0005", "slippage": "0.001", "multiplier": "2"}})
    desk.pnl("10000")
    order = desk.signal()
    # 0.1 × 100 + 0.0005 × 0.1 × 19,900 + 0.001 × 0.1 × 10,000 = 11.995; twice that of 10,000
    assert line_of(order, "TRADE_RISK_EXCEEDED")["observed"] == "0.002399"
    assert line_of(order, "RISK_HEADROOM_EXCEEDED") | {"observed": "23.99", "limit": "200"} == line_of(
        order, "RISK_HEADROOM_EXCEEDED"
    )


@pytest.mark.parametrize(("quantity", "code"), [("1", None), ("1.000000000001", "TRADE_RISK_EXCEEDED")])
def test_a_risk_equal_to_its_limit_passes(quantity: str, code: str | None) -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.signal(quantity=quantity).get("code") == code


def test_risk_adds_up_to_the_headroom() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.signal("s-1", quantity="1")["topic"] == "approved-orders"
    assert desk.signal("s-2", quantity="1")["topic"] == "approved-orders"
    third = desk.signal("s-3", quantity="0.01")
    assert codes(third) == ["RISK_HEADROOM_EXCEEDED"]
    assert third["reasons"][0] | {"observed": "201", "limit": "200"} == third["reasons"][0]


def test_gross_leverage_counts_working_entries() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.signal("s-1", quantity="2", stop_loss="9999")
    assert desk.signal("s-2", quantity="1", stop_loss="9999")["topic"] == "approved-orders"
    third = desk.signal("s-3", quantity="0.000000000001", stop_loss="9999", leverage="3")
    assert codes(third) == ["LEVERAGE_EXCEEDED"]
    assert third["reasons"][0]["scope"] == "account"
    assert codes(desk.signal("s-4", leverage="3.01", stop_loss="9999"))[0] == "LEVERAGE_EXCEEDED"


def test_the_last_slot_is_taken_once() -> None:
    desk = Desk({"profile": "low"}, profiles={"low": {"max_open_positions": 1}})
    desk.pnl("10000")
    desk.signal("s-1")
    assert desk.signal("s-2", instrument="ETH-USD")["code"] == "MAX_OPEN_POSITIONS_EXCEEDED"
    assert desk.signal("s-3")["topic"] == "approved-orders"


def test_currency_conversion_needs_a_rate() -> None:
    desk = Desk({"currency": "NOK"})
    desk.pnl("10000")
    refused = desk.signal("s-1")
    assert codes(refused) == ["RISK_DATA_MISSING"]
    assert refused["reasons"][0]["observed"] == "USD"
    desk.pnl("10000", rates={"USD": "8"})
    assert line_of(desk.signal("s-2"), "TRADE_RISK_EXCEEDED")["observed"] == "0.008"


def test_venues_fail_over_unless_named() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.policy("venue/x", {"up": False})
    assert desk.signal("s-1")["venue"] == "y"
    assert desk.signal("s-2", venue="x")["code"] == "VENUE_UNAVAILABLE"
    assert desk.signal("s-3", venue="z")["code"] == "NO_VENUE"
    desk.policy("venue/y", {"up": False})
    assert desk.signal("s-4")["code"] == "VENUE_UNAVAILABLE"


def test_a_signal_without_account_takes_its_strategys_route() -> None:
    desk = Desk(strategies={"routes": {"trend": {"account": "a", "exchange": "y"}}})
    desk.pnl("10000")
    assert desk.signal(account_id=None)["venue"] == "y"
    (dead,) = desk.send("signals", desk.signal_value("s-2", account_id=None, strategy_id="other"))
    assert (dead["value"]["reason"], dead["value"]["account_id"]) == ("UNKNOWN_ACCOUNT", None)


def test_an_unknown_account_is_rejected_once() -> None:
    desk = Desk()
    assert codes(desk.signal(account_id="b", price="0")) == ["UNKNOWN_ACCOUNT", "INVALID_PRICE"]
    (dead,) = desk.send("signals", desk.signal_value("s-1", account_id="b"))
    assert (dead["value"]["reason"], dead["value"]["first_id"]) == ("DUPLICATE_SIGNAL", "s-1")


def test_bad_fields_are_named_in_the_order_of_the_contract() -> None:
    desk = Desk()
    desk.pnl("10000")
    decision = desk.signal(created_at="2017-12-19T12:00:00", side="BUY", leverage="0", strategy_id=None)
    named = [reason["observed"] for reason in decision["reasons"] if reason["code"] == "INVALID_SIGNAL"]
    assert named == ["strategy_id", "side", "leverage", "created_at"]


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"created_at": "2017-12-19T11:59:30Z"}, None),
        ({"created_at": "2017-12-19T11:59:29.999Z"}, "STALE_SIGNAL"),
        ({"created_at": "2017-12-19T12:00:30.001Z"}, "STALE_SIGNAL"),
        ({"expires_at": NOON}, "EXPIRED_SIGNAL"),
        ({"expires_at": "2017-12-19T12:00:00.001Z"}, None),
        ({"price": "NaN"}, "INVALID_PRICE"),
        ({"stop_loss": "-1"}, "INVALID_PRICE"),
        ({"quantity": "0.0000000000004"}, "INVALID_QUANTITY"),
        ({"stop_loss": None}, "STOP_LOSS_REQUIRED"),
        ({"stop_loss": "10000"}, "STOP_LOSS_REQUIRED"),
        ({"side": "sell"}, "STOP_LOSS_REQUIRED"),
        ({"side": "sell", "stop_loss": "10100"}, None),
        ({"reduce_only": True}, "REDUCE_ONLY_WOULD_INCREASE_POSITION"),
    ],
)
def test_a_signals_own_checks(more: Json, code: str | None) -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.signal(**more).get("code") == code


def test_optional_limits() -> None:
    limits = {
        "max_notional_per_order": "1000",
        "price_collar": "0.05",
        "rate_limit": {"orders": 1, "per": "1s"},
    }
    desk = Desk(limits=limits)
    desk.pnl("10000", marks={"BTC-USD": "10000"})
    assert desk.signal("s-1")["topic"] == "approved-orders"
    assert codes(desk.signal("s-2", quantity="0.2", price="9499", stop_loss="9400")) == [
        "NOTIONAL_EXCEEDS_MAX_PER_ORDER",
        "PRICE_COLLAR_EXCEEDED",
        "RATE_LIMIT_EXCEEDED",
    ]
    desk.at = "2017-12-19T12:00:01Z"
    assert desk.signal("s-3", price="9500", stop_loss="9400")["topic"] == "approved-orders"


def test_lists_of_strategies() -> None:
    desk = Desk(strategies={"blacklist": ["bad"], "normal": {"whitelist": ["trend", "bad"]}})
    desk.pnl("10000")
    assert desk.signal("s-1", strategy_id="bad")["code"] == "STRATEGY_BLACKLISTED"
    assert desk.signal("s-2", strategy_id="other")["code"] == "STRATEGY_NOT_WHITELISTED"
    desk.policy("strategies", {"whitelist": ["mean"]})
    assert desk.signal("s-3")["code"] == "STRATEGY_NOT_WHITELISTED"
    assert desk.signal("s-4", strategy_id="bad")["code"] == "STRATEGY_BLACKLISTED"


# ----------------------------------------------------------------------------------------------------------- drawdown


@pytest.mark.parametrize(
    ("breach", "equity", "locks"),
    [
        ("reach", "9800.01", []),
        ("reach", "9800", ["DAILY_DRAWDOWN"]),
        ("exceed", "9800", []),
        ("exceed", "9799", LOCK_REASONS[:1]),
    ],
)
def test_a_drawdown_at_its_limit_locks(breach: str, equity: str, locks: list[str]) -> None:
    desk = Desk(profiles={"normal": {"breach": breach, "warning": []}})
    desk.pnl("10000")
    assert kinds(desk.pnl(equity)) == locks
    assert desk.gate.state_of("a")["locks"] == locks


def test_one_update_can_add_several_reasons_in_order() -> None:
    desk = Desk(profiles={"normal": {"max_trailing_drawdown": "0.06", "warning": ["0.5"]}})
    desk.pnl("10000")
    assert kinds(desk.pnl("9400")) == ["WARNING"] * 3 + LOCK_REASONS[:3]
    assert kinds(desk.pnl("9000")) == []


def test_confirmations_count_breaches_in_a_row() -> None:
    desk = Desk(profiles={"normal": {"confirmations": 2, "warning": []}})
    desk.pnl("10000")
    assert desk.pnl("9800") == []
    assert codes(desk.signal("s-1"))[:2] == ["DRAWDOWN_UNCONFIRMED", "DAILY_DRAWDOWN_REACHED"]
    assert desk.pnl("9801") == []
    assert desk.pnl("9800") == []
    assert kinds(desk.pnl("9799")) == ["DAILY_DRAWDOWN"]


def test_an_update_at_the_boundary_is_tested_on_the_old_base_and_becomes_the_new_one() -> None:
    desk = Desk(profiles={"normal": {"warning": []}})
    desk.pnl("10000", "2017-12-19T23:00:00Z")
    closed, lock = desk.pnl("9800", "2017-12-20T00:00:00Z")
    assert closed["value"]["detail"] == {
        "period": "day",
        "start": "2017-12-19T00:00:00Z",
        "end": "2017-12-20T00:00:00Z",
        "base": "10000",
        "open": "10000",
        "close": "9800",
        "high": "10000",
        "low": "9800",
    }
    assert (closed["value"]["observed"], closed["value"]["limit"]) == ("0.02", "0.02")
    assert (lock["value"]["base_equity"], lock["value"]["period_start"]) == ("10000", "2017-12-19T00:00:00Z")
    assert desk.gate.state_of("a")["base_daily"] == "9800"
    assert desk.gate.state_of("a")["base_weekly"] == "10000"


def test_a_gap_rolls_from_the_last_usable_update() -> None:
    desk = Desk()
    desk.pnl("10000", "2017-12-19T23:00:00Z")
    desk.pnl("10050", "2017-12-19T23:30:00Z")
    outputs = desk.pnl("9900", "2017-12-26T09:00:00Z")
    assert [output["value"].get("detail", {}).get("period") for output in outputs] == ["day", "week", None]
    assert desk.gate.state_of("a")["base_daily"] == "10050"


def test_a_day_of_23_hours() -> None:
    desk = Desk({"timezone": "Europe/Oslo"})
    desk.pnl("10000", "2017-03-25T22:30:00Z")
    desk.pnl("10010", "2017-03-25T23:30:00Z")
    (closed, _) = desk.pnl("10020", "2017-03-26T22:00:00.001Z")
    assert closed["value"]["detail"]["start"] == "2017-03-25T23:00:00Z"
    assert closed["value"]["detail"]["end"] == "2017-03-26T22:00:00Z"


def test_a_deposit_changes_no_drawdown() -> None:
    desk = Desk(profiles={"normal": {"warning": []}})
    desk.pnl("10000")
    desk.pnl("9900")
    desk.pnl("19800", cash_flow="9900")
    state = desk.gate.state_of("a")
    assert (state["base_daily"], state["base_weekly"], state["hwm"]) == ("20000", "20000", "20000")
    assert kinds(desk.pnl("19600")) == ["DAILY_DRAWDOWN"]


def test_first_funding_and_a_full_withdrawal() -> None:
    desk = Desk()
    desk.pnl("0")
    assert desk.signal("s-1")["reasons"][0]["observed"] == "equity"
    desk.pnl("5000", cash_flow="5000")
    assert desk.gate.state_of("a")["base_daily"] == "5000"
    assert desk.pnl("0", cash_flow="-5000") == []
    assert desk.gate.state_of("a")["equity"] is None
    assert kinds(desk.pnl("-1")) == ["WARNING"] * 4 + ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]


def test_losing_everything_is_a_drawdown_of_one() -> None:
    desk = Desk()
    desk.pnl("10000")
    locks = [output for output in desk.pnl("0") if output["topic"] == "account-locked"]
    assert [lock["value"]["observed"] for lock in locks] == ["1", "1"]
    assert "RISK_DATA_MISSING" not in codes(desk.signal())


def test_initial_capital_is_what_losses_are_measured_on() -> None:
    desk = Desk({"loss_basis": "initial", "initial_capital": "20000"}, profiles={"normal": {"warning": []}})
    desk.pnl("10000")
    assert desk.pnl("9600.01") == []
    assert kinds(desk.pnl("10100", cash_flow="500.01")) == ["DAILY_DRAWDOWN"]
    assert desk.gate.state_of("a")["base_daily"] == "10500.01"


def test_the_base_may_be_the_balance() -> None:
    desk = Desk({"base": "max"})
    desk.pnl("10000", balance="10100")
    assert desk.gate.state_of("a")["base_daily"] == "10100"
    assert kinds(desk.pnl("10000")) == ["SCHEMA"]
    assert desk.gate.state_of("a")["equity"] is None


def test_an_unusable_update_consumes_its_sequence_and_carries_its_flow() -> None:
    desk = Desk(profiles={"normal": {"warning": []}})
    desk.pnl("10000")
    assert kinds(desk.pnl("NaN", cash_flow="1000")) == ["SCHEMA"]
    assert desk.signal()["code"] == "RISK_DATA_MISSING"
    assert kinds(desk.pnl("11000", sequence=2)) == ["STALE_SEQUENCE"]
    assert desk.pnl("11000") == []
    assert desk.gate.state_of("a")["base_daily"] == "11000"


def test_equity_from_the_future_and_old_equity() -> None:
    desk = Desk()
    assert kinds(desk.pnl("10000", as_of="2017-12-19T12:00:05.001Z")) == ["SCHEMA"]
    assert desk.pnl("10000", as_of="2017-12-19T12:00:05Z") == []
    assert line_of(desk.signal("s-1"), "RISK_DATA_STALE")["observed"] == "-5"
    desk.at = "2017-12-19T12:01:05.001Z"
    assert codes(desk.signal("s-2")) == ["RISK_DATA_STALE"]


def test_malformed_records_with_the_accounts_key_make_data_missing() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert kinds(desk.send("pnl", b"{")) == ["MALFORMED"]
    assert desk.gate.state_of("a")["equity"] is None
    assert kinds(desk.send("fills", b"{")) == ["MALFORMED", "FILL_UNUSABLE"]
    assert codes(desk.signal())[0] == "TRADING_STATE_REDUCING"
    assert kinds(desk.send("fills", b"{", key=b"nobody")) == ["MALFORMED"]


def test_warnings_come_once_per_tier_and_period() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert kinds(desk.pnl("9900")) == ["WARNING"]
    assert kinds(desk.pnl("9950")) == []
    assert kinds(desk.pnl("9840")) == ["WARNING"]
    assert kinds(desk.pnl("9840", "2017-12-20T12:00:00Z")) == ["PERIOD_CLOSED"]
    assert kinds(desk.pnl("9741")) == ["WARNING", "WARNING"]


# ---------------------------------------------------------------------------------------------------- fills and exits


def held(desk: Desk) -> Any:
    return desk.gate.state_of("a")["positions"]


def test_an_exit_passes_a_lock_and_goes_to_its_positions_venue() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.fill(venue="y")
    desk.pnl("9000")
    order = desk.signal(side="sell", stop_loss=None, created_at=NOON)
    assert (order["topic"], order["venue"], order["trading_state"]) == ("approved-orders", "y", "REDUCING")
    assert codes(desk.signal("s-2", side="sell", quantity="0.01"))[0] == "ACCOUNT_LOCKED_DAILY_DRAWDOWN"


def test_a_halt_stops_an_exit_too() -> None:
    desk = Desk()
    desk.fill()
    assert kinds(desk.command("halt")) == ["HALTED"]
    assert codes(desk.signal(side="sell")) == ["TRADING_HALTED"]
    assert kinds(desk.command("resume")) == ["RESUMED"]
    assert kinds(desk.command("resume")) == ["COMMAND_REFUSED"]


def test_partial_fills_keep_the_rest_reserved() -> None:
    desk = Desk()
    desk.pnl("10000")
    order_id = desk.signal()["order_id"]
    assert desk.fill("f-1", order_id, quantity="0.04", status="partially_filled") == []
    assert desk.gate.state_of("a")["open_orders"] == {order_id: "0.06"}
    assert kinds(desk.fill("f-1", order_id)) == ["DUPLICATE_FILL"]
    assert kinds(desk.fill("f-2", order_id, quantity="0.07")) == ["OVERFILL"]
    assert kinds(desk.fill("f-3", order_id, quantity="0.01")) == ["LATE_FILL"]
    assert desk.fill("f-4", order_id, quantity="0", price=None, status="cancelled") == []
    assert held(desk) == {("BTC-USD", "x"): "0.12"}


def test_an_unusable_fill_makes_the_account_reducing_until_resume() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert kinds(desk.fill("f-1", price="0")) == ["SCHEMA", "FILL_UNUSABLE"]
    assert desk.signal("s-1")["code"] == "TRADING_STATE_REDUCING"
    desk.command("resume")
    assert desk.signal("s-2")["topic"] == "approved-orders"
    assert desk.fill("f-1") == []


def test_a_position_averages_flips_and_takes_the_flipping_orders_stop() -> None:
    desk = Desk()
    desk.pnl("10000")
    order_id = desk.signal()["order_id"]
    desk.fill("f-1", order_id)
    desk.fill("f-2", quantity="0.3", price="10400")
    (position,) = desk.gate.accounts["a"].positions.values()
    assert (position.average_price, position.stops) == (Fraction(10_300), [Fraction(9_900)])
    desk.fill("f-3", side="sell", quantity="0.5", price="10500")
    (position,) = desk.gate.accounts["a"].positions.values()
    assert (position.quantity, position.average_price) == (Fraction(-1, 10), Fraction(10_500))
    assert not position.stops


def test_a_position_without_a_stop_counts_the_full_trade_risk() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.fill(quantity="0.001")
    assert line_of(desk.signal("s-1"), "RISK_HEADROOM_EXCEEDED")["observed"] == "110"


def test_an_order_past_its_time_asks_once() -> None:
    desk = Desk()
    desk.pnl("10000")
    order_id = desk.signal()["order_id"]
    assert desk.pnl("10000", "2017-12-19T12:00:30Z") == []
    (warning,) = desk.pnl("10000", "2017-12-19T12:00:30.001Z")
    assert (warning["value"]["order_id"], warning["value"]["observed"]) == (order_id, "0.001")
    assert desk.pnl("10000", "2017-12-19T12:00:31Z") == []
    assert kinds(desk.command("release_order", order_id=order_id)) == ["ORDER_RELEASED"]
    assert kinds(desk.command("release_order", order_id=order_id)) == ["COMMAND_REFUSED"]
    assert desk.gate.state_of("a")["open_orders"] == {}


def test_ids_are_remembered_for_the_horizon_and_older_input_is_refused() -> None:
    desk = Desk(limits={"dedup_horizon": "1m"})
    desk.pnl("10000")
    order_id = desk.signal("s-1")["order_id"]
    (dead,) = desk.send("signals", desk.signal_value("s-1"))
    assert (dead["value"]["reason"], dead["value"]["first_id"]) == ("DUPLICATE_SIGNAL", order_id)
    desk.at = "2017-12-19T12:01:00.001Z"
    assert kinds(desk.send("signals", desk.signal_value("s-1", created_at=NOON))) == ["TOO_OLD"]
    assert kinds(desk.fill("f-1", filled_at=NOON)) == ["TOO_OLD"]
    assert held(desk) == {}


# ---------------------------------------------------------------------------------------------- commands and policies


def test_unlock_keep_is_refused_while_breached_and_now_rebases() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.pnl("9700")
    assert kinds(desk.command("unlock")) == ["COMMAND_REFUSED"]
    assert kinds(desk.command("unlock", rebase="now")) == ["UNLOCKED"]
    state = desk.gate.state_of("a")
    assert (state["base_daily"], state["base_weekly"], state["locks"]) == ("9700", "10000", [])
    assert kinds(desk.command("unlock")) == ["COMMAND_REFUSED"]


def test_a_second_reason_locks_again_and_one_unlock_clears_all() -> None:
    desk = Desk()
    assert kinds(desk.command("lock")) == ["MANUAL"]
    assert kinds(desk.command("lock")) == ["COMMAND_REFUSED"]
    desk.pnl("10000")
    assert kinds(desk.pnl("9800"))[-1] == "DAILY_DRAWDOWN"
    desk.pnl("9801")
    assert kinds(desk.command("unlock", profile="low")) == ["COMMAND_REFUSED"]
    assert kinds(desk.command("unlock", rebase="now", profile="low")) == ["UNLOCKED", "PROFILE_CHANGED"]
    assert desk.gate.state_of("a")["profile"] == "low"


def test_a_profile_moves_up_one_rung_and_a_lower_one_may_lock_at_once() -> None:
    desk = Desk({"profile": "low"})
    assert kinds(desk.command("set_profile", profile="normal")) == ["COMMAND_REFUSED"]
    desk.pnl("10000")
    assert kinds(desk.command("set_profile", profile="aggressive")) == ["COMMAND_REFUSED"]
    assert kinds(desk.command("set_profile", profile="normal")) == ["PROFILE_CHANGED"]
    desk.pnl("9920")
    outputs = desk.command("set_profile", profile="micro")
    assert kinds(outputs) == ["DAILY_DRAWDOWN", "PROFILE_CHANGED"]
    assert outputs[0]["value"]["profile"] == "micro"


def test_two_persons() -> None:
    desk = Desk(controls={"two_person": True})
    desk.command("lock")
    assert kinds(desk.command("unlock", "c-1", approved_by="ann")) == ["COMMAND_REFUSED"]
    assert kinds(desk.command("unlock", "c-1", approved_by="bob")) == ["DUPLICATE_COMMAND"]
    assert kinds(desk.command("unlock", "c-2", approved_by="bob")) == ["UNLOCKED"]


def test_the_most_restrictive_state_wins_and_an_unusable_one_halts() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.policy("state/strategy/trend", {"state": "REDUCING"})
    refused = desk.signal("s-1")
    assert (refused["code"], refused["reasons"][0]["scope"]) == ("TRADING_STATE_REDUCING", "strategy")
    assert kinds(desk.policy("state/venue/x", {"state": "OFF"})) == ["POLICY_UNUSABLE"]
    refused = desk.signal("s-2")
    assert (refused["code"], refused["reasons"][0]["scope"]) == ("TRADING_HALTED", "venue")
    desk.policy("state/venue/x", None)
    desk.policy("state/strategy/trend", None)
    assert desk.signal("s-3")["basis"]["policy_version"] == 4


def test_a_malformed_state_policy_halts_the_scope_of_its_key() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert kinds(desk.send("policies", b"{", key=b"state/global")) == ["POLICY_UNUSABLE"]
    assert codes(desk.signal()) == ["TRADING_HALTED"]


def test_rollout_and_profile_policies() -> None:
    desk = Desk()
    desk.pnl("9990")
    desk.policy("rollout", {"phase": 2, "profiles": ["micro"]})
    refused = desk.signal("s-1")
    assert refused["reasons"][0] | {"observed": "normal", "limit": "2"} == refused["reasons"][0]
    desk.policy("rollout", None)
    assert kinds(desk.policy("profile/normal", {"max_daily_drawdown": "2"})) == ["POLICY_UNUSABLE"]
    desk.pnl("9980")
    desk.policy("profile/normal", {"max_daily_drawdown": "0.001"})
    assert codes(desk.signal("s-2", quantity="0.001")) == ["DAILY_DRAWDOWN_REACHED", "RISK_HEADROOM_EXCEEDED"]


# ------------------------------------------------------------------------------------------------ environment, replay


def test_accounts_and_limits_from_the_environment() -> None:
    env = {
        "QT_ACCOUNT_MAIN_BINANCE_EXCHANGE": "binance",
        "QT_ACCOUNT_MAIN_BINANCE_CAPITAL_PROFILE": "low",
        "QT_ACCOUNT_MAIN_BINANCE_API_KEY": "secret",
        "TIDEGATE_LIMITS_MAX_PNL_AGE": "2h",
    }
    gate = NaiveGate({}, env)
    assert gate.accounts["main_binance"].config == {"exchange": "binance", "profile": "low"}
    assert gate.limits["max_pnl_age"] == "2h"


def test_replay_counts_offsets_and_keeps_the_value_as_written() -> None:
    good = '{"topic": "pnl", "timestamp": "2017-12-19T12:00:00Z", "value": {"account_id": "b",  "x": 1.50}, "key": "k"}'
    outputs = NaiveGate({}).replay([good, "", "nonsense", good])
    letters = [output["value"] for output in outputs]
    assert [letter["reason"] for letter in letters] == ["UNKNOWN_ACCOUNT", "MALFORMED", "UNKNOWN_ACCOUNT"]
    assert [letter["offset"] for letter in letters] == [0, None, 1]
    assert letters[0]["payload"] == '{"account_id": "b",  "x": 1.50}'
    assert (letters[1]["payload"], letters[1]["topic"], letters[1]["partition"]) == ("nonsense", None, None)


@pytest.mark.parametrize("value", [None, b"", b"[]", b"\xff", b'{"a":' * 101 + b"1" + b"}" * 101])
def test_what_is_not_an_object_is_malformed(value: bytes | None) -> None:
    (dead,) = Desk().send("signals", value)
    assert dead["value"]["reason"] == "MALFORMED"
    assert dead["value"]["payload_size"] == len(value or b"")


# ---------------------------------------------------------------------------------------------------------- generator


def outputs_of(config: Json, records: list[Record]) -> list[Json]:
    gate = NaiveGate(config)
    found = []
    for record in records:
        found += gate.feed(
            record.topic, record.value, key=record.key, timestamp_ms=record.timestamp_ms, offset=record.offset
        )
    return found


def test_the_generator_reaches_every_code_event_and_reason() -> None:
    wanted = {("code", code) for code in REJECT_CODES} | {("event", kind) for kind in EVENT_TYPES}
    wanted |= {("dead", reason) for reason in DEAD_LETTER_REASONS} | {("lock", reason) for reason in LOCK_REASONS}
    wanted |= {("approved", "entry"), ("approved", "exit")}
    for seed in range(400):
        for output in outputs_of(*generate(seed, 80)):
            value = output["value"]
            if output["topic"] == "approved-orders":
                entry = any(line["code"] == "RISK_DATA_MISSING" for line in value["checks"])
                wanted.discard(("approved", "entry" if entry else "exit"))
            elif output["topic"] == "rejected-signals":
                wanted.discard(("code", value["code"]))
            elif output["topic"] == "account-events":
                wanted.discard(("event", value["type"]))
            else:
                wanted.discard(("dead" if output["topic"] == "dead-letters" else "lock", value["reason"]))
        if not wanted:
            break
    assert not wanted


@given(sequences())
@settings(max_examples=50, deadline=None)
def test_outputs_keep_the_contracts_order_and_name_themselves_once(sequence: tuple[Json, list[Record]]) -> None:
    outputs = outputs_of(*sequence)
    ids = [output["value"].get("event_id") or output["value"].get("lock_id") for output in outputs]
    named = [one for one in ids if one is not None]
    assert len(named) == len(set(named))
    for output in outputs:
        value = json.loads(json.dumps(output["value"]))
        if output["topic"] == "approved-orders":
            ranks = [REJECT_CODES.index(line["code"]) for line in value["checks"]]
            assert ranks == sorted(ranks)
            assert all(line["passed"] for line in value["checks"])
        if output["topic"] == "rejected-signals":
            ranks = [REJECT_CODES.index(reason["code"]) for reason in value["reasons"]]
            assert ranks == sorted(ranks)
            assert value["code"] == value["reasons"][0]["code"]


def test_a_seed_says_everything() -> None:
    assert generate(7, 30) == generate(7, 30)
    assert generate(7, 30)[1][:10] == generate(7, 10)[1]


def test_a_failing_sequence_is_made_short() -> None:
    _, records = generate(3, 40)
    needed = {records[4], records[31]}

    def fails(kept: list[Record]) -> bool:
        return needed <= set(kept)

    assert minimal(records, fails) == [records[4], records[31]]
