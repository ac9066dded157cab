"""Operator commands (contract, section 1 *controls*, section 2 *Lock*).

A command is done whole or refused whole, and either is published. What loosens anything asks more than what
tightens: usable or fresh equity, limits that hold, one rung at a time, and a second operator where configured.
"""

from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from schemas.config import LADDER
from schemas.inputs import Command
from streams.core import drawdown
from streams.core.decode import Event
from streams.core.drawdown import MANUAL, has_equity
from streams.core.effects import Note, Outcome, Situation
from streams.core.ledger import without_order
from streams.core.lock import held, is_locked, lock_note, unlocked, with_breaches, with_manual
from streams.core.rules import Profile
from streams.core.state import Account

# A fault in a field that a command does not use must not stop a lock or a halt.
_FORM = ("type", "operator", "reason", "issued_at")
_ARGUMENTS = {
    "unlock": ("approved_by", "rebase", "profile"),
    "resume": ("approved_by",),
    "set_profile": ("approved_by", "profile", "down_only"),
    "release_order": ("order_id",),
}


class RefusedError(Exception):
    """Why a command is not done, in a sentence with the remedy."""


def obey(event: Event, account: Account, situation: Situation) -> Outcome:
    """Do or refuse one command of a known account; its ``command_id`` has been read and is remembered either way."""
    command: Command = event.body
    seen = situation.remembered("command", command.command_id)
    if seen is not None:
        detail = f"command_id {command.command_id!r} was used already; a new command needs a new id"
        return Outcome(account, (situation.dead_letter("DUPLICATE_COMMAND", detail, seen.first_id),))
    remember = (situation.remember("command", command.command_id, command.command_id, situation.now_ms),)
    try:
        _check_form(event)
        done = _COMMANDS[command.type](command, account, situation)
    except RefusedError as refusal:
        return Outcome(account, (situation.dead_letter("COMMAND_REFUSED", str(refusal)),), remember)
    return replace(done, remember=(*remember, *done.remember))


def _check_form(event: Event) -> None:
    command: Command = event.body
    for field in (*_FORM, *_ARGUMENTS.get(command.type, ())):
        if field in event.faults:
            raise RefusedError(f"{field} {event.faults[field]}")
    for field in ("operator", "reason"):
        if not getattr(command, field):
            raise RefusedError(f"{field} is empty; every command names an operator and a reason")


def _need_second_operator(command: Command, situation: Situation) -> None:
    if situation.rules.two_person and (not command.approved_by or command.approved_by == command.operator):
        raise RefusedError(
            f"approved_by {command.approved_by!r}: with controls.two_person this needs a second operator, "
            f"not {command.operator!r}"
        )


def _event(command: Command, situation: Situation, kind: str, order_id: str | None = None, **detail: Any) -> Note:
    who = {"operator": command.operator, "approved_by": command.approved_by or None, "reason": command.reason}
    return situation.event(kind, command_id=command.command_id, order_id=order_id, detail=who | detail)


def _lock(_command: Command, account: Account, situation: Situation) -> Outcome:
    if MANUAL in held(account.standing):
        raise RefusedError("the account is locked manually already; nothing to do")
    standing, lock = with_manual(account.standing, situation.now_ms)
    account = account._replace(standing=standing)
    return Outcome(account, (lock_note(situation, account, lock),))


def _unlock(command: Command, account: Account, situation: Situation) -> Outcome:
    _need_second_operator(command, situation)
    terms, state, reasons = situation.terms, account.drawdown, held(account.standing)
    if not is_locked(account.standing):
        raise RefusedError("the account is not locked; nothing to do")
    before = situation.profile_of(account)
    profile = _lower_profile(command, before, situation)
    rebase = command.rebase or "keep"
    if rebase == "now":
        if not has_equity(state) or not drawdown.is_fresh(
            state, situation.now_ms, situation.rules.limits.max_pnl_age_ms
        ):
            raise RefusedError("rebase 'now' needs equity within limits.max_pnl_age; wait for the next pnl update")
        state = drawdown.rebased(state, reasons)
    elif not has_equity(state) and reasons != {MANUAL}:
        raise RefusedError("rebase 'keep' under a drawdown lock needs usable equity; wait for the next pnl update")
    breached = drawdown.breaches(state, terms, profile) if has_equity(state) else ()
    if breached:
        names = ", ".join(one.reason for one in breached)
        raise RefusedError(f"{names} would still be breached; wait for equity above the floor, or rebase its base")
    standing = unlocked(account.standing)
    notes = [
        _event(
            command,
            situation,
            "UNLOCKED",
            reasons=[lock.reason for lock in account.standing.locks],
            rebase=rebase,
        )
    ]
    if profile.name != before.name:
        standing = replace(standing, profile=profile.name)
        notes.append(_profile_changed(command, situation, before, profile))
    return Outcome(account._replace(standing=standing, drawdown=drawdown.recounted(state)), tuple(notes))


