"""What one record does: a new account value, records to publish, ids to remember.

Rules return ``Outcome``; :mod:`streams.core.step` puts the records in their order, numbers and encodes them.
"""

from collections.abc import Callable
from enum import IntEnum
from typing import Any

from msgspec import Struct

from schemas.types import write_time
from streams.core.outputs import dead_letter_body
from streams.core.records import DEAD_LETTERS, EVENTS, Record
from streams.core.rules import AccountRules, Profile, Rules
from streams.core.state import Account, IdKind, Order, Remembered, remembered_key


class Rank(IntEnum):
    """The order of the outputs of one step (contract, fine print)."""

    PERIOD_CLOSED = 0
    WARNING = 1
    LOCK = 2
    DEAD_LETTER = 3
    EVENT = 4
    DECISION = 5


class Note(Struct, frozen=True, gc=False):
    """A record to publish, before it has its ids and its basis."""

    rank: Rank
    topic: str
    body: dict[str, Any]


class Outcome(Struct, frozen=True, gc=False):
    """The account after a record, what to publish and which ids to remember."""

    account: Account
    notes: tuple[Note, ...] = ()
    remember: tuple[tuple[bytes, Remembered], ...] = ()


Recall = Callable[[bytes], Remembered | None]


class Situation(Struct, frozen=True, gc=False):
    """What every rule may know of the moment: the record, its account, the rules in force and now."""

    record: Record
    account_id: str
    rules: Rules
    now_ms: int
    recall: Recall

    @property
    def terms(self) -> AccountRules:
        """The account's configuration; only for known accounts."""
        return self.rules.accounts[self.account_id]

    def profile_of(self, account: Account) -> Profile:
        """The profile in force: set by command, else as configured."""
        return self.rules.profiles[account.standing.profile or self.terms.profile]

    def remembered(self, kind: IdKind, one_id: str) -> Remembered | None:
        """What is still remembered of an id."""
        found = self.recall(remembered_key(self.account_id, kind, one_id))
        return found if found is not None and self.now_ms <= found.expires_ms else None

    def remember(
        self, kind: IdKind, one_id: str, first_id: str, since_ms: int, order: Order | None = None
    ) -> tuple[bytes, Remembered]:
        """An id to remember for the horizon, from the later of now and ``since_ms``; ``order``: the one that closed."""
        expires_ms = max(self.now_ms, since_ms) + self.rules.limits.dedup_horizon_ms
        memory = Remembered(first_id, expires_ms)
        if order is not None:
            memory = Remembered(
                first_id, expires_ms, order.venue, order.stop, order.instrument, order.side, order.reduces
            )
        return remembered_key(self.account_id, kind, one_id), memory

    def is_too_old(self, at_ms: int | None) -> bool:
        """Whether its id could have been forgotten already."""
        return at_ms is not None and self.now_ms - at_ms > self.rules.limits.dedup_horizon_ms

    # -- records to publish ----------------------------------------------------------------------------------------

    def dead_letter(self, reason: str, detail: str, first_id: str | None = None) -> Note:
        body = dead_letter_body(self.record, reason, detail, self.account_id, first_id)
        return Note(Rank.DEAD_LETTER, DEAD_LETTERS, body)

    def event(
        self,
        kind: str,
        *,
        rank: Rank = Rank.EVENT,
        command_id: str | None = None,
        order_id: str | None = None,
        observed: str | None = None,
        limit: str | None = None,
        unit: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> Note:
        return Note(
            rank,
            EVENTS,
            {
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
            },
        )
