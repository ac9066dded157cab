"""Dead letters as people deal with them: where one is, what its reason means, and whether sending it again can help.

Pure: :mod:`streams.ops.dead_letters` reads and sends. ``remedy_of`` is the table of reasons; ``objection`` says why a
record would come back as it is, which spares an operator to find out by doing it.
"""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from schemas.inputs import MODELS, Policy, read_fields
from streams.core.decode import decode, parse_object
from streams.core.records import CONTROLS, FILLS, INPUTS, PNL, POLICIES, SIGNALS, Record
from streams.core.rules import Rules
from streams.ops.terminal import age

ID_FIELDS = {SIGNALS: "signal_id", FILLS: "fill_id", CONTROLS: "command_id"}
_PLACE = re.compile(r"(?:([a-z]+)/)?([0-9]{1,9})@([0-9]{1,18})")


class Place(NamedTuple):
    """A record's coordinates. ``topic`` None: the dead letter's own, on ``dead-letters``; else an input's."""

    topic: str | None
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{'' if self.topic is None else self.topic + '/'}{self.partition}@{self.offset}"


def read_place(text: str) -> Place:
    """``2@17`` (on dead-letters) or ``signals/2@17`` (the input's). Raises ValueError with how to write it."""
    match = _PLACE.fullmatch(text)
    if match is None or match[1] not in (None, *INPUTS, POLICIES):
        raise ValueError(
            "is no place; write PARTITION@OFFSET of the dead letter as `tidegate dead-letters list` has it (2@17), or "
            "TOPIC/PARTITION@OFFSET of the input (signals/2@17)"
        )
    return Place(match[1], int(match[2]), int(match[3]))


class Letter(NamedTuple):
    """One record of ``dead-letters``. ``at_ms``: when it was published."""

    place: Place
    at_ms: int
    body: Mapping[str, Any]

    @property
    def reason(self) -> str:
        return str(self.body["reason"])

    @property
    def topic(self) -> str:
        """The input's topic; never null on Kafka, where every letter has a source."""
        return str(self.body["topic"])

    @property
    def source(self) -> Place:
        """Where the input is."""
        return Place(self.topic, int(self.body["partition"]), int(self.body["offset"]))

    @property
    def account_id(self) -> str | None:
        account_id: str | None = self.body["account_id"]
        return account_id


class Remedy(NamedTuple):
    """What a reason means, what to do, and what becomes of the record if it is sent again as it was.

    ``as_it_was`` None: that can help. ``new_id``: an edited record needs another id.
    """

    meaning: str
    remedy: str
    as_it_was: str | None
    new_id: bool = False


_REPAIR = "the same bytes would be dead-lettered again; give a repaired payload with --edit FILE"
_REMEMBERED = "its id is remembered, so a repeat is dead-lettered again; a new try needs a new id (--edit FILE)"
_REMEDIES = {
    "MALFORMED": Remedy(
        "The value is no JSON object in UTF-8: nothing in it could be read.",
        "Mend the producer. What it meant can be sent with --edit FILE.",
        _REPAIR,
    ),
    "SCHEMA": Remedy(
        "A field that the gate cannot do without is missing or unreadable; the detail names it.",
        "Mend the producer, then send the repaired record with --edit FILE.",
        _REPAIR,
    ),
    "TOO_OLD": Remedy(
        "It is older than limits.dedup_horizon: its id may be forgotten, so it was neither decided nor applied.",
        "A signal: let the strategy send a new one. A fill: book it with a new fill_id and a present filled_at.",
        "it has not become younger; give it a present time (and a new id) with --edit FILE",
        new_id=True,
    ),
    "DUPLICATE_SIGNAL": Remedy(
        "This signal_id was decided already for the account; first_id is that decision's.",
        "Nothing is missing: `tidegate explain` shows the first decision. A producer that retries may do so.",
        _REMEMBERED,
        new_id=True,
    ),
    "DUPLICATE_FILL": Remedy(
        "This fill_id was applied already for the account.",
        "Nothing is missing, if the two are the same execution. Two executions under one id: mend the executor.",
        _REMEMBERED,
        new_id=True,
    ),
    "DUPLICATE_COMMAND": Remedy(
        "This command_id was used already; done or refused, it has had its answer.",
        "Give the command again: `tidegate` makes a new id each time.",
        _REMEMBERED,
        new_id=True,
    ),
    "STALE_SEQUENCE": Remedy(
        "An equity mark whose sequence is not above the account's last: late, repeated, or of a feed that began anew.",
        "Nothing, if a later one came. A feed that began anew must count on from the account's last sequence.",
        "the account's sequence only grows; give it a higher one with --edit FILE",
    ),
    "UNKNOWN_ACCOUNT": Remedy(
        "No account of the workers' configuration could be held to it.",
        "Configure [accounts.A] or the strategy's route, restart the workers, then resubmit it as it was.",
        None,
    ),
    "COMMAND_REFUSED": Remedy(
        "The gate understood the command and refused it; the detail says why.",
        "Do what the detail says, then give the command anew with `tidegate lock, unlock, halt, resume, …`.",
        _REMEMBERED,
        new_id=True,
    ),
    "POLICY_UNUSABLE": Remedy(
        "The rule cannot be used. The former rule of that name holds; an unusable state/… rule means HALTED.",
        "Publish it again with `tidegate policy`, which judges a rule before it is published.",
        _REPAIR,
    ),
}
_OTHER = Remedy("A reason that this release does not know.", "Use the release that the workers run.", _REPAIR)
# What else a dead letter of a topic has left behind.
_AFTERMATH = {
    (FILLS, "MALFORMED"): "the position is not trusted: its account is REDUCING until `tidegate resume`",
    (FILLS, "SCHEMA"): "the position is not trusted: its account is REDUCING until `tidegate resume`",
    (PNL, "MALFORMED"): "equity is missing until the next usable update: entries are refused with RISK_DATA_MISSING",
    (PNL, "SCHEMA"): "equity is missing until the next usable update: entries are refused with RISK_DATA_MISSING",
}
REASONS = tuple(_REMEDIES)


