"""What Tidegate reads: one frozen model per input topic (contract, section 1).

A model that validates is a record that can be read whole. A record that cannot is read field by field by
:func:`read_fields`, so that a decision or a dead letter can name every field that is wrong and still use the others.
"""

from typing import Annotated, Any, Literal, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from schemas.types import SHORT_CUT, Amount, Id, Text, Time

Side = Literal["buy", "sell"]
OrderStatus = Literal["partially_filled", "filled", "cancelled", "rejected", "expired"]
CommandType = Literal["lock", "unlock", "set_profile", "halt", "resume", "release_order"]
Rebase = Literal["keep", "now"]
Sequence = Annotated[int, Field(strict=True, gt=-(2**63), lt=2**63)]
Flag = Annotated[bool, Field(strict=True)]
Version = Annotated[int, Field(strict=True, ge=1, lt=2**63)]


class Input(BaseModel):
    """Unknown fields are ignored; what is read is never changed."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=True)


class Signal(Input):
    """A strategy wants to trade. ``price`` is the limit price, or the reference price of a market order."""

    signal_id: Id
    account_id: Id | None = None
    strategy_id: Id
    instrument: Id
    side: Side
    quantity: Amount
    price: Amount
    stop_loss: Amount | None = None
    leverage: Amount | None = None
    reduce_only: Flag | None = None
    venue: Id | None = None
    created_at: Time
    expires_at: Time | None = None


class Fill(Input):
    """An execution report. ``status`` is the order's state after it; ``quantity`` what this report filled."""

    fill_id: Id
    order_id: Id | None = None
    account_id: Id
    instrument: Id
    side: Side
    venue: Id | None = None
    quantity: Amount
    price: Amount | None = None
    fee: Amount | None = None
    status: OrderStatus
    filled_at: Time


class Pnl(Input):
    """An equity mark. ``equity`` includes unrealised profit, fees and funding, and the ``cash_flow`` since the last."""

    account_id: Id
    sequence: Sequence
    equity: Amount
    balance: Amount | None = None
    cash_flow: Amount | None = None
    marks: dict[Id, Amount] | None = None
    rates: dict[Id, Amount] | None = None
    as_of: Time


class Command(Input):
    """An operator's command for one account."""

    command_id: Id
    account_id: Id
    type: CommandType
    operator: Text
    approved_by: Text | None = None
    reason: Text
    rebase: Rebase | None = None
    profile: Id | None = None
    order_id: Id | None = None
    down_only: Flag | None = None
    issued_at: Time


class Policy(Input):
    """A rule for everyone; null removes it. Its version is its offset + 1."""

    name: Id
    rule: dict[str, Any] | None
    operator: Text | None = None
    approved_by: Text | None = None
    reason: Text | None = None
    issued_at: Time | None = None
    expires_at: Time | None = None
    then: dict[str, Any] | None = None
    reverts: Version | None = None


MODELS: dict[str, type[Input]] = {
    "signals": Signal,
    "fills": Fill,
    "pnl": Pnl,
    "controls": Command,
}


def _adapters(model: type[Input]) -> dict[str, TypeAdapter[Any]]:
    """A validator for each field on its own."""
    hints = get_type_hints(model, include_extras=True)
    return {name: TypeAdapter(hints[name]) for name in model.model_fields}


_FIELDS: dict[type[Input], dict[str, TypeAdapter[Any]]] = {
    model: _adapters(model) for model in (Signal, Fill, Pnl, Command, Policy)
}


def read_fields(model: type[Input], raw: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    """Read ``raw`` as far as possible.

    Returns the model, its unreadable fields None, and what is wrong by field name (empty: it validates as a whole).
    """
    faults: dict[str, str] = {}
    values: dict[str, Any] = {}
    for name, adapter in _FIELDS[model].items():
        values[name] = None
        if name not in raw:
            if model.model_fields[name].is_required():
                faults[name] = "is missing; it is required"
            continue
        try:
            values[name] = adapter.validate_python(raw[name])
        except ValidationError as error:
            faults[name] = _say(error)
    return model.model_construct(**values), faults


def _say(error: ValidationError) -> str:
    """The first error of a field, with the place inside of it and the value, in one sentence."""
    errors = error.errors(include_url=False, include_context=False)
    first = next(one for one in errors if one["loc"][-1:] != (SHORT_CUT,))
    place = ".".join(str(part) for part in first["loc"] if isinstance(part, int) or not part.endswith("]"))
    message = first["msg"].removeprefix("Value error, ")
    if message[:3] not in ("is ", "has"):
        message = "is not usable: " + message[0].lower() + message[1:]
    return f"{'[' + _shortened(place) + '] ' if place else ''}{_shortened(repr(first['input']))} {message}"


def _shortened(text: str) -> str:
    """What a megabyte of input may take of an answer."""
    return text if len(text) <= 80 else text[:77] + "..."
