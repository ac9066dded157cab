"""What Tidegate knows of an account, and how it is stored.

An account's state is four records, one a table, so that a batch writes only what it touched: ``accounts`` (standing:
profile, locks), ``drawdown`` (equity, bases, marks), ``positions`` and ``orders``. Remembered ids live under keys of
their own in ``decisions``: they are many, and each is written once. All are frozen; a change is a new value.

Every record starts with its version. A version that is not known is refused (``ValueError``): state of a newer
program must not be read by guesswork.
"""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

STATE_VERSION = 1
TABLES = ("accounts", "drawdown", "positions", "orders")
DECISIONS = "decisions"
PARTITION = "partition"
OFFSETS_KEY = b"offsets"

IdKind = Literal["signal", "fill", "command", "order"]
_ZERO = Decimal(0)


class Lock(Struct, frozen=True, gc=False):
    """One reason that holds the account: the drawdown, its limit and base when it locked; None for MANUAL."""

    reason: str
    at_ms: int
    observed: Decimal | None = None
    limit: Decimal | None = None
    base: Decimal | None = None
    period_start_ms: int | None = None


class Breach(Struct, frozen=True, gc=False):
    """The last drawdown lock: remembered after the unlock."""

    reason: str
    at_ms: int


class Standing(Struct, frozen=True, omit_defaults=True, gc=False):
    """Table ``accounts``: what operators and limits have made of the account."""

    profile: str | None = None  # set by command; None: as configured
    locks: tuple[Lock, ...] = ()
    halted: bool = False
    fill_unusable: bool = False
    last_breach: Breach | None = None


class Period(Struct, frozen=True, omit_defaults=True, gc=False):
    """A day or a week in progress, (start, end]; ``base`` is E₀ or E_w, ``opened`` the equity it was taken from."""

    start_ms: int
    end_ms: int
    base: Decimal
    opened: Decimal
    high: Decimal
    low: Decimal
    breaches: int = 0
    warned: tuple[Decimal, ...] = ()


class Drawdown(Struct, frozen=True, omit_defaults=True, gc=False):
    """Table ``drawdown``: the account's equity as last marked, and what it is compared with.

    ``usable``: the last update was; ``unfunded``: a withdrawal left E = 0. ``carried``: cash flow of unusable updates
    that the next usable one must still account for.
    """

    sequence: int | None = None
    usable: bool = False
    unfunded: bool = False
    equity: Decimal | None = None
    balance: Decimal | None = None
    as_of_ms: int = 0
    carried: Decimal = _ZERO
    day: Period | None = None
    week: Period | None = None
    hwm: Decimal | None = None
    trailing_breaches: int = 0
    trailing_warned: tuple[Decimal, ...] = ()
    marks: Mapping[str, Decimal] = {}
    rates: Mapping[str, Decimal] = {}


class Position(Struct, frozen=True, omit_defaults=True, gc=False):
    """A holding of one instrument at one venue; ``quantity`` is signed, ``stop`` the furthest since flat."""

    quantity: Decimal
    average_price: Decimal
    stop: Decimal | None = None


class Book(Struct, frozen=True, omit_defaults=True, gc=False):
    """Table ``positions``: instrument → venue → position (none of them 0), and last fill prices by instrument."""

    positions: Mapping[str, Mapping[str, Position]] = {}
    fill_prices: Mapping[str, Decimal] = {}

    def each(self) -> Iterator[tuple[str, str, Position]]:
        for instrument, venues in self.positions.items():
            for venue, position in venues.items():
                yield instrument, venue, position

    def at(self, instrument: str, venue: str) -> Position | None:
        venues = self.positions.get(instrument)
        return None if venues is None else venues.get(venue)


class Order(Struct, frozen=True, omit_defaults=True, gc=False):
    """An approved order that is reserved or working. ``reduces``: an exit; ``overdue``: its WARNING was raised."""

    instrument: str
    venue: str
    side: str
    quantity: Decimal
    price: Decimal
    stop: Decimal | None
    valid_until_ms: int
    filled: Decimal = _ZERO
    reduces: bool = False
    overdue: bool = False

    @property
    def left(self) -> Decimal:
        """What it may still fill, and so reserves."""
        return max(_ZERO, self.quantity - self.filled)


class Orders(Struct, frozen=True, omit_defaults=True, gc=False):
    """Table ``orders``: open orders in order of approval, and recent approval times for the rate limit."""

    open: Mapping[str, Order] = {}
    approvals: tuple[int, ...] = ()
    due_ms: int | None = None  # the earliest valid_until that has not raised its WARNING


class Account(NamedTuple):
    """All that is known of one account, a part for each table."""

    standing: Standing = Standing()
    drawdown: Drawdown = Drawdown()
    book: Book = Book()
    orders: Orders = Orders()


class Remembered(Struct, frozen=True, omit_defaults=True, gc=False):
    """An id that was used: what to answer a repeat with, and until when; of a closed order what a late fill needs."""

    first_id: str
    expires_ms: int
    venue: str | None = None
    stop: Decimal | None = None
    instrument: str | None = None
    side: str | None = None
    reduces: bool = False


class Change(NamedTuple):
    """One state record to write; ``value`` None deletes it."""

    table: str
    key: bytes
    value: bytes | None


NEW_ACCOUNT = Account()
_TYPES: dict[str, type[Struct]] = dict(zip(TABLES, (Standing, Drawdown, Book, Orders), strict=True))
_TYPES[DECISIONS] = Remembered
_encode = msgspec.json.Encoder().encode
_DECODERS = {table: msgspec.json.Decoder(kind) for table, kind in _TYPES.items()}
_PREFIX = b'{"v":%d' % STATE_VERSION


def remembered_key(account_id: str, kind: IdKind, one_id: str) -> bytes:
    """The key of an id in table ``decisions``. The length keeps apart what a NUL in an id could join."""
    return "\0".join((kind, str(len(account_id)), account_id, one_id)).encode()


def encode_state(value: Struct) -> bytes:
    """A record as JSON with its version first."""
    body = _encode(value)
    return _PREFIX + b"}" if body == b"{}" else _PREFIX + b"," + body[1:]


def decode_state(table: str, value: bytes) -> Any:
    """The record of one table. Raises ValueError for a version or shape that this program does not know."""
    if not value.startswith(_PREFIX) or value[len(_PREFIX) : len(_PREFIX) + 1] not in (b",", b"}"):
        raise ValueError(f"state record of table {table!r} has an unknown version: {value[:24]!r}")
    try:
        return _DECODERS[table].decode(value)
    except msgspec.DecodeError as error:
        raise ValueError(f"state record of table {table!r} cannot be read: {error}") from None


def decode_account(parts: Mapping[str, bytes]) -> Account:
    """An account from its records by table; a table without a record is as new."""
    values: list[Any] = [
        decode_state(table, parts[table]) if table in parts else new
        for table, new in zip(TABLES, NEW_ACCOUNT, strict=True)
    ]
    return Account(*values)


def decode_remembered(value: bytes) -> Remembered:
    """A remembered id. Raises ValueError like :func:`decode_state`."""
    remembered: Remembered = decode_state(DECISIONS, value)
    return remembered


def changes_of(account_id: str, before: Account, after: Account) -> Iterator[Change]:
    """The records that differ, by identity: rules return the same object where nothing changed."""
    for table, old, new in zip(TABLES, before, after, strict=True):
        if new is not old:
            yield Change(table, account_id.encode(), encode_state(new))
