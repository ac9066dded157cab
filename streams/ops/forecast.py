"""What the gate would answer to a command now: its own step on the account's present state, nothing published."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from schemas.config import LADDER
from streams.core.decode import decode
from streams.core.lock import is_locked
from streams.core.records import CONTROLS, DEAD_LETTERS, EVENTS, LOCKED, Record
from streams.core.rules import Rules
from streams.core.state import NEW_ACCOUNT, Account
from streams.core.step import step

SOMEBODY_ELSE = "a second operator"


class Forecast(NamedTuple):
    """``refusals``: why the gate would refuse, most pressing first; empty: it would do it, with these ``outputs``.

    ``outputs``: (topic, body) of the records that it would publish; ids and basis in them mean nothing.
    """

    refusals: tuple[str, ...]
    outputs: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @property
    def done(self) -> bool:
        return not self.refusals


def forecast(account: Account | None, rules: Rules, command: Mapping[str, Any], now_ms: int) -> Forecast:
    """The gate's answer at ``now_ms``; a missing second operator does not hide what else would be refused.

    Ids of earlier commands are not looked up: the command is taken to be new.
    """
    first = _answer(account, rules, command, now_ms)
    if first.done or not rules.two_person:
        return first
    second = _answer(account, rules, {**command, "approved_by": SOMEBODY_ELSE}, now_ms)
    return Forecast(tuple(dict.fromkeys((*first.refusals, *second.refusals))))


def _answer(account: Account | None, rules: Rules, command: Mapping[str, Any], now_ms: int) -> Forecast:
    account_id = command["account_id"]
    record = Record(CONTROLS, 0, 0, now_ms, account_id.encode(), orjson.dumps(command))
    done = step(decode(record), account_id, account or NEW_ACCOUNT, lambda _: None, rules, now_ms, dict)
    outputs = tuple((output.topic, orjson.loads(output.value)) for output in done.outputs)
    refusals = tuple(str(body["detail"]) for topic, body in outputs if topic == DEAD_LETTERS)
    if refusals:
        return Forecast(refusals)
    # What else the account's first record after a while brings (orders past valid_until) is not the command's.
    ours = tuple(
        (topic, body)
        for topic, body in outputs
        if topic == LOCKED or (topic == EVENTS and body["command_id"] == command["command_id"])
    )
    return Forecast((), ours)


def lasting_fault(account_id: str, account: Account | None, rules: Rules, profile: str | None) -> str | None:
    """Why a request to unlock could never be granted, however long it waits; None if it could."""
    if account_id not in rules.accounts:
        return f"account {account_id!r} is not in the configuration that was read here"
    standing = (account or NEW_ACCOUNT).standing
    if not is_locked(standing):
        return f"{account_id} is not locked; there is nothing to unlock"
    present = standing.profile or rules.accounts[account_id].profile
    if profile is not None and LADDER.index(profile) >= LADDER.index(present):
        return f"profile {profile!r} is not below {present!r}; an unlock may only lower it"
    return None
