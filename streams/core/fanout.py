"""Fan-out: one strategy's signal for several accounts (configuration, ``[fanout.S]``).

A signal that names no account and whose strategy has a fan-out is not decided itself. It becomes one child for each
account, ``signal_id/account``, with the account's weight of the quantity, exactly: published to ``signals`` in the
transaction that read the parent, and decided like any other signal. Children carry all other fields and the headers of
their parent. A repeated parent makes the same children again, which their accounts answer as ``DUPLICATE_SIGNAL``.

A parent that cannot be read whole, or a child whose id would be too long, is one dead letter (``SCHEMA``) and makes no
child at all: half a fan-out would be a trade that nobody asked for.
"""

from decimal import Decimal

import orjson

from schemas.inputs import Signal
from schemas.types import AMOUNT_CHARS_MAX, ID_BYTES_MAX, write_time
from streams.core.decode import Event
from streams.core.outputs import dead_letter
from streams.core.records import SIGNALS, Output
from streams.core.rules import Rules
from streams.core.step import ARITHMETIC


def fan_out(event: Event, rules: Rules) -> tuple[Output, ...] | None:
    """What a signal without account becomes: its children, or one dead letter; None if it has no fan-out."""
    record, signal = event.record, event.body
    if record.topic != SIGNALS or signal is None or "account_id" in event.faults or signal.account_id is not None:
        return None
    weights = rules.fanouts.get(signal.strategy_id or "")
    if weights is None:
        return None
    if event.faults:
        return (dead_letter(record, "SCHEMA", "; ".join(f"{field} {fault}" for field, fault in event.faults.items())),)
    children = {account_id: f"{signal.signal_id}/{account_id}" for account_id in weights}
    for account_id, child_id in children.items():
        if len(child_id.encode()) > ID_BYTES_MAX:
            detail = f"signal_id with /{account_id}, for the fan-out, is longer than {ID_BYTES_MAX} bytes; shorten it"
            return (dead_letter(record, "SCHEMA", detail),)
    return tuple(
        Output(
            SIGNALS,
            account_id.encode(),
            _child(signal, child_id, account_id, weights[account_id]),
            record.headers,
            record.timestamp_ms,
        )
        for account_id, child_id in children.items()
    )


def _child(signal: Signal, child_id: str, account_id: str, weight: Decimal) -> bytes:
    """One account's share, written as the gate reads it: whole milliseconds, no unknown fields, bounded in size."""
    return orjson.dumps(
        {
            "signal_id": child_id,
            "account_id": account_id,
            "strategy_id": signal.strategy_id,
            "instrument": signal.instrument,
            "side": signal.side,
            "quantity": _exact(ARITHMETIC.multiply(signal.quantity, weight)),
            "price": _exact(signal.price),
            "stop_loss": None if signal.stop_loss is None else _exact(signal.stop_loss),
            "leverage": None if signal.leverage is None else _exact(signal.leverage),
            "reduce_only": bool(signal.reduce_only),
            "venue": signal.venue,
            "created_at": write_time(signal.created_at),
            "expires_at": None if signal.expires_at is None else write_time(signal.expires_at),
        }
    )


def _exact(amount: Decimal) -> str:
    """Every digit of an amount. One with more than are carried is unreadable: its child is an ``INVALID_SIGNAL``."""
    plain = format(amount, "f")
    if "." in plain:
        plain = plain.rstrip("0").rstrip(".")
    return plain if len(plain) <= AMOUNT_CHARS_MAX else str(amount)
