"""The product: one record, one pure step (contract, sections 1 and 2).

``step`` takes a record as read, the account that it concerns and the rules in force, and says what the account is
after it, what to publish and which ids to remember. It reads nothing else and changes nothing. The worker, the
replay, the simulation and every test call this one function.
"""

from collections.abc import Callable
from decimal import Context, localcontext
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from schemas.inputs import Pnl
from schemas.types import write_amount, write_time
from streams.core import drawdown
from streams.core.controls import obey
from streams.core.decide import decide
from streams.core.decode import Event
from streams.core.effects import Note, Outcome, Rank, Recall, Situation
from streams.core.ledger import apply_fill, overdue, unusable_fill
from streams.core.lock import lock_note, with_breaches
from streams.core.outputs import dead_letter, digest, encode
from streams.core.records import (
    APPROVED,
    CONTROLS,
    DEAD_LETTERS,
    EVENTS,
    FILLS,
    LOCKED,
    PNL,
    REJECTED,
    SIGNALS,
    Output,
)
from streams.core.rules import Rules
from streams.core.state import Account, Remembered

# Enough that products of two amounts are exact: limits are compared unrounded.
ARITHMETIC = Context(prec=100)

Basis = dict[str, Any]


class Step(Struct, frozen=True, gc=False):
    """What one record did. ``account`` is the same object where nothing changed."""

    account: Account
    outputs: tuple[Output, ...] = ()
    remember: tuple[tuple[bytes, Remembered], ...] = ()


def step(
    event: Event,
    account_id: str | None,
    account: Account,
    recall: Recall,
    rules: Rules,
    now_ms: int,
    basis: Callable[[], Basis],
) -> Step:
    """Apply one decoded record to the account that it concerns (see :func:`routing.account_of`). Never raises."""
    letter = _unreadable(event, account_id, rules)
    if letter is not None:
        return Step(account, (letter,))
    assert account_id is not None
    situation = Situation(event.record, account_id, rules, now_ms, recall)
    with localcontext(ARITHMETIC):
        outcome = _apply(event, account, situation)
    return Step(outcome.account, tuple(_published(outcome, situation, basis)), outcome.remember)


def _unreadable(event: Event, account_id: str | None, rules: Rules) -> Output | None:
    """The dead letter of a record that concerns no account that Tidegate could answer for."""
    record, body = event.record, event.body
    known = account_id is not None and account_id in rules.accounts
    if known and not event.faults and event.malformed is None:
        return None
    if event.malformed is not None:
        if known and record.topic in (FILLS, PNL):
            return None
        return dead_letter(record, "MALFORMED", f"value {event.malformed}")
    needed = {SIGNALS: ("signal_id", "account_id"), CONTROLS: ("command_id", "account_id")}.get(record.topic, ())
    faults = [f"{field} {event.faults[field]}" for field in needed if field in event.faults]
    if account_id is None and not faults:
        field = "account_id" if "account_id" in event.faults else "strategy_id"
        if field in event.faults:
            faults = [f"{field} {event.faults[field]}"]
    if faults:
        return dead_letter(record, "SCHEMA", "; ".join(faults), account_id=account_id)
    if account_id is None:
        detail = f"account_id is missing and strategy_id {body.strategy_id!r} has no route; configure strategies.routes"
        return dead_letter(record, "UNKNOWN_ACCOUNT", detail)
    if not known and record.topic != SIGNALS:
        detail = f"account_id {account_id!r} is not configured; add [accounts.{account_id}]"
        return dead_letter(record, "UNKNOWN_ACCOUNT", detail, account_id=account_id)
    return None


def _apply(event: Event, account: Account, situation: Situation) -> Outcome:
    """The record's effect, with the warnings of orders that it finds overdue. A dead letter tells nothing else."""
    orders, late = overdue(account.orders, situation)
    if not late:
        return _HANDLERS[event.record.topic](event, account, situation)
    outcome = _HANDLERS[event.record.topic](event, account._replace(orders=orders), situation)
    if any(note.topic == DEAD_LETTERS for note in outcome.notes):
        return _HANDLERS[event.record.topic](event, account, situation)
    return replace(outcome, notes=late + outcome.notes)


def _fill(event: Event, account: Account, situation: Situation) -> Outcome:
    if event.malformed is not None:
        return unusable_fill(account, situation, "MALFORMED", f"value {event.malformed}")
    if "account_id" in event.faults:
        return unusable_fill(account, situation, "SCHEMA", f"account_id {event.faults['account_id']}")
    return apply_fill(event, account, situation)


