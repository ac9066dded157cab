"""Which account decides a record, and which venue an order goes to (contract, section 2 *Venue*, *Routes*)."""

from typing import NamedTuple

from streams.core.decode import Event
from streams.core.records import CONTROLS, SIGNALS, text_of
from streams.core.rules import AccountRules, Rules


class Venue(NamedTuple):
    """The venue of an order. ``known``: it is the account's; ``up``: it is not marked down."""

    name: str | None
    known: bool
    up: bool


NO_VENUE = Venue(None, known=False, up=False)


def account_of(event: Event, rules: Rules) -> str | None:
    """The account whose state a record concerns, known or not; None if none can be read.

    A signal without account goes to its strategy's; what cannot be read of ``fills`` and ``pnl`` falls back on the
    key, if that names a known account, so that the account is not trusted while its data is broken.
    """
    record, body = event.record, event.body
    if body is not None and body.account_id is not None:
        account_id: str = body.account_id
        return account_id
    if record.topic == SIGNALS:
        if body is None or "account_id" in event.faults or body.strategy_id is None:
            return None
        route = rules.routes.get(body.strategy_id)
        return None if route is None else route.account
    if record.topic == CONTROLS:
        return None
    named = text_of(record.key)
    return named if named in rules.accounts else None


def venue_of(named: str | None, strategy_id: str | None, account_id: str, terms: AccountRules, rules: Rules) -> Venue:
    """The venue of an entry: the signal's own, else the strategy's route, else the account's primary.

    A venue that the signal names is never failed over; otherwise the account's ``failover`` follows in order.
    """
    if named is not None:
        return Venue(named, named in terms.venues, rules.venues_up.get(named, True))
    candidates = list(terms.venues)
    route = rules.routes.get(strategy_id) if strategy_id is not None else None
    if route is not None and route.exchange is not None and route.account == account_id:
        candidates = [route.exchange, *(venue for venue in terms.failover if venue != route.exchange)]
    for venue in candidates:
        if rules.venues_up.get(venue, True):
            return Venue(venue, known=True, up=True)
    return Venue(candidates[0], known=True, up=False) if candidates else NO_VENUE


def exit_venue(position_venue: str, rules: Rules) -> Venue:
    """The venue of an exit: where the position is, whatever the configuration says now."""
    return Venue(position_venue, known=True, up=rules.venues_up.get(position_venue, True))
