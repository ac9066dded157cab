from decimal import Decimal
from typing import Any

import pytest

from streams.demo.executor import Executor, Fill
from streams.demo.market import TICK_MS, Tick, time_text

START_MS = 1_512_086_400_000


def tick(step: int, price: str, *, trading: bool = True) -> Tick:
    return Tick(
        0, START_MS + step * TICK_MS, {"BTC-USD": Decimal(price)}, frozenset({"BTC-USD"} if trading else ()), step == 0
    )


def order(
    number: int, side: str, price: str, *, quantity: str = "2", stop: str | None = "90", ticks_valid: int = 18
) -> dict[str, Any]:
    return {
        "order_id": f"o-{number:032x}",
        "account_id": "main",
        "strategy_id": "trend",
        "instrument": "BTC-USD",
        "side": side,
        "quantity": quantity,
        "price": price,
        "stop_loss": stop,
        "valid_until": time_text(START_MS + ticks_valid * TICK_MS + 1000),
    }


def outcome(fills: list[Fill]) -> list[tuple[str, Decimal, Decimal]]:
    return [(fill.status, fill.quantity, fill.price) for fill in fills]


@pytest.mark.parametrize(("side", "limit"), [("buy", "101"), ("buy", "100"), ("sell", "99"), ("sell", "100")])
def test_a_marketable_order_is_filled_at_once_at_the_markets_price(side: str, limit: str) -> None:
    executor = Executor()
    executor.approved(order(1, side, limit))
    assert outcome(executor.on_decisions(tick(0, "100"))) == [("filled", Decimal(2), Decimal(100))]
    assert executor.working("main") == 0


def test_a_resting_order_is_filled_in_two_halves_at_its_limit() -> None:
    executor = Executor()
    executor.approved(order(1, "buy", "95"))
    assert executor.on_decisions(tick(0, "100")) == []
    assert executor.entry_working("main", "trend")
    assert executor.on_tick(tick(1, "96")) == []
    assert outcome(executor.on_tick(tick(2, "94"))) == [("partially_filled", Decimal(1), Decimal(95))]
    assert outcome(executor.on_tick(tick(3, "95"))) == [("filled", Decimal(1), Decimal(95))]
    assert not executor.entry_working("main", "trend")


def test_nothing_is_filled_while_the_market_is_closed() -> None:
    executor = Executor()
    executor.approved(order(1, "buy", "101"))
    assert executor.on_decisions(tick(0, "100", trading=False)) == []
    assert executor.on_tick(tick(1, "100", trading=False)) == []
    assert executor.working("main") == 1


def test_an_order_that_would_not_live_to_the_next_tick_expires() -> None:
    executor = Executor()
    executor.approved(order(1, "buy", "95", ticks_valid=2))
    executor.on_decisions(tick(0, "100"))
    assert executor.on_tick(tick(1, "100")) == []
    assert outcome(executor.on_tick(tick(2, "100"))) == [("expired", Decimal(0), Decimal(95))]


def test_a_lock_cancels_the_entries_that_it_lists_and_leaves_exits() -> None:
    executor = Executor()
    executor.approved(order(1, "buy", "95"))
    executor.approved(order(2, "sell", "110", stop=None))
    executor.on_decisions(tick(0, "100"))
    executor.locked({"open_orders": [{"order_id": f"o-{1:032x}"}]})
    assert outcome(executor.on_decisions(tick(0, "100"))) == [("cancelled", Decimal(0), Decimal(95))]
    assert executor.working("main") == 1
    assert executor.on_decisions(tick(0, "100")) == []


def test_an_order_seen_before_is_not_sent_again() -> None:
    executor = Executor()
    executor.approved(order(1, "buy", "100"))
    assert len(executor.on_decisions(tick(0, "100"))) == 1
    executor.approved(order(1, "buy", "100"))
    assert executor.on_decisions(tick(0, "100")) == []


def test_report_ids_are_functions_of_the_order() -> None:
    executor = Executor()
    executor.approved(order(7, "buy", "95"))
    executor.on_decisions(tick(0, "100"))
    ids = [fill.fill_id for step in (1, 2) for fill in executor.on_tick(tick(step, "90"))]
    assert ids == ["f-0000000000000000-1", "f-0000000000000000-2"]
