"""Bases, drawdowns and breaches by worked examples; days and weeks are in ``test_periods``, cash flows beside it.

Limits of profile ``normal``: 2 % a day, 5 % a week, trailing off.
"""

from decimal import Decimal
from typing import Any

import pytest

from tests.unit.desk import TUESDAY, Desk, Said


def marked(*equities: str, **desk: Any) -> tuple[Desk, Said]:
    """A desk after some updates, and what the last one said."""
    made = Desk(**desk)
    said = Said()
    for equity in equities:
        said = made.pnl(equity)
    return made, said


# -- breach --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("equity", "breach", "locks"),
    [
        ("9800.000000000001", "reach", []),
        ("9800", "reach", ["DAILY_DRAWDOWN"]),
        ("9799.999999999999", "reach", ["DAILY_DRAWDOWN"]),
        ("9800.000000000001", "exceed", []),
        ("9800", "exceed", []),
        ("9799.999999999999", "exceed", ["DAILY_DRAWDOWN"]),
        ("9799.999999999999999999999", "exceed", ["DAILY_DRAWDOWN"]),
    ],
)
def test_daily_limit(equity: str, breach: str, locks: list[str]) -> None:
    _, said = marked("10000", equity, profiles={"normal": {"breach": breach}})
    assert said.locks == locks


def test_the_lock_of_a_drawdown() -> None:
    desk = Desk()
    desk.pnl("10000")
    lock = desk.later(minutes=5).pnl("9799.5").lock
    assert lock.pop("lock_id").startswith("l-")
    assert lock == {
        "account_id": "main",
        "reason": "DAILY_DRAWDOWN",
        "observed": "0.02005",
        "limit": "0.02",
        "equity": "9799.5",
        "base_equity": "10000",
        "period_start": "2017-12-19T00:00:00Z",
        "profile": "normal",
        "trading_state": "REDUCING",
        "open_orders": [],
        "positions": [],
        "locked_at": "2017-12-19T11:05:00Z",
        "basis": {"partition": 0, "offsets": {"pnl": 1}, "policy_version": 0},
        "schema_version": 1,
    }


def test_weekly_lock_names_the_weeks_start_and_base() -> None:
    _, said = marked("10000", "9500", profiles={"normal": {"max_daily_drawdown": "0.5"}})
    lock = said.lock
    assert (lock["reason"], lock["observed"], lock["limit"]) == ("WEEKLY_DRAWDOWN", "0.05", "0.05")
    assert (lock["base_equity"], lock["period_start"]) == ("10000", "2017-12-18T00:00:00Z")


def test_trailing_lock_is_measured_from_the_high() -> None:
    desk, said = marked("10000", "11000", "10450", profiles={"normal": {"max_trailing_drawdown": "0.05"}})
    lock = said.lock
    assert (lock["reason"], lock["observed"], lock["limit"]) == ("TRAILING_DRAWDOWN", "0.05", "0.05")
    assert (lock["base_equity"], lock["period_start"]) == ("11000", None)
    assert desk.signal(quantity="0.1").rejected["code"] == "ACCOUNT_LOCKED_TRAILING_DRAWDOWN"


def test_trailing_is_off_unless_configured_but_its_high_is_kept() -> None:
    desk, said = marked("10000", "20000", "10000")
    assert said.locks == []
    desk.policy("profile/normal", {"max_trailing_drawdown": "0.5"})
    assert desk.pnl("10000").lock["base_equity"] == "20000"


def test_daily_is_measured_from_the_days_start_and_not_from_its_peak() -> None:
    assert marked("10000", "20000", "9801")[1].locks == []


def test_each_reason_yields_one_record_in_the_order_daily_weekly_trailing() -> None:
    desk, said = marked("10000", "5000", profiles={"normal": {"max_trailing_drawdown": "0.1"}})
    assert said.locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN", "TRAILING_DRAWDOWN"]
    assert len({lock["lock_id"] for lock in said.of("account-locked")}) == 3
    assert desk.pnl("4000").locks == [], "reasons already held yield none"


def test_a_reason_is_added_while_already_locked() -> None:
    desk, said = marked("10000", "9700")
    assert said.locks == ["DAILY_DRAWDOWN"]
    assert desk.pnl("9500").locks == ["WEEKLY_DRAWDOWN"]
    assert desk.signal(quantity="0.1").codes[:2] == ["ACCOUNT_LOCKED_DAILY_DRAWDOWN", "ACCOUNT_LOCKED_WEEKLY_DRAWDOWN"]


