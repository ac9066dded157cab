"""Fills: positions and averages, orders and what they reserve, and every way in which a report can be odd."""

from typing import Any

import pytest

from tests.unit.desk import ABSENT, TUESDAY, Desk, Json

# Room for anything: these tests are about books, not limits.
ROOMY = {
    "normal": {"headroom": False, "max_leverage": "1000", "max_trade_risk": "1", "max_open_positions": 1000},
}


def funded(**desk: Any) -> Desk:
    made = Desk(**{"profiles": ROOMY, **desk})
    made.pnl("10000")
    return made


def gross(desk: Desk, **fields: Any) -> str:
    """(Gross notional of positions + working entries) / 10,000, as an entry of almost nothing sees it."""
    said = desk.signal(
        **{"quantity": "0.00000000001", "instrument": "X-USD", "price": "0.1", "stop_loss": "0.09", **fields}
    )
    observed: str = said.check("LEVERAGE_EXCEEDED")["observed"]
    return observed


def reserved(desk: Desk) -> dict[str, str]:
    """What working entries still reserve, by order, as a lock would publish it."""
    orders: list[Json] = desk.command("lock").lock["open_orders"]
    desk.command("unlock")
    return {order["order_id"]: order["quantity_left"] for order in orders}


# -- positions -----------------------------------------------------------------------------------------------------

Trade = tuple[str, str, str]


@pytest.mark.parametrize(
    ("trades", "position"),
    [
        ([("buy", "2", "100")], ("2", "100")),
        ([("sell", "2", "100")], ("-2", "100")),
        ([("buy", "1", "100"), ("buy", "3", "200")], ("4", "175")),
        ([("sell", "1", "100"), ("sell", "1", "101")], ("-2", "100.5")),
        ([("buy", "4", "100"), ("sell", "1", "500")], ("3", "100")),
        ([("sell", "4", "100"), ("buy", "1", "50")], ("-3", "100")),
        ([("buy", "4", "100"), ("sell", "4", "101")], None),
        ([("buy", "4", "100"), ("sell", "6", "90")], ("-2", "90")),
        ([("sell", "4", "100"), ("buy", "6", "90")], ("2", "90")),
        ([("buy", "0.000000000001", "0.000000000001")], ("0.000000000001", "0.000000000001")),
        ([("buy", "0.1", "1"), ("buy", "0.2", "1"), ("sell", "0.3", "1")], None),
    ],
)
def test_positions_and_averages(trades: list[Trade], position: tuple[str, str] | None) -> None:
    desk = Desk()
    for side, quantity, price in trades:
        assert desk.fill(side=side, quantity=quantity, price=price) == []
    assert desk.position() == position


def test_an_average_keeps_at_least_28_digits() -> None:
    desk = Desk().hold("1", "1").hold("2", "2")
    position = desk.account.book.at("BTC-USD", "binance")
    assert position is not None
    assert f"{position.average_price}".startswith("1.6666666666666666666666666666")


def test_positions_are_per_instrument_and_venue() -> None:
    desk = Desk(account={"failover": ["kraken"]})
    desk.hold("1").hold("2", venue="kraken").hold("-3", instrument="ETH-USD")
    assert desk.position() == ("1", "100")
    assert desk.position(venue="kraken") == ("2", "100")
    assert desk.position("ETH-USD") == ("-3", "100")


@pytest.mark.parametrize("venue", [ABSENT, None])
def test_the_venue_defaults_to_the_orders_then_to_the_primary(venue: Any) -> None:
    desk = funded(account={"failover": ["kraken"]})
    order_id = desk.working(venue="kraken")
    desk.fill(order_id=order_id, venue=venue)
    desk.fill(venue=venue, quantity="5")
    assert desk.position(venue="kraken") == ("1", "100")
    assert desk.position(venue="binance") == ("5", "100")


def test_the_venue_of_a_fill_is_its_own_even_if_the_account_does_not_know_it() -> None:
    desk = funded()
    order_id = desk.working()
    assert desk.fill(order_id=order_id, venue="elsewhere") == []
    assert desk.position(venue="elsewhere") == ("1", "100")


