"""Records as the log holds them, and records to publish. Topics are named logically; the shell maps the names."""

from operator import attrgetter
from typing import NamedTuple

from msgspec import Struct

SIGNALS, FILLS, PNL, CONTROLS, POLICIES = "signals", "fills", "pnl", "controls", "policies"
APPROVED, REJECTED, LOCKED, EVENTS, DEAD_LETTERS = (
    "approved-orders",
    "rejected-signals",
    "account-locked",
    "account-events",
    "dead-letters",
)
# Ties of the merge: what may forbid comes before what asks, so a lock at the same instant wins.
INPUTS = (CONTROLS, FILLS, PNL, SIGNALS)
OUTPUTS = (APPROVED, REJECTED, LOCKED, EVENTS, DEAD_LETTERS)

Headers = tuple[tuple[str, bytes], ...]


class Record(Struct, frozen=True, gc=False):
    """One record as read."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Output(NamedTuple):
    """One record to publish. ``partition`` None: chosen by key; ``timestamp_ms`` None: the producer's clock.

    ``tally``: what counters call it, in words of closed lists (a code and a profile, a reason, a type), never ids. It
    is not published.
    """

    topic: str
    key: bytes | None
    value: bytes
    headers: Headers = ()
    timestamp_ms: int | None = None
    partition: int | None = None
    tally: tuple[str, ...] = ()


timestamp_of = attrgetter("timestamp_ms")
"""When a record was written, ms since 1970: for keys of sorts and merges, without a call in Python."""


def text_of(data: bytes | None) -> str | None:
    """A key as text, None where it is absent or not UTF-8."""
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return None
