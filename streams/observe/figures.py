"""One account in figures. Pure: from its state and the rules in force; the same functions as the gate's own checks.

Floats are for graphs: nothing is decided by them.
"""

from typing import NamedTuple

from streams.core import drawdown
from streams.core.exposure import Valuation, exposure_of, higher_floor
from streams.core.lock import shown_state
from streams.core.rules import Rules
from streams.core.state import NEW_ACCOUNT, Account

FRESH, STALE, UNUSABLE, NEVER = "fresh", "stale", "unusable", "never"
FEEDS = (FRESH, STALE, UNUSABLE, NEVER)
NO_CURRENCY = "none"


class Figures(NamedTuple):
    """What is shown of one account. Money in its currency."""

    profile: str
    state: str
    currency: str
    locks: tuple[str, ...]
    drawdowns: tuple[tuple[str, float], ...]
    """Of each limit, the drawdown as a fraction of it; none without usable equity."""
    equity: float | None
    """Of the last usable update."""
    has_equity: bool
    """Whether there is an equity to decide on."""
    headroom: float | None
    """None: without equity, or a rate is missing."""
    positions: int
    orders: int
    as_of_ms: int | None

    def feed(self, now_ms: int, rules: Rules) -> str:
        """How its P&L stands. Under the record clock nobody here knows what time it is, and none is stale."""
        if self.as_of_ms is None:
            return NEVER
        if not self.has_equity:
            return UNUSABLE
        age_ms = now_ms - self.as_of_ms
        fresh = rules.clock != "wall" or -drawdown.AHEAD_MS_MAX <= age_ms <= rules.limits.max_pnl_age_ms
        return FRESH if fresh else STALE


def figures_of(account_id: str, account: Account | None, rules: Rules) -> Figures:
    """Figures of an account that is configured; ``account`` None: nothing is known of it yet."""
    held = account or NEW_ACCOUNT
    terms, state = rules.accounts[account_id], held.drawdown
    profile = rules.profiles[held.standing.profile or terms.profile]
    equity = state.equity if drawdown.has_equity(state) else None
    exposure = exposure_of(held, Valuation(held, terms, rules), profile, equity)
    limits = list(drawdown.limits_of(state, profile)) if equity is not None else []
    headroom = None
    if equity is not None and limits and exposure.missing is None:
        headroom = float(equity - higher_floor(held, terms, profile) - exposure.risk)
    return Figures(
        profile=profile.name,
        state=shown_state(rules, held.standing),
        currency=terms.currency or NO_CURRENCY,
        locks=tuple(lock.reason for lock in held.standing.locks),
        drawdowns=tuple(
            (one.name, float(drawdown.drawdown_from(state, one.base, terms) / one.limit)) for one in limits if one.limit
        ),
        equity=None if state.equity is None else float(state.equity),
        has_equity=equity is not None,
        headroom=headroom,
        positions=len(exposure.instruments),
        orders=len(held.orders.open),
        as_of_ms=state.as_of_ms if state.equity is not None else None,
    )
