"""Deposits and withdrawals: no cash flow changes a drawdown, and none is mistaken for profit or loss."""

from decimal import Decimal
from typing import Any

import pytest

from tests.unit.desk import Desk

NO_WEEK = {"normal": {"max_weekly_drawdown": "0.9"}}


def down_one_percent(**desk: Any) -> Desk:
    made = Desk(profiles=NO_WEEK, **desk)
    made.pnl("10000")
    made.pnl("9900")
    return made


def daily(desk: Desk) -> str:
    """The day's drawdown as a signal sees it."""
    said = desk.signal(quantity="0.000001")
    observed: str = said.check("DAILY_DRAWDOWN_REACHED")["observed"]
    return observed


@pytest.mark.parametrize("flow", ["9900", "100000", "-4950", "-9800", "0.01", "0"])
def test_a_flow_changes_no_drawdown(flow: str) -> None:
    desk = down_one_percent()
    desk.pnl(str(Decimal(9900) + Decimal(flow)), cash_flow=flow)
    assert abs(Decimal(daily(desk)) - Decimal("0.01")) < Decimal("1e-11")


def test_the_base_is_multiplied_by_equity_over_equity_without_the_flow() -> None:
    desk = down_one_percent()
    desk.pnl("19800", cash_flow="9900")
    assert desk.pnl("19600.01").locks == []
    lock = desk.pnl("19600").lock
    assert (lock["base_equity"], lock["observed"]) == ("20000", "0.02")


def test_loss_in_the_update_of_a_flow_counts() -> None:
    """5,000 came in and 200 were lost: 9,800 without the flow, which is 2 % to within rounding."""
    desk = Desk()
    desk.pnl("10000")
    assert desk.pnl("14800.000001", cash_flow="5000").locks == []
    assert desk.pnl("14799.999999").locks == ["DAILY_DRAWDOWN"]


def test_week_and_high_follow_the_flow_too() -> None:
    limits = {"normal": {"max_daily_drawdown": "0.9", "max_weekly_drawdown": "0.1", "max_trailing_drawdown": "0.1"}}
    desk = Desk(profiles=limits)
    desk.pnl("10000")
    desk.pnl("5000", cash_flow="-5000")
    assert desk.pnl("4500.01").locks == []
    locks = desk.pnl("4500").of("account-locked")
    assert [(lock["reason"], lock["base_equity"]) for lock in locks] == [
        ("WEEKLY_DRAWDOWN", "5000"),
        ("TRAILING_DRAWDOWN", "5000"),
    ]


def test_the_high_follows_the_flow_before_it_is_raised() -> None:
    desk = Desk(profiles={"normal": {"max_trailing_drawdown": "0.01"}})
    desk.pnl("10000")
    desk.pnl("21000", cash_flow="10000")
    # × 21000 / 11000 is 19,090.9; the update's own equity is higher.
    assert desk.pnl("20790").lock["base_equity"] == "21000"


def test_a_first_updates_flow_is_not_applied() -> None:
    desk = Desk()
    assert desk.pnl("10000", cash_flow="10000") == []
    assert desk.pnl("9800").lock["base_equity"] == "10000"


def test_a_roll_comes_before_the_flow() -> None:
    desk = Desk(profiles=NO_WEEK)
    desk.pnl("10000")
    desk.at("2017-12-20T12:00:00Z")
    assert desk.pnl("19600", cash_flow="9600").names == ["PERIOD_CLOSED"]
    assert daily(desk) == "0", "19,600 without 9,600 is 10,000, yesterday's close"


def test_withdrawing_everything_leaves_equity_missing_until_funded() -> None:
    desk = down_one_percent()
    assert desk.pnl("0", cash_flow="-9900") == []
    assert desk.signal().codes == ["RISK_DATA_MISSING"]
    assert desk.pnl("0") == [], "still emptied, still nothing lost"
    assert desk.signal().codes == ["RISK_DATA_MISSING"]
    assert desk.pnl("5000", cash_flow="5000") == []
    assert daily(desk) == "0"
    assert desk.pnl("4900").lock["base_equity"] == "5000"


def test_an_emptied_account_that_loses_is_tested_again() -> None:
    desk = down_one_percent()
    desk.pnl("0", cash_flow="-9900")
    assert desk.pnl("-10").locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]


def test_losing_everything_is_no_withdrawal() -> None:
    assert down_one_percent().pnl("0").locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]


def test_first_funding() -> None:
    desk = Desk()
    assert desk.pnl("0") == []
    assert desk.signal().codes == ["RISK_DATA_MISSING"]
    assert desk.pnl("10000", cash_flow="10000") == []
    assert desk.signal().approved
    assert desk.pnl("9800").lock["base_equity"] == "10000"


def test_funding_out_of_debt_takes_the_new_equity_as_base() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.pnl("-100").locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]
    desk.pnl("5000", cash_flow="5100")
    assert desk.command("unlock").names == ["UNLOCKED"]
    assert desk.pnl("4900").lock["base_equity"] == "5000"


def test_while_equity_is_below_zero_bases_stay() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.pnl("-100")
    desk.pnl("-50", cash_flow="50")
    desk.pnl("9801")
    desk.command("unlock").event("UNLOCKED")
    assert daily(desk) == "0.0199"


