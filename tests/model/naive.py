"""The gate once more, from ``schemas/contract.md`` and ``schemas/fine-print.md`` alone.

The property tests hold Tidegate's core to this model, so it shares no code with it and is written to be read against
the pages: exact rationals instead of decimals with a precision, plain dictionaries instead of records, and every figure
computed anew from the lists that define it. It keeps everything for ever. The oracle of the chaos runs replays hundreds
of thousands of records through it, so what is asked again and again is kept at hand where that hides no rule.

Amounts are ``Fraction`` or ``NotFinite``, times are whole milliseconds since 1970 in UTC, and a field that is absent
and a field that cannot be read are ``None`` and ``BAD``.

Where the pages leave a choice, a comment says "Choice:" and what was chosen.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final
from zoneinfo import ZoneInfo

PROFILES: Final = ("micro", "low", "normal", "aggressive")
DAILY: Final = "DAILY_DRAWDOWN"
WEEKLY: Final = "WEEKLY_DRAWDOWN"
TRAILING: Final = "TRAILING_DRAWDOWN"
MANUAL: Final = "MANUAL"
PARTITIONED_TOPICS: Final = ("signals", "fills", "pnl", "controls")
FUTURE_TOLERANCE_MS: Final = 5_000
PAYLOAD_BYTES: Final = 4_096

Json = dict[str, Any]


# ----------------------------------------------------------------------------------------------------------- reading


class Unreadable(Exception):
    """A value does not have the form that its field asks for."""


class NotFinite(Enum):
    """An amount that can be read and has no size."""

    NAN = "NaN"
    INFINITY = "Infinity"
    MINUS_INFINITY = "-Infinity"


class Bad(Enum):
    """The mark of a field that is there and cannot be read."""

    BAD = "BAD"


BAD: Final = Bad.BAD
Amount = Fraction | NotFinite


@dataclass(frozen=True)
class Number:
    """A JSON number as it was written, so that no digit is lost and ``1`` differs from ``1.0``."""

    text: str


def read_json_object(value: bytes | None) -> Json:
    """Read a record's value; raises ``Unreadable`` for everything that the contract calls ``MALFORMED``."""
    if value is None:
        raise Unreadable("there is no value")
    try:
        parsed = json.loads(value.decode("utf-8"), parse_float=Number, parse_int=Number, parse_constant=Number)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    if not isinstance(parsed, dict):
        raise Unreadable("the value is not a JSON object")
    if depth_of(parsed) > 100:
        raise Unreadable("the value is nested deeper than 100 levels")
    return parsed


def depth_of(parsed: Any) -> int:
    """Levels of objects and lists; an object without any in it has one."""
    deepest, open_levels = 0, [(parsed, 1)]
    while open_levels:
        item, depth = open_levels.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, depth)
            children = item.values() if isinstance(item, dict) else item
            open_levels.extend((child, depth + 1) for child in children)
    return deepest


def take(record: Json, name: str, reader: Callable[[Any], Any]) -> Any:
    """The field's value, ``None`` when it is absent or null, ``BAD`` when it cannot be read."""
    if record.get(name) is None:
        return None
    try:
        return reader(record[name])
    except Unreadable:
        return BAD


SMALLEST, ABOVE_LARGEST = Fraction(1, 10**30), Fraction(10**30)
AMOUNT = re.compile(r"([+-]?)(?:([0-9]+)(?:\.([0-9]+))?|\.([0-9]+))(?:[eE]([+-]?[0-9]+))?")
SPECIALS = {"nan": NotFinite.NAN, "inf": NotFinite.INFINITY, "infinity": NotFinite.INFINITY}


def read_amount(raw: Any) -> Amount:
    """An amount from a JSON string or number."""
    text = raw.text if isinstance(raw, Number) else raw
    if not isinstance(text, str) or len(text) > 64:
        raise Unreadable("not an amount")
    unsigned = text[1:] if text[:1] in ("+", "-") else text
    if unsigned.isascii() and unsigned.lower() in SPECIALS:
        special = SPECIALS[unsigned.lower()]
        return NotFinite.MINUS_INFINITY if special is NotFinite.INFINITY and text[0] == "-" else special
    match = AMOUNT.fullmatch(text)
    if match is None:
        raise Unreadable("not an amount")
    sign, whole, part, only_part, exponent = match.groups()
    places = part or only_part or ""
    # Choice: significant digits are those written after leading zeros; trailing zeros count.
    digits = ((whole or "") + places).lstrip("0")
    if not digits:
        return Fraction(0)
    power = int(exponent or 0) - len(places)
    if len(digits) > 40 or abs(power) > 200:
        raise Unreadable("too many digits, too large or too small")
    size = Fraction(int(digits) * 10 ** max(0, power), 10 ** max(0, -power))
    if not SMALLEST <= size < ABOVE_LARGEST:
        raise Unreadable("too large or too small")
    return -size if sign == "-" else size


TIME = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)


def read_time(raw: Any) -> int:
    """Milliseconds since 1970 from an RFC 3339 string with an offset; finer digits are cut."""
    match = TIME.fullmatch(raw) if isinstance(raw, str) else None
    if match is None:
        raise Unreadable("not a time with an offset")
    year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
    fraction, sign, offset_hours, offset_minutes = match.groups()[6:]
    if not 1970 <= year <= 2999:
        raise Unreadable("not a year of ours")
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError as error:
        raise Unreadable(str(error)) from error
    offset = timedelta()
    if sign is not None:
        if int(offset_hours) > 23 or int(offset_minutes) > 59:
            raise Unreadable("not an offset")
        offset = timedelta(hours=int(offset_hours), minutes=int(offset_minutes))
    utc = local + offset if sign == "-" else local - offset
    return milliseconds(utc) + int(((fraction or "") + "000")[:3])


def milliseconds(moment: datetime) -> int:
    """Whole milliseconds since 1970 of an aware time."""
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def read_text(raw: Any, bytes_max: int) -> str:
    """A string of 1 to ``bytes_max`` UTF-8 bytes."""
    if not isinstance(raw, str):
        raise Unreadable("not a string")
    try:
        size = len(raw.encode("utf-8"))
    except UnicodeEncodeError as error:
        raise Unreadable("a lone surrogate") from error
    if not 1 <= size <= bytes_max:
        raise Unreadable("empty or too long")
    return raw


def read_id(raw: Any) -> str:
    """An id or a name."""
    return read_text(raw, 256)


def read_remark(raw: Any) -> str | None:
    """Operator, approver or reason; an empty one is the same as none."""
    return None if raw == "" else read_text(raw, 1_024)


def read_bool(raw: Any) -> bool:
    """A JSON boolean."""
    if not isinstance(raw, bool):
        raise Unreadable("not a boolean")
    return raw


def read_integer(raw: Any) -> int:
    """A JSON integer that fits in 64 bits."""
    if not isinstance(raw, Number) or re.fullmatch(r"-?[0-9]{1,19}", raw.text) is None:
        raise Unreadable("not an integer")
    if abs(int(raw.text)) >= 2**63:
        raise Unreadable("too large")
    return int(raw.text)


def read_one_of(*words: str) -> Callable[[Any], str]:
    """A reader of one of these words."""

    def read(raw: Any) -> str:
        if not isinstance(raw, str) or raw not in words:
            raise Unreadable(f"not one of {words}")
        return raw

    return read


def read_prices(raw: Any) -> dict[str, Fraction]:
    """Marks or rates: names with amounts above 0."""
    if not isinstance(raw, dict):
        raise Unreadable("not an object")
    prices = {}
    for name, value in raw.items():
        amount = read_amount(value)
        if not isinstance(amount, Fraction) or amount <= 0:
            raise Unreadable(f"{name} is not above 0")
        prices[read_id(name)] = amount
    return prices


def read_names(raw: Any) -> list[str]:
    """A list of ids."""
    if not isinstance(raw, list):
        raise Unreadable("not a list")
    return [read_id(name) for name in raw]


# ----------------------------------------------------------------------------------------------------------- writing


def rounded(amount: Fraction) -> Fraction:
    """Half-even to 12 places."""
    return Fraction(round(amount * 10**12), 10**12)


def write_amount(amount: Amount | None) -> str | None:
    """Plain digits: no exponent, no trailing zeros, no minus before zero."""
    if amount is None:
        return None
    if isinstance(amount, NotFinite):
        return amount.value
    scaled = round(amount * 10**12)
    whole, places = divmod(abs(scaled), 10**12)
    text = str(whole) + (f".{places:012d}".rstrip("0") if places else "")
    return "-" + text if scaled < 0 else text


def write_seconds(span_ms: int) -> str | None:
    """A span of milliseconds in seconds."""
    return write_amount(Fraction(span_ms, 1_000))


def write_time(moment_ms: int | None) -> str | None:
    """RFC 3339 in UTC with ``Z``, and ``.mmm`` only when it is not zero."""
    if moment_ms is None:
        return None
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=moment_ms)
    text = moment.strftime("%Y-%m-%dT%H:%M:%S")
    return text + (f".{moment_ms % 1_000:03d}" if moment_ms % 1_000 else "") + "Z"


def write_bytes(value: bytes) -> str:
    """As text, or base64 where it is not UTF-8."""
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(value).decode("ascii")


def write_payload(value: bytes) -> str:
    """The first 4 KiB, cut at a character's boundary."""
    # Choice: whether it is UTF-8 is judged on the first 4 KiB.
    start = value[:PAYLOAD_BYTES]
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(start, final=len(value) <= PAYLOAD_BYTES)
    except UnicodeDecodeError:
        return base64.b64encode(start).decode("ascii")


def is_valid(amount: Any) -> bool:
    """Whether a price, stop or quantity is readable, finite and above 0."""
    return isinstance(amount, Fraction) and rounded(amount) > 0


# ---------------------------------------------------------------------------------------------------------- calendar


