"""What Tidegate knows of an account, and how it is stored.

An account's state is four records, one a table, so that a batch writes only what it touched: ``accounts`` (standing:
profile, locks), ``drawdown`` (equity, bases, marks), ``positions`` and ``orders``. Remembered ids live under keys of
their own in ``decisions``: they are many, and each is written once. All are frozen; a change is a new value.

Every record starts with its version, which is one for all tables. Records of earlier versions are read: each step of
``UPGRADES`` makes those of one version the next one's, and they are written anew when their account next changes, so a
changelog may hold several versions for ever. A later version is refused (``ValueError``): state of a newer program must
not be read by guesswork. Since each transaction writes the offsets, with the version of the program that wrote it, an
older program stops when it takes the partition over and not at some account's next event.

A new version is needed where an older program would misread or, writing a record back, lose something: also for a
new field. To make one: raise ``STATE_VERSION``, add the step from the former, and keep a recorded state of the former
release (``tests/upgrade``).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec import Struct

STATE_VERSION = 1
TABLES = ("accounts", "drawdown", "positions", "orders")
DECISIONS = "decisions"
PARTITION = "partition"
OFFSETS_KEY = b"offsets"
PARTITIONS_KEY = b"partitions"

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
_VERSION = re.compile(rb'\{"v":([0-9]{1,9})[,}]')

Upgrade = Callable[[str, dict[str, Any]], dict[str, Any]]
"""From a table's name and its record as JSON (amounts are strings) to that record in the next version."""
UPGRADES: Mapping[int, Upgrade] = {}
"""By the version that is upgraded. Empty: there is no version before 1."""


class Format:
    """How state records are written and read in one version, those of earlier versions included. Pure."""

    def __init__(self, version: int, types: Mapping[str, type[Struct]], upgrades: Mapping[int, Upgrade]) -> None:
        """``upgrades``: a step for each version that can still be read, without gaps up to ``version``."""
        self.version = version
        self._types = types
        self._upgrades = upgrades
        self._decoders = {table: msgspec.json.Decoder(kind) for table, kind in types.items()}
        self._prefix = b'{"v":%d' % version
        self._present = (self._prefix + b",", self._prefix + b"}")

    def encode(self, value: Struct) -> bytes:
        """A record as JSON with its version first."""
        body = _encode(value)
        return self._prefix + b"}" if body == b"{}" else self._prefix + b"," + body[1:]

    def decode(self, table: str, value: bytes) -> Any:
        """The record of one table. Raises ValueError for a version or shape that this program does not know."""
        try:
            if value.startswith(self._present):
                return self._decoders[table].decode(value)
            found = _VERSION.match(value)
            if found is None or not self.reads(version := int(found[1])):
                raise ValueError(f"state record of table {table!r} {self.unknown(value)}")
            raw = msgspec.json.decode(value)
            for step in range(version, self.version):
                raw = self._upgrades[step](table, raw)
            return msgspec.convert(raw, self._types[table])
        except (msgspec.DecodeError, KeyError, TypeError) as error:
            raise ValueError(f"state record of table {table!r} cannot be read: {error}") from None

    def decode_plain(self, name: str, value: bytes) -> dict[str, Any]:
        """A record of table ``partition``, which no upgrade touches. Raises ValueError for a version not known."""
        record: dict[str, Any] = msgspec.json.decode(value)
        if not self.reads(record.get("v")):
            raise ValueError(f"the {name}' state record {self.unknown(value)}")
        return record

    def reads(self, version: object) -> bool:
        """Whether records of a version can be read."""
        return version == self.version or version in self._upgrades

    def unknown(self, value: bytes) -> str:
        """What is wrong with a record that cannot be read, and the remedy."""
        versions = f"{min(self._upgrades)} to {self.version}" if self._upgrades else f"{self.version}"
        return (
            f"has an unknown version: {value[:24]!r}; this release reads {versions}. Run the release that wrote it, or "
            "a later one"
        )


FORMAT = Format(STATE_VERSION, _TYPES, UPGRADES)


def remembered_key(account_id: str, kind: IdKind, one_id: str) -> bytes:
    """The key of an id in table ``decisions``. The length keeps apart what a NUL in an id could join."""
    return "\0".join((kind, str(len(account_id)), account_id, one_id)).encode()


def encode_state(value: Struct) -> bytes:
    """A record as JSON with its version first."""
    return FORMAT.encode(value)


def decode_state(table: str, value: bytes) -> Any:
    """The record of one table. Raises ValueError for a version or shape that this program does not know."""
    return FORMAT.decode(table, value)


def encode_offsets(offsets: Mapping[str, int]) -> bytes:
    """The record of a partition's last applied offset by topic."""
    return msgspec.json.encode({"v": FORMAT.version, "offsets": offsets})


def decode_offsets(value: bytes) -> Mapping[str, int]:
    """Last applied offset by topic out of its record. Raises ValueError for a version that is not known."""
    offsets: Mapping[str, int] = FORMAT.decode_plain("offsets", value)["offsets"]
    return offsets


def encode_partitions(partitions: int) -> bytes:
    """The record of how many partitions the inputs had when a partition's state was first written."""
    return msgspec.json.encode({"v": FORMAT.version, "partitions": partitions})


def decode_partitions(value: bytes) -> int:
    """The number of partitions out of its record. Raises ValueError for a version that is not known."""
    partitions: int = FORMAT.decode_plain("partitions", value)["partitions"]
    return partitions


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