def test_the_account_remembers_its_last_breach() -> None:
    desk, _ = marked("10000", "9700")
    desk.command("unlock", rebase="now")
    breach = desk.account.standing.last_breach
    assert breach is not None
    assert (breach.reason, breach.at_ms) == ("DAILY_DRAWDOWN", 1513681200000)
    assert desk.time() == TUESDAY


@pytest.mark.parametrize("equity", ["0", "-1", "-10000"])
def test_equity_that_is_lost_counts_as_at_least_everything(equity: str) -> None:
    desk = Desk(profiles={"normal": {"max_daily_drawdown": "1", "max_weekly_drawdown": "1"}})
    desk.pnl("10000")
    locks = desk.pnl(equity).of("account-locked")
    assert [lock["reason"] for lock in locks] == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]
    assert Decimal(locks[0]["observed"]) == max(1, 1 - Decimal(equity) / 10000)


def test_everything_lost_does_not_exceed_everything() -> None:
    one = {"max_daily_drawdown": "1", "max_weekly_drawdown": "1", "breach": "exceed"}
    assert marked("10000", "0", profiles={"normal": one})[1].locks == []
    assert marked("10000", "-1", profiles={"normal": one})[1].locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]


def test_first_equity_below_zero_is_a_loss() -> None:
    said = marked("-5")[1]
    assert said.locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]
    assert said.of("account-locked")[0]["observed"] == "1"


# -- first update and bases ----------------------------------------------------------------------------------------


def test_the_first_update_is_its_own_base() -> None:
    desk, said = marked("10000")
    assert said == []
    assert desk.signal().check("DAILY_DRAWDOWN_REACHED")["observed"] == "0"


@pytest.mark.parametrize(
    ("base", "first", "equity", "locks"),
    [
        ("balance", {"equity": "10000", "balance": "9000"}, "8820.1", []),
        ("balance", {"equity": "10000", "balance": "9000"}, "8820", ["DAILY_DRAWDOWN"]),
        ("max", {"equity": "10000", "balance": "9000"}, "9800.1", []),
        ("max", {"equity": "10000", "balance": "9000"}, "9800", ["DAILY_DRAWDOWN"]),
        ("max", {"equity": "9900", "balance": "10000"}, "9800.1", []),
        ("max", {"equity": "9900", "balance": "10000"}, "9800", ["DAILY_DRAWDOWN"]),
        ("equity", {"equity": "10000", "balance": "20000"}, "9800.1", []),
    ],
)
def test_base_conventions(base: str, first: dict[str, str], equity: str, locks: list[str]) -> None:
    desk = Desk(account={"base": base}, profiles={"normal": {"max_weekly_drawdown": "0.5"}})
    desk.pnl(**first)
    assert [*desk.pnl(equity, balance="1").locks] == locks


def test_base_convention_takes_the_last_update_at_or_before_the_boundary() -> None:
    desk = Desk(account={"base": "balance"}, profiles={"normal": {"max_weekly_drawdown": "0.5"}})
    desk.pnl("10000", balance="10000")
    desk.pnl("10100", balance="12000")
    desk.at("2017-12-20T08:00:00Z")
    lock = desk.pnl("11000", balance="11000").lock
    assert (lock["base_equity"], lock["observed"]) == ("12000", "0.083333333333")


def test_the_test_is_always_on_equity() -> None:
    desk = Desk(account={"base": "balance"})
    desk.pnl("10000", balance="10000")
    assert desk.pnl("10000", balance="5000").locks == []
    assert desk.pnl("9800", balance="10000").locks == ["DAILY_DRAWDOWN"]


def test_initial_loss_basis_divides_by_the_initial_capital() -> None:
    """2 % of 100,000 may be lost from wherever the day began."""
    desk = Desk(account={"loss_basis": "initial", "initial_capital": "100000"})
    desk.pnl("150000")
    assert desk.pnl("148000.01").locks == []
    lock = desk.pnl("148000").lock
    assert (lock["observed"], lock["limit"], lock["base_equity"]) == ("0.02", "0.02", "150000")


def test_initial_loss_basis_with_balance_as_base() -> None:
    desk = Desk(account={"base": "max", "loss_basis": "initial", "initial_capital": "100000"})
    desk.pnl("100000", balance="101000")
    assert desk.pnl("99000", balance="1").lock["observed"] == "0.02"


def test_the_first_update_is_tested_on_its_own_base() -> None:
    assert Desk(account={"base": "max"}).pnl("9800", balance="10000").locks == ["DAILY_DRAWDOWN"]