def boundaries_ms(account: Account, period: str, around_ms: int) -> list[int]:
    """The starts of the account's days or weeks near a time, rising."""
    today = datetime.fromtimestamp(around_ms / 1_000, tz=UTC).date()
    return local_boundaries_ms(
        account.config.get("timezone", "UTC"), account.config.get("day_start", "00:00"), period, today
    )


@lru_cache(maxsize=4_096)
def local_boundaries_ms(timezone: str, day_start: str, period: str, today: date) -> list[int]:
    """The same for a zone; kept, since every update asks for the same few days. The list must not be changed."""
    zone = ZoneInfo(timezone)
    hour, minute = (int(part) for part in day_start.split(":"))
    days: list[date] = [today + timedelta(days=step) for step in range(-10, 11)]
    if period == "week":
        days = [day for day in days if day.weekday() == 0]
    # fold=0 is the offset before a gap and the first occurrence of an hour that happens twice.
    local = [datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone, fold=0) for day in days]
    return sorted({milliseconds(moment.astimezone(UTC)) for moment in local})


def start_at_or_before_ms(account: Account, period: str, moment_ms: int) -> int:
    return max(start for start in boundaries_ms(account, period, moment_ms) if start <= moment_ms)


def start_before_ms(account: Account, period: str, moment_ms: int) -> int:
    return max(start for start in boundaries_ms(account, period, moment_ms) if start < moment_ms)


def end_ms(account: Account, period: str, start_ms: int) -> int:
    return min(start for start in boundaries_ms(account, period, start_ms) if start > start_ms)


# ----------------------------------------------------------------------------------------------------- configuration

DEFAULT_PROFILES: Final[dict[str, Json]] = {
    name: {
        "max_daily_drawdown": daily,
        "max_weekly_drawdown": weekly,
        "max_trade_risk": risk,
        "max_leverage": leverage,
        "spot_only": name == "micro",
        "max_open_positions": positions,
        "headroom": True,
        "breach": "reach",
        "confirmations": 1,
        "warning": ["0.5", "0.8"],
    }
    for name, daily, weekly, risk, leverage, positions in (
        ("micro", "0.005", "0.015", "0.002", "1", 2),
        ("low", "0.01", "0.03", "0.005", "2", 4),
        ("normal", "0.02", "0.05", "0.01", "3", 6),
        ("aggressive", "0.035", "0.08", "0.02", "5", 10),
    )
}
DEFAULT_LIMITS: Final[Json] = {
    "max_pnl_age": "60s",
    "max_signal_age": "30s",
    "order_valid": "30s",
    "dedup_horizon": "24h",
}
UNITS_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@lru_cache(maxsize=4_096)
def exactly(number: str | int | Decimal | Fraction) -> Fraction:
    """A configured number."""
    return Fraction(number)


def duration_ms(text: str) -> int:
    """A configured duration such as ``30s``."""
    match = re.fullmatch(r"([0-9]+)(ms|s|m|h|d)", text)
    if match is None:
        raise ValueError(f"{text!r} is not a duration")
    return int(match[1]) * UNITS_MS[match[2]]


def accounts_of(config: Json, env: Mapping[str, str]) -> dict[str, Json]:
    """The configured accounts and those of the environment, which adds to and overrides the former (Choice)."""
    accounts: dict[str, Json] = {name: dict(table) for name, table in config.get("accounts", {}).items()}
    for variable, value in env.items():
        for suffix, key in (("_EXCHANGE", "exchange"), ("_CAPITAL_PROFILE", "profile")):
            match = re.fullmatch(rf"QT_ACCOUNT_(.+){suffix}", variable)
            if match is not None:
                accounts.setdefault(match[1].lower(), {})[key] = value
    return accounts


def limits_of(config: Json, env: Mapping[str, str]) -> Json:
    """``[limits]`` with its defaults, overridden by the environment."""
    limits = {**DEFAULT_LIMITS, **config.get("limits", {})}
    prefix = "TIDEGATE_LIMITS_"
    limits.update({name[len(prefix) :].lower(): value for name, value in env.items() if name.startswith(prefix)})
    return limits


# ------------------------------------------------------------------------------------------------------------- state


@dataclass
class Update:
    """A usable equity mark."""

    equity: Fraction
    balance: Fraction | None
    as_of_ms: int


@dataclass
class Period:
    """A running day or week."""

    start_ms: int
    open: Fraction
    high: Fraction
    low: Fraction


@dataclass
class Position:
    """What is held of one instrument at one venue; a short has a quantity below 0."""

    quantity: Fraction
    average_price: Fraction
    stops: list[Fraction]


@dataclass
class Order:
    """An approved order."""

    order_id: str
    instrument: str
    side: str
    quantity: Fraction
    price: Fraction
    stop_loss: Fraction | None
    venue: str | None
    is_exit: bool
    valid_until_ms: int
    filled: Fraction = Fraction(0)
    warned: bool = False
    # None while the order is open, else until when a fill for it is a late one.
    closed_until_ms: int | None = None

    @property
    def left(self) -> Fraction:
        return max(Fraction(0), self.quantity - self.filled)


def stop_brought_by(order: Order | None, instrument: str, side: str) -> Fraction | None:
    """The stop of the entry that a fill belongs to; a fill that contradicts its order brings none."""
    if order is None or order.is_exit or (order.instrument, order.side) != (instrument, side):
        return None
    return order.stop_loss


@dataclass
class Lock:
    """What was seen when a reason was added, and when; MANUAL has seen nothing."""

    observed: Fraction | None
    limit: Fraction | None
    base: Fraction | None
    period_start_ms: int | None
    at_ms: int


@dataclass
class Account:
    """Everything known of one account."""

    account_id: str
    config: Json
    profile: str
    # Set by command, which outlives configuration.
    profile_is_set: bool = False
    locks: dict[str, Lock] = field(default_factory=dict)
    halted: bool = False
    fill_unusable: bool = False
    last_breach: tuple[str, int] | None = None
    sequence: int | None = None
    update: Update | None = None
    equity_missing: bool = True
    # E = 0 left by a withdrawal, or not funded yet: nothing was lost.
    unfunded: bool = False
    carried_flow: Fraction = Fraction(0)
    bases: dict[str, Fraction] = field(default_factory=dict)
    periods: dict[str, Period] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {DAILY: 0, WEEKLY: 0, TRAILING: 0})
    warned: dict[str, set[Fraction]] = field(default_factory=lambda: {DAILY: set(), WEEKLY: set(), TRAILING: set()})
    positions: dict[tuple[str, str | None], Position] = field(default_factory=dict)
    # Every order ever approved, and those of them that are open, in order of approval.
    orders: dict[str, Order] = field(default_factory=dict)
    working: dict[str, Order] = field(default_factory=dict)
    marks: dict[str, Fraction] = field(default_factory=dict)
    rates: dict[str, Fraction] = field(default_factory=dict)
    fill_prices: dict[str, Fraction] = field(default_factory=dict)
    approvals_ms: list[int] = field(default_factory=list)

    @property
    def open_orders(self) -> list[Order]:
        return list(self.working.values())

    @property
    def entries(self) -> list[Order]:
        return [order for order in self.open_orders if not order.is_exit and order.left > 0]

    @property
    def held(self) -> list[tuple[str, str | None, Position]]:
        rows = [(instrument, venue, position) for (instrument, venue), position in self.positions.items()]
        return sorted(rows, key=lambda row: (row[0], row[1] or ""))

    @property
    def usable(self) -> Update | None:
        """The latest update where it may be used for a decision."""
        return None if self.equity_missing or self.unfunded else self.update

    @property
    def venues(self) -> list[str]:
        primary = self.config.get("exchange")
        return ([primary] if primary is not None else []) + list(self.config.get("failover", []))

    @property
    def initial_capital(self) -> Fraction | None:
        """The capital that losses are measured on, or None where it is the base itself."""
        if self.config.get("loss_basis", "base") != "initial":
            return None
        return exactly(self.config["initial_capital"])

    def base_from(self, update: Update) -> Fraction:
        """A day's or week's base when it starts from this update."""
        kind = self.config.get("base", "equity")
        if kind == "equity":
            return update.equity
        assert update.balance is not None
        return update.balance if kind == "balance" else max(update.balance, update.equity)

    def mark(self, instrument: str) -> Fraction | None:
        return self.marks.get(instrument, self.fill_prices.get(instrument))

    def rate(self, instrument: str) -> Fraction | None:
        """The value of one unit of the instrument's quote in the account's currency; None where it is missing."""
        currency = self.config.get("currency")
        quote = instrument.rsplit("-", 1)[-1]
        if currency is None or quote == currency:
            return Fraction(1)
        return self.rates.get(quote)


# -------------------------------------------------------------------------------------------------- one step's outputs


