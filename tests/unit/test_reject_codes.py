"""Every reject code just below, at and above its limit; their order; and what a reducing order is asked."""

import re
from collections import defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import schemas
from streams.core.guard import CODES
from tests.unit.desk import ABSENT, TUESDAY, Desk
from tests.unit.reject_cases import PERMISSION, SIGNAL_ITSELF, Case, commanded, funded, under
from tests.unit.risk_cases import RISK_CASES

CASES = (*SIGNAL_ITSELF, *PERMISSION, *RISK_CASES)
CONTRACT = Path(schemas.__path__[0]) / "contract.md"


def contract_codes() -> list[str]:
    """The reject codes of section 4, as the contract's text lists them."""
    section = CONTRACT.read_text().split("## 4. Reject codes")[1].split("## 5.")[0]
    listing = section.split("\n\n")[1]
    return re.findall(r"`([A-Z_]+)`", listing)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code}: {case.situation}")
def test_code(case: Case) -> None:
    said = case.ask()
    expected = {"observed": case.observed, "limit": case.limit, "unit": case.unit, "scope": case.scope}
    if case.passes:
        assert said.approved["checks"]
        assert expected in said.checks(case.code)
        assert all(check["passed"] is True for check in said.approved["checks"])
    else:
        assert sorted(said.codes) == sorted([case.code, *case.also])
        assert said.checks(case.code) == [expected]


def test_every_code_has_a_passing_and_a_failing_case() -> None:
    shown = defaultdict(set)
    for case in CASES:
        shown[case.code].add(case.passes)
    assert {code: shown[code] for code in contract_codes()} == {code: {True, False} for code in contract_codes()}


def test_every_limit_has_a_case_below_at_and_above_it() -> None:
    """But locks, which show the drawdown that locked, and counts that lock when they reach their limit."""
    sides = defaultdict(set)
    for case in CASES:
        if case.limit is not None and case.unit != "name" and not case.code.startswith("ACCOUNT_LOCKED"):
            figure = Decimal(case.observed or "NaN")
            sides[case.code].add("?" if figure.is_nan() else figure.compare(Decimal(case.limit)))
    assert {code for code, seen in sides.items() if not seen >= {-1, 0, 1}} == {"DRAWDOWN_UNCONFIRMED"}
    assert len(sides) == 18


def test_codes_are_those_of_the_contract_in_its_order() -> None:
    assert len(contract_codes()) == 33
    assert list(CODES) == contract_codes()


# -- order ---------------------------------------------------------------------------------------------------------


def test_reasons_come_in_the_contracts_order_and_the_code_is_the_first() -> None:
    """One signal that fails nearly everything at once."""
    desk = Desk(
        profile="micro",
        account={"failover": ["kraken"]},
        profiles={"micro": {"max_trailing_drawdown": "0.01", "max_open_positions": 1}},
        strategies={"blacklist": ["trend"], "micro": {"whitelist": ["other"]}},
        limits={
            "max_notional_per_order": "1",
            "price_collar": "0.01",
            "rate_limit": {"orders": 1, "per": "1h"},
        },
    )
    desk.pnl("10000", marks={"BTC-USD": "100"})
    desk.hold("1")
    desk.working(side="sell", strategy_id="other", stop_loss=None, quantity="0.5")
    assert desk.pnl("9000").locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN", "TRAILING_DRAWDOWN"]
    desk.command("lock")
    desk.policy("state/global", {"state": "REDUCING"})
    desk.policy("rollout", {"phase": "pilot", "accounts": []})
    desk.policy("venue/binance", {"up": False})
    desk.policy("venue/kraken", {"up": False})
    desk.later(minutes=2)
    said = desk.signal(
        side="sell",
        instrument="BTC-USD",
        quantity="500",
        price="200",
        stop_loss="300",
        leverage="9",
        reduce_only=True,
        created_at=desk.time(minutes=-1),
        expires_at=desk.time(minutes=-1),
    )
    leaves_out = {
        "INVALID_SIGNAL",
        "UNKNOWN_ACCOUNT",
        "INVALID_PRICE",
        "INVALID_QUANTITY",
        "TRADING_HALTED",
        "NO_VENUE",
        "RISK_DATA_MISSING",
        "DRAWDOWN_UNCONFIRMED",
        "MAX_OPEN_POSITIONS_EXCEEDED",
        "STOP_LOSS_REQUIRED",
    }
    expected = [code for code in contract_codes() if code not in leaves_out]
    expected.insert(expected.index("LEVERAGE_EXCEEDED"), "LEVERAGE_EXCEEDED")
    assert said.codes == expected
    assert said.rejected["code"] == "STALE_SIGNAL"