def test_a_fill_without_any_venue_is_unusable() -> None:
    desk = Desk(account={"exchange": None})
    assert desk.fill().names == ["SCHEMA", "FILL_UNUSABLE"]


def test_the_last_fill_price_is_the_mark_until_pnl_brings_one() -> None:
    desk = funded(limits={"price_collar": "0.5"}).hold("1", "110").hold("-1", "80")
    assert desk.signal().check("PRICE_COLLAR_EXCEEDED")["observed"] == "0.25"
    desk.pnl("10000", marks={"BTC-USD": "100"})
    desk.hold("1", "200")
    assert desk.signal().check("PRICE_COLLAR_EXCEEDED")["observed"] == "0"


def test_fees_and_rebates_move_no_position() -> None:
    desk = Desk()
    for fee in ("4.13", "-1", None, ABSENT, 0.5):
        assert desk.fill(fee=fee) == []
    assert desk.position() == ("5", "100")


# -- stops ---------------------------------------------------------------------------------------------------------


def risk(desk: Desk) -> str:
    """Σ risk in money of what is held, as an entry of almost nothing sees it."""
    limits = {"max_daily_drawdown": "0.9", "max_weekly_drawdown": "0.9", "max_trade_risk": "0.5"}
    desk.policy("profile/normal", {**limits, "headroom": True})
    said = desk.signal(quantity="0.00000000001", instrument="X-USD", price="0.1", stop_loss="0.09")
    observed: str = said.check("RISK_HEADROOM_EXCEEDED")["observed"]
    return observed


def filled(desk: Desk, side: str, quantity: str, stop: str | None, **fields: Any) -> None:
    order_id = desk.working(side=side, quantity=quantity, stop_loss=stop)
    assert desk.fill(order_id=order_id, side=side, quantity=quantity, **fields) == []


def test_a_positions_stop_is_the_lowest_of_a_long() -> None:
    desk = funded()
    filled(desk, "buy", "1", "98")
    assert risk(desk) == "2"
    filled(desk, "buy", "1", "95")
    filled(desk, "buy", "1", "97")
    assert risk(desk) == "15", "three at 5 from mark to the furthest stop"


def test_a_positions_stop_is_the_highest_of_a_short() -> None:
    desk = funded()
    filled(desk, "sell", "1", "102")
    filled(desk, "sell", "1", "105")
    filled(desk, "sell", "1", "101")
    assert risk(desk) == "15"


def test_fills_that_reduce_bring_no_stop() -> None:
    desk = funded()
    filled(desk, "buy", "2", "98")
    filled(desk, "sell", "1", "50")
    assert risk(desk) == "2"


def test_a_stop_is_forgotten_when_flat() -> None:
    desk = funded()
    filled(desk, "buy", "1", "90")
    filled(desk, "sell", "1", None)
    filled(desk, "buy", "1", "98")
    assert risk(desk) == "2"


def test_after_a_flip_only_the_flipping_orders_stop_counts() -> None:
    desk = funded()
    filled(desk, "buy", "1", "90")
    filled(desk, "sell", "3", "103")
    assert desk.position() == ("-2", "100")
    assert risk(desk) == "6"


def test_a_trade_made_by_hand_brings_no_stop_and_takes_none() -> None:
    desk = funded()
    filled(desk, "buy", "1", "98")
    desk.hold("1")
    assert risk(desk) == "4"


def test_a_position_without_a_stop_counts_the_most_that_a_trade_may_risk() -> None:
    assert risk(funded().hold("1")) == "5000"


def test_a_late_fill_still_brings_its_orders_stop() -> None:
    desk = funded()
    order_id = desk.working(stop_loss="98")
    desk.fill(order_id=order_id, quantity="0", price=None, status="cancelled")
    assert desk.fill(order_id=order_id).names == ["LATE_FILL"]
    assert risk(desk) == "2"


