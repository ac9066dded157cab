"""A small executor: it fills approved orders at the market's prices and cancels the entries of locked accounts.

It reads only what a real one would (`approved-orders`, `account-locked`), treats every order as a limit order, and
reports each change as a `fills` record: a marketable order is filled at once at the market's price; another rests
until a tick reaches its limit, is filled in two halves, and expires at its `valid_until`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any, NamedTuple

from streams.demo.accounts import COSTS
from streams.demo.market import TICK_MS, Tick, time_ms

CENT = Decimal("0.01")


class Fill(NamedTuple):
    """One execution report. `quantity` is what it filled, 0 for a cancel or an expiry; `stop` is the order's."""

    fill_id: str
    order_id: str
    account: str
    instrument: str
    side: str
    quantity: Decimal
    price: Decimal
    fee: Decimal
    status: str
    stop: Decimal | None


@dataclass
class WorkingOrder:
    """An order at the venue, with the quantity that is still to be filled."""

    order_id: str
    account: str
    strategy: str
    instrument: str
    side: str
    price: Decimal
    stop: Decimal | None
    left: Decimal
    valid_until_ms: int
    reports: int = 0

    @property
    def is_entry(self) -> bool:
        return self.stop is not None


class Executor:
    """The venue's side of the loop: the orders at work, and what became of them."""

    def __init__(self) -> None:
        self._working: dict[str, WorkingOrder] = {}
        self._seen: set[str] = set()
        self._arrived: list[WorkingOrder] = []
        self._to_cancel: set[str] = set()

    def approved(self, order: Mapping[str, Any]) -> None:
        """Take an `approved-orders` record; one that was taken before changes nothing."""
        order_id = str(order["order_id"])
        if order_id in self._seen:
            return
        self._seen.add(order_id)
        self._arrived.append(
            WorkingOrder(
                order_id=order_id,
                account=order["account_id"],
                strategy=order["strategy_id"],
                instrument=order["instrument"],
                side=order["side"],
                price=Decimal(order["price"]),
                stop=None if order["stop_loss"] is None else Decimal(order["stop_loss"]),
                left=Decimal(order["quantity"]),
                valid_until_ms=time_ms(order["valid_until"]),
            )
        )

    def locked(self, lock: Mapping[str, Any]) -> None:
        """Take an `account-locked` record: the entries that it lists are cancelled with the next reports."""
        self._to_cancel |= {str(order["order_id"]) for order in lock["open_orders"]}

    def entry_working(self, account: str, strategy: str) -> bool:
        """True while an entry of this strategy rests at the venue."""
        return any(
            order.account == account and order.strategy == strategy and order.is_entry for order in self._orders()
        )

    def working(self, account: str) -> int:
        """How many orders of the account rest at the venue."""
        return sum(order.account == account for order in self._orders())

    def on_tick(self, tick: Tick) -> list[Fill]:
        """What the market's move to this tick did to the orders that rest: fills, and expiries."""
        fills: list[Fill] = []
        for order in self._orders():
            if order.instrument in tick.trading and _marketable(order, tick):
                step = COSTS[order.instrument].quantity_step
                half = (order.left / 2).quantize(step, rounding=ROUND_DOWN)
                quantity = half if order.reports == 0 and half > 0 else order.left
                fills.append(self._report(order, quantity, order.price))
            elif order.valid_until_ms < tick.at_ms + TICK_MS:
                fills.append(self._close(order, "expired"))
        return fills

    def on_decisions(self, tick: Tick) -> list[Fill]:
        """Send what arrived since: marketable orders fill at this tick's prices. Cancel what locks have listed."""
        arrived, self._arrived = self._arrived, []
        fills: list[Fill] = []
        for order in sorted(arrived, key=lambda order: (order.account, order.order_id)):
            self._working[order.order_id] = order
            if order.instrument in tick.trading and _marketable(order, tick):
                fills.append(self._report(order, order.left, tick.prices[order.instrument]))
        cancelled = [order for order in self._orders() if order.order_id in self._to_cancel]
        self._to_cancel.clear()
        return fills + [self._close(order, "cancelled") for order in cancelled]

    def _orders(self) -> list[WorkingOrder]:
        return list(self._working.values())

    def _report(self, order: WorkingOrder, quantity: Decimal, price: Decimal) -> Fill:
        order.left -= quantity
        status = "partially_filled" if order.left else "filled"
        fee = (quantity * price * COSTS[order.instrument].fee_rate).quantize(CENT)
        return self._fill(order, quantity, price, fee, status)

    def _close(self, order: WorkingOrder, status: str) -> Fill:
        return self._fill(order, Decimal(0), order.price, Decimal(0), status)

    def _fill(self, order: WorkingOrder, quantity: Decimal, price: Decimal, fee: Decimal, status: str) -> Fill:
        order.reports += 1
        if status != "partially_filled":
            del self._working[order.order_id]
        return Fill(
            fill_id=f"f-{order.order_id.removeprefix('o-')[:16]}-{order.reports}",
            order_id=order.order_id,
            account=order.account,
            instrument=order.instrument,
            side=order.side,
            quantity=quantity,
            price=price,
            fee=fee,
            status=status,
            stop=order.stop,
        )


def _marketable(order: WorkingOrder, tick: Tick) -> bool:
    price = tick.prices[order.instrument]
    return price <= order.price if order.side == "buy" else price >= order.price