def test_first_failing_code_names_the_rejection() -> None:
    desk = commanded("lock")
    assert desk.signal(stop_loss=None).codes == ["ACCOUNT_LOCKED_MANUAL", "STOP_LOSS_REQUIRED"]
    assert desk.signal(stop_loss=None).rejected["code"] == "ACCOUNT_LOCKED_MANUAL"
    assert desk.signal(strategy_id=9, stop_loss=None).rejected["code"] == "INVALID_SIGNAL"


def test_an_approval_lists_every_check_that_was_made_in_order() -> None:
    desk = Desk(
        profile="micro",
        profiles={"micro": {"max_trailing_drawdown": "0.5", "confirmations": 2}},
        strategies={"micro": {"whitelist": ["trend"]}},
        limits={
            "max_notional_per_order": "1000",
            "price_collar": "0.01",
            "rate_limit": {"orders": 1, "per": "1h"},
        },
    )
    desk.policy("rollout", {"phase": "pilot"})
    desk.pnl("10000", marks={"BTC-USD": "100"})
    checks = desk.signal(leverage="1", expires_at=desk.time(seconds=5)).approved["checks"]
    expected = [code for code in contract_codes() if code != "REDUCE_ONLY_WOULD_INCREASE_POSITION"]
    expected.insert(expected.index("LEVERAGE_EXCEEDED"), "LEVERAGE_EXCEEDED")
    assert [check["code"] for check in checks] == expected
    assert [check["scope"] for check in checks if check["code"] == "LEVERAGE_EXCEEDED"] == ["signal", "account"]
    assert all(set(check) == {"code", "observed", "limit", "unit", "scope", "passed"} for check in checks)


def test_what_is_off_or_lacks_its_input_is_not_listed() -> None:
    listed = {check["code"] for check in funded(profiles={"normal": {"headroom": False}}).signal().approved["checks"]}
    assert listed.isdisjoint(
        {
            "EXPIRED_SIGNAL",
            "ROLLOUT_PHASE",
            "REDUCE_ONLY_WOULD_INCREASE_POSITION",
            "STRATEGY_NOT_WHITELISTED",
            "DRAWDOWN_UNCONFIRMED",
            "TRAILING_DRAWDOWN_REACHED",
            "SPOT_ONLY",
            "RISK_HEADROOM_EXCEEDED",
            "NOTIONAL_EXCEEDS_MAX_PER_ORDER",
            "PRICE_COLLAR_EXCEEDED",
            "RATE_LIMIT_EXCEEDED",
        }
    )


def test_a_collar_without_any_mark_is_not_listed() -> None:
    said = funded(limits={"price_collar": "0.05"}).signal(price="5000", stop_loss="4999")
    assert said.checks("PRICE_COLLAR_EXCEEDED") == []


# -- what can be read ----------------------------------------------------------------------------------------------


def test_invalid_signal_names_every_bad_field_in_the_order_of_the_contracts_example() -> None:
    said = funded().signal(
        expires_at="?",
        created_at="?",
        venue=1,
        reduce_only=1,
        leverage="0",
        stop_loss="?",
        price="?",
        quantity="?",
        side="?",
        instrument=1,
        strategy_id=1,
    )
    assert [reason["observed"] for reason in said.checks("INVALID_SIGNAL")] == [
        "strategy_id",
        "instrument",
        "side",
        "quantity",
        "price",
        "stop_loss",
        "leverage",
        "reduce_only",
        "venue",
        "created_at",
        "expires_at",
    ]
    assert said.rejected | {"reasons": None, "basis": None} == {
        "signal_id": "s-1",
        "account_id": "main",
        "strategy_id": None,
        "instrument": None,
        "code": "INVALID_SIGNAL",
        "reasons": None,
        "decided_at": TUESDAY,
        "basis": None,
        "schema_version": 1,
    }