@dataclass
class Step:
    """One input record and what it makes, by the kinds whose order is fixed."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    now_ms: int
    key: bytes | None
    value: bytes | None
    basis: Json
    account_id: str | None = None
    closed: list[Json] = field(default_factory=list)
    warnings: list[Json] = field(default_factory=list)
    locks: list[Json] = field(default_factory=list)
    dead: list[Json] = field(default_factory=list)
    events: list[Json] = field(default_factory=list)
    decisions: list[Json] = field(default_factory=list)

    def dead_letter(self, reason: str, detail: str, account_id: str | None, first_id: str | None = None) -> None:
        """Add a dead letter of the record."""
        value = dead_letter(
            reason,
            detail,
            self.topic,
            self.partition,
            self.offset,
            self.timestamp_ms,
            self.key,
            account_id,
            first_id,
            self.value,
        )
        self.dead.append({"topic": "dead-letters", "key": value["key"], "value": value})

    def event(
        self,
        into: list[Json],
        kind: str,
        *,
        command_id: str | None = None,
        order_id: str | None = None,
        observed: str | None = None,
        limit: str | None = None,
        unit: str | None = None,
        detail: Json | None = None,
    ) -> None:
        """Add an ``account-events`` record; its id follows from its place among the outputs."""
        value = {
            "event_id": None,
            "account_id": self.account_id,
            "type": kind,
            "command_id": command_id,
            "order_id": order_id,
            "observed": observed,
            "limit": limit,
            "unit": unit,
            "detail": detail or {},
            "at": write_time(self.now_ms),
            "basis": self.basis,
            "schema_version": 1,
        }
        into.append({"topic": "account-events", "key": self.account_id, "value": value})

    def outputs(self) -> list[Json]:
        """All outputs in their order, with the ids that depend on it."""
        outputs = self.closed + self.warnings + self.locks + self.dead + self.events + self.decisions
        for number, output in enumerate(outputs):
            parts = (str(self.account_id), self.topic, str(self.partition), str(self.offset), str(number))
            digest = hashlib.sha256("\0".join(parts).encode("utf-8")).hexdigest()[:32]
            if output["topic"] == "account-events":
                output["value"]["event_id"] = "e-" + digest
            if output["topic"] == "account-locked":
                output["value"]["lock_id"] = "l-" + digest
        return outputs


def dead_letter(
    reason: str,
    detail: str,
    topic: str | None,
    partition: int | None,
    offset: int | None,
    timestamp_ms: int | None,
    key: bytes | None,
    account_id: str | None,
    first_id: str | None,
    value: bytes | None,
) -> Json:
    """The value of a ``dead-letters`` record."""
    return {
        "reason": reason,
        "detail": detail,
        "topic": topic,
        "partition": partition,
        "offset": offset,
        "timestamp": write_time(timestamp_ms),
        "key": None if key is None else write_bytes(key),
        "account_id": account_id,
        "first_id": first_id,
        "payload": None if value is None else write_payload(value),
        "payload_sha256": None if value is None else hashlib.sha256(value).hexdigest(),
        "payload_size": 0 if value is None else len(value),
        "schema_version": 1,
    }


def check(code: str, passed: bool, observed: str | None, limit: str | None, unit: str, scope: str) -> Json:
    """One line of ``checks``."""
    return {"code": code, "passed": passed, "observed": observed, "limit": limit, "unit": unit, "scope": scope}


# ------------------------------------------------------------------------------------------------------------ the gate


class NaiveGate:
    """The contract's step over one record at a time.

    ``config`` is a parsed ``tidegate.toml`` (any part of it), with numbers as strings, integers or decimals; ``env`` is
    the environment that may name accounts and override ``[limits]``.
    """

    def __init__(self, config: Json, env: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.limits = limits_of(config, env or {})
        self.accounts = {
            account_id: Account(account_id, table, table.get("profile", "micro"))
            for account_id, table in accounts_of(config, env or {}).items()
        }
        # Per account, known or not: what was first made of an id, and until when that is remembered.
        self.decided: dict[tuple[str, str], tuple[str, int]] = {}
        self.filled: dict[tuple[str, str], int] = {}
        self.commanded: dict[tuple[str, str], int] = {}
        # What was added to these memories and to the closed orders, in order: kind, account, id. Clear it when read.
        self.noted: list[tuple[str, str, str]] = []
        self.policies: dict[str, Json] = {}
        # By name, the version of the record that set or removed its rule last.
        self.ruling_versions: dict[str, int] = {}
        self.policy_version = 0
        self.offsets: dict[int, dict[str, int]] = {}

    def feed(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp_ms: int,
        partition: int = 0,
        offset: int,
        now_ms: int | None = None,
    ) -> list[Json]:
        """Apply one record and return its outputs in order, each ``{"topic", "key", "value"}``.

        Without ``now_ms`` the record's timestamp is now, as under ``clock = "record"``.
        """
        now = timestamp_ms if now_ms is None else max(timestamp_ms, now_ms)
        if topic in PARTITIONED_TOPICS:
            self.offsets.setdefault(partition, {})[topic] = offset
        elif topic == "policies":
            self.policy_version = offset + 1
        else:
            raise ValueError(f"{topic} is not an input")
        basis = {
            "partition": partition,
            "offsets": dict(self.offsets.get(partition, {})),
            "policy_version": self.policy_version,
        }
        step = Step(topic, partition, offset, timestamp_ms, now, key, value, basis)
        handle = {
            "signals": self._signal,
            "fills": self._fill,
            "pnl": self._pnl,
            "controls": self._control,
            "policies": self._policy,
        }[topic]
        handle(step)
        return step.outputs()

    def replay(self, lines: Iterable[str]) -> list[Json]:
        """Fold a recorded log, a line each, at record time."""
        outputs: list[Json] = []
        counts = dict.fromkeys((*PARTITIONED_TOPICS, "policies"), 0)
        for raw_line in lines:
            line = raw_line.rstrip("\r\n")
            if not line.strip():
                continue
            try:
                topic, timestamp_ms, key, value = read_line(line)
            except Unreadable as error:
                whole = line.encode("utf-8", "surrogateescape")
                letter = dead_letter("MALFORMED", str(error), None, None, None, None, None, None, None, whole)
                outputs.append({"topic": "dead-letters", "key": None, "value": letter})
                continue
            outputs += self.feed(topic, value, key=key, timestamp_ms=timestamp_ms, offset=counts[topic])
            counts[topic] += 1
        return outputs

    def state_of(self, account_id: str) -> Json:
        """What a comparison needs to know of an account; amounts as they would be written."""
        account = self.accounts[account_id]
        usable = account.usable
        return {
            "profile": account.profile,
            "locks": sorted(account.locks),
            "halted": account.halted,
            "fill_unusable": account.fill_unusable,
            "equity": None if usable is None else write_amount(usable.equity),
            "base_daily": write_amount(account.bases.get(DAILY)),
            "base_weekly": write_amount(account.bases.get(WEEKLY)),
            "hwm": write_amount(account.bases.get(TRAILING)),
            "positions": {key: write_amount(held.quantity) for key, held in account.positions.items()},
            "open_orders": {order.order_id: write_amount(order.left) for order in account.open_orders},
            "last_breach": account.last_breach,
        }

    # ------------------------------------------------------------------------------------------ settings and policies

    def _settings(self, profile: str) -> Json:
        """What a profile says: its defaults, the configuration over them, its policy over that."""
        configured = self.config.get("profiles", {}).get(profile, {})
        ruled = self.policies.get(f"profile/{profile}", {})
        return {**DEFAULT_PROFILES[profile], **configured, **ruled}

    def _dedup_ms(self) -> int:
        return duration_ms(self.limits["dedup_horizon"])

    def _policy(self, step: Step) -> None:
        name: str | None = None
        if step.key is not None:
            try:
                name = step.key.decode("utf-8")
            except UnicodeDecodeError:
                name = None
        try:
            record = read_json_object(step.value)
            # Choice: a name that cannot be read is the key too, as for malformed values.
            named = take(record, "name", read_id)
            if named in (None, BAD):
                raise Unreadable("name cannot be read")
            name = named
            # Choice: a rule that is absent is unusable; only an explicit null removes.
            if "rule" not in record:
                raise Unreadable("there is no rule")
            if record["rule"] is not None and not isinstance(record["rule"], dict):
                raise Unreadable("the rule is not an object")
            reverted = take(record, "reverts", read_count)
            if reverted is BAD:
                raise Unreadable("reverts is not a version")
            # Choice: the end of a rule that is not in force any more does nothing, however its own rule reads.
            if reverted is not None and reverted != self.ruling_versions.get(named):
                return
            usable = usable_rule(named, record["rule"])
        except Unreadable as error:
            step.dead_letter("POLICY_UNUSABLE", str(error), None)
            if name is not None and state_scope(name) is not None:
                self.policies[name] = {"state": "HALTED"}
                self.ruling_versions[name] = self.policy_version
            return
        self.ruling_versions[named] = self.policy_version
        if usable is None:
            self.policies.pop(named, None)
        else:
            self.policies[named] = usable

    def _is_up(self, venue: str) -> bool:
        return bool(self.policies.get(f"venue/{venue}", {"up": True})["up"])

    def _list(self, kind: str, profile: str | None) -> list[str]:
        """A white- or blacklist: the policy's where it names one, else the configured one."""
        tables = self.config.get("strategies", {})
        name = "strategies" if profile is None else f"strategies/{profile}"
        configured = tables if profile is None else tables.get(profile, {})
        return list({**configured, **self.policies.get(name, {})}.get(kind, []))

    def _set_state(self, account: Account, venue: str | None, strategy: str | None) -> tuple[str, str]:
        """The state set by policy, ``halt`` or an unusable fill, and the scope that sets it; locks do not count."""
        own = "HALTED" if account.halted else "REDUCING" if account.fill_unusable else "ACTIVE"
        states = [("global", self.policies.get("state/global", {}).get("state", "ACTIVE"))]
        if venue is not None:
            states.append(("venue", self.policies.get(f"state/venue/{venue}", {}).get("state", "ACTIVE")))
        if strategy is not None:
            states.append(("strategy", self.policies.get(f"state/strategy/{strategy}", {}).get("state", "ACTIVE")))
        states.append(("account", own))
        for wanted in ("HALTED", "REDUCING"):
            for scope, state in states:
                if state == wanted:
                    return state, scope
        return "ACTIVE", "global"

    def _trading_state(self, account: Account, venue: str | None, strategy: str | None) -> str:
        """The most restrictive of all scopes, a lock's own REDUCING included."""
        state, _ = self._set_state(account, venue, strategy)
        return "REDUCING" if state == "ACTIVE" and account.locks else state

    # -------------------------------------------------------------------------------------------------- drawdown, locks

    def _drawdown(self, account: Account, base: Fraction, equity: Fraction) -> Fraction:
        capital = account.initial_capital
        if equity <= 0 and base <= 0:
            return Fraction(1)
        if capital is not None:
            loss = (base - equity) / capital
        elif base > 0:
            loss = 1 - equity / base
        else:
            loss = Fraction(0)
        return max(Fraction(1) if equity <= 0 else Fraction(0), loss)

    def _drawdown_limits(self, settings: Json) -> dict[str, Fraction]:
        limits = {DAILY: exactly(settings["max_daily_drawdown"]), WEEKLY: exactly(settings["max_weekly_drawdown"])}
        if settings.get("max_trailing_drawdown") is not None:
            limits[TRAILING] = exactly(settings["max_trailing_drawdown"])
        return limits

    def _breaches(
        self, account: Account, settings: Json, bases: dict[str, Fraction]
    ) -> dict[str, tuple[Fraction, Fraction]]:
        """Drawdown and limit of each limit that the last usable update breaches, in the order of the locks."""
        assert account.update is not None
        found = {}
        for reason, limit in self._drawdown_limits(settings).items():
            drawdown = self._drawdown(account, bases[reason], account.update.equity)
            if drawdown > limit or (drawdown == limit and settings["breach"] == "reach"):
                found[reason] = (drawdown, limit)
        return found

    def _lock(
        self, step: Step, account: Account, reason: str, observed: Fraction | None, limit: Fraction | None
    ) -> None:
        period = {DAILY: "day", WEEKLY: "week"}.get(reason)
        base = None if reason == MANUAL else account.bases[reason]
        start_ms = None if period is None else account.periods[period].start_ms
        account.locks[reason] = Lock(observed, limit, base, start_ms, step.now_ms)
        if reason != MANUAL:
            account.last_breach = (reason, step.now_ms)
        usable = account.usable
        value = {
            "lock_id": None,
            "account_id": account.account_id,
            "reason": reason,
            "observed": write_amount(observed),
            "limit": write_amount(limit),
            "equity": None if usable is None else write_amount(usable.equity),
            "base_equity": write_amount(base),
            "period_start": write_time(start_ms),
            "profile": account.profile,
            "trading_state": self._trading_state(account, None, None),
            "open_orders": [
                {
                    "order_id": order.order_id,
                    "instrument": order.instrument,
                    "side": order.side,
                    "quantity_left": write_amount(order.left),
                    "venue": order.venue,
                }
                for order in account.entries
            ],
            "positions": [
                {
                    "instrument": instrument,
                    "venue": venue,
                    "quantity": write_amount(held.quantity),
                    "average_price": write_amount(held.average_price),
                }
                for instrument, venue, held in account.held
            ],
            "locked_at": write_time(step.now_ms),
            "basis": step.basis,
            "schema_version": 1,
        }
        step.locks.append({"topic": "account-locked", "key": account.account_id, "value": value})

    # ------------------------------------------------------------------------------------------------------------- pnl

    def _account_of(self, step: Step, record: Json | None) -> Account | None:
        """The account of a fill or of an equity mark; a dead letter is added where there is none to apply it to.

        An account that the value does not tell is taken from the key, and ``account_id`` of the step stays unset then.
        """
        account_id = None if record is None else take(record, "account_id", read_id)
        if account_id not in (None, BAD):
            if account_id not in self.accounts:
                step.dead_letter("UNKNOWN_ACCOUNT", f"account_id {account_id!r} is not configured", account_id)
                return None
            step.account_id = account_id
            return self.accounts[account_id]
        from_key: Account | None = None
        if step.key is not None:
            from_key = self.accounts.get(step.key.decode("utf-8", "replace"))
        reason = "MALFORMED" if record is None else "SCHEMA"
        step.dead_letter(reason, "account_id cannot be read", None if from_key is None else from_key.account_id)
        return from_key

    def _read(self, step: Step) -> Json | None:
        try:
            return read_json_object(step.value)
        except Unreadable:
            return None

    def _pnl(self, step: Step) -> None:
        record = self._read(step)
        account = self._account_of(step, record)
        if account is None:
            return
        if record is None or step.account_id is None:
            account.equity_missing = True
            return
        sequence = take(record, "sequence", read_integer)
        if sequence in (None, BAD):
            account.equity_missing = True
            step.dead_letter("SCHEMA", "sequence is not a JSON integer", account.account_id)
            return
        if account.sequence is not None and sequence <= account.sequence:
            step.dead_letter("STALE_SEQUENCE", f"sequence {sequence} is not above the last", account.account_id)
            return
        account.sequence = sequence

        equity = take(record, "equity", read_amount)
        balance = take(record, "balance", read_amount)
        flow = take(record, "cash_flow", read_amount)
        marks = take(record, "marks", read_prices)
        rates = take(record, "rates", read_prices)
        as_of_ms = take(record, "as_of", read_time)
        needs_balance = account.config.get("base", "equity") != "equity"
        faults = [
            name
            for name, is_bad in (
                ("equity", not isinstance(equity, Fraction)),
                ("balance", not isinstance(balance, Fraction) and (balance is not None or needs_balance)),
                ("cash_flow", not isinstance(flow, Fraction) and flow is not None),
                ("marks", marks is BAD),
                ("rates", rates is BAD),
                ("as_of", as_of_ms in (None, BAD) or as_of_ms > step.now_ms + FUTURE_TOLERANCE_MS),
            )
            if is_bad
        ]
        if faults:
            account.equity_missing = True
            if isinstance(flow, Fraction):
                account.carried_flow += flow
            step.dead_letter("SCHEMA", f"{faults} cannot be used", account.account_id)
            return
        self._warn_of_overdue_orders(step, account)
        whole_flow = account.carried_flow + (flow or 0)
        account.carried_flow = Fraction(0)
        account.equity_missing = False
        account.marks.update(marks or {})
        account.rates.update(rates or {})
        self._use_update(step, account, Update(equity, balance, as_of_ms), whole_flow)

    def _use_update(self, step: Step, account: Account, update: Update, flow: Fraction) -> None:
        equity = update.equity
        if account.update is None:
            account.update = update
            account.bases = {DAILY: account.base_from(update), WEEKLY: account.base_from(update), TRAILING: equity}
            for period in ("day", "week"):
                start_ms = start_at_or_before_ms(account, period, update.as_of_ms)
                account.periods[period] = Period(start_ms, equity, equity, equity)
            account.unfunded = equity == 0
        else:
            for period in ("day", "week"):
                start_ms = start_before_ms(account, period, update.as_of_ms)
                if start_ms > account.periods[period].start_ms:
                    self._roll(step, account, period, start_ms)
            withdrawn = flow < 0 and equity - flow > 0
            if equity == 0 and withdrawn and not account.unfunded:
                # The rest was withdrawn; what had been lost until then is judged on the old bases.
                account.update = Update(equity - flow, update.balance, update.as_of_ms)
                account.unfunded = True
                self._test(step, account)
            account.update = update
            account.bases = {limit: with_flow(account, base, equity, flow) for limit, base in account.bases.items()}
            account.unfunded = equity == 0 and (withdrawn or account.unfunded)
            for running in account.periods.values():
                running.high = max(running.high, equity)
                running.low = min(running.low, equity)
        if equity > account.bases[TRAILING]:
            account.bases[TRAILING] = equity
            account.warned[TRAILING] = set()
        self._fund_bases(account)
        if not account.unfunded:
            self._test(step, account)
        for period in ("day", "week"):
            if update.as_of_ms > account.periods[period].start_ms and update.as_of_ms in boundaries_ms(
                account, period, update.as_of_ms
            ):
                self._roll(step, account, period, update.as_of_ms)
                self._fund_bases(account)

    def _fund_bases(self, account: Account) -> None:
        """A base that is not above 0 while the equity is becomes the equity."""
        assert account.update is not None
        if account.initial_capital is None and account.update.equity > 0:
            for limit, base in account.bases.items():
                if base <= 0:
                    account.bases[limit] = account.update.equity

    def _roll(self, step: Step, account: Account, period: str, start_ms: int) -> None:
        """Close the running day or week with the last usable update, and begin another with it as its base."""
        assert account.update is not None
        reason = DAILY if period == "day" else WEEKLY
        last, closing = account.update, account.periods[period]
        drawdown = None if account.unfunded else self._drawdown(account, account.bases[reason], last.equity)
        step.event(
            step.closed,
            "PERIOD_CLOSED",
            # Choice: a period that closes on E = 0 left by a withdrawal has no drawdown.
            observed=write_amount(drawdown),
            limit=write_amount(self._drawdown_limits(self._settings(account.profile))[reason]),
            unit="fraction",
            detail={
                "period": period,
                "start": write_time(closing.start_ms),
                "end": write_time(end_ms(account, period, closing.start_ms)),
                "base": write_amount(account.bases[reason]),
                "open": write_amount(closing.open),
                "close": write_amount(last.equity),
                "high": write_amount(closing.high),
                "low": write_amount(closing.low),
            },
        )
        account.periods[period] = Period(start_ms, last.equity, last.equity, last.equity)
        account.bases[reason] = account.base_from(last)
        account.counts[reason] = 0
        account.warned[reason] = set()

    def _test(self, step: Step, account: Account) -> None:
        """Test the last update on every limit: warnings, counts and locks."""
        assert account.update is not None
        settings = self._settings(account.profile)
        limits = self._drawdown_limits(settings)
        breaches = self._breaches(account, settings, account.bases)
        for reason, limit in limits.items():
            drawdown = self._drawdown(account, account.bases[reason], account.update.equity)
            for tier in sorted({exactly(tier) for tier in settings["warning"]}):
                if drawdown >= tier * limit and tier not in account.warned[reason]:
                    account.warned[reason].add(tier)
                    step.event(
                        step.warnings,
                        "WARNING",
                        observed=write_amount(drawdown),
                        limit=write_amount(limit),
                        unit="fraction",
                        detail={"limit": reason, "tier": write_amount(tier)},
                    )
        needed = int(settings["confirmations"])
        # Choice: an update under a profile without a trailing limit does not breach it, so it ends the row.
        account.counts.update({reason: 0 for reason in account.counts if reason not in limits})
        for reason, limit in limits.items():
            account.counts[reason] = min(needed, account.counts[reason] + 1) if reason in breaches else 0
            if account.counts[reason] >= needed and reason not in account.locks:
                self._lock(step, account, reason, breaches[reason][0], limit)

    # ----------------------------------------------------------------------------------------------------------- fills

    def _fill(self, step: Step) -> None:
        record = self._read(step)
        account = self._account_of(step, record)
        if account is None:
            return
        if record is None or step.account_id is None:
            step.account_id = account.account_id
            self._fill_unusable(step, account)
            return
        account_id = account.account_id
        horizon_ms = self._dedup_ms()
        filled_at_ms = take(record, "filled_at", read_time)
        if isinstance(filled_at_ms, int) and step.now_ms - filled_at_ms > horizon_ms:
            step.dead_letter("TOO_OLD", "filled_at is older than dedup_horizon", account_id)
            return
        fill_id = take(record, "fill_id", read_id)
        if isinstance(fill_id, str) and self.filled.get((account_id, fill_id), step.now_ms - 1) >= step.now_ms:
            step.dead_letter("DUPLICATE_FILL", f"fill_id {fill_id!r} was applied", account_id, fill_id)
            return

        instrument = take(record, "instrument", read_id)
        side = take(record, "side", read_one_of("buy", "sell"))
        quantity = take(record, "quantity", read_amount)
        price = take(record, "price", read_amount)
        fee = take(record, "fee", read_amount)
        status = take(record, "status", read_one_of("partially_filled", "filled", "cancelled", "rejected", "expired"))
        order_id = take(record, "order_id", read_id)
        venue = take(record, "venue", read_id)
        quantity_is_good = isinstance(quantity, Fraction) and quantity >= 0
        # Choice: where nothing was filled, any price does, readable or not.
        price_is_good = quantity == 0 or (isinstance(price, Fraction) and price > 0)
        fee_is_good = fee is None or isinstance(fee, Fraction)
        missing = any(name in (None, BAD) for name in (fill_id, instrument, side, status, filled_at_ms))
        if missing or BAD in (order_id, venue) or not (quantity_is_good and price_is_good and fee_is_good):
            step.dead_letter("SCHEMA", "the fill cannot be used", account_id)
            self._fill_unusable(step, account)
            return

        self._warn_of_overdue_orders(step, account)
        known_until_ms = max(step.now_ms, filled_at_ms) + horizon_ms
        self.filled[account_id, fill_id] = known_until_ms
        self.noted.append(("fill", account_id, fill_id))
        order = None if order_id is None else account.orders.get(order_id)
        if order is not None and order.closed_until_ms is not None and order.closed_until_ms < step.now_ms:
            order = None
        if venue is None:
            venue = order.venue if order is not None else account.config.get("exchange")
        if quantity > 0:
            account.fill_prices[instrument] = price
            signed = quantity if side == "buy" else -quantity
            self._move(account, (instrument, venue), signed, price, stop_brought_by(order, instrument, side))
        amount = write_amount(quantity)
        if order_id is not None and order is None:
            step.event(step.events, "UNKNOWN_ORDER", order_id=order_id, observed=amount, unit="amount")
        if order is None:
            return
        if order.closed_until_ms is not None:
            if quantity > 0:
                step.event(step.events, "LATE_FILL", order_id=order_id, observed=amount, unit="amount")
            return
        order.filled += quantity
        if quantity > 0 and order.filled > order.quantity:
            step.event(
                step.events,
                "OVERFILL",
                order_id=order_id,
                observed=write_amount(order.filled),
                limit=write_amount(order.quantity),
                unit="amount",
            )
        if status != "partially_filled":
            self._close(account, order, known_until_ms)

    def _close(self, account: Account, order: Order, known_until_ms: int) -> None:
        order.closed_until_ms = known_until_ms
        del account.working[order.order_id]
        self.noted.append(("order", account.account_id, order.order_id))

    def _fill_unusable(self, step: Step, account: Account) -> None:
        account.fill_unusable = True
        step.event(step.events, "FILL_UNUSABLE")

    def _move(
        self, account: Account, key: tuple[str, str | None], change: Fraction, price: Fraction, stop: Fraction | None
    ) -> None:
        """Move a position by a fill; ``stop`` is that of its order."""
        stops = [] if stop is None else [stop]
        old = account.positions.get(key)
        if old is None:
            account.positions[key] = Position(change, price, stops)
            return
        quantity = old.quantity + change
        if quantity == 0:
            del account.positions[key]
        elif (old.quantity > 0) == (change > 0):
            average = (old.quantity * old.average_price + change * price) / quantity
            account.positions[key] = Position(quantity, average, old.stops + stops)
        elif (old.quantity > 0) == (quantity > 0):
            account.positions[key] = Position(quantity, old.average_price, old.stops)
        else:
            account.positions[key] = Position(quantity, price, stops)

    def _warn_of_overdue_orders(self, step: Step, account: Account) -> None:
        """Once per order, with the account's first record after its ``valid_until``, as the orders were before it."""
        for order in account.open_orders:
            if step.now_ms > order.valid_until_ms and not order.warned:
                order.warned = True
                step.event(
                    step.warnings,
                    "WARNING",
                    order_id=order.order_id,
                    observed=write_seconds(step.now_ms - order.valid_until_ms),
                    limit="0",
                    unit="seconds",
                )

    # -------------------------------------------------------------------------------------------------------- controls

    def _control(self, step: Step) -> None:
        record = self._read(step)
        if record is None:
            step.dead_letter("MALFORMED", "the command is not a JSON object", None)
            return
        command_id = take(record, "command_id", read_id)
        account_id = take(record, "account_id", read_id)
        if command_id in (None, BAD) or account_id in (None, BAD):
            known = None if account_id is BAD else account_id
            step.dead_letter("SCHEMA", "command_id or account_id cannot be read", known)
            return
        if account_id not in self.accounts:
            step.dead_letter("UNKNOWN_ACCOUNT", f"account_id {account_id!r} is not configured", account_id)
            return
        if self.commanded.get((account_id, command_id), step.now_ms - 1) >= step.now_ms:
            step.dead_letter("DUPLICATE_COMMAND", f"command_id {command_id!r} was handled", account_id, command_id)
            return
        self.commanded[account_id, command_id] = step.now_ms + self._dedup_ms()
        self.noted.append(("command", account_id, command_id))
        step.account_id = account_id
        account = self.accounts[account_id]
        try:
            carry_out = self._command(step, account, record, command_id)
        except Refused as refusal:
            step.dead_letter("COMMAND_REFUSED", str(refusal), account_id)
            return
        self._warn_of_overdue_orders(step, account)
        carry_out()

    def _command(self, step: Step, account: Account, record: Json, command_id: str) -> Callable[[], None]:
        """What the command does, once nothing speaks against it; raises ``Refused`` before anything has changed."""
        kinds = ("lock", "unlock", "set_profile", "halt", "resume", "release_order")
        kind = take(record, "type", read_one_of(*kinds))
        operator = take(record, "operator", read_remark)
        approved_by = take(record, "approved_by", read_remark)
        reason = take(record, "reason", read_remark)
        issued_at_ms = take(record, "issued_at", read_time)
        rebase = take(record, "rebase", read_one_of("keep", "now"))
        profile = take(record, "profile", read_one_of(*PROFILES))
        order_id = take(record, "order_id", read_id)
        if any(name in (None, BAD) for name in (kind, operator, reason, issued_at_ms)) or (
            approved_by is BAD and kind in ("unlock", "resume", "set_profile")
        ):
            raise Refused("a command names its type, operator, reason and issued_at")
        has_second_person = approved_by not in (None, BAD) and approved_by != operator
        two_person = bool(self.config.get("controls", {}).get("two_person", False))

        def event(event_type: str, **more: Any) -> None:
            step.event(step.events, event_type, command_id=command_id, **more)

        def profile_changed(new: str) -> None:
            event("PROFILE_CHANGED", detail={"from": account.profile, "to": new})
            account.profile, account.profile_is_set = new, True

        if kind == "lock":
            if MANUAL in account.locks:
                raise Refused("MANUAL is held already")
            return lambda: self._lock(step, account, MANUAL, None, None)

        if kind == "halt":

            def halt() -> None:
                account.halted = True
                event("HALTED")

            return halt

        if kind == "resume":
            if not account.halted and not account.fill_unusable:
                raise Refused("nothing is halted")
            if two_person and not has_second_person:
                raise Refused("resume needs a second person")

            def resume() -> None:
                account.halted = account.fill_unusable = False
                event("RESUMED")

            return resume

        if kind == "release_order":
            order = account.orders.get(order_id) if isinstance(order_id, str) else None
            if order is None or order.closed_until_ms is not None:
                raise Refused("order_id is not that of an open order")

            def release() -> None:
                self._close(account, order, step.now_ms + self._dedup_ms())
                event("ORDER_RELEASED", order_id=order_id)

            return release

        if kind == "set_profile":
            down_only = take(record, "down_only", read_bool)
            if down_only is BAD:
                raise Refused("down_only is neither true nor false")
            if profile in (None, BAD):
                raise Refused("profile is not known")
            rungs = PROFILES.index(profile) - PROFILES.index(account.profile)
            if rungs > 1:
                raise Refused("a profile moves up one rung at a time")
            if rungs == 1:
                if down_only is True:
                    raise Refused("down_only asks for a lower profile")
                if two_person and not has_second_person:
                    raise Refused("moving up needs a second person")
                if account.locks:
                    raise Refused("never up while locked")
                if account.usable is None:
                    raise Refused("moving up needs usable equity")
                if self._breaches(account, self._settings(account.profile), account.bases):
                    raise Refused("never up while a limit is breached")

            def set_profile() -> None:
                profile_changed(profile)
                if account.usable is not None:
                    breaches = self._breaches(account, self._settings(profile), account.bases)
                    for reason, (drawdown, limit) in breaches.items():
                        if reason not in account.locks:
                            self._lock(step, account, reason, drawdown, limit)

            return set_profile

        # unlock
        if not account.locks:
            raise Refused("the account is not locked")
        if two_person and not has_second_person:
            raise Refused("unlock needs a second person")
        if rebase is BAD:
            raise Refused("rebase is keep or now")
        if profile is BAD or (profile is not None and PROFILES.index(profile) >= PROFILES.index(account.profile)):
            raise Refused("an unlock's profile is a lower one")
        bases = dict(account.bases)
        usable = account.usable
        if rebase == "now":
            age_ms = 0 if usable is None else step.now_ms - usable.as_of_ms
            if usable is None or not -5_000 <= age_ms <= duration_ms(self.limits["max_pnl_age"]):
                raise Refused("unlock now needs fresh equity")
            bases.update({held: usable.equity for held in account.locks if held != MANUAL})
        elif usable is None and set(account.locks) != {MANUAL}:
            raise Refused("unlock keep of a drawdown needs usable equity")
        if usable is not None and self._breaches(account, self._settings(profile or account.profile), bases):
            raise Refused("a limit is breached")

        def unlock() -> None:
            if rebase == "now" and TRAILING in account.locks:
                # Choice: a re-based HWM is a new one, so its warnings are armed again.
                account.warned[TRAILING] = set()
            account.bases = bases
            account.locks = {}
            account.counts = {DAILY: 0, WEEKLY: 0, TRAILING: 0}
            event("UNLOCKED")
            if profile is not None:
                profile_changed(profile)

        return unlock

    # --------------------------------------------------------------------------------------------------------- signals

    def _signal(self, step: Step) -> None:
        record = self._read(step)
        if record is None:
            step.dead_letter("MALFORMED", "the signal is not a JSON object", None)
            return
        account_id = take(record, "account_id", read_id)
        signal_id = take(record, "signal_id", read_id)
        signal = read_signal(record)
        strategy_id = signal["strategy_id"]
        if account_id is BAD or (account_id is None and strategy_id is None):
            step.dead_letter("SCHEMA", "account_id or strategy_id cannot be read", None)
            return
        if account_id is None:
            account_id = self.config.get("strategies", {}).get("routes", {}).get(strategy_id, {}).get("account")
        if signal_id in (None, BAD):
            step.dead_letter("SCHEMA", "signal_id cannot be read", account_id)
            return
        if account_id is None:
            step.dead_letter("UNKNOWN_ACCOUNT", f"strategy_id {strategy_id!r} has no route", None)
            return
        created_at_ms = signal["created_at"]
        horizon_ms = self._dedup_ms()
        if created_at_ms is not None and step.now_ms - created_at_ms > horizon_ms:
            step.dead_letter("TOO_OLD", "created_at is older than dedup_horizon", account_id)
            return
        first_id, known_until_ms = self.decided.get((account_id, signal_id), ("", step.now_ms - 1))
        is_working = account_id in self.accounts and first_id in self.accounts[account_id].working
        if known_until_ms >= step.now_ms or is_working:
            step.dead_letter("DUPLICATE_SIGNAL", f"signal_id {signal_id!r} was decided", account_id, first_id)
            return
        step.account_id = account_id
        signal.update(signal_id=signal_id, account_id=account_id)
        account = self.accounts.get(account_id)
        if account is not None:
            self._warn_of_overdue_orders(step, account)
        first_id = self._decide(step, account, signal)
        self.decided[account_id, signal_id] = (first_id, max(step.now_ms, created_at_ms or 0) + horizon_ms)
        self.noted.append(("signal", account_id, signal_id))

    def _decide(self, step: Step, account: Account | None, signal: Json) -> str:
        """Approve or reject; returns the id that a duplicate will be told."""
        checks = self._own_checks(step, account, signal)
        venue: str | None = None
        is_exit = False
        if account is not None:
            exit_venue, reducible = self._exit(account, signal)
            is_exit = is_valid(signal["quantity"]) and signal["quantity"] <= reducible
            candidates, foreign = ([exit_venue], None) if is_exit else self._candidates(account, signal)
            # With all of them down the first one stands for the order.
            venue = next((name for name in candidates if self._is_up(str(name))), next(iter(candidates), None))
            checks += self._account_checks(step, account, signal, venue, foreign, is_exit, reducible)
        failed = [one for one in checks if not one["passed"]]
        if failed or account is None:
            reasons = [{name: one[name] for name in one if name != "passed"} for one in failed]
            self._reject(step, signal, reasons)
            return str(signal["signal_id"])
        return self._approve(step, account, signal, venue, is_exit, checks)

    def _reject(self, step: Step, signal: Json, reasons: list[Json]) -> None:
        value = {
            "signal_id": signal["signal_id"],
            "account_id": signal["account_id"],
            "strategy_id": signal["strategy_id"],
            "instrument": signal["instrument"],
            "code": reasons[0]["code"],
            "reasons": reasons,
            "decided_at": write_time(step.now_ms),
            "basis": step.basis,
            "schema_version": 1,
        }
        step.decisions.append({"topic": "rejected-signals", "key": step.account_id, "value": value})

    def _approve(
        self, step: Step, account: Account, signal: Json, venue: str | None, is_exit: bool, checks: list[Json]
    ) -> str:
        seed = f"{account.account_id}\0{signal['signal_id']}".encode()
        order_id = "o-" + hashlib.sha256(seed).hexdigest()[:32]
        valid_until_ms = step.now_ms + duration_ms(self.limits["order_valid"])
        if signal["expires_at"] is not None:
            valid_until_ms = min(valid_until_ms, signal["expires_at"])
        value = {
            "signal_id": signal["signal_id"],
            "account_id": account.account_id,
            "strategy_id": signal["strategy_id"],
            "instrument": signal["instrument"],
            "side": signal["side"],
            "quantity": write_amount(signal["quantity"]),
            "price": write_amount(signal["price"]),
            "stop_loss": write_amount(signal["stop_loss"]),
            "leverage": write_amount(signal["leverage"]),
            "reduce_only": signal["reduce_only"] is True,
            "venue": venue,
            "created_at": write_time(signal["created_at"]),
            "expires_at": write_time(signal["expires_at"]),
            "order_id": order_id,
            "profile": account.profile,
            "trading_state": self._trading_state(account, venue, signal["strategy_id"]),
            "decided_at": write_time(step.now_ms),
            "valid_until": write_time(valid_until_ms),
            "checks": checks,
            "basis": step.basis,
            "schema_version": 1,
        }
        step.decisions.append({"topic": "approved-orders", "key": account.account_id, "value": value})
        account.orders.pop(order_id, None)
        account.working.pop(order_id, None)
        account.orders[order_id] = account.working[order_id] = Order(
            order_id,
            signal["instrument"],
            signal["side"],
            signal["quantity"],
            signal["price"],
            signal["stop_loss"],
            venue,
            is_exit,
            valid_until_ms,
        )
        account.approvals_ms.append(step.now_ms)
        return order_id

    # --------------------------------------------------------------------------------------- where a signal would trade

    def _exit(self, account: Account, signal: Json) -> tuple[str | None, Fraction]:
        """The venue of the largest opposite position, and how much of it may be reduced."""
        instrument, side, named = signal["instrument"], signal["side"], signal["venue"]
        nothing = (None, Fraction(0))
        # Choice: with a venue that cannot be read nothing is an exit.
        if instrument is None or side is None or "venue" in signal["bad"]:
            return nothing
        if named is not None and named not in account.venues:
            return nothing
        opposite = [
            (-abs(held.quantity), venue or "", venue)
            for where, venue, held in account.held
            if where == instrument and (held.quantity < 0) == (side == "buy") and named in (None, venue)
        ]
        if not opposite:
            return nothing
        minus_size, _, at = min(opposite)
        working = sum(
            order.left
            for order in account.open_orders
            if order.is_exit and order.instrument == instrument and order.venue == at
        )
        return at, max(Fraction(0), -minus_size - working)

    def _candidates(self, account: Account, signal: Json) -> tuple[list[str], str | None]:
        """The venues that an entry may go to, in order, or the named one that is not the account's."""
        named = signal["venue"]
        if "venue" in signal["bad"]:
            return [], None
        if named is not None:
            return ([named], None) if named in account.venues else ([], named)
        route = self.config.get("strategies", {}).get("routes", {}).get(signal["strategy_id"], {})
        # Choice: a route's exchange takes the primary's place; it needs not be among the account's venues.
        first = route.get("exchange") if route.get("account") == account.account_id else None
        first = first or account.config.get("exchange")
        return ([first] if first is not None else []) + list(account.config.get("failover", [])), None

    # ---------------------------------------------------------------------------------------------------------- checks

    def _own_checks(self, step: Step, account: Account | None, signal: Json) -> list[Json]:
        """The checks that need nothing but the signal and the time."""
        checks = [check("INVALID_SIGNAL", False, name, None, "name", "signal") for name in signal["bad"]]
        if not checks:
            checks.append(check("INVALID_SIGNAL", True, None, None, "name", "signal"))
        checks.append(check("UNKNOWN_ACCOUNT", account is not None, signal["account_id"], None, "name", "account"))
        if signal["created_at"] is not None:
            age_ms = abs(step.now_ms - signal["created_at"])
            limit_ms = duration_ms(self.limits["max_signal_age"])
            passed = age_ms <= limit_ms
            checks.append(
                check("STALE_SIGNAL", passed, write_seconds(age_ms), write_seconds(limit_ms), "seconds", "signal")
            )
        if signal["expires_at"] is not None:
            left_ms = signal["expires_at"] - step.now_ms
            checks.append(check("EXPIRED_SIGNAL", left_ms > 0, write_seconds(left_ms), "0", "seconds", "signal"))
        price, stop, quantity = signal["price"], signal["stop_loss"], signal["quantity"]
        if price is not None and "stop_loss" not in signal["bad"]:
            wrong = [amount for amount in (price, stop) if amount is not None and not is_valid(amount)]
            observed = write_amount(wrong[0] if wrong else price)
            checks.append(check("INVALID_PRICE", not wrong, observed, "0", "amount", "signal"))
        if quantity is not None:
            checks.append(
                check("INVALID_QUANTITY", is_valid(quantity), write_amount(quantity), "0", "amount", "signal")
            )
        return checks

    def _account_checks(
        self,
        step: Step,
        account: Account,
        signal: Json,
        venue: str | None,
        foreign: str | None,
        is_exit: bool,
        reducible: Fraction,
    ) -> list[Json]:
        """The checks from ``TRADING_HALTED`` on."""
        is_entry = not is_exit
        instrument, side, quantity = signal["instrument"], signal["side"], signal["quantity"]
        strategy = signal["strategy_id"]
        settings = self._settings(account.profile)
        checks: list[Json] = []

        state, scope = self._set_state(account, venue, strategy)
        checks.append(check("TRADING_HALTED", state != "HALTED", state, None, "name", scope))
        if is_entry:
            checks.append(check("TRADING_STATE_REDUCING", state != "REDUCING", state, None, "name", scope))
            checks += self._rollout_check(account, venue)
            for reason in (DAILY, WEEKLY, TRAILING, MANUAL):
                held = account.locks.get(reason)
                observed = None if held is None else write_amount(held.observed)
                limit = None if held is None else write_amount(held.limit)
                unit = "name" if reason == MANUAL else "fraction"
                checks.append(check(f"ACCOUNT_LOCKED_{reason}", held is None, observed, limit, unit, "account"))
        if signal["reduce_only"] is True and None not in (quantity, side, instrument):
            code = "REDUCE_ONLY_WOULD_INCREASE_POSITION"
            checks.append(check(code, is_exit, write_amount(quantity), write_amount(reducible), "amount", "signal"))
        if is_entry and strategy is not None:
            blacklists = (self._list("blacklist", None), self._list("blacklist", account.profile))
            passed = not any(strategy in names for names in blacklists)
            checks.append(check("STRATEGY_BLACKLISTED", passed, strategy, None, "name", "strategy"))
            whitelists = (self._list("whitelist", None), self._list("whitelist", account.profile))
            if any(whitelists):
                passed = all(strategy in names for names in whitelists if names)
                checks.append(check("STRATEGY_NOT_WHITELISTED", passed, strategy, None, "name", "strategy"))
        if "venue" not in signal["bad"]:
            checks.append(check("NO_VENUE", venue is not None, venue or foreign, None, "name", "venue"))
            if venue is not None:
                checks.append(check("VENUE_UNAVAILABLE", self._is_up(venue), venue, None, "name", "venue"))
        if is_entry:
            checks += self._risk_checks(step, account, signal, settings)
        return checks

    def _rollout_check(self, account: Account, venue: str | None) -> list[Json]:
        rollout = self.policies.get("rollout")
        if rollout is None:
            return []
        asked = (
            (account.account_id, rollout["accounts"]),
            (account.profile, rollout["profiles"]),
            # Choice: an order without a venue is refused as such, not by the rollout.
            (venue, rollout["venues"]),
        )
        refused = [name for name, allowed in asked if name is not None and allowed is not None and name not in allowed]
        observed = refused[0] if refused else account.account_id
        return [check("ROLLOUT_PHASE", not refused, observed, rollout["phase"], "name", "global")]

    def _risk_checks(self, step: Step, account: Account, signal: Json, settings: Json) -> list[Json]:
        """What an entry is asked from ``RISK_DATA_MISSING`` on."""
        checks: list[Json] = []
        instrument, side = signal["instrument"], signal["side"]
        quantity, price, stop, leverage = signal["quantity"], signal["price"], signal["stop_loss"], signal["leverage"]
        usable = account.usable

        # Choice: the signal's own instrument is asked first, then positions by name, then entries in order of approval.
        asked = [] if instrument is None else [instrument]
        asked += [where for where, _, _ in account.held] + [order.instrument for order in account.entries]
        unrated = [where.rsplit("-", 1)[-1] for where in asked if account.rate(where) is None]
        missing = "equity" if usable is None else unrated[0] if unrated else None
        checks.append(check("RISK_DATA_MISSING", missing is None, missing, None, "name", "account"))
        if usable is not None:
            age_ms, limit_ms = step.now_ms - usable.as_of_ms, duration_ms(self.limits["max_pnl_age"])
            passed = -5_000 <= age_ms <= limit_ms
            checks.append(
                check("RISK_DATA_STALE", passed, write_seconds(age_ms), write_seconds(limit_ms), "seconds", "account")
            )
            checks += self._drawdown_checks(account, settings, usable)
        if settings["spot_only"] and side is not None:
            # Every sell that does not only reduce opens or enlarges a short.
            checks.append(check("SPOT_ONLY", side == "buy", side, "buy", "name", "signal"))

        max_leverage = exactly(settings["max_leverage"])
        # Choice: a leverage that is not finite or not above 0 is INVALID_SIGNAL and is not compared.
        if leverage is not None:
            passed = leverage <= max_leverage
            limit = write_amount(max_leverage)
            checks.append(check("LEVERAGE_EXCEEDED", passed, write_amount(leverage), limit, "multiple", "signal"))
        sized = instrument is not None and is_valid(quantity) and is_valid(price)
        if usable is not None and not unrated and sized:
            gross = sum((self._position_notional(account, where, held) for where, _, held in account.held), Fraction(0))
            for order in account.entries:
                gross += self._order_notional(account, order.instrument, order.left, order.price)
            gross += self._order_notional(account, instrument, quantity, price)
            observed_gross = gross / usable.equity if usable.equity > 0 else None
            passed = observed_gross is not None and observed_gross <= max_leverage
            limit = write_amount(max_leverage)
            checks.append(
                check("LEVERAGE_EXCEEDED", passed, write_amount(observed_gross), limit, "multiple", "account")
            )
        if instrument is not None:
            instruments = {where for where, _, _ in account.held}
            instruments |= {order.instrument for order in account.entries} | {instrument}
            count, most = len(instruments), int(settings["max_open_positions"])
            passed = count <= most
            checks.append(check("MAX_OPEN_POSITIONS_EXCEEDED", passed, str(count), str(most), "count", "account"))
        # Choice: a stop that is not finite or not above 0 is not a stop, on either side.
        on_right_side = is_valid(stop) and is_valid(price) and (stop < price if side == "buy" else stop > price)
        if is_valid(price) and side is not None and "stop_loss" not in signal["bad"]:
            checks.append(
                check("STOP_LOSS_REQUIRED", on_right_side, write_amount(stop), write_amount(price), "amount", "signal")
            )
            if usable is not None and not unrated and sized and on_right_side:
                checks += self._trade_risk_checks(account, signal, settings, usable)
        checks += self._optional_checks(step, account, signal)
        return checks

    def _drawdown_checks(self, account: Account, settings: Json, usable: Update) -> list[Json]:
        checks = []
        limits = self._drawdown_limits(settings)
        needed = int(settings["confirmations"])
        if needed > 1:
            counts = [account.counts[reason] for reason in limits if reason not in account.locks]
            running = max((count for count in counts if 0 < count < needed), default=0)
            observed = str(running)
            checks.append(check("DRAWDOWN_UNCONFIRMED", running == 0, observed, str(needed), "count", "account"))
        breaches = self._breaches(account, settings, account.bases)
        for reason, limit in limits.items():
            drawdown = write_amount(self._drawdown(account, account.bases[reason], usable.equity))
            passed = reason not in breaches
            checks.append(check(f"{reason}_REACHED", passed, drawdown, write_amount(limit), "fraction", "account"))
        return checks

    def _trade_risk_checks(self, account: Account, signal: Json, settings: Json, usable: Update) -> list[Json]:
        equity, max_risk = usable.equity, exactly(settings["max_trade_risk"])
        risk = self._trade_risk(account, signal["instrument"], signal["quantity"], signal["price"], signal["stop_loss"])
        share = risk / equity if equity > 0 else None
        passed = share is not None and share <= max_risk
        limit = write_amount(max_risk)
        checks = [check("TRADE_RISK_EXCEEDED", passed, write_amount(share), limit, "fraction", "signal")]
        if settings["headroom"]:
            limits = self._drawdown_limits(settings)
            capital = account.initial_capital
            floors = [
                account.bases[reason] - limits[reason] * (account.bases[reason] if capital is None else capital)
                for reason in (DAILY, WEEKLY)
            ]
            room = equity - max(floors)
            total = risk
            for where, _, held in account.held:
                total += self._position_risk(account, where, held, max_risk * equity)
            for order in account.entries:
                assert order.stop_loss is not None
                total += self._trade_risk(account, order.instrument, order.left, order.price, order.stop_loss)
            passed = equity > 0 and total <= room
            observed = write_amount(total) if equity > 0 else None
            limit = write_amount(room)
            checks.append(check("RISK_HEADROOM_EXCEEDED", passed, observed, limit, "amount", "account"))
        return checks

    def _optional_checks(self, step: Step, account: Account, signal: Json) -> list[Json]:
        """The last three codes, where they are configured."""
        checks: list[Json] = []
        instrument, quantity, price = signal["instrument"], signal["quantity"], signal["price"]
        most = self.limits.get("max_notional_per_order")
        rated = instrument is not None and account.rate(instrument) is not None
        if most is not None and rated and is_valid(quantity) and is_valid(price):
            notional = self._order_notional(account, instrument, quantity, price)
            passed = notional <= exactly(most)
            observed, limit = write_amount(notional), write_amount(exactly(most))
            checks.append(check("NOTIONAL_EXCEEDS_MAX_PER_ORDER", passed, observed, limit, "amount", "signal"))
        collar = self.limits.get("price_collar")
        mark = None if instrument is None else account.mark(instrument)
        if collar is not None and mark is not None and is_valid(price):
            away = abs(price / mark - 1)
            passed = away <= exactly(collar)
            observed, limit = write_amount(away), write_amount(exactly(collar))
            checks.append(check("PRICE_COLLAR_EXCEEDED", passed, observed, limit, "fraction", "signal"))
        rate = self.limits.get("rate_limit")
        if rate is not None:
            since_ms = step.now_ms - duration_ms(rate["per"])
            count = 1 + sum(1 for at_ms in account.approvals_ms if since_ms < at_ms <= step.now_ms)
            passed = count <= int(rate["orders"])
            limit = str(int(rate["orders"]))
            checks.append(check("RATE_LIMIT_EXCEEDED", passed, str(count), limit, "count", "account"))
        return checks

    # --------------------------------------------------------------------------------------------------------- figures

    def _instrument(self, name: str, key: str, default: str) -> Fraction:
        return exactly(self.config.get("instruments", {}).get(name, {}).get(key, default))

    def _unit_value(self, account: Account, instrument: str) -> Fraction:
        """Money in the account's currency for one unit of price times quantity."""
        rate = account.rate(instrument)
        assert rate is not None
        return self._instrument(instrument, "multiplier", "1") * rate

    def _position_notional(self, account: Account, instrument: str, held: Position) -> Fraction:
        mark = account.mark(instrument)
        assert mark is not None
        return abs(held.quantity) * mark * self._unit_value(account, instrument)

    def _order_notional(self, account: Account, instrument: str, quantity: Fraction, price: Fraction) -> Fraction:
        mark = account.mark(instrument)
        higher = price if mark is None else max(price, mark)
        return quantity * higher * self._unit_value(account, instrument)

    def _trade_risk(
        self, account: Account, instrument: str, quantity: Fraction, price: Fraction, stop: Fraction
    ) -> Fraction:
        fee_rate = self._instrument(instrument, "fee_rate", "0")
        slippage = self._instrument(instrument, "slippage", "0")
        to_stop = quantity * abs(price - stop)
        fees = fee_rate * quantity * (price + stop)
        return (to_stop + fees + slippage * quantity * price) * self._unit_value(account, instrument)

    def _position_risk(self, account: Account, instrument: str, held: Position, without_stop: Fraction) -> Fraction:
        if not held.stops:
            return without_stop
        mark = account.mark(instrument)
        assert mark is not None
        stop = min(held.stops) if held.quantity > 0 else max(held.stops)
        to_stop = max(Fraction(0), mark - stop if held.quantity > 0 else stop - mark)
        exit_fee = self._instrument(instrument, "fee_rate", "0") * stop
        return abs(held.quantity) * (to_stop + exit_fee) * self._unit_value(account, instrument)


