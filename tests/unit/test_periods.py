"""Days and weeks: where they begin, what closes with them, daylight saving, gaps, updates exactly at a boundary."""

from typing import Any

import pytest

from schemas.types import read_time, write_time
from streams.core.calendar import day_of, week_of
from tests.unit.desk import Desk, Json, Said

NO_LIMITS = {"normal": {"max_daily_drawdown": "1", "max_weekly_drawdown": "1", "warning": []}}


def closed(said: Said) -> list[tuple[str, str, str]]:
    """Kind, start and end of each period that the record closed."""
    return [
        (event["detail"]["period"], event["detail"]["start"], event["detail"]["end"])
        for event in said.events("PERIOD_CLOSED")
    ]


def details(said: Said, period: str) -> Json:
    found: list[Json] = [event for event in said.events("PERIOD_CLOSED") if event["detail"]["period"] == period]
    assert len(found) == 1
    return found[0]


# -- the calendar --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "day_start", "at", "start", "hours"),
    [
        ("UTC", "00:00", "2017-12-19T11:00:00Z", "2017-12-19T00:00:00Z", 24),
        ("UTC", "00:00", "2017-12-19T00:00:00Z", "2017-12-19T00:00:00Z", 24),
        ("UTC", "00:00", "2017-12-18T23:59:59.999Z", "2017-12-18T00:00:00Z", 24),
        ("UTC", "17:30", "2017-12-19T17:29:59Z", "2017-12-18T17:30:00Z", 24),
        ("Europe/Oslo", "00:00", "2017-12-19T11:00:00Z", "2017-12-18T23:00:00Z", 24),
        ("Europe/Oslo", "00:00", "2018-03-25T12:00:00Z", "2018-03-24T23:00:00Z", 23),
        ("Europe/Oslo", "00:00", "2018-10-28T12:00:00Z", "2018-10-27T22:00:00Z", 25),
        ("America/New_York", "00:00", "2018-03-11T12:00:00Z", "2018-03-11T05:00:00Z", 23),
        ("America/New_York", "00:00", "2018-11-04T12:00:00Z", "2018-11-04T04:00:00Z", 25),
        ("America/New_York", "17:00", "2018-03-11T12:00:00Z", "2018-03-10T22:00:00Z", 23),
        ("America/New_York", "17:00", "2018-11-04T12:00:00Z", "2018-11-03T21:00:00Z", 25),
        # 02:30 does not exist: read with the offset before the gap, it is 03:30 summer time.
        ("Europe/Oslo", "02:30", "2018-03-25T02:00:00Z", "2018-03-25T01:30:00Z", 23),
        ("Europe/Oslo", "02:30", "2018-03-25T01:29:59Z", "2018-03-24T01:30:00Z", 24),
        # 02:30 comes twice: the first counts.
        ("Europe/Oslo", "02:30", "2018-10-28T00:30:00Z", "2018-10-28T00:30:00Z", 25),
        ("Europe/Oslo", "02:30", "2018-10-28T01:30:00Z", "2018-10-28T00:30:00Z", 25),
        ("Europe/Oslo", "02:30", "2018-10-28T00:29:59Z", "2018-10-27T00:30:00Z", 24),
        # Samoa skipped 30 December 2011; Kathmandu is 5:45 off.
        ("Pacific/Apia", "00:00", "2011-12-30T09:59:59Z", "2011-12-29T10:00:00Z", 24),
        ("Asia/Kathmandu", "00:00", "2017-12-19T11:00:00Z", "2017-12-18T18:15:00Z", 24),
    ],
)
def test_day(zone: str, day_start: str, at: str, start: str, hours: int) -> None:
    minutes = int(day_start[:2]) * 60 + int(day_start[3:])
    starts, ends = day_of(zone, minutes, read_time(at))
    assert (write_time(starts), (ends - starts) / 3_600_000) == (start, hours)
    assert day_of(zone, minutes, ends)[0] == ends
    assert day_of(zone, minutes, starts - 1)[1] == starts