def test_a_base_that_is_not_above_zero_becomes_the_equity() -> None:
    desk = Desk(account={"base": "balance"})
    assert desk.pnl("100", balance="-5") == []
    assert desk.pnl("98", balance="-5").locks == ["DAILY_DRAWDOWN"]


def test_a_base_that_is_not_above_zero_at_the_boundary_becomes_that_updates_equity() -> None:
    desk = Desk(account={"base": "balance"}, profiles={"normal": {"max_weekly_drawdown": "0.9"}})
    desk.pnl("100", balance="100")
    desk.at("2017-12-20T00:00:00Z").pnl("100", balance="-5")
    assert desk.later(hours=1).pnl("50", balance="-5").lock["base_equity"] == "100"


# -- confirmations -------------------------------------------------------------------------------------------------

THREE = {"normal": {"confirmations": 3}}


def test_confirmations_lock_at_the_nth_in_a_row() -> None:
    desk, said = marked("10000", "9800", "9790", profiles=THREE)
    assert said.locks == []
    assert desk.signal(quantity="0.1").rejected["code"] == "DRAWDOWN_UNCONFIRMED"
    lock = desk.pnl("9780").lock
    assert (lock["observed"], lock["equity"]) == ("0.022", "9780")
    assert "DRAWDOWN_UNCONFIRMED" not in desk.signal(quantity="0.1").codes


def test_a_non_breaching_update_resets_the_count() -> None:
    desk, _ = marked("10000", "9800", "9800", "9801", "9800", "9800", profiles=THREE)
    assert desk.pnl("9800").locks == ["DAILY_DRAWDOWN"]


def test_each_limit_counts_for_itself() -> None:
    desk, _ = marked("10000", "9700", "9400", profiles=THREE)
    assert desk.pnl("9400").locks == ["DAILY_DRAWDOWN"]
    assert desk.signal(quantity="0.1").check("DRAWDOWN_UNCONFIRMED")["observed"] == "2", "the week's"
    assert desk.pnl("9400").locks == ["WEEKLY_DRAWDOWN"]


def test_an_unusable_update_neither_confirms_nor_resets() -> None:
    desk, _ = marked("10000", "9800", "9800", "NaN", profiles=THREE)
    assert desk.pnl("9800").locks == ["DAILY_DRAWDOWN"]


def test_a_day_roll_resets_the_daily_count_only() -> None:
    weekly = {"normal": {"confirmations": 3, "max_weekly_drawdown": "0.02", "max_trailing_drawdown": "0.02"}}
    desk, _ = marked("10000", "9700", "9700", profiles=weekly)
    desk.at("2017-12-20T08:00:00Z")
    assert desk.pnl("9500").locks == ["WEEKLY_DRAWDOWN", "TRAILING_DRAWDOWN"], "the day's is its first: 2.06 % of 9,700"
    assert desk.pnl("9500").locks == []
    assert desk.pnl("9500").locks == ["DAILY_DRAWDOWN"]


def test_a_week_roll_resets_the_weekly_count_and_not_the_trailing_one() -> None:
    limits = {"normal": {"confirmations": 3, "max_daily_drawdown": "0.9", "max_trailing_drawdown": "0.05"}}
    desk, _ = marked("10000", "9500", "9500", profiles=limits)
    desk.at("2017-12-26T08:00:00Z")
    assert desk.pnl("9000").locks == ["TRAILING_DRAWDOWN"]
    assert desk.pnl("9000").locks == []
    assert desk.pnl("9000").locks == ["WEEKLY_DRAWDOWN"]


def test_an_update_at_the_boundary_confirms_before_it_resets() -> None:
    desk, _ = marked("10000", "9800", "9800", profiles=THREE)
    assert desk.at("2017-12-20T00:00:00Z").pnl("9800").locks == ["DAILY_DRAWDOWN"]


# -- sequence and as_of --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sequence", [5, 4, -1])
def test_a_sequence_that_is_not_above_the_last_is_ignored(sequence: int) -> None:
    desk = Desk()
    desk.pnl("10000", sequence=5)
    before = desk.account
    said = desk.pnl("1", sequence=sequence)
    assert said.names == ["STALE_SEQUENCE"]
    assert said.letter["account_id"] == "main"
    assert desk.account is before


def test_a_stale_sequence_is_stale_before_it_is_unusable() -> None:
    desk = Desk()
    desk.pnl("10000", sequence=5)
    assert desk.pnl("NaN", sequence=5).names == ["STALE_SEQUENCE"]
    assert desk.signal().approved


def test_sequences_may_begin_anywhere_and_leave_gaps() -> None:
    desk = Desk()
    assert desk.pnl("10000", sequence=-(2**63) + 1) == []
    assert desk.pnl("10000", sequence=2**63 - 1) == []


