"""Records of the gate as messages for people: a title that a phone shows, and what to look at and type next. Pure.

Severities: ``critical`` for a lock; ``warning`` for what may become one, or says that the books and the venue disagree;
``info`` for what an operator did. A period that closed is no news. A record that is none of ours makes no message:
a notifier that fell over it would tell nothing any more.
"""

from collections.abc import Sequence
from decimal import Decimal
from typing import NamedTuple

from pydantic import ValidationError

from schemas.config import Severity
from schemas.outputs import AccountEvent, AccountLocked, EventType
from schemas.types import write_amount, write_time
from streams.core.records import EVENTS, LOCKED

SEVERITIES: tuple[Severity, ...] = ("info", "warning", "critical")
_SEVERITY_OF: dict[EventType, Severity] = {
    "WARNING": "warning",
    "OVERFILL": "warning",
    "LATE_FILL": "warning",
    "UNKNOWN_ORDER": "warning",
    "FILL_UNUSABLE": "warning",
    "HALTED": "warning",
    "UNLOCKED": "info",
    "RESUMED": "info",
    "PROFILE_CHANGED": "info",
    "ORDER_RELEASED": "info",
}
_SAID: dict[EventType, str] = {
    "OVERFILL": "was filled beyond its order",
    "LATE_FILL": "got a fill for an order that was closed",
    "UNKNOWN_ORDER": "got a fill for an order that the gate does not know",
    "FILL_UNUSABLE": "got a fill that cannot be used: only exits pass until an operator resumes it",
    "HALTED": "is halted",
    "UNLOCKED": "is unlocked",
    "RESUMED": "is resumed",
    "PROFILE_CHANGED": "has another profile",
    "ORDER_RELEASED": "had an order released",
}
_LIMITS = {"DAILY_DRAWDOWN": "daily", "WEEKLY_DRAWDOWN": "weekly", "TRAILING_DRAWDOWN": "trailing"}
_DIGEST_LINES = 50
_LISTED = 10


class Message(NamedTuple):
    """One fact to tell. ``fact_id``: the record's ``lock_id`` or ``event_id``; ``at_ms``: the gate's now."""

    fact_id: str
    account_id: str
    severity: Severity
    at_ms: int
    title: str
    body: str


def message_of(topic: str, value: bytes | None) -> Message | None:
    """The message of a record of ``account-locked`` or ``account-events``; None for what nobody needs to be told."""
    try:
        if topic == LOCKED:
            return _lock(AccountLocked.model_validate_json(value or b""))
        if topic == EVENTS:
            event = AccountEvent.model_validate_json(value or b"")
            return _warning(event) if event.type == "WARNING" else _event(event)
    except ValidationError:
        return None
    return None


def digest(messages: Sequence[Message]) -> Message:
    """Several messages as one: the gravest severity, a line each. At least one is needed."""
    gravest = max(messages, key=lambda one: SEVERITIES.index(one.severity))
    locked = dict.fromkeys(one.account_id for one in messages if one.severity == "critical")
    names = ", ".join(list(locked)[:_LISTED]) + ("…" if len(locked) > _LISTED else "")
    title = f"{len(locked)} accounts locked: {names}" if locked else f"{len(messages)} events"
    lines = [f"{write_time(one.at_ms)} {one.title}" for one in messages[:_DIGEST_LINES]]
    if len(messages) > _DIGEST_LINES:
        lines.append(f"… and {len(messages) - _DIGEST_LINES} more")
    body = "\n".join((*lines, "", "Look: tidegate accounts"))
    return Message(gravest.fact_id, gravest.account_id, gravest.severity, messages[-1].at_ms, title, body)


def _lock(lock: AccountLocked) -> Message:
    account = lock.account_id
    if lock.reason == "MANUAL":
        why = "by an operator"
    else:
        why = f"{_LIMITS[lock.reason]} drawdown {_percent(lock.observed)} of {_percent(lock.limit)}"
    lines = [
        f"Locked at {write_time(lock.locked_at)}, profile {lock.profile}, trading state {lock.trading_state}.",
        f"Equity {_amount(lock.equity)}" + (f", from {_amount(lock.base_equity)}." if lock.base_equity else "."),
        f"Entries to cancel: {len(lock.open_orders)}. Positions held: {len(lock.positions)}.",
        *(
            f"  cancel {one.order_id}: {one.side} {_amount(one.quantity_left)} {one.instrument} at {one.venue}"
            for one in lock.open_orders[:_LISTED]
        ),
        *(
            f"  held {_amount(one.quantity)} {one.instrument} at {one.venue}, average {_amount(one.average_price)}"
            for one in lock.positions[:_LISTED]
        ),
        "",
        f"Look: tidegate accounts {account}",
        f"Then: tidegate unlock {account} --reason '…' --dry-run",
    ]
    return Message(lock.lock_id, account, "critical", lock.locked_at, f"{account} locked: {why}", "\n".join(lines))


def _warning(event: AccountEvent) -> Message:
    account = event.account_id
    if event.order_id is not None:
        title = f"{account}: an order is overdue"
        told = f"Order {event.order_id} is {_amount(event.observed)} s past its valid_until and not reported closed."
        then = f"If the venue does not have it: tidegate order release {account} {event.order_id} --reason '…'"
    else:
        name = _LIMITS.get(str(event.detail.get("limit")), "a")
        title = f"{account}: {name} drawdown {_percent(event.observed)}, limit {_percent(event.limit)}"
        told = f"It reached the tier {event.detail.get('tier')} of its limit at {write_time(event.at)}."
        then = f"Look: tidegate accounts {account}"
    return Message(event.event_id, account, "warning", event.at, title, f"{told}\n{then}")


def _event(event: AccountEvent) -> Message | None:
    severity = _SEVERITY_OF.get(event.type)
    if severity is None:
        return None
    account = event.account_id
    lines = [f"{event.type} at {write_time(event.at)}."]
    if event.order_id is not None:
        lines.append(f"Order {event.order_id}.")
    if event.observed is not None:
        limit = f", limit {_amount(event.limit)}" if event.limit is not None else ""
        lines.append(f"Observed {_amount(event.observed)}{limit}.")
    lines += [f"{name}: {value}" for name, value in event.detail.items() if value is not None]
    lines.append(f"Look: tidegate accounts {account}")
    return Message(event.event_id, account, severity, event.at, f"{account} {_SAID[event.type]}", "\n".join(lines))


def _amount(amount: Decimal | None) -> str:
    return "unknown" if amount is None else write_amount(amount)


def _percent(fraction: Decimal | None) -> str:
    return "unknown" if fraction is None else f"{write_amount(round(fraction * 100, 4))} %"