# -- orders --------------------------------------------------------------------------------------------------------


def test_partial_fills_keep_the_rest_reserved() -> None:
    desk = funded()
    order_id = desk.working(quantity="10")
    assert reserved(desk) == {order_id: "10"}
    assert desk.fill(order_id=order_id, quantity="4", status="partially_filled") == []
    assert reserved(desk) == {order_id: "6"}
    assert desk.fill(order_id=order_id, quantity="5", status="partially_filled") == []
    assert reserved(desk) == {order_id: "1"}
    assert desk.fill(order_id=order_id, quantity="1") == []
    assert reserved(desk) == {}
    assert desk.position() == ("10", "100")


@pytest.mark.parametrize("status", ["filled", "cancelled", "rejected", "expired"])
def test_a_final_status_releases_what_is_left(status: str) -> None:
    desk = funded()
    order_id = desk.working(quantity="10")
    assert desk.fill(order_id=order_id, quantity="4", status=status) == []
    assert reserved(desk) == {}
    assert gross(desk) == "0.04"


@pytest.mark.parametrize("price", ["0", "-1", "NaN", None, ABSENT, "100"])
@pytest.mark.parametrize("status", ["cancelled", "rejected", "expired", "partially_filled"])
def test_a_report_that_filled_nothing_needs_no_price(status: str, price: Any) -> None:
    desk = funded()
    order_id = desk.working()
    assert desk.fill(order_id=order_id, quantity="0", price=price, status=status) == []
    assert desk.position() is None
    assert (order_id in reserved(desk)) == (status == "partially_filled")


def test_an_order_filled_whole_by_partial_reports_reserves_nothing_but_stays_open() -> None:
    desk = funded()
    order_id = desk.working(quantity="2")
    desk.fill(order_id=order_id, quantity="2", status="partially_filled")
    assert reserved(desk) == {}
    assert gross(desk) == "0.02"
    assert desk.fill(order_id=order_id, quantity="0", status="cancelled") == [], "no late fill: it was open"


def test_time_alone_releases_nothing() -> None:
    desk = funded()
    order_id = desk.working()
    desk.later(hours=100)
    assert reserved(desk) == {order_id: "1"}


def test_two_signals_never_both_take_the_last_slot() -> None:
    desk = Desk(profiles={"normal": {"max_open_positions": 1}})
    desk.pnl("10000")
    first = desk.working(instrument="BTC-USD")
    assert desk.signal(instrument="ETH-USD").codes == ["MAX_OPEN_POSITIONS_EXCEEDED"]
    desk.fill(order_id=first, quantity="0.4", status="partially_filled")
    assert desk.signal(instrument="ETH-USD").codes == ["MAX_OPEN_POSITIONS_EXCEEDED"]
    desk.fill(order_id=first, quantity="0", status="cancelled")
    assert desk.signal(instrument="ETH-USD").codes == ["MAX_OPEN_POSITIONS_EXCEEDED"], "0.4 is held"
    desk.fill(side="sell", quantity="0.4")
    assert desk.signal(instrument="ETH-USD").approved


def test_two_signals_never_both_take_the_last_leverage() -> None:
    desk = Desk(profiles={"normal": {"max_leverage": "1"}})
    desk.pnl("10000")
    desk.working(quantity="60", stop_loss="99.9")
    assert desk.signal(quantity="60", stop_loss="99.9").codes == ["LEVERAGE_EXCEEDED"]


# -- odd reports ---------------------------------------------------------------------------------------------------


def test_overfill() -> None:
    desk = funded()
    order_id = desk.working(quantity="2")
    desk.fill(order_id=order_id, quantity="1.5", status="partially_filled")
    event = desk.fill(order_id=order_id, quantity="1").event("OVERFILL")
    assert (event["order_id"], event["observed"], event["limit"], event["unit"]) == (order_id, "2.5", "2", "amount")
    assert (event["command_id"], event["at"]) == (None, TUESDAY)
    assert desk.position() == ("2.5", "100")
    assert reserved(desk) == {}