def test_an_earlier_as_of_with_a_higher_sequence_is_used_with_its_own_age() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.pnl("9800", as_of=desk.time(seconds=-61)).locks == ["DAILY_DRAWDOWN"]
    assert desk.signal(quantity="0.1").check("RISK_DATA_STALE")["observed"] == "61"


def test_an_earlier_as_of_counts_in_the_current_day_and_week() -> None:
    desk = Desk(at="2017-12-18T00:00:01Z")
    desk.pnl("10000")
    said = desk.pnl("9800", as_of="2017-12-15T23:00:00Z")
    assert said.names == ["WARNING", "WARNING", "DAILY_DRAWDOWN"]
    assert said.lock["period_start"] == "2017-12-18T00:00:00Z"
    assert desk.pnl("9800", as_of="2017-12-18T00:00:02Z") == [], "nothing rolls back and nothing rolls twice"


# -- unusable updates ----------------------------------------------------------------------------------------------

UNUSABLE: list[dict[str, Any]] = [
    {"equity": "NaN"},
    {"equity": float("inf")},
    {"equity": "-Infinity"},
    {"equity": "lots"},
    {"equity": None},
    {"balance": "NaN"},
    {"balance": "none"},
    {"cash_flow": "NaN"},
    {"cash_flow": []},
    {"marks": {"BTC-USD": "0"}},
    {"marks": {"BTC-USD": "-1"}},
    {"marks": {"BTC-USD": "NaN"}},
    {"marks": {"BTC-USD": None}},
    {"marks": []},
    {"rates": {"JPY": "0"}},
    {"rates": {"JPY": "inf"}},
    {"rates": {"": "1"}},
    {"as_of": "2017-12-19T11:00:05.001Z"},
    {"as_of": "2017-12-19T11:00:00"},
    {"as_of": None},
]


@pytest.mark.parametrize("fields", UNUSABLE, ids=str)
def test_an_unusable_update_is_dead_lettered_and_equity_is_missing(fields: dict[str, Any]) -> None:
    desk = Desk()
    desk.pnl("10000")
    said = desk.pnl(**fields)
    assert said.names == ["SCHEMA"]
    assert next(iter(fields)) in said.letter["detail"]
    assert said.letter["account_id"] == "main"
    assert desk.signal().check("RISK_DATA_MISSING")["observed"] == "equity"
    assert desk.pnl("10000", sequence=2).names == ["STALE_SEQUENCE"], "its sequence is consumed"
    assert desk.signal().check("RISK_DATA_MISSING")["observed"] == "equity"
    assert desk.pnl("10000", sequence=3) == []
    assert desk.signal().approved


def test_as_of_may_be_five_seconds_ahead() -> None:
    desk = Desk()
    assert desk.pnl("10000", as_of=desk.time(seconds=5)) == []
    assert desk.signal().approved


@pytest.mark.parametrize("base", ["balance", "max"])
def test_a_balance_that_the_base_needs_makes_its_update_unusable(base: str) -> None:
    desk = Desk(account={"base": base})
    said = desk.pnl("10000")
    assert said.names == ["SCHEMA"]
    assert "balance" in said.letter["detail"]


@pytest.mark.parametrize("sequence", ["2", 2.5, 2**63, -(2**63), None, True])
def test_an_unreadable_sequence_only_makes_equity_missing(sequence: Any) -> None:
    desk = Desk()
    desk.pnl("10000")
    said = desk.pnl("5000", sequence=sequence, cash_flow="-5000", marks={"BTC-USD": "1"})
    assert said.names == ["SCHEMA"]
    assert "sequence" in said.letter["detail"]
    assert desk.signal().check("RISK_DATA_MISSING")["observed"] == "equity"
    assert desk.pnl("9950", sequence=2) == [], "no sequence was consumed and no flow is carried"
    assert desk.signal(quantity="0.1").check("DAILY_DRAWDOWN_REACHED")["observed"] == "0.005"


def test_an_unusable_updates_marks_and_rates_are_not_taken() -> None:
    desk = Desk(limits={"price_collar": "0.05"})
    desk.pnl("10000", marks={"BTC-USD": "100"})
    desk.pnl("NaN", marks={"BTC-USD": "200"})
    desk.pnl("10000")
    assert desk.signal().check("PRICE_COLLAR_EXCEEDED")["observed"] == "0"


def test_an_unusable_update_opens_no_period_and_locks_nothing() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.at("2017-12-20T12:00:00Z").pnl("1", balance="NaN").names == ["SCHEMA"]
    assert desk.pnl("9000").of("account-locked")[0]["base_equity"] == "10000"


