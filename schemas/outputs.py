"""What Tidegate writes: one frozen model per output topic (contract, section 1).

Read with them: ``order = ApprovedOrder.model_validate_json(value)``. Amounts are exact decimals, times whole
milliseconds since 1970 in UTC. Every field is always there, null where it has no value, and there are no others:
a record that does not validate is of another ``schema_version``, and must not be traded on.

The gate builds plain dicts (it is on the hot path); tests hold every record that it writes to these models.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
)

from schemas.config import ProfileName
from schemas.inputs import Side
from schemas.types import Id, read_time, write_amount, write_time

# -- names: closed sets --------------------------------------------------------------------------------------------

RejectCode = Literal[
    "INVALID_SIGNAL",
    "UNKNOWN_ACCOUNT",
    "STALE_SIGNAL",
    "EXPIRED_SIGNAL",
    "INVALID_PRICE",
    "INVALID_QUANTITY",
    "TRADING_HALTED",
    "TRADING_STATE_REDUCING",
    "ROLLOUT_PHASE",
    "ACCOUNT_LOCKED_DAILY_DRAWDOWN",
    "ACCOUNT_LOCKED_WEEKLY_DRAWDOWN",
    "ACCOUNT_LOCKED_TRAILING_DRAWDOWN",
    "ACCOUNT_LOCKED_MANUAL",
    "REDUCE_ONLY_WOULD_INCREASE_POSITION",
    "STRATEGY_BLACKLISTED",
    "STRATEGY_NOT_WHITELISTED",
    "NO_VENUE",
    "VENUE_UNAVAILABLE",
    "RISK_DATA_MISSING",
    "RISK_DATA_STALE",
    "DRAWDOWN_UNCONFIRMED",
    "DAILY_DRAWDOWN_REACHED",
    "WEEKLY_DRAWDOWN_REACHED",
    "TRAILING_DRAWDOWN_REACHED",
    "SPOT_ONLY",
    "LEVERAGE_EXCEEDED",
    "MAX_OPEN_POSITIONS_EXCEEDED",
    "STOP_LOSS_REQUIRED",
    "TRADE_RISK_EXCEEDED",
    "RISK_HEADROOM_EXCEEDED",
    "NOTIONAL_EXCEEDS_MAX_PER_ORDER",
    "PRICE_COLLAR_EXCEEDED",
    "RATE_LIMIT_EXCEEDED",
]
"""In the order in which they are checked."""
LockReason = Literal["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN", "TRAILING_DRAWDOWN", "MANUAL"]
TradingState = Literal["ACTIVE", "REDUCING", "HALTED"]
Unit = Literal["fraction", "multiple", "count", "amount", "seconds", "name"]
Scope = Literal["global", "venue", "strategy", "account", "signal"]
EventType = Literal[
    "UNLOCKED",
    "HALTED",
    "RESUMED",
    "PROFILE_CHANGED",
    "WARNING",
    "ORDER_RELEASED",
    "OVERFILL",
    "LATE_FILL",
    "UNKNOWN_ORDER",
    "FILL_UNUSABLE",
    "PERIOD_CLOSED",
]
DeadLetterReason = Literal[
    "MALFORMED",
    "SCHEMA",
    "TOO_OLD",
    "DUPLICATE_SIGNAL",
    "DUPLICATE_FILL",
    "DUPLICATE_COMMAND",
    "STALE_SEQUENCE",
    "UNKNOWN_ACCOUNT",
    "COMMAND_REFUSED",
    "POLICY_UNUSABLE",
]
InputTopic = Literal["signals", "fills", "pnl", "controls"]
AnyInputTopic = Literal["signals", "fills", "pnl", "controls", "policies"]
SchemaVersion = Literal[1]

# -- scalars: only as Tidegate writes them -------------------------------------------------------------------------

_AMOUNT_PATTERN = r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]{0,11}[1-9])?"
_TIME_PATTERN = r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.(?!000)[0-9]{3})?Z"
_AMOUNT = re.compile(_AMOUNT_PATTERN)
_TIME = re.compile(_TIME_PATTERN)


def _read_amount(value: object) -> Decimal:
    # Wider than what inputs may hold: a sum of fills can have more digits than any of them.
    if not isinstance(value, str) or not _AMOUNT.fullmatch(value) or value == "-0":
        raise ValueError("is not an amount as Tidegate writes it: a string of plain digits, at most 12 places")
    return Decimal(value)


def _read_time(value: object) -> int:
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        raise ValueError("is not a time as Tidegate writes it: RFC 3339 in UTC with Z, .mmm only where it is not zero")
    return read_time(value)


Amount = Annotated[
    Decimal,
    PlainValidator(_read_amount),
    PlainSerializer(write_amount, return_type=str),
    WithJsonSchema({"type": "string", "format": "decimal", "pattern": f"^{_AMOUNT_PATTERN}$"}),
]
Time = Annotated[
    int,
    PlainValidator(_read_time),
    PlainSerializer(write_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": f"^{_TIME_PATTERN}$"}),
]
Text = Annotated[str, StringConstraints(strict=True)]
Flag = Annotated[bool, Field(strict=True)]
Offset = Annotated[int, Field(strict=True, ge=0)]
Sha256 = Annotated[str, StringConstraints(strict=True, pattern="^[0-9a-f]{64}$")]

# -- parts ---------------------------------------------------------------------------------------------------------


class Written(BaseModel):
    """What is read is never changed; a field that is missing or unknown is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Basis(Written):
    """What a record was made from: with the inputs and the journal it makes every decision reproducible."""

    partition: Offset = Field(description="Partition of the inputs.")
    offsets: dict[InputTopic, Offset] = Field(
        description="Last applied offset of each input topic, this record included; a topic not yet read is left out."
    )
    policy_version: Offset = Field(description="Last offset of `policies` in force, plus 1; 0 before the first.")


