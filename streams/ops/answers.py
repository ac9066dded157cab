"""Which record answers a command, and what it says in words.

A done command yields an event with its ``command_id``, a lock its ``account-locked``; a refused one a dead letter. All
three name the command's place in ``controls``, and that is what they are recognised by: ids may be used again.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from streams.core.drawdown import MANUAL
from streams.core.records import CONTROLS, DEAD_LETTERS, EVENTS, LOCKED
from streams.ops.terminal import percent

ANSWERS = (EVENTS, LOCKED, DEAD_LETTERS)
DUPLICATE = "DUPLICATE_COMMAND"

Body = Mapping[str, Any]


class Sent(NamedTuple):
    """A published command: its account, and its place in ``controls``."""

    account_id: str
    command_id: str
    partition: int
    offset: int


class Answer(NamedTuple):
    """The record that says what became of a command."""

    topic: str
    body: Body

    @property
    def done(self) -> bool:
        return self.topic != DEAD_LETTERS

    @property
    def may_lock(self) -> bool:
        """A change of profile tests the new limits at once."""
        return self.body.get("type") == "PROFILE_CHANGED"

    @property
    def repeats(self) -> bool:
        """The command's id was used before, so this says nothing of what became of the first."""
        return self.body.get("reason") == DUPLICATE


def answer_to(sent: Sent, topic: str, body: Body) -> Answer | None:
    """The record as the answer to ``sent``, None if it answers something else."""
    if body.get("account_id") != sent.account_id:
        return None
    if topic == DEAD_LETTERS:
        place = (body.get("topic"), body.get("partition"), body.get("offset"))
        return Answer(topic, body) if place == (CONTROLS, sent.partition, sent.offset) else None
    basis = body.get("basis") or {}
    if basis.get("partition") != sent.partition or basis.get("offsets", {}).get(CONTROLS) != sent.offset:
        return None
    # Whatever follows the command in its partition has the same last control in its basis, until the next one.
    if topic == EVENTS and body.get("command_id") == sent.command_id:
        return Answer(topic, body)
    if topic == LOCKED and body.get("reason") == MANUAL:
        return Answer(topic, body)
    return None


def comes_with(answer: Answer, body: Body) -> bool:
    """Whether an ``account-locked`` record was made by the step that made the answer."""
    same_account = body.get("account_id") == answer.body.get("account_id")
    return same_account and body.get("basis") == answer.body.get("basis")


def lock_in_words(body: Body) -> str:
    """One ``account-locked`` record, in one line."""
    figures = ""
    if body["observed"] is not None and body["limit"] is not None:
        figures = f", {percent(Decimal(body['observed']))} % of at most {percent(Decimal(body['limit']))} %"
    return f"{body['account_id']}: locked by {body['reason']}{figures}"


def in_words(answer: Answer) -> str:
    """What became of the command, in one line."""
    body = answer.body
    account = body.get("account_id")
    if not answer.done:
        return f"{account}: {'refused' if body.get('reason') != DUPLICATE else 'repeated'}: {body.get('detail')}"
    if answer.topic == LOCKED:
        entries = len(body["open_orders"])
        cancelled = f"; open entries to cancel: {entries}" if entries else ""
        return f"{account}: locked at {body['locked_at']}, now {body['trading_state']}{cancelled}"
    detail = body["detail"]
    match body["type"]:
        case "UNLOCKED":
            kept = "bases kept" if detail.get("rebase") == "keep" else "re-based to present equity"
            text = f"unlocked at {body['at']}, was held by {', '.join(detail.get('reasons', ()))}; {kept}"
        case "HALTED":
            text = f"halted at {body['at']}, nothing passes until `tidegate resume {account}`"
        case "RESUMED":
            text = f"resumed at {body['at']}"
        case "PROFILE_CHANGED":
            text = f"profile {detail.get('before')} → {detail.get('after')} at {body['at']}"
        case "ORDER_RELEASED":
            text = f"order {body['order_id']} released at {body['at']}, what it reserved is free"
        case other:
            text = f"{other} at {body['at']}"
    return f"{account}: {text}"