def test_a_fill_of_exactly_the_order_is_no_overfill() -> None:
    desk = funded()
    assert desk.fill(order_id=desk.working(quantity="2"), quantity="2") == []


def test_an_overfill_by_partial_reports_reserves_nothing() -> None:
    desk = funded()
    order_id = desk.working(quantity="2")
    assert desk.fill(order_id=order_id, quantity="3", status="partially_filled").names == ["OVERFILL"]
    assert gross(desk) == "0.03"


@pytest.mark.parametrize("status", ["filled", "partially_filled", "cancelled"])
def test_any_quantity_on_a_closed_order_is_a_late_fill_only(status: str) -> None:
    desk = funded()
    order_id = desk.working(quantity="2")
    desk.fill(order_id=order_id, quantity="2")
    said = desk.fill(order_id=order_id, quantity="3", status=status)
    assert said.names == ["LATE_FILL"]
    event = said.event("LATE_FILL")
    assert (event["order_id"], event["observed"], event["limit"], event["unit"]) == (order_id, "3", None, "amount")
    assert desk.position() == ("5", "100")
    assert reserved(desk) == {}, "closed stays closed"


def test_a_repeated_final_status_without_quantity_raises_nothing() -> None:
    desk = funded()
    order_id = desk.working()
    desk.fill(order_id=order_id, quantity="0", status="cancelled")
    assert desk.fill(order_id=order_id, quantity="0", status="cancelled") == []


def test_unknown_order() -> None:
    desk = funded()
    event = desk.fill(order_id="o-hand", quantity="3").event("UNKNOWN_ORDER")
    assert (event["order_id"], event["observed"], event["limit"], event["unit"]) == ("o-hand", "3", None, "amount")
    assert desk.position() == ("3", "100")


@pytest.mark.parametrize("order_id", [None, ABSENT])
def test_a_null_order_raises_no_event(order_id: Any) -> None:
    desk = funded()
    assert desk.fill(order_id=order_id) == []
    assert desk.position() == ("1", "100")


def test_an_order_of_another_account_is_unknown() -> None:
    desk = funded(accounts={"other": {"exchange": "binance"}})
    order_id = desk.working()
    assert desk.fill(order_id=order_id, account_id="other").names == ["UNKNOWN_ORDER"]
    assert reserved(desk) == {order_id: "1"}


def test_a_closed_order_is_remembered_for_the_horizon() -> None:
    desk = funded(limits={"dedup_horizon": "1h"})
    order_id = desk.working()
    desk.fill(order_id=order_id)
    desk.later(hours=1)
    assert desk.fill(order_id=order_id).names == ["LATE_FILL"]
    desk.later(seconds=0.001)
    assert desk.fill(order_id=order_id).names == ["UNKNOWN_ORDER"]


def test_a_fill_moves_the_position_by_its_own_fields() -> None:
    desk = funded()
    order_id = desk.working(quantity="2")
    assert desk.fill(order_id=order_id, instrument="ETH-USD", side="sell", quantity="2", price="7") == []
    assert desk.position() is None
    assert desk.position("ETH-USD") == ("-2", "7")
    assert reserved(desk) == {}


# -- unusable ------------------------------------------------------------------------------------------------------

UNUSABLE: list[Json] = [
    {"fill_id": ABSENT},
    {"fill_id": ""},
    {"instrument": ABSENT},
    {"instrument": 5},
    {"side": "long"},
    {"side": ABSENT},
    {"quantity": ABSENT},
    {"quantity": "-1"},
    {"quantity": "NaN"},
    {"quantity": float("inf")},
    {"quantity": "much"},
    {"quantity": True},
    {"price": "0"},
    {"price": "-100"},
    {"price": "NaN"},
    {"price": None},
    {"price": ABSENT},
    {"fee": "NaN"},
    {"fee": "free"},
    {"status": "new"},
    {"status": ABSENT},
    {"filled_at": ABSENT},
    {"filled_at": "2017-12-19T11:00:00"},
    {"order_id": 9},
    {"venue": 9},
]


