"""One decision per signal (contract, sections 1, 2 *Duplicate* and *Reservation*, 4).

A signal that can be read as far as its id and account gets exactly one decision; a repeat gets a dead letter with
the first decision's id. An approval reserves its order in the same step, so two signals never take one slot.
"""

from decimal import Decimal
from typing import Any

from msgspec.structs import replace

from schemas.types import write_amount, write_time
from streams.core import lock
from streams.core.decode import Event
from streams.core.effects import Note, Outcome, Rank, Situation
from streams.core.guard import Case, Check, Figure, inspect
from streams.core.ledger import with_order
from streams.core.outputs import order_id_of
from streams.core.records import APPROVED, REJECTED
from streams.core.state import Account, Order, Orders, Remembered


def decide(event: Event, account: Account, situation: Situation) -> Outcome:
    """Decide one signal of a known or unknown account; its ``signal_id`` has been read."""
    signal: Any = event.body  # a Signal whose unreadable fields are None
    if situation.is_too_old(signal.created_at):
        letter = situation.dead_letter("TOO_OLD", "created_at is older than limits.dedup_horizon; send a new signal")
        return Outcome(account, (letter,))
    seen = situation.remembered("signal", signal.signal_id)
    order_id = order_id_of(situation.account_id, signal.signal_id)
    if seen is None and order_id in account.orders.open:
        # Forgotten by time, but its order is still out: a second one under the same id would hide what it reserves.
        seen = Remembered(order_id, situation.now_ms)
    if seen is not None:
        detail = f"signal_id {signal.signal_id!r} was decided already; a new decision needs a new id"
        return Outcome(account, (situation.dead_letter("DUPLICATE_SIGNAL", detail, seen.first_id),))
    terms = situation.rules.accounts.get(situation.account_id)
    case = Case(event, situation.account_id, account, terms, situation.rules, situation.now_ms)
    checks = inspect(case)
    failed = [one for one in checks if not one[1].passed]
    since_ms = situation.now_ms if signal.created_at is None else signal.created_at
    if failed:
        remember = situation.remember("signal", signal.signal_id, signal.signal_id, since_ms)
        return Outcome(account, (_rejection(case, failed),), (remember,))
    valid_until_ms = situation.now_ms + situation.rules.limits.order_valid_ms
    if signal.expires_at is not None:
        valid_until_ms = min(valid_until_ms, signal.expires_at)
    orders = _reserve(account.orders, order_id, case, valid_until_ms)
    account = Account(account.standing, account.drawdown, account.book, orders)
    remember = situation.remember("signal", signal.signal_id, order_id, since_ms)
    return Outcome(account, (_approval(case, order_id, valid_until_ms, checks),), (remember,))


def _reserve(orders: Orders, order_id: str, case: Case, valid_until_ms: int) -> Orders:
    """The order is open from the moment of its approval, and counts for the rate limit."""
    signal, venue = case.signal, case.venue.name
    assert venue is not None
    order = Order(
        signal.instrument,
        venue,
        signal.side,
        signal.quantity,
        signal.price,
        signal.stop_loss,
        valid_until_ms,
        reduces=case.reduces,
    )
    if case.limits.rate_limit_orders is not None:
        since_ms = case.now_ms - case.limits.rate_limit_per_ms
        recent = tuple(at_ms for at_ms in orders.approvals if at_ms > since_ms)
        orders = replace(orders, approvals=(*recent, case.now_ms))
    return with_order(orders, order_id, order)


def _approval(case: Case, order_id: str, valid_until_ms: int, checks: list[tuple[str, Check]]) -> Note:
    signal = case.signal
    body = {
        "signal_id": signal.signal_id,
        "account_id": case.account_id,
        "strategy_id": signal.strategy_id,
        "instrument": signal.instrument,
        "side": signal.side,
        "quantity": write_amount(signal.quantity),
        "price": write_amount(signal.price),
        "stop_loss": None if signal.stop_loss is None else write_amount(signal.stop_loss),
        "leverage": None if signal.leverage is None else write_amount(signal.leverage),
        "reduce_only": bool(signal.reduce_only),
        "venue": case.venue.name,
        "created_at": write_time(signal.created_at),
        "expires_at": None if signal.expires_at is None else write_time(signal.expires_at),
        "order_id": order_id,
        "profile": case.profile.name,
        "trading_state": lock.shown_state(case.rules, case.account.standing, case.venue.name, signal.strategy_id),
        "decided_at": write_time(case.now_ms),
        "valid_until": write_time(valid_until_ms),
        "checks": [
            {
                "code": code,
                "observed": _figure(check.observed),
                "limit": _figure(check.limit),
                "unit": check.unit,
                "scope": check.scope,
                "passed": check.passed,
            }
            for code, check in checks
        ],
    }
    return Note(Rank.DECISION, APPROVED, body)


def _rejection(case: Case, failed: list[tuple[str, Check]]) -> Note:
    signal = case.signal
    body = {
        "signal_id": signal.signal_id,
        "account_id": case.account_id,
        "strategy_id": signal.strategy_id,
        "instrument": signal.instrument,
        "code": failed[0][0],
        "reasons": [
            {
                "code": code,
                "observed": _figure(check.observed),
                "limit": _figure(check.limit),
                "unit": check.unit,
                "scope": check.scope,
            }
            for code, check in failed
        ],
        "decided_at": write_time(case.now_ms),
    }
    return Note(Rank.DECISION, REJECTED, body)


def _figure(figure: Figure) -> str | None:
    if figure is None or isinstance(figure, str):
        return figure
    return write_amount(figure) if isinstance(figure, Decimal) else str(figure)