def test_after_a_bad_field_the_other_checks_are_still_made() -> None:
    said = under(("state/global", {"state": "HALTED"})).signal(side="up", quantity="-1", price=ABSENT)
    assert said.codes == ["INVALID_SIGNAL", "INVALID_SIGNAL", "INVALID_QUANTITY", "TRADING_HALTED"]


def test_an_unknown_account_is_asked_what_needs_no_account() -> None:
    desk = under(("state/global", {"state": "HALTED"}))
    said = desk.signal(
        account_id="other",
        price="0",
        quantity="0",
        stop_loss=None,
        created_at=desk.time(minutes=-1),
        expires_at=desk.time(),
    )
    assert said.codes == ["UNKNOWN_ACCOUNT", "STALE_SIGNAL", "EXPIRED_SIGNAL", "INVALID_PRICE", "INVALID_QUANTITY"]
    assert said[0].key == "other"


@pytest.mark.parametrize("equity", ["0", "-500"])
def test_lost_equity_fails_what_is_measured_on_it_with_nothing_observed(equity: str) -> None:
    desk = funded()
    desk.pnl(equity)
    said = desk.signal()
    nothing = {"observed": None, "limit": "3", "unit": "multiple", "scope": "account"}
    assert said.check("LEVERAGE_EXCEEDED") == nothing
    assert said.check("TRADE_RISK_EXCEEDED")["observed"] is None
    assert said.check("RISK_HEADROOM_EXCEEDED")["observed"] is None
    assert "RISK_DATA_MISSING" not in said.codes


# -- reducing orders -----------------------------------------------------------------------------------------------

EXIT_CODES = [
    "INVALID_SIGNAL",
    "UNKNOWN_ACCOUNT",
    "STALE_SIGNAL",
    "EXPIRED_SIGNAL",
    "INVALID_PRICE",
    "INVALID_QUANTITY",
    "TRADING_HALTED",
    "REDUCE_ONLY_WOULD_INCREASE_POSITION",
    "NO_VENUE",
    "VENUE_UNAVAILABLE",
]


def test_a_reducing_order_is_asked_only_what_makes_it_wrong_or_impossible() -> None:
    """Locked, stale, rolled out, black-listed, over every limit: an exit passes."""
    desk = Desk(
        profile="micro",
        strategies={"blacklist": ["trend"], "micro": {"whitelist": ["other"]}},
        limits={
            "max_notional_per_order": "1",
            "price_collar": "0.01",
            "rate_limit": {"orders": 1, "per": "1h"},
        },
    )
    desk.hold("10")
    desk.pnl("10000")
    assert desk.pnl("100").locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]
    desk.pnl("NaN")
    desk.command("lock")
    desk.policy("state/global", {"state": "REDUCING"})
    desk.policy("rollout", {"phase": "pilot", "accounts": []})
    desk.later(hours=2)
    for _ in range(3):
        said = desk.signal(
            side="sell", price="500", stop_loss=None, leverage="99", reduce_only=True, expires_at=desk.time(seconds=9)
        )
        assert [check["code"] for check in said.approved["checks"]] == EXIT_CODES
    assert said.approved["trading_state"] == "REDUCING"
    assert said.approved["reduce_only"] is True


def test_no_flag_is_needed_to_reduce() -> None:
    said = commanded("lock").hold("1").signal(side="sell", stop_loss=None)
    assert "REDUCE_ONLY_WOULD_INCREASE_POSITION" not in [check["code"] for check in said.approved["checks"]]
    assert said.approved["reduce_only"] is False


