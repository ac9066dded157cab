"""One account as an operator looks at it: what holds it, how far its drawdowns are from their limits, what it holds.

Pure: from the state, the rules in force and the moment. Tables and JSON both show this.
"""

from decimal import Decimal
from typing import Any, NamedTuple

from schemas.types import write_amount, write_time
from streams.core import drawdown
from streams.core.exposure import Valuation
from streams.core.lock import shown_state
from streams.core.rules import ACTIVE, HALTED, REDUCING, AccountRules, Rules
from streams.core.state import NEW_ACCOUNT, Account, Breach, Lock

GLOBAL_POLICY = "policy state/global"


class LimitLine(NamedTuple):
    """A drawdown beside its limit. ``drawdown`` None: there is no usable equity."""

    name: str
    drawdown: Decimal | None
    limit: Decimal
    base: Decimal
    floor: Decimal
    period_start_ms: int | None
    held: bool


class PositionLine(NamedTuple):
    """A holding; ``quantity`` is signed."""

    instrument: str
    venue: str
    quantity: Decimal
    average_price: Decimal
    mark: Decimal | None
    stop: Decimal | None


class OrderLine(NamedTuple):
    """``left``: what may still be filled; ``reduces``: an exit."""

    order_id: str
    instrument: str
    venue: str
    side: str
    quantity: Decimal
    left: Decimal
    price: Decimal
    stop: Decimal | None
    valid_until_ms: int
    reduces: bool


class Overview(NamedTuple):
    """One account now."""

    account_id: str
    configured: bool
    seen: bool
    trading_state: str
    causes: tuple[str, ...]
    profile: str | None
    profile_by_command: bool
    timezone: str | None
    currency: str | None
    venues: tuple[str, ...]
    locks: tuple[Lock, ...]
    last_breach: Breach | None
    equity: Decimal | None
    has_equity: bool
    is_stale: bool
    as_of_ms: int | None
    limits: tuple[LimitLine, ...]
    positions: tuple[PositionLine, ...]
    orders: tuple[OrderLine, ...]


def overview(account_id: str, account: Account | None, rules: Rules, now_ms: int) -> Overview:
    """An account as it is now; one that is configured may have no state yet, one with state may not be configured."""
    terms = rules.accounts.get(account_id)
    standing, state, book, orders = account or NEW_ACCOUNT
    profile = standing.profile or (terms.profile if terms is not None else None)
    valuation = Valuation(account or NEW_ACCOUNT, terms or AccountRules(), rules)
    has_equity = drawdown.has_equity(state)
    as_of_ms = state.as_of_ms if state.equity is not None else None
    return Overview(
        account_id=account_id,
        configured=terms is not None,
        seen=account is not None,
        trading_state=shown_state(rules, standing),
        causes=_causes(account or NEW_ACCOUNT, rules),
        profile=profile,
        profile_by_command=standing.profile is not None,
        timezone=terms.timezone if terms is not None else None,
        currency=terms.currency if terms is not None else None,
        venues=terms.venues if terms is not None else (),
        locks=standing.locks,
        last_breach=standing.last_breach,
        equity=state.equity,
        has_equity=has_equity,
        is_stale=terms is not None and as_of_ms is not None and _is_stale(as_of_ms, rules, now_ms),
        as_of_ms=as_of_ms,
        limits=() if terms is None else _limits(account or NEW_ACCOUNT, terms, rules),
        positions=tuple(
            PositionLine(instrument, venue, one.quantity, one.average_price, valuation.mark(instrument), one.stop)
            for instrument, venue, one in sorted(book.each(), key=lambda line: line[:2])
        ),
        orders=tuple(
            OrderLine(
                order_id,
                one.instrument,
                one.venue,
                one.side,
                one.quantity,
                one.left,
                one.price,
                one.stop,
                one.valid_until_ms,
                one.reduces,
            )
            for order_id, one in orders.open.items()
        ),
    )


def _is_stale(as_of_ms: int, rules: Rules, now_ms: int) -> bool:
    """Under the record clock nobody here can know what time it is."""
    return rules.clock == "wall" and now_ms - as_of_ms > rules.limits.max_pnl_age_ms


