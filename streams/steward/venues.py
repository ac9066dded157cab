"""Which venue fails: orders that it rejected, or left to expire without a fill (pure).

An order counts once, however often its end is reported, and at the time of its first report's record. ``expired``
counts wherever nothing of the order was filled, before ``valid_until`` or after: no report says whether the venue was
silent or the price never came, so executors report the planned end of a resting order as ``cancelled``.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from schemas.config import VenueWatchSection
from schemas.inputs import Fill
from schemas.types import ID_BYTES_MAX, write_time
from streams.core.decode import decode
from streams.core.records import Record
from streams.core.rules import Rules
from streams.steward import STEWARD

REJECTED, EXPIRED = "rejected", "expired"
_REMEMBERED_MAX = 100_000

_T = TypeVar("_T")


class Trip(NamedTuple):
    """A venue at which too many orders failed; ``at_ms``: when the last of them did."""

    venue: str
    at_ms: int
    rejected: int
    expired: int


class _Failure(NamedTuple):
    at_ms: int
    status: str


class VenueWatch:
    """Counts failed orders by venue. What it knows is no older than its window: the topics give it back."""

    def __init__(self, terms: VenueWatchSection, rules: Rules) -> None:
        """``rules``: of the configuration; records of other accounts and venues are the gate's to refuse."""
        self._terms = terms
        self._accounts = rules.accounts
        self._venues = _venues_of(rules)
        self._failed: dict[str, dict[str, _Failure]] = {}
        self._venue_of: OrderedDict[str, str] = OrderedDict()
        self._filled: OrderedDict[str, None] = OrderedDict()
        self._unplaced: OrderedDict[str, _Failure] = OrderedDict()

    def take_approval(self, order_id: str, venue: str) -> str | None:
        """An order that was approved; the venue if a failure of it was read before."""
        _remember(self._venue_of, order_id, venue)
        failure = self._unplaced.pop(order_id, None)
        return None if failure is None else self._note(venue, order_id, failure)

    def take_fill(self, record: Record, now_ms: int) -> str | None:
        """One record of ``fills``; the venue if an order has failed there. Nothing that arrives raises."""
        event = decode(record)
        if event.malformed is not None or event.faults or event.body.account_id not in self._accounts:
            return None
        fill: Fill = event.body
        if not fill.quantity.is_finite():
            return None
        if fill.order_id is not None and fill.quantity > 0:
            _remember(self._filled, fill.order_id, None)
        if fill.status != REJECTED and (fill.status != EXPIRED or fill.quantity > 0 or fill.order_id in self._filled):
            return None
        # A record from the future would stay the newest, and push all others out of the window.
        failure = _Failure(min(record.timestamp_ms, now_ms), fill.status)
        order = fill.fill_id if fill.order_id is None else fill.order_id
        venue = fill.venue or (
            self._accounts[fill.account_id].exchange if fill.order_id is None else self._venue_of.get(fill.order_id)
        )
        if venue is not None:
            return self._note(venue, order, failure)
        # Its approval may be read later, as it is in another topic; blaming the primary could blame the wrong venue.
        if fill.order_id is not None and fill.order_id not in self._unplaced:
            _remember(self._unplaced, fill.order_id, failure)
        return None

    def trip(self, venue: str, since_ms: int) -> Trip | None:
        """The last time at which too many orders had failed at ``venue`` within the window, of those after
        ``since_ms`` (the last change of the venue's policy: whoever made it had seen the others)."""
        kept = {order: one for order, one in self._failed.get(venue, {}).items() if one.at_ms > since_ms}
        newest_ms = max((one.at_ms for one in kept.values()), default=0)
        oldest_ms = newest_ms - self._terms.window - self._terms.cool_down
        self._failed[venue] = kept = {order: one for order, one in kept.items() if one.at_ms > oldest_ms}
        failures = sorted(kept.values())
        needed, window_ms = self._terms.orders, self._terms.window
        for last in range(len(failures) - 1, needed - 2, -1):
            end_ms = failures[last].at_ms
            if end_ms - failures[last - needed + 1].at_ms < window_ms:
                within = [one.status for one in failures[: last + 1] if end_ms - one.at_ms < window_ms]
                return Trip(venue, end_ms, within.count(REJECTED), within.count(EXPIRED))
        return None

    def _note(self, venue: str, order: str, failure: _Failure) -> str | None:
        if venue not in self._venues:
            return None
        failed = self._failed.setdefault(venue, {})
        if order in failed:
            return None
        failed[order] = failure
        return venue


def down_policy(trip: Trip, terms: VenueWatchSection, now_ms: int) -> dict[str, Any] | None:
    """The ``policies`` record that marks a venue down until its cool-down ends; None where that is over already.

    Its end removes the rule, which is up: the venue has no rule or an ``up`` one before it.
    """
    expires_ms = trip.at_ms + terms.cool_down
    if expires_ms <= now_ms:
        return None
    reason = (
        f"{trip.rejected} orders rejected and {trip.expired} expired unfilled at {trip.venue} "
        f"in the {terms.window / 1000:g} s up to {write_time(trip.at_ms)}"
    )
    return {
        "name": f"venue/{trip.venue}",
        "rule": {"up": False},
        "operator": STEWARD,
        "reason": reason,
        "issued_at": write_time(now_ms),
        "expires_at": write_time(expires_ms),
        "then": None,
    }


def _venues_of(rules: Rules) -> frozenset[str]:
    """The venues that configuration names, and that a policy can be named after."""

    def named() -> Iterator[str]:
        for account in rules.accounts.values():
            yield from account.venues
        for route in rules.routes.values():
            if route.exchange is not None:
                yield route.exchange

    return frozenset(venue for venue in named() if len(f"venue/{venue}".encode()) <= ID_BYTES_MAX)


def _remember(memory: OrderedDict[str, _T], key: str, value: _T) -> None:
    memory[key] = value
    if len(memory) > _REMEMBERED_MAX:
        memory.popitem(last=False)
