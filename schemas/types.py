"""The scalar types of the wire: amounts, times, ids (contract, section 1).

Each type reads what the contract accepts, refuses what it refuses, and knows how it is written and described in
JSON Schema. Reading raises ``ValueError`` with a sentence that names the remedy; pydantic turns it into an error of
the field. Nothing here passes through binary floating point.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Context, Decimal
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, GetPydanticSchema, PlainSerializer, StringConstraints, WithJsonSchema
from pydantic_core import core_schema

AMOUNT_DIGITS_MAX = 40
AMOUNT_CHARS_MAX = 64
AMOUNT_EXPONENT_MAX = 30
AMOUNT_PLACES_OUT = 12
ID_BYTES_MAX = 256
TEXT_BYTES_MAX = 1024
TIME_MS_MAX = 32_503_679_999_999  # the end of 2999

_AMOUNT = re.compile(
    r"[+-]?(?:(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?|nan|inf(?:inity)?)", re.IGNORECASE | re.ASCII
)
_PLAIN = re.compile(r"-?[0-9]{1,15}(?:\.[0-9]{1,12})?", re.ASCII)
_PLAIN_TIME = r"(?:19[7-9]|2[0-9]{2})[0-9]-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?Z"
_TIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})", re.ASCII
)
_ZERO = Decimal(0)
_QUANTUM_OUT = Decimal(1).scaleb(-AMOUNT_PLACES_OUT)
_ROUNDING_OUT = Context(prec=400, rounding=ROUND_HALF_EVEN)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def read_amount(value: object) -> Decimal:
    """A JSON string or number as an exact decimal; NaN and infinities are read, for the rules to refuse.

    Raises ValueError for anything that is not a number, or has more digits or a larger exponent than is carried: an
    attacker's ``1e999999999`` must not become a gigabyte of digits.
    """
    if type(value) is str:
        if _PLAIN.fullmatch(value):
            return Decimal(value)  # what nearly all are: within every bound
        if len(value) > AMOUNT_CHARS_MAX or not _AMOUNT.fullmatch(value):
            raise ValueError("is not a decimal number; write it as a plain string such as '16500.25'")
        amount = Decimal(value)
    elif type(value) is Decimal:
        amount = value
    elif type(value) is int:
        if abs(value) >= 10**AMOUNT_EXPONENT_MAX:
            raise ValueError("is too large; amounts lie between 1e-30 and 1e30")
        amount = Decimal(value)
    else:
        raise ValueError("is not a number; write it as a decimal string such as '16500.25'")
    if not amount.is_finite():
        if amount.is_snan():
            raise ValueError("is not a number; write it as a decimal string such as '16500.25'")
        return amount
    if not amount:
        return _ZERO
    long = type(value) is not str or len(value) > AMOUNT_DIGITS_MAX
    if long and len(amount.as_tuple().digits) > AMOUNT_DIGITS_MAX:
        raise ValueError(f"has more than {AMOUNT_DIGITS_MAX} digits; round it")
    if not -AMOUNT_EXPONENT_MAX <= amount.adjusted() < AMOUNT_EXPONENT_MAX:
        raise ValueError("is out of range; amounts lie between 1e-30 and 1e30")
    return amount


# Limits and marks are written over and over; equal decimals have one writing, so the cache cannot lie.
@lru_cache(maxsize=8192)
def write_amount(amount: Decimal) -> str:
    """Plain digits: no exponent, at most 12 places (half-even), no trailing zeros."""
    if not amount.is_finite():
        return "NaN" if amount.is_nan() else "Infinity" if amount > 0 else "-Infinity"
    text = format(amount, "f")
    point = text.find(".")
    if point >= 0:
        if len(text) - point - 1 > AMOUNT_PLACES_OUT:
            text = format(amount.quantize(_QUANTUM_OUT, context=_ROUNDING_OUT), "f")
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def read_time(value: object) -> int:
    """RFC 3339 with an offset, as whole milliseconds since 1970; finer digits are cut.

    Raises ValueError for numbers, naive times and years outside 1970 to 2999.
    """
    if type(value) is not str or not _TIME.fullmatch(value):
        raise ValueError("is not an RFC 3339 time with an offset; write it as '2017-12-19T11:00:00Z'")
    try:
        instant = datetime.fromisoformat(value.upper())
    except ValueError:
        raise ValueError("is not a date of the calendar; write it as '2017-12-19T11:00:00Z'") from None
    if not 1970 <= instant.year < 3000:
        raise ValueError("is outside the years 1970 to 2999")
    milliseconds = _milliseconds(instant)
    if milliseconds < 0:
        raise ValueError("is outside the years 1970 to 2999")
    return milliseconds


def _milliseconds(instant: datetime) -> int:
    since = instant - _EPOCH
    return since.days * 86_400_000 + since.seconds * 1_000 + since.microseconds // 1_000


def _read_plain_time(text: str) -> int:
    return _milliseconds(datetime.fromisoformat(text))


@lru_cache(maxsize=4096)
def write_time(milliseconds: int) -> str:
    """UTC with ``Z``; ``.mmm`` only when it is not zero.

    A record's own timestamp can be any 64-bit number; outside 1970 to 2999 the nearest time of the range is written.
    """
    seconds, rest = divmod(min(max(milliseconds, 0), TIME_MS_MAX), 1000)
    text = (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]
    return f"{text}.{rest:03d}Z" if rest else f"{text}Z"


def _within_bytes(limit: int) -> Any:
    def check(text: str) -> str:
        if not text.isascii():
            try:
                size = len(text.encode())
            except UnicodeEncodeError:
                raise ValueError("is not valid Unicode (a lone surrogate)") from None
            if size > limit:
                raise ValueError(f"is longer than {limit} bytes")
        return text

    return check


SHORT_CUT = "short cut"


def _reader(pattern: str, make: Callable[[str], Any], read: Callable[[object], Any]) -> GetPydanticSchema:
    """What ``read`` reads, and its errors. A string that matches ``pattern`` takes the short cut ``make``.

    That gives what ``read`` would, or raises ValueError; that error has :data:`SHORT_CUT` as its last place.
    """
    plain = core_schema.str_schema(pattern=f"^(?:{pattern})$", strict=True)
    short_cut = core_schema.no_info_after_validator_function(make, plain)
    whole = core_schema.no_info_plain_validator_function(read)
    either = core_schema.union_schema([(short_cut, SHORT_CUT), whole], mode="left_to_right")
    return GetPydanticSchema(lambda _source, _handler: either)


Amount = Annotated[
    Decimal,
    _reader(_PLAIN.pattern, Decimal, read_amount),
    PlainSerializer(write_amount, return_type=str),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]}, mode="validation"),
    WithJsonSchema({"type": "string", "format": "decimal"}, mode="serialization"),
]
Time = Annotated[
    int,
    _reader(_PLAIN_TIME, _read_plain_time, read_time),
    PlainSerializer(write_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
Id = Annotated[
    str,
    StringConstraints(strict=True, min_length=1, max_length=ID_BYTES_MAX),
    AfterValidator(_within_bytes(ID_BYTES_MAX)),
]
Text = Annotated[
    str, StringConstraints(strict=True, max_length=TEXT_BYTES_MAX), AfterValidator(_within_bytes(TEXT_BYTES_MAX))
]
