from decimal import Decimal

import pytest

from streams.demo.accounts import COSTS, Seat
from streams.demo.strategies import Holding, Intent, Scene, decide, sized, stop_reached

FLAT = Holding(Decimal(0), Decimal(0), None, entry_working=False)
LONG = Holding(Decimal(1), Decimal(100), Decimal(95), entry_working=False)
SHORT = Holding(Decimal(-1), Decimal(100), Decimal(105), entry_working=False)
RISING = [Decimal(n) for n in range(100, 124)]
FALLING = RISING[::-1]


def seat(rule: str, *, shorts: bool = False) -> Seat:
    return Seat(f"{rule}_btc", rule, "BTC-USD", Decimal("0.01"), Decimal("0.02"), 4, 1, shorts)


def wanted(
    rule: str, closes: list[Decimal], price: str, holding: Holding = FLAT, *, hour: int = 1, shorts: bool = False
) -> Intent | None:
    scene = Scene(hour, Decimal(price), closes, Decimal(100_000))
    return decide(seat(rule, shorts=shorts), COSTS["BTC-USD"], scene, holding)


def side_of(intent: Intent | None) -> str | None:
    if intent is None:
        return None
    return f"exit {intent.side}" if intent.is_exit else intent.side


@pytest.mark.parametrize(
    ("rule", "closes", "price", "holding", "expected"),
    [
        ("trend", RISING, "125", FLAT, "buy"),
        ("trend", FALLING, "99", FLAT, None),
        ("trend", FALLING, "99", LONG, "exit sell"),
        ("trend", RISING, "125", LONG, None),
        ("trend", RISING[:5], "125", FLAT, None),
        ("breakout", RISING, "125", FLAT, "buy"),
        ("breakout", RISING, "120", FLAT, None),
        ("breakout", FALLING, "99", LONG, "exit sell"),
        ("fade", RISING, "110", FLAT, "buy"),
        ("fade", RISING, "125", FLAT, None),
        ("fade", RISING, "125", LONG, "exit sell"),
        ("dip", RISING, "125", FLAT, "buy"),
        ("dip", RISING, "102", LONG, None),
        ("dip", RISING, "103", LONG, "exit sell"),
        ("deep", RISING, "125", LONG, "buy"),
    ],
)
def test_rules(rule: str, closes: list[Decimal], price: str, holding: Holding, expected: str | None) -> None:
    assert side_of(wanted(rule, closes, price, holding)) == expected


def test_shorts_are_for_seats_that_may() -> None:
    assert side_of(wanted("trend", FALLING, "99", shorts=True)) == "sell"
    assert side_of(wanted("fade", RISING, "125", shorts=True)) == "sell"
    assert side_of(wanted("fade", RISING, "110", SHORT, shorts=True)) == "exit buy"


def test_entries_wait_for_their_hour_and_for_the_order_at_work() -> None:
    assert wanted("trend", RISING, "125", hour=2) is None
    assert wanted("dip", RISING, "125", FLAT._replace(entry_working=True)) is None


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_an_entry_loses_at_its_stop_what_its_seat_may_lose(side: str) -> None:
    equity, price, costs = Decimal(100_000), Decimal(10_000), COSTS["BTC-USD"]
    intent = sized(seat("trend"), costs, equity, price, side)
    assert intent is not None
    assert intent.stop is not None
    assert intent.stop == (9_800 if side == "buy" else 10_200)
    per_unit = abs(price - intent.stop) + costs.fee_rate * (price + intent.stop) + costs.slippage * price
    assert equity * Decimal("0.0099") < intent.quantity * per_unit <= equity * Decimal("0.01")


def test_a_quantity_below_a_step_is_no_order() -> None:
    assert sized(seat("trend"), COSTS["BTC-USD"], Decimal(1), Decimal(10_000), "buy") is None


@pytest.mark.parametrize(
    ("holding", "price", "reached"),
    [(LONG, "95", True), (LONG, "95.01", False), (SHORT, "105", True), (SHORT, "104.99", False), (FLAT, "1", False)],
)
def test_stops(holding: Holding, price: str, reached: bool) -> None:
    assert stop_reached(Decimal(price), holding) is reached