def test_an_exit_still_fails_its_own_checks() -> None:
    desk = commanded("halt").hold("1")
    desk.policy("venue/binance", {"up": False})
    said = desk.signal(
        side="sell",
        stop_loss="0",
        leverage="0",
        created_at=desk.time(minutes=-1),
        expires_at=desk.time(),
    )
    assert said.codes == [
        "INVALID_SIGNAL",
        "STALE_SIGNAL",
        "EXPIRED_SIGNAL",
        "INVALID_PRICE",
        "TRADING_HALTED",
        "VENUE_UNAVAILABLE",
    ]


def test_an_exit_goes_to_the_positions_venue_and_is_never_failed_over() -> None:
    desk = funded(account={"failover": ["kraken"]}).hold("1", venue="kraken")
    desk.policy("venue/binance", {"up": False})
    assert desk.signal(side="sell", quantity="0.5", stop_loss=None).approved["venue"] == "kraken"
    desk.policy("venue/binance", None)
    desk.policy("venue/kraken", {"up": False})
    said = desk.signal(side="sell", quantity="0.5", stop_loss=None)
    assert said.check("VENUE_UNAVAILABLE")["observed"] == "kraken"


def test_an_exit_goes_to_the_largest_opposite_position() -> None:
    desk = funded(account={"failover": ["kraken", "firi"]})
    desk.hold("1", venue="binance").hold("3", venue="kraken").hold("-9", venue="firi")
    assert desk.signal(side="sell", stop_loss=None).approved["venue"] == "kraken"


def test_equal_opposite_positions_are_tied_by_the_venues_name() -> None:
    desk = funded(account={"failover": ["firi"]}).hold("1", venue="firi").hold("1", venue="binance")
    assert desk.signal(side="sell", stop_loss=None).approved["venue"] == "binance"


def test_an_exit_to_a_venue_that_left_the_configuration_passes() -> None:
    desk = funded().hold("1", venue="bitstamp")
    assert desk.signal(side="sell", stop_loss=None).approved["venue"] == "bitstamp"


def test_an_exit_that_names_its_venue_only_reduces_there() -> None:
    desk = commanded("lock", account={"failover": ["kraken"]}).hold("1", venue="kraken")
    assert desk.signal(side="sell", stop_loss=None, venue="kraken").approved["venue"] == "kraken"
    assert "ACCOUNT_LOCKED_MANUAL" in desk.signal(side="sell", venue="binance").codes


def test_a_named_venue_that_is_not_the_accounts_makes_it_an_entry() -> None:
    said = commanded("lock").hold("1", venue="bitstamp").signal(side="sell", venue="bitstamp")
    assert said.codes[:2] == ["ACCOUNT_LOCKED_MANUAL", "NO_VENUE"]


def test_a_larger_opposite_order_is_an_entry_for_its_whole_quantity() -> None:
    desk = funded().hold("1")
    said = desk.signal(side="sell", quantity="3", stop_loss="101")
    assert said.check("TRADE_RISK_EXCEEDED")["observed"] == "0.0003"
    assert said.check("LEVERAGE_EXCEEDED")["observed"] == "0.04"


def test_working_exits_take_up_what_may_be_reduced() -> None:
    desk = commanded("lock").hold("1")
    first = desk.working(side="sell", stop_loss=None, quantity="0.7")
    assert desk.signal(side="sell", stop_loss=None, quantity="0.4").rejected["code"] == "ACCOUNT_LOCKED_MANUAL"
    desk.fill(order_id=first, side="sell", quantity="0", status="cancelled")
    assert desk.signal(side="sell", stop_loss=None, quantity="0.4").approved


def test_a_halted_account_refuses_exits_too() -> None:
    assert commanded("halt").hold("1").signal(side="sell", stop_loss=None).codes == ["TRADING_HALTED"]


def test_a_flagged_signal_that_would_not_only_reduce_is_refused_in_every_state() -> None:
    flagged: dict[str, Any] = {"side": "sell", "quantity": "2", "stop_loss": "101", "reduce_only": True}
    code = "REDUCE_ONLY_WOULD_INCREASE_POSITION"
    assert funded().hold("1").signal(**flagged).codes == [code]
    assert code in commanded("lock").hold("1").signal(**flagged).codes
    assert code in commanded("halt").hold("1").signal(**flagged).codes