def _pnl(event: Event, account: Account, situation: Situation) -> Outcome:
    """An equity mark: what it closes, warns of and locks."""
    update: Pnl = event.body
    state, terms = account.drawdown, situation.terms
    if event.malformed is not None:
        return _equity_missing(account, situation, "MALFORMED", f"value {event.malformed}")
    faults = event.faults
    for field in ("account_id", "sequence"):
        if field in faults:
            return _equity_missing(account, situation, "SCHEMA", f"{field} {faults[field]}")
    if state.sequence is not None and update.sequence <= state.sequence:
        detail = f"sequence {update.sequence} is not above {state.sequence}, the account's last"
        return Outcome(account, (situation.dead_letter("STALE_SEQUENCE", detail),))
    if faults:
        fault: str | None = "{} {}".format(*next(iter(faults.items())))
    else:
        fault = drawdown.unusable(update, terms, situation.now_ms)
    if fault is not None:
        lost = drawdown.without_equity(state, update.sequence, update.cash_flow)
        return Outcome(account._replace(drawdown=lost), (situation.dead_letter("SCHEMA", fault),))
    profile = situation.profile_of(account)
    marked = drawdown.mark(state, update, terms, profile)
    standing, locks = with_breaches(account.standing, marked.breached, situation.now_ms)
    account = Account(standing, marked.drawdown, account.book, account.orders)
    if not (marked.closed or marked.warned or locks):
        return Outcome(account)
    notes = (
        *(_period_closed(one, situation) for one in marked.closed),
        *(_warning(one, situation) for one in marked.warned),
        *(lock_note(situation, account, one) for one in locks),
    )
    return Outcome(account, notes)


def _equity_missing(account: Account, situation: Situation, reason: str, fault: str) -> Outcome:
    lost = drawdown.without_equity(account.drawdown, None, None)
    return Outcome(account._replace(drawdown=lost), (situation.dead_letter(reason, fault),))


_HANDLERS: dict[str, Callable[[Event, Account, Situation], Outcome]] = {
    SIGNALS: decide,
    FILLS: _fill,
    PNL: _pnl,
    CONTROLS: obey,
}


def _period_closed(closed: drawdown.Closed, situation: Situation) -> Note:
    period = closed.period
    return situation.event(
        "PERIOD_CLOSED",
        rank=Rank.PERIOD_CLOSED,
        observed=None if closed.drawdown is None else write_amount(closed.drawdown),
        limit=write_amount(closed.limit),
        unit="fraction",
        detail={
            "period": closed.kind,
            "start": write_time(period.start_ms),
            "end": write_time(period.end_ms),
            "base": write_amount(period.base),
            "open": write_amount(period.opened),
            "close": write_amount(closed.close),
            "high": write_amount(period.high),
            "low": write_amount(period.low),
        },
    )


def _warning(warned: drawdown.Warned, situation: Situation) -> Note:
    return situation.event(
        "WARNING",
        rank=Rank.WARNING,
        observed=write_amount(warned.drawdown),
        limit=write_amount(warned.limit),
        unit="fraction",
        detail={"limit": warned.limit_name, "tier": write_amount(warned.tier)},
    )


def _published(outcome: Outcome, situation: Situation, basis: Callable[[], Basis]) -> list[Output]:
    """Order, ids, basis, bytes. A decision carries the headers of its signal, so that its trace goes on."""
    notes = outcome.notes
    if not notes:
        return []
    record = situation.record
    key = situation.account_id.encode()
    outputs: list[Output] = []
    for number, note in enumerate(sorted(notes, key=lambda one: one.rank)):
        body = note.body
        if note.topic == DEAD_LETTERS:
            outputs.append(encode(note.topic, record.key, body, (body["reason"], record.topic)))
            continue
        coordinates = (situation.account_id, record.topic, str(record.partition), str(record.offset), str(number))
        if "event_id" in body:
            body["event_id"] = "e-" + digest(*coordinates)
        elif note.topic == LOCKED:
            body["lock_id"] = "l-" + digest(*coordinates)
        body["basis"] = basis()
        headers = record.headers if note.rank == Rank.DECISION else ()
        outputs.append(encode(note.topic, key, body, _tally(note, outcome.account, situation), headers))
    return outputs


def _tally(note: Note, account: Account, situation: Situation) -> tuple[str, ...]:
    """Approvals by profile, rejections by code and profile, locks by reason and profile, events by type (warnings by
    limit and tier too)."""
    body = note.body
    if note.topic == APPROVED:
        return ("APPROVED", body["profile"])
    if note.topic == REJECTED:
        known = situation.account_id in situation.rules.accounts
        return (body["code"], situation.profile_of(account).name if known else "none")
    if note.topic == LOCKED:
        return (body["reason"], body["profile"])
    if note.topic == EVENTS and body["type"] == "WARNING":
        return ("WARNING", body["detail"].get("limit", "ORDER_OVERDUE"), body["detail"].get("tier", "none"))
    return (body["type"],)