def remedy_of(reason: str) -> Remedy:
    """The meaning of a reason, and what to do."""
    return _REMEDIES.get(reason, _OTHER)


def aftermath_of(letter: Letter) -> str | None:
    """What it has left behind, beside itself. A letter without account has left nothing."""
    return _AFTERMATH.get((letter.topic, letter.reason)) if letter.account_id is not None else None


class Draft(NamedTuple):
    """A record to be sent again. ``edited``: its payload is not the original's."""

    record: Record
    edited: bool
    original_id: str | None


def key_of(record: Record) -> bytes | None:
    """The key that belongs to a record: its account (a policy's name) as far as it can be read, else what it had."""
    if record.topic == POLICIES:
        raw, _ = parse_object(record.value)
        name = None if raw is None else read_fields(Policy, raw)[0].name
        return record.key if name is None else name.encode()
    body = decode(record).body
    return record.key if body is None or body.account_id is None else body.account_id.encode()


def account_and_id(record: Record) -> tuple[str | None, str | None]:
    """The account that a record names and its own id; None for what cannot be read or is not there."""
    if record.topic not in MODELS:
        return None, None
    body = decode(record).body
    if body is None:
        return None, None
    field = ID_FIELDS.get(record.topic)
    return body.account_id, None if field is None else getattr(body, field)


def objection(letter: Letter, draft: Draft, rules: Rules) -> str | None:
    """Why the gate would refuse the draft like the original; None where nothing is known against it."""
    remedy = remedy_of(letter.reason)
    if not draft.edited:
        if remedy.as_it_was is not None:
            return remedy.as_it_was
        account_id, _ = account_and_id(draft.record)
        if rules.accounts and account_id is not None and account_id not in rules.accounts:
            return f"account {account_id!r} is not in the configuration that was read here: give the workers' --config"
        return None
    fault = _unreadable(draft.record)
    if fault is not None:
        return f"the edited payload cannot be used: {fault}"
    _, one_id = account_and_id(draft.record)
    if remedy.new_id and one_id is not None and one_id == draft.original_id:
        return f"the edited payload still has {ID_FIELDS[letter.topic]} {one_id!r}; {_REMEMBERED}"
    return None


def _unreadable(record: Record) -> str | None:
    """What is wrong with a payload, before anybody sends it."""
    if record.topic in MODELS:
        event = decode(record)
        if event.malformed is not None:
            return f"value {event.malformed}"
        faults = event.faults
    else:
        raw, fault = parse_object(record.value)
        if raw is None:
            return f"value {fault}"
        faults = read_fields(Policy, raw)[1]
    return "; ".join(f"{field} {text}" for field, text in faults.items()) or None


def caution(record: Record, rules: Rules, now_ms: int) -> str | None:
    """What the sender should know of a record that may well be taken."""
    if record.topic == POLICIES:
        return "it takes effect as the newest rule of its name, over whatever was set since"
    body = decode(record).body
    if body is None:
        return None
    if record.topic == SIGNALS and body.created_at is not None:
        age_ms = now_ms - body.created_at
        created = f"created {age(body.created_at, now_ms)}"
        if age_ms > rules.limits.dedup_horizon_ms:
            return f"{created}, beyond the dedup horizon: it will be dead-lettered as TOO_OLD"
        if age_ms > rules.limits.max_signal_age_ms:
            return (
                f"created {age_ms // 1000} s ago: it will be rejected as STALE_SIGNAL (a decision, so its id is used)"
            )
        return "prices have moved since it was made: it will be decided on the state as it is then"
    if record.topic == FILLS and body.filled_at is not None and now_ms - body.filled_at > rules.limits.dedup_horizon_ms:
        return "filled beyond the dedup horizon: it will be dead-lettered as TOO_OLD"
    if record.topic == PNL:
        return "a later update may have come since: then it is STALE_SEQUENCE"
    if record.topic == CONTROLS:
        return "it will be obeyed as of then, whatever has happened since"
    return None