@pytest.mark.parametrize("fields", UNUSABLE, ids=lambda fields: "-".join(f"{k}={v}"[:30] for k, v in fields.items()))
def test_an_unusable_fill_lets_only_exits_pass_until_resume(fields: Json) -> None:
    desk = funded().hold("1")
    said = desk.fill(**fields)
    assert said.names == ["SCHEMA", "FILL_UNUSABLE"]
    assert next(iter(fields)) in said.letter["detail"]
    assert said.letter["account_id"] == "main"
    event = said.event("FILL_UNUSABLE")
    assert (event["observed"], event["limit"], event["unit"], event["order_id"]) == (None, None, None, None)
    assert desk.position() == ("1", "100")
    assert desk.signal().codes == ["TRADING_STATE_REDUCING"]
    assert desk.signal(side="sell", quantity="0.5", stop_loss=None).approved["trading_state"] == "REDUCING"
    desk.command("resume").event("RESUMED")
    assert desk.signal().approved


def test_each_unusable_fill_is_told() -> None:
    desk = Desk()
    desk.fill(price="0")
    assert desk.fill(price="0").names == ["SCHEMA", "FILL_UNUSABLE"]


def test_an_unusable_fills_id_is_not_remembered() -> None:
    desk = Desk()
    desk.fill("f-1", price="0")
    assert desk.fill("f-1") == []
    assert desk.position() == ("1", "100")


def test_an_unusable_fill_of_an_order_leaves_it_open() -> None:
    desk = funded()
    order_id = desk.working()
    desk.fill(order_id=order_id, price="0")
    assert reserved(desk) == {order_id: "1"}


# -- repeats and age -----------------------------------------------------------------------------------------------


def test_a_repeated_fill_changes_nothing() -> None:
    desk = funded()
    order_id = desk.working(quantity="2")
    desk.fill("f-1", order_id=order_id, status="partially_filled")
    before = desk.account
    said = desk.fill("f-1", order_id=order_id, quantity="9")
    assert said.names == ["DUPLICATE_FILL"]
    assert said.letter["first_id"] == "f-1"
    assert said.letter["account_id"] == "main"
    assert desk.account == before


def test_a_fill_id_is_the_accounts_own() -> None:
    desk = Desk(accounts={"other": {"exchange": "binance"}})
    desk.fill("f-1")
    assert desk.fill("f-1", account_id="other") == []


def test_a_repeat_is_a_repeat_even_if_it_became_unusable() -> None:
    desk = Desk()
    desk.fill("f-1")
    assert desk.fill("f-1", price="NaN").names == ["DUPLICATE_FILL"]
    assert desk.account.standing.fill_unusable is False


@pytest.mark.parametrize(("age_ms", "names"), [(3_600_000, []), (3_600_001, ["TOO_OLD"])])
def test_a_fill_older_than_the_horizon_is_too_old(age_ms: int, names: list[str]) -> None:
    desk = Desk(limits={"dedup_horizon": "1h"})
    said = desk.fill(filled_at=desk.time(milliseconds=-age_ms))
    assert said.names == names
    assert (desk.position() is None) == bool(names)


def test_too_old_comes_before_duplicate_and_changes_no_state_when_unusable() -> None:
    desk = Desk(limits={"dedup_horizon": "1h"})
    filled_at = desk.time(hours=-1)
    desk.fill("f-1", filled_at=filled_at)
    desk.later(seconds=1)
    assert desk.fill("f-1", filled_at=filled_at).names == ["TOO_OLD"]
    assert desk.fill("f-2", filled_at=filled_at, price="NaN").names == ["TOO_OLD"]
    assert desk.account.standing.fill_unusable is False


