"""Fills into positions and orders (contract, section 1 *fills*, section 2 *Reservation* and *Positions*).

A fill moves the position by its own fields whatever the order says: the venue has traded, and a gate that disagrees
with the venue is wrong. What the order did not allow (more than was left, after it was closed, never approved)
raises an event. Only a final status or ``release_order`` gives back what an order reserves; time never does.
"""

from decimal import Context, Decimal
from typing import Any

from msgspec.structs import replace

from schemas.inputs import Fill
from schemas.types import write_amount, write_time
from streams.core.decode import Event
from streams.core.effects import Note, Outcome, Rank, Situation
from streams.core.state import Account, Book, Order, Orders, Position, Remembered

FINAL = frozenset(("filled", "cancelled", "rejected", "expired"))
# Average prices are stored to at least 28 digits.
_STORED = Context(prec=34)


def signed(side: str, quantity: Decimal) -> Decimal:
    """A quantity with the direction of its side."""
    return quantity if side == "buy" else -quantity


def apply_fill(event: Event, account: Account, situation: Situation) -> Outcome:
    """One execution report: the position, the order, and what was odd about it."""
    fill: Any = event.body  # a Fill whose unreadable fields are None
    if situation.is_too_old(fill.filled_at):
        return Outcome(account, (situation.dead_letter("TOO_OLD", "filled_at is older than limits.dedup_horizon"),))
    if fill.fill_id is not None and (seen := situation.remembered("fill", fill.fill_id)) is not None:
        detail = f"fill_id {fill.fill_id!r} was applied already; a repeat changes nothing"
        return Outcome(account, (situation.dead_letter("DUPLICATE_FILL", detail, seen.first_id),))
    order_id, order, closed = fill.order_id, None, None
    if order_id is not None:
        order = account.orders.open.get(order_id)
        closed = None if order is not None else situation.remembered("order", order_id)
    origin = order or closed
    venue = fill.venue or (origin.venue if origin is not None else None) or situation.terms.exchange
    fault = _fault(event)
    if fault is not None:
        return unusable_fill(account, situation, "SCHEMA", fault)
    if venue is None:
        fault = "venue is missing and the account has no exchange; send it or configure accounts.A.exchange"
        return unusable_fill(account, situation, "SCHEMA", fault)
    notes, orders, remember = _settle(fill, order, closed, account.orders, situation)
    book = account.book
    if fill.quantity > 0:
        book = moved(book, fill, venue, _stop_of(origin, fill))
    remember = (situation.remember("fill", fill.fill_id, fill.fill_id, fill.filled_at), *remember)
    return Outcome(Account(account.standing, account.drawdown, book, orders), notes, remember)


def unusable_fill(account: Account, situation: Situation, reason: str, fault: str) -> Outcome:
    """A fill that cannot be applied: the position is not known any more, so only exits pass until ``resume``."""
    standing = account.standing
    if not standing.fill_unusable:
        account = account._replace(standing=replace(standing, fill_unusable=True))
    event = situation.event("FILL_UNUSABLE", detail={"fault": fault, "remedy": "correct the position, then resume"})
    return Outcome(account, (situation.dead_letter(reason, fault), event))


def _fault(event: Event) -> str | None:
    """What makes a readable report unusable, naming the field."""
    fill: Fill = event.body
    for field, text in event.faults.items():
        return f"{field} {text}"
    if not fill.quantity.is_finite() or fill.quantity < 0:
        return f"quantity {fill.quantity} is not a number of at least 0"
    if fill.quantity > 0 and (fill.price is None or not fill.price.is_finite() or fill.price <= 0):
        return f"price {fill.price} is not a number above 0"
    if fill.fee is not None and not fill.fee.is_finite():
        return f"fee {fill.fee} is not finite; leave it out or send 0"
    return None


def _stop_of(origin: Order | Remembered | None, fill: Fill) -> Decimal | None:
    """The stop of the entry that the fill belongs to. One that the fill contradicts would read as no risk at all."""
    if origin is None or origin.reduces or (origin.instrument, origin.side) != (fill.instrument, fill.side):
        return None
    return origin.stop


Settled = tuple[tuple[Note, ...], Orders, tuple[tuple[bytes, Remembered], ...]]


