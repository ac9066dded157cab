"""Locks and trading states (contract, section 2, *Lock* and *Trading state*).

Theory of operation. An account carries three independent marks, and each has one way in and one way out:

    mark            set by                                  cleared by                 the account is then
    ------------    ------------------------------------    -----------------------    -------------------
    lock reasons    a breach (one reason per limit),        unlock: all at once,       REDUCING
                    ``lock`` (MANUAL)                       or refused
    halted          ``halt``                                ``resume``                 HALTED
    fill_unusable   a fill that cannot be used              ``resume``                 REDUCING

Nothing else clears a mark: not midnight, not a restart, not profit. Each reason that is added makes one
``account-locked``, also while others are held; a reason already held makes none. ``resume`` never ends a lock.

Policies set states for wider scopes. The most restrictive of all scopes wins:

    ACTIVE (all) < REDUCING (orders that only reduce) < HALTED (nothing)

A lock is answered by its own reject codes, so the state that :func:`imposed_state` gives leaves it out; what the
account shows to the world (:func:`shown_state`) includes it.
"""

from collections.abc import Sequence
from decimal import Decimal

from msgspec.structs import replace

from schemas.types import write_amount, write_time
from streams.core.drawdown import LIMITS, MANUAL, Breached, has_equity
from streams.core.effects import Note, Rank, Situation
from streams.core.records import LOCKED
from streams.core.rules import ACTIVE, HALTED, REDUCING, Rules
from streams.core.state import Account, Breach, Lock, Standing

REASONS = (*LIMITS, MANUAL)
_SEVERITY = {ACTIVE: 0, REDUCING: 1, HALTED: 2}


def is_locked(standing: Standing) -> bool:
    """Whether any reason holds the account."""
    return bool(standing.locks)


def held(standing: Standing) -> frozenset[str]:
    """The reasons that hold the account."""
    return frozenset(lock.reason for lock in standing.locks)


def with_breaches(standing: Standing, breached: Sequence[Breached], now_ms: int) -> tuple[Standing, tuple[Lock, ...]]:
    """Add the reasons that are new; also the locks that were added, in the order daily, weekly, trailing."""
    if not breached:
        return standing, ()
    holding = held(standing)
    added = tuple(
        Lock(one.reason, now_ms, one.drawdown, one.limit, one.base, one.period_start_ms)
        for one in breached
        if one.reason not in holding
    )
    if not added:
        return standing, ()
    locked = replace(standing, locks=_sorted((*standing.locks, *added)), last_breach=Breach(added[-1].reason, now_ms))
    return locked, added


def with_manual(standing: Standing, now_ms: int) -> tuple[Standing, Lock]:
    """Add an operator's lock."""
    lock = Lock(MANUAL, now_ms)
    return replace(standing, locks=_sorted((*standing.locks, lock))), lock


def unlocked(standing: Standing) -> Standing:
    """Clear every reason; the last breach stays."""
    return replace(standing, locks=())


def _sorted(locks: tuple[Lock, ...]) -> tuple[Lock, ...]:
    return tuple(sorted(locks, key=lambda lock: REASONS.index(lock.reason)))


def imposed_state(rules: Rules, standing: Standing, venue: str | None, strategy_id: str | None) -> tuple[str, str]:
    """The most restrictive state set by policy, halt or an unusable fill, and the widest scope that sets it."""
    account = HALTED if standing.halted else REDUCING if standing.fill_unusable else ACTIVE
    if not rules.states:
        return account, "global" if account == ACTIVE else "account"
    state, scope = rules.state_of("global"), "global"
    for other_scope, other in (
        ("venue", ACTIVE if venue is None else rules.state_of("venue", venue)),
        ("strategy", ACTIVE if strategy_id is None else rules.state_of("strategy", strategy_id)),
        ("account", account),
    ):
        if _SEVERITY[other] > _SEVERITY[state]:
            state, scope = other, other_scope
    return state, scope


def shown_state(rules: Rules, standing: Standing, venue: str | None = None, strategy_id: str | None = None) -> str:
    """The trading state with the lock's own REDUCING in it."""
    state, _ = imposed_state(rules, standing, venue, strategy_id)
    return REDUCING if state == ACTIVE and is_locked(standing) else state


def lock_note(situation: Situation, account: Account, lock: Lock) -> Note:
    """The ``account-locked`` record of one reason, with the entries that executors must cancel."""
    drawdown = account.drawdown
    body = {
        "lock_id": None,
        "account_id": situation.account_id,
        "reason": lock.reason,
        "observed": _amount(lock.observed),
        "limit": _amount(lock.limit),
        "equity": _amount(drawdown.equity) if has_equity(drawdown) else None,
        "base_equity": _amount(lock.base),
        "period_start": None if lock.period_start_ms is None else write_time(lock.period_start_ms),
        "profile": situation.profile_of(account).name,
        "trading_state": shown_state(situation.rules, account.standing),
        "open_orders": [
            {
                "order_id": order_id,
                "instrument": order.instrument,
                "side": order.side,
                "quantity_left": write_amount(order.left),
                "venue": order.venue,
            }
            for order_id, order in account.orders.open.items()
            if not order.reduces and order.left > 0
        ],
        "positions": [
            {
                "instrument": instrument,
                "venue": venue,
                "quantity": write_amount(position.quantity),
                "average_price": write_amount(position.average_price),
            }
            for instrument, venue, position in sorted(account.book.each(), key=lambda one: one[:2])
        ],
        "locked_at": write_time(situation.now_ms),
    }
    return Note(Rank.LOCK, LOCKED, body)


def _amount(value: Decimal | None) -> str | None:
    return None if value is None else write_amount(value)