def test_a_fill_id_is_remembered_from_the_later_of_now_and_filled_at() -> None:
    desk = Desk(limits={"dedup_horizon": "1h"})
    ahead = desk.time(minutes=30)
    desk.fill("f-1", filled_at=ahead)
    desk.later(minutes=90)
    assert desk.fill("f-1", filled_at=ahead).names == ["DUPLICATE_FILL"]
    desk.later(seconds=0.001)
    assert desk.fill("f-1", filled_at=desk.time()) == []


def test_a_fill_of_an_unknown_account_is_a_dead_letter() -> None:
    said = Desk().fill(account_id="other")
    assert said.names == ["UNKNOWN_ACCOUNT"]
    assert said.letter["account_id"] == "other"


# -- overdue orders ------------------------------------------------------------------------------------------------


def test_an_order_past_its_valid_until_warns_once_with_the_accounts_first_record_after_it() -> None:
    desk = funded()
    order_id = desk.working()
    assert desk.later(seconds=30).pnl("10000") == []
    event = desk.later(seconds=1.5).pnl("10000").event("WARNING")
    assert (event["order_id"], event["observed"], event["limit"], event["unit"]) == (order_id, "1.5", "0", "seconds")
    assert desk.later(hours=1).pnl("10000") == []


def test_overdue_warnings_come_in_order_of_approval_and_before_those_of_limits() -> None:
    desk = Desk()
    desk.pnl("10000")
    first, second = desk.working(), desk.working(instrument="ETH-USD", expires_at=desk.time(seconds=1))
    said = desk.at("2017-12-20T11:00:00Z").pnl("9900")
    assert said.names == ["PERIOD_CLOSED", "WARNING", "WARNING", "WARNING"]
    assert [event["order_id"] for event in said.events("WARNING")] == [first, second, None]


def test_a_dead_letter_raises_no_overdue_warning() -> None:
    desk = funded()
    desk.working()
    desk.later(minutes=1)
    assert desk.pnl("10000", sequence=1).names == ["STALE_SEQUENCE"]
    assert desk.pnl("NaN", sequence=2).names == ["SCHEMA"]
    assert desk.fill(price="0").names == ["SCHEMA", "FILL_UNUSABLE"]
    assert desk.command("unlock").names == ["COMMAND_REFUSED"]
    assert desk.signal("s-1").names == ["DUPLICATE_SIGNAL"]
    assert desk.signal("s-9").names == ["WARNING", "TRADING_STATE_REDUCING"]


@pytest.mark.parametrize("said", ["signal", "fill", "command"])
def test_any_record_of_the_account_raises_it(said: str) -> None:
    desk = funded()
    order_id = desk.working()
    desk.later(seconds=31)
    outputs = {
        "signal": lambda: desk.signal(stop_loss=None),
        "fill": lambda: desk.fill(order_id=order_id, quantity="0", status="cancelled"),
        "command": lambda: desk.command("halt"),
    }[said]()
    assert outputs.names[0] == "WARNING"
    assert outputs.event("WARNING")["order_id"] == order_id


def test_a_record_of_another_account_does_not() -> None:
    desk = funded(accounts={"other": {"exchange": "binance"}})
    desk.working()
    desk.later(seconds=31)
    assert desk.fill(account_id="other") == []


def test_working_exits_warn_too() -> None:
    desk = funded().hold("1")
    desk.working(side="sell", stop_loss=None)
    assert desk.later(seconds=31).pnl("10000").names == ["WARNING"]


def test_a_closed_order_does_not_warn() -> None:
    desk = funded()
    desk.fill(order_id=desk.working())
    assert desk.later(seconds=31).pnl("10000") == []


def test_a_fill_that_contradicts_its_order_brings_no_stop() -> None:
    """A buy's stop under a short would read as no risk at all."""
    desk = Desk()
    desk.pnl("10000")
    order = desk.signal(quantity="1", price="100", stop_loss="99").approved
    desk.fill(order_id=order["order_id"], side="sell", quantity="1", price="100")
    position = desk.account.book.at(order["instrument"], order["venue"])
    assert position is not None
    assert (str(position.quantity), position.stop) == ("-1", None)