class Reason(Written):
    """A check that failed."""

    code: RejectCode = Field(description="What was checked.")
    observed: Text | None = Field(
        description="What was found: a figure in `unit`, or a name; null where there is nothing to show."
    )
    limit: Text | None = Field(description="What it was compared with, likewise.")
    unit: Unit = Field(description="Of `observed` and `limit`.")
    scope: Scope = Field(description="Whose rule it is.")


class CheckResult(Reason):
    """A check that was made."""

    passed: Flag = Field(description="True for all checks of an approval.")


class OpenOrder(Written):
    """An entry that is still working or reserved."""

    order_id: Id = Field(description="As in its `approved-orders` record.")
    instrument: Id = Field(description="As in the signal.")
    side: Side = Field(description="`buy` or `sell`.")
    quantity_left: Amount = Field(description="Left to be filled.")
    venue: Id = Field(description="Where it was sent.")


class PositionLine(Written):
    """A holding of one instrument at one venue."""

    instrument: Id = Field(description="As in the fills.")
    venue: Id = Field(description="Where it is held.")
    quantity: Amount = Field(description="Above 0 long, below 0 short, never 0.")
    average_price: Amount = Field(description="Of the fills that opened it.")


class ClosedPeriod(Written):
    """The ``detail`` of a ``PERIOD_CLOSED`` event: ``ClosedPeriod.model_validate(event.detail)``."""

    period: Literal["day", "week"] = Field(description="What closed.")
    start: Time = Field(description="Start of the period.")
    end: Time = Field(description="End of the period; an update at this very instant still belongs to it.")
    base: Amount = Field(description="What drawdown was measured from, as it stood at the close.")
    open: Amount = Field(description="Equity that the base was taken from.")
    close: Amount = Field(description="Last usable equity.")
    high: Amount = Field(description="Highest equity, the opening one included.")
    low: Amount = Field(description="Lowest equity, the opening one included.")


# -- records -------------------------------------------------------------------------------------------------------


class ApprovedOrder(Written):
    """A signal that passed every check, as the gate resolved it: send it as it stands, or not at all."""

    signal_id: Id = Field(description="The signal's.")
    account_id: Id = Field(description="The signal's, else its strategy's.")
    strategy_id: Id = Field(description="The signal's.")
    instrument: Id = Field(description="The signal's.")
    side: Side = Field(description="`buy` or `sell`.")
    quantity: Amount = Field(description="To be traded, above 0.")
    price: Amount = Field(description="Limit price, or reference price of a market order.")
    stop_loss: Amount | None = Field(description="Protective stop that the risk was measured to; null only for exits.")
    leverage: Amount | None = Field(description="Leverage asked for, within the profile's.")
    reduce_only: Flag = Field(description="The signal's flag: the order may never open or enlarge a position.")
    venue: Id = Field(
        description="Where to send it: the signal's; else by route, primary and failover, an exit to its position's."
    )
    created_at: Time = Field(description="The signal's.")
    expires_at: Time | None = Field(description="The signal's.")
    order_id: Id = Field(
        description="`o-` and 32 hex digits made from account_id and signal_id: the same signal always has the same "
        "one. Use it as client order id, and in `fills`."
    )
    profile: ProfileName = Field(description="Capital profile that the checks used.")
    trading_state: TradingState = Field(
        description="Most restrictive of all scopes; under `REDUCING` only exits are approved."
    )
    decided_at: Time = Field(description="The gate's now.")
    valid_until: Time = Field(description="Send nothing later: decided_at + `order_valid`, at most expires_at.")
    checks: tuple[CheckResult, ...] = Field(description="All checks that were made, in their order; all passed.")
    basis: Basis = Field(description="What the decision was made from.")
    schema_version: SchemaVersion = Field(description="Of the record's shape: 1.")