def by_urgency(one: Overview) -> tuple[int, Decimal, str]:
    """Orders accounts so that those that need an eye come first: what holds them, then how near a limit they are."""
    severity = (HALTED, REDUCING, ACTIVE).index(one.trading_state)
    used = max((line.drawdown / line.limit for line in one.limits if line.drawdown is not None), default=Decimal(0))
    return severity, -used, one.account_id


def _causes(account: Account, rules: Rules) -> tuple[str, ...]:
    """Why the account is not ACTIVE, as an operator would look for it."""
    standing = account.standing
    causes = [lock.reason for lock in standing.locks]
    if standing.halted:
        causes.append("halted by command")
    if standing.fill_unusable:
        causes.append("a fill could not be used")
    if rules.state_of("global") != ACTIVE:
        causes.append(GLOBAL_POLICY)
    return tuple(causes)


def _limits(account: Account, terms: AccountRules, rules: Rules) -> tuple[LimitLine, ...]:
    state = account.drawdown
    profile = rules.profiles[account.standing.profile or terms.profile]
    held = {lock.reason for lock in account.standing.locks}
    return tuple(
        LimitLine(
            limit.name,
            drawdown.drawdown_from(state, limit.base, terms) if drawdown.has_equity(state) else None,
            limit.limit,
            limit.base,
            drawdown.floor(limit, terms),
            limit.start_ms,
            limit.name in held,
        )
        for limit in drawdown.limits_of(state, profile)
    )


# -- for scripts ---------------------------------------------------------------------------------------------------


def document(one: Overview) -> dict[str, Any]:
    """An overview as JSON: amounts are strings, times RFC 3339, as on the topics."""
    return {
        "account_id": one.account_id,
        "configured": one.configured,
        "seen": one.seen,
        "trading_state": one.trading_state,
        "causes": list(one.causes),
        "profile": one.profile,
        "profile_by_command": one.profile_by_command,
        "timezone": one.timezone,
        "currency": one.currency,
        "venues": list(one.venues),
        "equity": _amount(one.equity),
        "equity_usable": one.has_equity,
        "equity_stale": one.is_stale,
        "as_of": _time(one.as_of_ms),
        "locks": [
            {
                "reason": lock.reason,
                "locked_at": write_time(lock.at_ms),
                "observed": _amount(lock.observed),
                "limit": _amount(lock.limit),
                "base_equity": _amount(lock.base),
            }
            for lock in one.locks
        ],
        "last_breach": breach_document(one.last_breach),
        "drawdowns": [
            {
                "name": line.name,
                "observed": _amount(line.drawdown),
                "limit": _amount(line.limit),
                "base_equity": _amount(line.base),
                "floor": _amount(line.floor),
                "period_start": _time(line.period_start_ms),
                "locked": line.held,
            }
            for line in one.limits
        ],
        "positions": [
            {
                "instrument": line.instrument,
                "venue": line.venue,
                "quantity": _amount(line.quantity),
                "average_price": _amount(line.average_price),
                "mark": _amount(line.mark),
                "stop": _amount(line.stop),
            }
            for line in one.positions
        ],
        "open_orders": [
            {
                "order_id": line.order_id,
                "instrument": line.instrument,
                "venue": line.venue,
                "side": line.side,
                "quantity": _amount(line.quantity),
                "left": _amount(line.left),
                "price": _amount(line.price),
                "stop_loss": _amount(line.stop),
                "valid_until": write_time(line.valid_until_ms),
                "reduces": line.reduces,
            }
            for line in one.orders
        ],
    }


def breach_document(breach: Breach | None) -> dict[str, str] | None:
    """The last breach as JSON."""
    return None if breach is None else {"reason": breach.reason, "at": write_time(breach.at_ms)}


def _amount(value: Decimal | None) -> str | None:
    return None if value is None else write_amount(value)


def _time(at_ms: int | None) -> str | None:
    return None if at_ms is None else write_time(at_ms)