def _settle(
    fill: Fill, order: Order | None, closed: Remembered | None, orders: Orders, situation: Situation
) -> Settled:
    """The order's side of a report."""
    order_id = fill.order_id
    if order_id is None:
        return (), orders, ()
    if order is None:
        if fill.quantity == 0 and closed is not None:
            return (), orders, ()
        kind = "UNKNOWN_ORDER" if closed is None else "LATE_FILL"
        return (_odd(situation, kind, fill, None),), orders, ()
    notes: tuple[Note, ...] = ()
    filled = replace(order, filled=order.filled + fill.quantity)
    if fill.quantity > 0 and filled.filled > order.quantity:
        notes = (_odd(situation, "OVERFILL", fill, filled),)
    if fill.status not in FINAL:
        return notes, with_order(orders, order_id, filled), ()
    remember = situation.remember("order", order_id, order_id, fill.filled_at, order)
    return notes, without_order(orders, order_id), (remember,)


def _odd(situation: Situation, kind: str, fill: Fill, order: Order | None) -> Note:
    observed = fill.quantity if order is None else order.filled
    return situation.event(
        kind,
        order_id=fill.order_id,
        observed=write_amount(observed),
        limit=None if order is None else write_amount(order.quantity),
        unit="amount",
        detail={"fill_id": fill.fill_id, "instrument": fill.instrument, "side": fill.side},
    )


# -- positions -----------------------------------------------------------------------------------------------------


def moved(book: Book, fill: Fill, venue: str, stop: Decimal | None) -> Book:
    """The book after a traded quantity; ``stop``: of the order that was filled, if it is known."""
    price = fill.price
    assert price is not None
    before = book.at(fill.instrument, venue)
    after = _move(before, signed(fill.side, fill.quantity), price, stop)
    venues = {name: one for name, one in book.positions.get(fill.instrument, {}).items() if name != venue}
    if after is not None:
        venues[venue] = after
    positions = {name: one for name, one in book.positions.items() if name != fill.instrument}
    if venues:
        positions[fill.instrument] = venues
    return Book(positions, {**book.fill_prices, fill.instrument: price})


def _move(before: Position | None, change: Decimal, price: Decimal, stop: Decimal | None) -> Position | None:
    """A position after ``change`` (signed) at ``price``; None when flat. Only what adds to it brings its stop."""
    if before is None:
        return Position(change, price, stop)
    quantity = before.quantity + change
    if quantity == 0:
        return None
    if (before.quantity > 0) == (change > 0):
        cost = before.quantity * before.average_price + change * price
        return Position(quantity, _STORED.divide(cost, quantity), _furthest(before.stop, stop, quantity > 0))
    if (quantity > 0) == (before.quantity > 0):
        return replace(before, quantity=quantity)
    return Position(quantity, price, stop)


def _furthest(one: Decimal | None, other: Decimal | None, long: bool) -> Decimal | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other) if long else max(one, other)


# -- orders --------------------------------------------------------------------------------------------------------


def with_order(orders: Orders, order_id: str, order: Order) -> Orders:
    """The orders with one added or changed."""
    return _with_open(orders, {**orders.open, order_id: order})


def without_order(orders: Orders, order_id: str) -> Orders:
    """The orders with one closed: it reserves nothing any more."""
    return _with_open(orders, {name: one for name, one in orders.open.items() if name != order_id})


def _with_open(orders: Orders, working: dict[str, Order]) -> Orders:
    due = min((order.valid_until_ms for order in working.values() if not order.overdue), default=None)
    return replace(orders, open=working, due_ms=due)


def overdue(orders: Orders, situation: Situation) -> tuple[Orders, tuple[Note, ...]]:
    """A WARNING for each order past its ``valid_until``, once: what it reserves is only given back on request."""
    now_ms = situation.now_ms
    if orders.due_ms is None or now_ms <= orders.due_ms:
        return orders, ()
    late = {
        order_id: order
        for order_id, order in orders.open.items()
        if not order.overdue and now_ms > order.valid_until_ms
    }
    notes = tuple(
        situation.event(
            "WARNING",
            rank=Rank.WARNING,
            order_id=order_id,
            observed=write_amount(Decimal(now_ms - order.valid_until_ms) / 1000),
            limit="0",
            unit="seconds",
            detail={"valid_until": write_time(order.valid_until_ms), "remedy": "report its fills, or release_order"},
        )
        for order_id, order in late.items()
    )
    told = {order_id: replace(order, overdue=True) for order_id, order in late.items()}
    return _with_open(orders, {**orders.open, **told}), notes