@pytest.mark.parametrize(
    ("zone", "day_start", "at", "start", "hours"),
    [
        ("UTC", "00:00", "2017-12-19T11:00:00Z", "2017-12-18T00:00:00Z", 168),
        ("UTC", "00:00", "2017-12-17T23:59:59.999Z", "2017-12-11T00:00:00Z", 168),
        ("UTC", "17:00", "2017-12-18T16:59:59Z", "2017-12-11T17:00:00Z", 168),
        ("Europe/Oslo", "00:00", "2018-03-25T12:00:00Z", "2018-03-18T23:00:00Z", 167),
        ("Europe/Oslo", "00:00", "2018-10-28T12:00:00Z", "2018-10-21T22:00:00Z", 169),
        ("America/New_York", "17:00", "2018-11-05T12:00:00Z", "2018-10-29T21:00:00Z", 169),
    ],
)
def test_week(zone: str, day_start: str, at: str, start: str, hours: int) -> None:
    minutes = int(day_start[:2]) * 60 + int(day_start[3:])
    starts, ends = week_of(zone, minutes, read_time(at))
    assert (write_time(starts), (ends - starts) / 3_600_000) == (start, hours)


# -- rolls ---------------------------------------------------------------------------------------------------------


def test_the_base_is_the_last_usable_equity_at_or_before_the_boundary() -> None:
    desk = Desk(at="2017-12-19T11:00:00Z", profiles=NO_LIMITS)
    desk.pnl("10000")
    desk.at("2017-12-19T23:59:00Z").pnl("9900")
    desk.at("2017-12-20T00:01:00Z").pnl("9000")
    assert desk.signal(quantity="0.1").check("DAILY_DRAWDOWN_REACHED")["observed"] == "0.090909090909"
    assert desk.signal(quantity="0.1").check("WEEKLY_DRAWDOWN_REACHED")["observed"] == "0.1"


def test_an_unusable_update_at_the_boundary_is_no_base() -> None:
    desk = Desk(profiles=NO_LIMITS)
    desk.pnl("10000")
    desk.at("2017-12-20T00:00:00Z").pnl("NaN")
    said = desk.later(minutes=1).pnl("9000")
    assert details(said, "day")["detail"]["close"] == "10000"
    assert desk.signal(quantity="0.1").check("DAILY_DRAWDOWN_REACHED")["observed"] == "0.1"


def test_an_update_at_the_boundary_is_tested_on_the_old_base_and_becomes_the_new_one() -> None:
    desk = Desk()
    desk.pnl("10000")
    said = desk.at("2017-12-20T00:00:00Z").pnl("9800")
    assert said.names == ["PERIOD_CLOSED", "WARNING", "WARNING", "DAILY_DRAWDOWN"]
    assert (said.lock["base_equity"], said.lock["period_start"]) == ("10000", "2017-12-19T00:00:00Z")
    assert details(said, "day")["observed"] == "0.02"
    desk.command("unlock")
    assert desk.later(hours=1).pnl("9604.01").locks == []
    lock = desk.pnl("9604").lock
    assert (lock["base_equity"], lock["period_start"]) == ("9800", "2017-12-20T00:00:00Z")


def test_an_update_a_millisecond_after_the_boundary_is_tested_on_the_new_base() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.later(hours=12).pnl("9900")
    said = desk.at("2017-12-20T00:00:00.001Z").pnl("9703")
    assert (said.locks, closed(said)) == ([], [("day", "2017-12-19T00:00:00Z", "2017-12-20T00:00:00Z")])


def test_an_update_a_millisecond_before_the_boundary_closes_nothing() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.at("2017-12-19T23:59:59.999Z").pnl("10000") == []


def test_day_before_week() -> None:
    desk = Desk(at="2017-12-24T12:00:00Z", profiles=NO_LIMITS)
    desk.pnl("10000")
    expected = [
        ("day", "2017-12-24T00:00:00Z", "2017-12-25T00:00:00Z"),
        ("week", "2017-12-18T00:00:00Z", "2017-12-25T00:00:00Z"),
    ]
    assert closed(desk.at("2017-12-25T00:00:00Z").pnl("9000")) == expected
    other = Desk(at="2017-12-24T12:00:00Z", profiles=NO_LIMITS)
    other.pnl("10000")
    assert closed(other.at("2017-12-25T09:00:00Z").pnl("9000")) == expected