class RejectedSignal(Written):
    """A signal that failed at least one check. It gets no second decision: a new try needs a new ``signal_id``."""

    signal_id: Id = Field(description="The signal's.")
    account_id: Id = Field(description="The signal's, else its strategy's.")
    strategy_id: Id | None = Field(description="The signal's; null if it could not be read.")
    instrument: Id | None = Field(description="The signal's; null if it could not be read.")
    code: RejectCode = Field(description="First failing check: why the signal was refused.")
    reasons: tuple[Reason, ...] = Field(min_length=1, description="All failing checks, in their order.")
    decided_at: Time = Field(description="The gate's now.")
    basis: Basis = Field(description="What the decision was made from.")
    schema_version: SchemaVersion = Field(description="Of the record's shape: 1.")


class AccountLocked(Written):
    """A drawdown limit was reached, or an operator locked: cancel ``open_orders``, keep exits and protective stops."""

    lock_id: Id = Field(description="`l-` and 32 hex digits; the same input always makes the same one.")
    account_id: Id = Field(description="The account that is now locked.")
    reason: LockReason = Field(description="The reason that was added; one record each.")
    observed: Amount | None = Field(description="Drawdown as a fraction; null for `MANUAL`.")
    limit: Amount | None = Field(description="The limit that it reached; null for `MANUAL`.")
    equity: Amount | None = Field(description="Equity at the lock; null if there is none that can be used.")
    base_equity: Amount | None = Field(description="What the drawdown is measured from; null for `MANUAL`.")
    period_start: Time | None = Field(
        description="Start of the day or week; null for `TRAILING_DRAWDOWN` and `MANUAL`."
    )
    profile: ProfileName = Field(description="Capital profile in force.")
    trading_state: TradingState = Field(description="`REDUCING`, or `HALTED` where a halt weighs more.")
    open_orders: tuple[OpenOrder, ...] = Field(
        description="Entries still working or reserved, in order of approval: cancel them."
    )
    positions: tuple[PositionLine, ...] = Field(description="What is held, by instrument and venue.")
    locked_at: Time = Field(description="The gate's now.")
    basis: Basis = Field(description="What the lock was made from.")
    schema_version: SchemaVersion = Field(description="Of the record's shape: 1.")


class AccountEvent(Written):
    """Everything else that happened to an account; ``type`` says what ``observed`` and ``limit`` are."""

    event_id: Id = Field(description="`e-` and 32 hex digits; the same input always makes the same one.")
    account_id: Id = Field(description="The account.")
    type: EventType = Field(description="What happened.")
    command_id: Id | None = Field(description="The command that made it; null if none did.")
    order_id: Id | None = Field(description="The order that it concerns; null if none.")
    observed: Amount | None = Field(description="Figure of the event, in `unit`.")
    limit: Amount | None = Field(description="What it is compared with.")
    unit: Unit | None = Field(description="Of `observed` and `limit`; null without them.")
    detail: dict[str, Any] = Field(
        description="More, for people. Its keys may change, except those of `PERIOD_CLOSED`."
    )
    at: Time = Field(description="The gate's now.")
    basis: Basis = Field(description="What the event was made from.")
    schema_version: SchemaVersion = Field(description="Of the record's shape: 1.")


class DeadLetter(Written):
    """Input that could not be read or used, why, and where it came from. It has no basis: its coordinates say it."""

    reason: DeadLetterReason = Field(description="Why.")
    detail: Text = Field(description="A sentence for people: field, value and remedy. Its wording may change.")
    topic: AnyInputTopic | None = Field(description="Where it came from; null for a replayed line that is no record.")
    partition: Offset | None = Field(description="Likewise.")
    offset: Offset | None = Field(description="Likewise.")
    timestamp: Time | None = Field(description="The record's timestamp.")
    key: Text | None = Field(description="The record's key; base64 if it is not UTF-8.")
    account_id: Id | None = Field(description="The account, as far as it is known; null for policies.")
    first_id: Text | None = Field(
        description="Of a duplicate: the first decision's order_id (or signal_id, if rejected), fill_id, command_id."
    )
    payload: Text | None = Field(description="First 4 KiB of the value as text; base64 if it is not UTF-8.")
    payload_sha256: Sha256 | None = Field(description="Of the whole value, in hex.")
    payload_size: Offset = Field(description="Of the whole value, in bytes.")
    schema_version: SchemaVersion = Field(description="Of the record's shape: 1.")


class Journal(Written):
    """One transaction: which records made it, and its now. Inputs and journal reproduce every decision."""

    partition: Offset = Field(description="Partition of the inputs.")
    offsets: dict[InputTopic, tuple[Offset, Offset]] = Field(
        description="First and last offset of each input topic that the transaction took in."
    )
    now: Time = Field(description="Wall clock at the start of the transaction.")
    policy_version: Offset = Field(description="Version of the policies that it was decided under.")
    schema_version: SchemaVersion = Field(description="Of the record's shape: 1.")


MODELS: dict[str, type[Written]] = {
    "approved-orders": ApprovedOrder,
    "rejected-signals": RejectedSignal,
    "account-locked": AccountLocked,
    "account-events": AccountEvent,
    "dead-letters": DeadLetter,
    "journal": Journal,
}
"""Topic → model. The journal's topic is named after the application: ``tidegate-journal``."""