class Refused(Exception):
    """A command that is not carried out, and why."""


def with_flow(account: Account, base: Fraction, equity: Fraction, flow: Fraction) -> Fraction:
    """A base after the cash flow that came with this equity."""
    if flow == 0:
        return base
    if account.initial_capital is not None:
        return base + flow
    before = equity - flow
    if before > 0 and equity >= 0:
        return raised_to_34_digits(base * equity / before)
    if before <= 0 < equity:
        return equity
    return base


def raised_to_34_digits(value: Fraction) -> Fraction:
    """The number itself where 34 significant digits can hold it, else the next above it that they can."""
    if value == 0:
        return value
    place = len(str(abs(value.numerator))) - len(str(value.denominator)) - 34
    # The lengths tell the power of ten but for one.
    while abs(value) >= Fraction(10) ** (place + 34):
        place += 1
    while abs(value) < Fraction(10) ** (place + 33):
        place -= 1
    unit = Fraction(10) ** place
    return -(-value // unit) * unit


def read_signal(record: Json) -> Json:
    """A signal's fields, ``None`` where absent or not readable, and in ``bad`` the names that break the schema."""
    readers: dict[str, Callable[[Any], Any]] = {
        "strategy_id": read_id,
        "instrument": read_id,
        "side": read_one_of("buy", "sell"),
        "quantity": read_amount,
        "price": read_amount,
        "stop_loss": read_amount,
        "leverage": read_leverage,
        "reduce_only": read_bool,
        "venue": read_id,
        "created_at": read_time,
        "expires_at": read_time,
    }
    optional = {"stop_loss", "leverage", "reduce_only", "venue", "expires_at"}
    fields = {name: take(record, name, reader) for name, reader in readers.items()}
    bad = [name for name, value in fields.items() if value is BAD or (value is None and name not in optional)]
    signal: Json = {name: None if value is BAD else value for name, value in fields.items()}
    signal["bad"] = bad
    return signal


def read_leverage(raw: Any) -> Fraction:
    """A multiple above 0."""
    leverage = read_amount(raw)
    if not isinstance(leverage, Fraction) or leverage <= 0:
        raise Unreadable("not a multiple above 0")
    return leverage


# ---------------------------------------------------------------------------------------------------------- policies


def state_scope(name: str) -> str | None:
    """The scope of a ``state/…`` policy, or None where the name is not one."""
    match = re.fullmatch(r"state/(?:(global)|(venue|strategy)/.+)", name, re.DOTALL)
    return None if match is None else match[1] or match[2]


def usable_rule(name: str, rule: Any) -> Json | None:
    """A policy's rule as it will be used, None where it removes the former; raises ``Unreadable``."""
    prefix, _, rest = name.partition("/")
    is_state = state_scope(name) is not None
    kind = "state" if is_state else prefix
    known = (
        is_state
        or (kind == "venue" and rest != "")
        or (kind == "profile" and rest in PROFILES)
        or (kind == "strategies" and (name == "strategies" or rest in PROFILES))
        or name == "rollout"
    )
    if not known:
        raise Unreadable(f"there is no policy {name!r}")
    if rule is None:
        return None
    if not isinstance(rule, dict):
        raise Unreadable("the rule is not an object")
    if is_state:
        return {"state": read_one_of("ACTIVE", "REDUCING", "HALTED")(rule.get("state"))}
    if kind == "venue":
        return {"up": read_bool(rule.get("up"))}
    if kind == "rollout":
        phase = rule.get("phase")
        scopes = ("accounts", "profiles", "venues")
        lists = {key: None if rule.get(key) is None else read_names(rule[key]) for key in scopes}
        return {"phase": str(read_integer(phase)) if isinstance(phase, Number) else read_id(phase), **lists}
    readers = LIST_READERS if kind == "strategies" else PROFILE_READERS
    # Choice: a key with null is one that is not named.
    named = {key: value for key, value in rule.items() if value is not None}
    if not set(rule) <= set(readers):
        raise Unreadable(f"{sorted(set(rule) - set(readers))} are not keys of it")
    return {key: readers[key](value) for key, value in named.items()}


def read_fraction(raw: Any) -> Fraction:
    """Above 0 and at most 1."""
    share = read_leverage(raw)
    if share > 1:
        raise Unreadable("above 1")
    return share


def read_count(raw: Any) -> int:
    """A JSON integer above 0."""
    count = read_integer(raw)
    if count < 1:
        raise Unreadable("not above 0")
    return count


def read_tiers(raw: Any) -> list[Fraction]:
    """A list of fractions."""
    if not isinstance(raw, list):
        raise Unreadable("not a list")
    return [read_fraction(tier) for tier in raw]


LIST_READERS: Final[dict[str, Callable[[Any], Any]]] = {"whitelist": read_names, "blacklist": read_names}
PROFILE_READERS: Final[dict[str, Callable[[Any], Any]]] = {
    "max_daily_drawdown": read_fraction,
    "max_weekly_drawdown": read_fraction,
    "max_trailing_drawdown": read_fraction,
    "max_trade_risk": read_fraction,
    "max_leverage": read_leverage,
    "max_open_positions": read_count,
    "spot_only": read_bool,
    "headroom": read_bool,
    "breach": read_one_of("reach", "exceed"),
    "confirmations": read_count,
    "warning": read_tiers,
}


# ------------------------------------------------------------------------------------------------------------ replay


def read_line(line: str) -> tuple[str, int, bytes | None, bytes]:
    """Topic, timestamp in milliseconds, key and value of a replay's line, the value as it was written."""
    decoder = json.JSONDecoder(parse_float=Number, parse_int=Number, parse_constant=Number)
    try:
        line.encode("utf-8")
        if not isinstance(decoder.decode(line), dict):
            raise Unreadable("the line is not a JSON object")
    except (UnicodeEncodeError, json.JSONDecodeError, RecursionError) as error:
        raise Unreadable(str(error)) from error
    members: Json = {}
    written: dict[str, str] = {}
    position = skip(line, 0, " \t\r\n{")
    while line[position] != "}":
        name, position = decoder.raw_decode(line, position)
        start = skip(line, position, " \t\r\n:")
        members[name], position = decoder.raw_decode(line, start)
        written[name] = line[start:position]
        position = skip(line, position, " \t\r\n,")
    topic, key = members.get("topic"), members.get("key")
    if topic not in (*PARTITIONED_TOPICS, "policies"):
        raise Unreadable("topic is not an input")
    if key is not None and not isinstance(key, str):
        raise Unreadable("key is not a string")
    # Choice: a line without a value cannot be read; one whose value is null has the value ``null``.
    if "value" not in written:
        raise Unreadable("there is no value")
    key_bytes = None if key is None else key.encode("utf-8", "surrogatepass")
    return topic, read_time(members.get("timestamp")), key_bytes, written["value"].encode("utf-8")


def skip(text: str, position: int, characters: str) -> int:
    """The first position that holds none of the characters."""
    while text[position] in characters:
        position += 1
    return position