def test_skipped_days_and_weeks_close_nothing() -> None:
    desk = Desk(profiles=NO_LIMITS)
    desk.pnl("10000")
    said = desk.at("2018-01-31T12:00:00Z").pnl("9000")
    assert closed(said) == [
        ("day", "2017-12-19T00:00:00Z", "2017-12-20T00:00:00Z"),
        ("week", "2017-12-18T00:00:00Z", "2017-12-25T00:00:00Z"),
    ]
    assert desk.signal(quantity="0.1").check("DAILY_DRAWDOWN_REACHED")["observed"] == "0.1"
    assert closed(desk.at("2018-02-01T12:00:00Z").pnl("9000")) == [
        ("day", "2018-01-31T00:00:00Z", "2018-02-01T00:00:00Z")
    ]


def test_a_gap_that_ends_at_a_boundary_closes_both_days() -> None:
    desk = Desk(profiles=NO_LIMITS)
    desk.pnl("10000")
    said = desk.at("2017-12-22T00:00:00Z").pnl("9000")
    assert closed(said) == [
        ("day", "2017-12-19T00:00:00Z", "2017-12-20T00:00:00Z"),
        ("day", "2017-12-21T00:00:00Z", "2017-12-22T00:00:00Z"),
    ]
    first, second = said.events("PERIOD_CLOSED")
    assert (first["observed"], second["observed"]) == ("0", "0.1")
    assert (second["detail"]["base"], second["detail"]["open"]) == ("10000", "10000")


def test_the_first_update_closes_nothing_even_at_a_boundary_and_starts_there() -> None:
    desk = Desk(at="2017-12-18T00:00:00Z", profiles=NO_LIMITS)
    assert desk.pnl("10000") == []
    said = desk.at("2017-12-25T01:00:00Z").pnl("9000")
    assert closed(said) == [
        ("day", "2017-12-18T00:00:00Z", "2017-12-19T00:00:00Z"),
        ("week", "2017-12-18T00:00:00Z", "2017-12-25T00:00:00Z"),
    ]


def test_period_closed() -> None:
    desk = Desk(at="2017-12-19T08:00:00Z", profiles={"normal": {"max_daily_drawdown": "0.5", "warning": []}})
    desk.pnl("10000")
    for equity in ("10400", "9600", "9990"):
        desk.later(hours=1).pnl(equity)
    event = desk.at("2017-12-20T08:00:00Z").pnl("9700").event("PERIOD_CLOSED")
    assert event["detail"] == {
        "period": "day",
        "start": "2017-12-19T00:00:00Z",
        "end": "2017-12-20T00:00:00Z",
        "base": "10000",
        "open": "10000",
        "close": "9990",
        "high": "10400",
        "low": "9600",
    }
    assert (event["observed"], event["limit"], event["unit"]) == ("0.001", "0.5", "fraction")
    assert (event["at"], event["command_id"], event["order_id"]) == ("2017-12-20T08:00:00Z", None, None)
    detail = desk.at("2017-12-21T08:00:00Z").pnl("9900").event("PERIOD_CLOSED")["detail"]
    assert [detail[key] for key in ("base", "open", "close", "high", "low")] == ["9990", "9990", "9700", "9990", "9700"]


def test_an_update_at_the_boundary_is_close_high_or_low_of_the_day_that_it_ends() -> None:
    desk = Desk(profiles=NO_LIMITS)
    desk.pnl("10000")
    detail = desk.at("2017-12-20T00:00:00Z").pnl("9000").event("PERIOD_CLOSED")["detail"]
    assert [detail[key] for key in ("base", "open", "close", "high", "low")] == [
        "10000",
        "10000",
        "9000",
        "10000",
        "9000",
    ]