def _lower_profile(command: Command, before: Profile, situation: Situation) -> Profile:
    """The profile after an unlock: the present one, or a strictly lower one that the command names."""
    if command.profile is None:
        return before
    profile = _named_profile(command, situation)
    if LADDER.index(profile.name) >= LADDER.index(before.name):
        raise RefusedError(f"profile {profile.name!r} is not below {before.name!r}; an unlock may only lower it")
    return profile


def _named_profile(command: Command, situation: Situation) -> Profile:
    profile = situation.rules.profiles.get(command.profile or "")
    if profile is None:
        raise RefusedError(f"profile {command.profile!r} is unknown; use one of {', '.join(LADDER)}")
    return profile


def _set_profile(command: Command, account: Account, situation: Situation) -> Outcome:
    terms, state = situation.terms, account.drawdown
    before, profile = situation.profile_of(account), _named_profile(command, situation)
    rungs = LADDER.index(profile.name) - LADDER.index(before.name)
    if rungs > 0:
        if command.down_only:
            raise RefusedError(f"profile {profile.name!r} is above {before.name!r}, and down_only asks for a lower one")
        _need_second_operator(command, situation)
        if rungs > 1:
            raise RefusedError(f"profile {profile.name!r} is {rungs} above {before.name!r}; move up one at a time")
        if is_locked(account.standing):
            raise RefusedError("the account is locked; unlock it before moving it up")
        if not has_equity(state):
            raise RefusedError("moving up needs usable equity; wait for the next pnl update")
        if drawdown.breaches(state, terms, before):
            raise RefusedError("a drawdown limit is breached; the account may not move up")
    standing = replace(account.standing, profile=profile.name)
    breached = drawdown.breaches(state, terms, profile) if has_equity(state) else ()
    standing, added = with_breaches(standing, breached, situation.now_ms)
    account = account._replace(standing=standing)
    locks = (lock_note(situation, account, lock) for lock in added)
    return Outcome(account, (*locks, _profile_changed(command, situation, before, profile)))


def _profile_changed(command: Command, situation: Situation, before: Profile, after: Profile) -> Note:
    return _event(command, situation, "PROFILE_CHANGED", before=before.name, after=after.name)


def _halt(command: Command, account: Account, situation: Situation) -> Outcome:
    account = account._replace(standing=replace(account.standing, halted=True))
    return Outcome(account, (_event(command, situation, "HALTED"),))


def _resume(command: Command, account: Account, situation: Situation) -> Outcome:
    _need_second_operator(command, situation)
    standing = account.standing
    if not (standing.halted or standing.fill_unusable):
        raise RefusedError("nothing is halted; resume ends halt and an unusable fill's state, never a lock")
    account = account._replace(standing=replace(standing, halted=False, fill_unusable=False))
    note = _event(command, situation, "RESUMED", halted=standing.halted, fill_unusable=standing.fill_unusable)
    return Outcome(account, (note,))


def _release_order(command: Command, account: Account, situation: Situation) -> Outcome:
    order_id = command.order_id
    order = account.orders.open.get(order_id) if order_id is not None else None
    if order_id is None or order is None:
        raise RefusedError(f"order_id {order_id!r} is not an open order of the account; see `tidegate accounts`")
    account = account._replace(orders=without_order(account.orders, order_id))
    # Released is closed: what the venue still reports of it is a LATE_FILL.
    remember = situation.remember("order", order_id, order_id, situation.now_ms, order)
    return Outcome(account, (_event(command, situation, "ORDER_RELEASED", order_id),), (remember,))


_COMMANDS: dict[str, Callable[[Command, Account, Situation], Outcome]] = {
    "lock": _lock,
    "unlock": _unlock,
    "set_profile": _set_profile,
    "halt": _halt,
    "resume": _resume,
    "release_order": _release_order,
}
