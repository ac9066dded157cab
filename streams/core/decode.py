"""Bytes to events: one pass for a record that is whole, field by field for one that is not.

Nothing that arrives raises. What cannot be read is told apart by how far it could be read, because the contract
answers each differently: not an object at all (``MALFORMED``), unreadable fields (by name), or whole.
"""

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any

import jiter
from msgspec import Struct
from pydantic import ValidationError

from schemas.inputs import MODELS, read_fields
from streams.core.records import Record

DEPTH_MAX = 100
_VALIDATE = {topic: model.__pydantic_validator__.validate_python for topic, model in MODELS.items()}
_STRINGS = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)


class Event(Struct, frozen=True, gc=False):
    """One record, read as far as it can be.

    ``body`` is the topic's model; in one with ``faults`` the unreadable fields are None. It is None when the value is
    ``malformed`` (then why). ``faults``: what is wrong, by field.
    """

    record: Record
    body: Any
    faults: dict[str, str]
    malformed: str | None = None


_NO_FAULTS: dict[str, str] = {}


def decode(record: Record) -> Event:
    """Read a record of ``signals``, ``fills``, ``pnl`` or ``controls``. Never raises."""
    raw, fault = parse_object(record.value)
    if raw is None:
        return Event(record, None, _NO_FAULTS, fault)
    try:
        return Event(record, _VALIDATE[record.topic](raw), _NO_FAULTS)
    except ValidationError:
        body, faults = read_fields(MODELS[record.topic], raw)
        return Event(record, body, faults)


def parse_object(value: bytes | None) -> tuple[dict[str, Any] | None, str]:
    """The JSON object of a value with its numbers exact, or None and why there is none."""
    if value is None:
        return None, "is absent; send a JSON object"
    if _is_too_deep(value):
        return None, f"is nested deeper than {DEPTH_MAX} levels; send a flat JSON object"
    try:
        # Only names come again and again; amounts and ids would push each other out of the cache.
        raw = jiter.from_json(value, allow_inf_nan=True, float_mode="decimal", cache_mode="keys")
    except ValueError:
        # jiter gives up on a whole document for one absurd number or lone surrogate; the standard library reads
        # around it, so that the rest of the record can still be answered.
        try:
            raw = json.loads(value.decode(), parse_float=_exact, parse_int=_integer, parse_constant=Decimal)
        except (ValueError, RecursionError) as error:
            return None, f"is not JSON in UTF-8 ({error}); send a JSON object"
    if not isinstance(raw, dict):
        return None, f"is a JSON {type(raw).__name__}, not an object; send a JSON object"
    return raw, ""


def _is_too_deep(value: bytes) -> bool:
    if value.count(b"{") + value.count(b"[") <= DEPTH_MAX:
        return False
    depth = 0
    for byte in _STRINGS.sub(b"", value):
        if byte in b"{[":
            depth += 1
            if depth > DEPTH_MAX:
                return True
        elif byte in b"}]":
            depth -= 1
    return False


def _exact(text: str) -> Any:
    try:
        return Decimal(text)
    except InvalidOperation:
        return _Unreadable(text)


def _integer(text: str) -> Any:
    return int(text) if len(text) <= 100 else _Unreadable(text)


class _Unreadable:
    """A JSON number that no amount can hold; every field refuses it by type."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text if len(self._text) <= 40 else self._text[:37] + "..."