def test_flows_move_the_base_but_not_open_high_and_low() -> None:
    desk = Desk(profiles=NO_LIMITS)
    desk.pnl("10000")
    desk.pnl("20000", cash_flow="10000")
    detail = desk.at("2017-12-20T08:00:00Z").pnl("20000").event("PERIOD_CLOSED")["detail"]
    assert [detail[key] for key in ("base", "open", "close", "high", "low")] == [
        "20000",
        "10000",
        "20000",
        "20000",
        "10000",
    ]


def test_open_is_equity_also_where_the_base_is_balance() -> None:
    desk = Desk(account={"base": "balance"}, profiles=NO_LIMITS)
    desk.pnl("10000", balance="10100")
    detail = desk.at("2017-12-20T08:00:00Z").pnl("10000", balance="9000").event("PERIOD_CLOSED")["detail"]
    assert (detail["base"], detail["open"]) == ("10100", "10000")


def test_the_limit_of_a_closed_period_is_the_profiles() -> None:
    desk = Desk(at="2017-12-24T12:00:00Z")
    desk.pnl("10000")
    said = desk.at("2017-12-25T12:00:00Z").pnl("10000")
    assert [event["limit"] for event in said.events("PERIOD_CLOSED")] == ["0.02", "0.05"]


# -- daylight saving -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "starts", "ends"),
    [
        ("Europe/Oslo", "2018-03-24T23:00:00Z", "2018-03-25T22:00:00Z"),
        ("Europe/Oslo", "2018-10-27T22:00:00Z", "2018-10-28T23:00:00Z"),
        ("America/New_York", "2018-03-11T05:00:00Z", "2018-03-12T04:00:00Z"),
        ("America/New_York", "2018-11-04T04:00:00Z", "2018-11-05T05:00:00Z"),
    ],
)
def test_a_day_of_23_or_25_hours(zone: str, starts: str, ends: str) -> None:
    desk = Desk(at=starts, account={"timezone": zone}, profiles=NO_LIMITS)
    desk.pnl("10000")
    desk.at(ends).later(seconds=-0.001)
    assert desk.pnl("9000") == []
    said = desk.later(seconds=0.001).pnl("8000")
    assert closed(said)[0] == ("day", starts, ends)
    assert details(said, "day")["observed"] == "0.2"
    assert closed(said)[1][0] == "week", "both days are Sundays"


def test_two_accounts_roll_at_their_own_midnights() -> None:
    desk = Desk(account={"timezone": "Europe/Oslo"}, accounts={"other": {"timezone": "America/New_York"}})
    desk.pnl("10000")
    desk.pnl("10000", account_id="other")
    desk.at("2017-12-19T23:00:00Z")
    assert closed(desk.pnl("10000")) == [("day", "2017-12-18T23:00:00Z", "2017-12-19T23:00:00Z")]
    assert desk.pnl("10000", account_id="other") == []
    desk.at("2017-12-20T05:00:00Z")
    assert closed(desk.pnl("10000", account_id="other")) == [("day", "2017-12-19T05:00:00Z", "2017-12-20T05:00:00Z")]


def test_signals_use_the_last_updates_day() -> None:
    desk = Desk(limits={"max_pnl_age": "24h"})
    desk.pnl("10000")
    desk.pnl("9900")
    desk.at("2017-12-20T01:00:00Z")
    assert desk.signal(quantity="0.1").check("DAILY_DRAWDOWN_REACHED")["observed"] == "0.01"


@pytest.mark.parametrize("options", [{}, {"base": "max"}, {"loss_basis": "initial", "initial_capital": "10000"}])
def test_no_loss_falls_between_two_days(options: dict[str, Any]) -> None:
    """Whatever is lost from one usable update to the next is lost on some day's base."""
    desk = Desk(account=options)
    desk.pnl("10000", balance="10000")
    desk.at("2017-12-19T23:59:59Z").pnl("10000", balance="10000")
    assert desk.at("2017-12-20T00:00:01Z").pnl("9800", balance="9800").locks == ["DAILY_DRAWDOWN"]