def test_equity_that_becomes_zero_while_in_debt_is_a_loss() -> None:
    """E = 0 with f > 0: not left by a withdrawal."""
    desk = Desk()
    desk.pnl("10000")
    desk.pnl("9900")
    assert desk.pnl("0", cash_flow="50").locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]


def test_a_carried_flow_is_applied_with_the_next_usable_update() -> None:
    desk = down_one_percent()
    assert desk.pnl("NaN", cash_flow="5000").names == ["SCHEMA"]
    assert desk.pnl("wrong", cash_flow="4900").names == ["SCHEMA"]
    assert desk.pnl("19800") == []
    assert desk.pnl("19600").lock["base_equity"] == "20000"


def test_a_carried_flow_adds_to_the_updates_own() -> None:
    desk = down_one_percent()
    desk.pnl("NaN", cash_flow="10000")
    desk.pnl("19800", cash_flow="-100")
    assert desk.pnl("19600").lock["base_equity"] == "20000"


@pytest.mark.parametrize("flow", ["NaN", "Infinity", "much", None, []])
def test_a_flow_that_is_no_number_is_not_carried(flow: Any) -> None:
    desk = down_one_percent()
    desk.pnl("NaN", cash_flow=flow)
    desk.pnl("9900")
    assert daily(desk) == "0.01"


def test_what_was_carried_to_the_first_update_is_not_applied() -> None:
    desk = Desk()
    desk.pnl("NaN", cash_flow="5000")
    desk.pnl("10000")
    assert desk.pnl("9800").lock["base_equity"] == "10000"


def test_a_flow_is_carried_once() -> None:
    desk = down_one_percent()
    desk.pnl("NaN", cash_flow="9900")
    desk.pnl("19800")
    desk.pnl("19800")
    assert daily(desk) == "0.01"


def test_a_stale_updates_flow_is_ignored() -> None:
    desk = down_one_percent()
    assert desk.pnl("NaN", cash_flow="5000", sequence=2).names == ["STALE_SEQUENCE"]
    desk.pnl("9900")
    assert daily(desk) == "0.01"


# -- loss_basis = "initial" ----------------------------------------------------------------------------------------

INITIAL = {"loss_basis": "initial", "initial_capital": "10000"}


@pytest.mark.parametrize(("flow", "equity"), [("5000", "14900"), ("-5000", "4900")])
def test_under_initial_the_flow_is_added(flow: str, equity: str) -> None:
    desk = down_one_percent(account=INITIAL)
    desk.pnl(equity, cash_flow=flow)
    assert daily(desk) == "0.01"
    lock = desk.pnl(str(Decimal(equity) - 100)).lock
    assert (lock["base_equity"], lock["observed"]) == (str(10000 + int(flow)), "0.02")


def test_under_initial_the_high_moves_by_the_flow() -> None:
    limits = {"normal": {"max_daily_drawdown": "0.9", "max_weekly_drawdown": "0.9", "max_trailing_drawdown": "0.1"}}
    desk = Desk(account=INITIAL, profiles=limits)
    desk.pnl("12000")
    desk.pnl("11000", cash_flow="-1000")
    lock = desk.pnl("10000").lock
    assert (lock["base_equity"], lock["observed"]) == ("11000", "0.1")


def test_under_initial_withdrawing_everything_leaves_equity_missing() -> None:
    desk = down_one_percent(account=INITIAL)
    assert desk.pnl("0", cash_flow="-9900") == []
    assert desk.signal().codes == ["RISK_DATA_MISSING"]
    desk.pnl("9900", cash_flow="9900")
    assert daily(desk) == "0.01"


def test_what_was_lost_before_the_rest_was_withdrawn_locks() -> None:
    """9,999 lost and 1 withdrawn: the withdrawal must not take the loss with it."""
    desk = Desk()
    desk.pnl("10000")
    said = desk.pnl("0", cash_flow="-1")
    assert said.locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]
    lock = said.of("account-locked")[0]
    assert (lock["observed"], lock["base_equity"], lock["equity"]) == ("0.9999", "10000", None)
    assert desk.pnl("10000", cash_flow="10000").locks == []
    assert desk.signal().rejected["code"] == "ACCOUNT_LOCKED_DAILY_DRAWDOWN"


def test_what_was_lost_before_the_rest_was_withdrawn_is_warned_of_once() -> None:
    """Funded again on the same day and down again by as much: a tier is told once in a period."""
    desk = Desk(profiles={"normal": {"warning": ["0.5"], "max_daily_drawdown": "0.02", "max_weekly_drawdown": "0.9"}})
    desk.pnl("10000")
    first = desk.pnl("0", cash_flow="-9850").events("WARNING")
    desk.pnl("9850", cash_flow="9850")
    again = desk.pnl("9700").events("WARNING")
    assert [one["detail"]["limit"] for one in first] == ["DAILY_DRAWDOWN"]
    assert again == []


def test_a_full_withdrawal_without_a_loss_locks_nothing() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.pnl("0", cash_flow="-10000").locks == []
    assert desk.signal().rejected["code"] == "RISK_DATA_MISSING"