def test_missing_data_is_never_read_as_zero_loss() -> None:
    """A locked account stays locked, and an open one may not trade, while its equity cannot be read."""
    desk, _ = marked("10000", "9700", "NaN")
    assert desk.signal().codes == ["ACCOUNT_LOCKED_DAILY_DRAWDOWN", "RISK_DATA_MISSING"]


# -- warnings ------------------------------------------------------------------------------------------------------


def _tiers(said: Said) -> list[tuple[str, str]]:
    return [(event["detail"]["limit"], event["detail"]["tier"]) for event in said.events("WARNING")]


def test_warning() -> None:
    event = marked("10000", "9899")[1].event("WARNING")
    assert (event["observed"], event["limit"], event["unit"]) == ("0.0101", "0.02", "fraction")
    assert (event["command_id"], event["order_id"], event["at"]) == (None, None, TUESDAY)
    assert (event["detail"]["limit"], event["detail"]["tier"]) == ("DAILY_DRAWDOWN", "0.5")


@pytest.mark.parametrize(("equity", "tiers"), [("9900.01", []), ("9900", ["0.5"]), ("9840.01", ["0.5"])])
def test_a_warning_comes_at_its_tier(equity: str, tiers: list[str]) -> None:
    assert [tier for _, tier in _tiers(marked("10000", equity)[1])] == tiers


def test_a_warning_comes_at_its_tier_whatever_breach_says() -> None:
    _, said = marked("10000", "9900", profiles={"normal": {"breach": "exceed"}})
    assert _tiers(said) == [("DAILY_DRAWDOWN", "0.5")]


def test_warnings_come_once_per_tier_and_period() -> None:
    desk, said = marked("10000", "9900")
    assert _tiers(said) == [("DAILY_DRAWDOWN", "0.5")]
    assert _tiers(desk.pnl("9890")) == []
    assert _tiers(desk.pnl("10000")) == []
    assert _tiers(desk.pnl("9840")) == [("DAILY_DRAWDOWN", "0.8")]
    desk.at("2017-12-20T12:00:00Z")
    assert _tiers(desk.pnl("9741.6")) == [("DAILY_DRAWDOWN", "0.5"), ("WEEKLY_DRAWDOWN", "0.5")]
    assert _tiers(desk.at("2017-12-25T12:00:00Z").pnl("9496")) == [
        ("DAILY_DRAWDOWN", "0.5"),
        ("DAILY_DRAWDOWN", "0.8"),
        ("WEEKLY_DRAWDOWN", "0.5"),
    ]


def test_all_tiers_that_were_crossed_come_also_when_the_limit_itself_is_reached() -> None:
    _, said = marked("10000", "9500", profiles={"normal": {"warning": ["0.8", "0.5", "1"]}})
    assert _tiers(said) == [
        (limit, tier) for limit in ("DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN") for tier in ("0.5", "0.8", "1")
    ]
    assert said.names == ["WARNING"] * 6 + ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]


def test_trailing_warnings_come_again_after_a_new_high() -> None:
    limits = {"normal": {"max_daily_drawdown": "0.9", "max_weekly_drawdown": "0.9", "max_trailing_drawdown": "0.1"}}
    desk, said = marked("10000", "9500", profiles=limits)
    assert _tiers(said) == [("TRAILING_DRAWDOWN", "0.5")]
    assert _tiers(desk.pnl("10000")) == []
    assert _tiers(desk.pnl("9500")) == [], "10,000 was reached again and not passed"
    assert _tiers(desk.pnl("10001")) == []
    assert _tiers(desk.pnl("9500")) == [("TRAILING_DRAWDOWN", "0.5")]


def test_no_tiers_no_warnings() -> None:
    _, said = marked("10000", "9801", profiles={"normal": {"warning": []}})
    assert said == []


def test_equity_from_the_future_is_not_fresh() -> None:
    """A producer that dates record and mark years ahead must not keep its equity fresh for all those years."""
    desk = Desk()
    at = desk.time()
    desk.later(days=365).pnl("10000")
    desk.at(at)
    assert desk.signal().rejected["code"] == "RISK_DATA_STALE"
    desk.command("lock")
    assert desk.command("unlock", rebase="now").names == ["COMMAND_REFUSED"]


def test_a_tier_that_is_written_twice_warns_once() -> None:
    desk = Desk(profiles={"normal": {"warning": ["0.5", "0.50"]}})
    desk.pnl("10000")
    assert desk.pnl("9890").names.count("WARNING") == 1
