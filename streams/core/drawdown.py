"""Equity, bases and drawdowns (contract, section 2: Equity to Breach).

One usable update goes, in this order, through: roll the day and the week, apply the cash flow, raise the high-water
mark, test. Periods are (start, end]: an update exactly at a boundary is tested on the old base and then opens the
new period with itself as base, so no loss falls between two days.

Comparisons are made by products of the original figures, never on a rounded quotient.
"""

from collections.abc import Callable
from decimal import ROUND_CEILING, Context, Decimal
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from schemas.inputs import Pnl
from streams.core import calendar
from streams.core.rules import AccountRules, Profile
from streams.core.state import Drawdown, Period

DAILY, WEEKLY, TRAILING, MANUAL = "DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN", "TRAILING_DRAWDOWN", "MANUAL"
LIMITS = (DAILY, WEEKLY, TRAILING)
AHEAD_MS_MAX = 5_000

_ZERO, _ONE = Decimal(0), Decimal(1)
# What is stored after a division; the contract asks for at least 28 digits. A base is rounded up, so that rounding
# never hides a breach.
_STORED = Context(prec=34, rounding=ROUND_CEILING)
# Absurd flows must not grow a base without end; against any equity that can be read this one is a total loss already.
_BASE_MAX = Decimal("1e60")


class Closed(NamedTuple):
    """A day or a week that ended, as it stood on its own base."""

    kind: str  # "day" | "week"
    period: Period
    close: Decimal
    drawdown: Decimal | None  # None: a withdrawal left nothing to measure
    limit: Decimal


class Warned(NamedTuple):
    """A tier of a limit that was crossed for the first time in its period."""

    limit_name: str
    tier: Decimal
    drawdown: Decimal
    limit: Decimal


class Breached(NamedTuple):
    """A limit that was reached, often enough in a row to lock, and what it was measured from."""

    reason: str
    drawdown: Decimal
    limit: Decimal
    base: Decimal
    period_start_ms: int | None  # None: trailing


class Marked(Struct, frozen=True, gc=False):
    """The outcome of one usable update."""

    drawdown: Drawdown
    closed: tuple[Closed, ...]
    warned: tuple[Warned, ...]
    breached: tuple[Breached, ...]


# -- reading an update ---------------------------------------------------------------------------------------------


def unusable(update: Pnl, account: AccountRules, now_ms: int) -> str | None:
    """Why a readable update cannot be used, naming the field; None if it can. Missing is never read as zero loss."""
    if not update.equity.is_finite():
        return f"equity {update.equity} is not finite; send the account's equity"
    if update.balance is not None and not update.balance.is_finite():
        return f"balance {update.balance} is not finite; send it as a number or leave it out"
    if update.balance is None and account.base != "equity":
        return f"balance is missing; base = {account.base!r} needs it in every update"
    if update.cash_flow is not None and not update.cash_flow.is_finite():
        return f"cash_flow {update.cash_flow} is not finite; send 0 where there was none"
    for field, values in (("marks", update.marks), ("rates", update.rates)):
        for name, value in (values or {}).items():
            if not (value.is_finite() and value > 0):
                return f"{field}.{name} {value} is not a price above 0"
    if update.as_of - now_ms > AHEAD_MS_MAX:
        return f"as_of is {update.as_of - now_ms} ms in the future; check the producer's clock"
    return None


def without_equity(state: Drawdown, sequence: int | None, flow: Decimal | None) -> Drawdown:
    """An update that cannot be used: equity is missing until the next one, its cash flow is carried there."""
    return replace(
        state,
        sequence=state.sequence if sequence is None else sequence,
        usable=False,
        carried=state.carried + flow if flow is not None and flow.is_finite() else state.carried,
    )


# -- one usable update ---------------------------------------------------------------------------------------------


def mark(state: Drawdown, update: Pnl, account: AccountRules, profile: Profile) -> Marked:
    """Fold one usable update into the state."""
    equity, as_of = update.equity, update.as_of
    closed: list[Closed] = []
    if state.day is None or state.week is None:
        rolling = _first(state, update, account)
        flow = _ZERO
        emptied = equity == 0  # not funded yet: nothing was lost
    else:
        rolling = _roll_before(state, as_of, account, profile, closed)
        flow = state.carried + (update.cash_flow or _ZERO)
        emptied = state.unfunded and equity == 0
    warned: list[Warned] = []
    breached: list[Breached] = []
    if equity == 0 and flow < 0 and equity - flow > 0:
        if not state.unfunded:
            # What was lost before the withdrawal took the rest is still a loss, on the bases as they were.
            rolling, warned, breached = _test(replace(rolling, equity=equity - flow, unfunded=False), account, profile)
        emptied = True
    hwm, day, week = rolling.hwm, rolling.day, rolling.week
    assert hwm is not None
    assert day is not None
    assert week is not None
    if flow:
        flowed = _flow(equity, flow, account)
        hwm, day, week = flowed(hwm), replace(day, base=flowed(day.base)), replace(week, base=flowed(week.base))
    if account.loss_basis == "base" and equity > 0:
        day, week = _founded(day, equity), _founded(week, equity)
    raised = equity > hwm
    hwm = max(hwm, equity)
    marked = replace(
        rolling,
        sequence=update.sequence,
        usable=True,
        unfunded=emptied,
        equity=equity,
        balance=update.balance,
        as_of_ms=as_of,
        carried=_ZERO,
        day=_extend(day, equity),
        week=_extend(week, equity),
        hwm=hwm,
        trailing_warned=() if raised else rolling.trailing_warned,
        marks={**state.marks, **update.marks} if update.marks else state.marks,
        rates={**state.rates, **update.rates} if update.rates else state.rates,
    )
    marked, warned_now, breached_now = _test(marked, account, profile)
    warned, breached = warned + warned_now, breached + breached_now
    marked = _roll_after(marked, as_of, account, profile, closed)
    return Marked(marked, tuple(closed), tuple(warned), tuple(breached))


def _first(state: Drawdown, update: Pnl, account: AccountRules) -> Drawdown:
    """The first update ever: the bases are its own, and its cash flow is not applied."""
    base = _base(account, update.equity, update.balance)
    zone, minutes = account.timezone, account.day_start_minutes
    day = calendar.day_of(zone, minutes, update.as_of)
    week = calendar.week_of(zone, minutes, update.as_of)
    return replace(
        state,
        day=Period(*day, base, update.equity, update.equity, update.equity),
        week=Period(*week, base, update.equity, update.equity, update.equity),
        hwm=update.equity,
    )


def _base(account: AccountRules, equity: Decimal, balance: Decimal | None) -> Decimal:
    """What a new period is measured from, by the account's convention."""
    if account.base == "equity" or balance is None:
        return equity
    return balance if account.base == "balance" else max(equity, balance)


def _roll_before(
    state: Drawdown, as_of_ms: int, account: AccountRules, profile: Profile, closed: list[Closed]
) -> Drawdown:
    """Close what ended before the update, on the last usable equity."""
    day, week = state.day, state.week
    assert day is not None
    assert week is not None
    if as_of_ms > day.end_ms:
        # The instant before: an update exactly at a boundary belongs to the period that ends there.
        state = _open(state, "day", calendar.day_of, as_of_ms - 1, account, profile, closed)
    if as_of_ms > week.end_ms:
        state = _open(state, "week", calendar.week_of, as_of_ms - 1, account, profile, closed)
    return state


def _roll_after(
    state: Drawdown, as_of_ms: int, account: AccountRules, profile: Profile, closed: list[Closed]
) -> Drawdown:
    """Close what ends with the update: it was tested on the old base and becomes the new one."""
    day, week = state.day, state.week
    assert day is not None
    assert week is not None
    if as_of_ms == day.end_ms:
        state = _open(state, "day", calendar.day_of, as_of_ms, account, profile, closed)
    if as_of_ms == week.end_ms:
        state = _open(state, "week", calendar.week_of, as_of_ms, account, profile, closed)
    return state


def _open(
    state: Drawdown,
    kind: str,
    bounds: Callable[[str, int, int], calendar.Bounds],
    at_ms: int,
    account: AccountRules,
    profile: Profile,
    closed: list[Closed],
) -> Drawdown:
    """Close the running day or week and open the one that holds ``at_ms``, based on the last usable update."""
    equity, old = state.equity, getattr(state, kind)
    assert equity is not None
    limit = profile.max_daily_drawdown if kind == "day" else profile.max_weekly_drawdown
    drawdown = None if state.unfunded else drawdown_from(state, old.base, account)
    closed.append(Closed(kind, old, equity, drawdown, limit))
    base = _base(account, equity, state.balance)
    if account.loss_basis == "base" and base <= 0 < equity:
        base = equity
    start_ms, end_ms = bounds(account.timezone, account.day_start_minutes, at_ms)
    return replace(state, **{kind: Period(start_ms, end_ms, base, equity, equity, equity)})


def _flow(equity: Decimal, flow: Decimal, account: AccountRules) -> Callable[[Decimal], Decimal]:
    """How a base follows a deposit (+) or withdrawal (−), so that neither looks like profit or loss."""
    if account.loss_basis == "initial":
        return lambda base: base + flow
    before = equity - flow
    if before > 0 and equity >= 0:
        return lambda base: min(_BASE_MAX, _STORED.divide(base * equity, before))
    if before <= 0 < equity:
        return lambda _base: equity
    return lambda base: base


def _founded(period: Period, equity: Decimal) -> Period:
    """A base that is not above 0 measures nothing: funded equity takes its place."""
    return period if period.base > 0 else replace(period, base=equity)


def _extend(period: Period, equity: Decimal) -> Period:
    if equity > period.high:
        return replace(period, high=equity)
    if equity < period.low:
        return replace(period, low=equity)
    return period


# -- testing -------------------------------------------------------------------------------------------------------


class Limit(Struct, frozen=True, gc=False):
    """One limit of the profile with the base that it is measured from."""

    name: str
    base: Decimal
    limit: Decimal
    start_ms: int | None = None


def limits_of(state: Drawdown, profile: Profile) -> tuple[Limit, ...]:
    """The limits in force, in the order daily, weekly, trailing; none before the first update."""
    day, week, hwm = state.day, state.week, state.hwm
    if day is None or week is None or hwm is None:
        return ()
    daily = Limit(DAILY, day.base, profile.max_daily_drawdown, day.start_ms)
    weekly = Limit(WEEKLY, week.base, profile.max_weekly_drawdown, week.start_ms)
    if profile.max_trailing_drawdown is None:
        return daily, weekly
    return daily, weekly, Limit(TRAILING, hwm, profile.max_trailing_drawdown)


def has_equity(state: Drawdown) -> bool:
    """Whether there is an equity to decide on: the last update was usable, and not emptied by a withdrawal."""
    return state.usable and not state.unfunded


def is_fresh(state: Drawdown, now_ms: int, age_ms_max: int) -> bool:
    """Whether the last update is recent: neither older than allowed nor further ahead than an update may be."""
    return -AHEAD_MS_MAX <= now_ms - state.as_of_ms <= age_ms_max


def drawdown_from(state: Drawdown, base: Decimal, account: AccountRules) -> Decimal:
    """Loss from ``base`` as a fraction (of the base, or of the initial capital), never negative."""
    equity = state.equity
    if equity is None or state.unfunded:
        return _ZERO
    if account.loss_basis == "initial" and account.initial_capital is not None:
        drawdown = (base - equity) / account.initial_capital
    elif base > 0:
        drawdown = (base - equity) / base
    else:
        drawdown = _ZERO
    return max(_ONE, drawdown) if equity <= 0 else max(_ZERO, drawdown)


def reaches(state: Drawdown, base: Decimal, fraction: Decimal, account: AccountRules, *, exceed: bool = False) -> bool:
    """Whether the loss from ``base`` is at least ``fraction`` (more than it, with ``exceed``), unrounded."""
    equity = state.equity
    if equity is None or state.unfunded:
        return False
    loss = base - equity
    if loss <= 0 < equity:
        return False
    initial = account.initial_capital if account.loss_basis == "initial" else None
    whole = base if initial is None else initial
    if loss > 0 and whole > 0 and (loss > fraction * whole or (loss == fraction * whole and not exceed)):
        return True
    # Equity that is lost entirely counts as 100 % whatever the base says.
    return equity <= 0 and (fraction < 1 or (fraction == 1 and not exceed))


def is_breached(state: Drawdown, limit: Limit, account: AccountRules, profile: Profile) -> bool:
    """Whether the last usable update breaches the limit, as the profile counts a breach."""
    return reaches(state, limit.base, limit.limit, account, exceed=profile.breach == "exceed")


def breaches(state: Drawdown, account: AccountRules, profile: Profile) -> tuple[Breached, ...]:
    """The limits that the last usable update breaches, without counting."""
    return tuple(
        _breach(state, limit, account)
        for limit in limits_of(state, profile)
        if is_breached(state, limit, account, profile)
    )


def _breach(state: Drawdown, limit: Limit, account: AccountRules) -> Breached:
    drawdown = drawdown_from(state, limit.base, account)
    return Breached(limit.name, drawdown, limit.limit, limit.base, limit.start_ms)


def floor(limit: Limit, account: AccountRules) -> Decimal:
    """The equity at which the limit would be reached."""
    if account.loss_basis == "initial" and account.initial_capital is not None:
        return limit.base - limit.limit * account.initial_capital
    return limit.base * (_ONE - limit.limit)


def counts_of(state: Drawdown, profile: Profile) -> dict[str, int]:
    """Breaching updates in a row, of each limit in force."""
    counts = {
        DAILY: state.day.breaches if state.day else 0,
        WEEKLY: state.week.breaches if state.week else 0,
        TRAILING: state.trailing_breaches,
    }
    return {limit.name: counts[limit.name] for limit in limits_of(state, profile)}


def _test(state: Drawdown, account: AccountRules, profile: Profile) -> tuple[Drawdown, list[Warned], list[Breached]]:
    """Raise the tiers that were crossed and count the limits that were reached."""
    warned: list[Warned] = []
    breached: list[Breached] = []
    if state.unfunded:
        return state, warned, breached
    equity, day, week = state.equity, state.day, state.week
    assert equity is not None
    assert day is not None
    assert week is not None
    trailing_warned, trailing_breaches = state.trailing_warned, 0
    for limit in limits_of(state, profile):
        if limit.name == DAILY:
            told, count = day.warned, day.breaches
        elif limit.name == WEEKLY:
            told, count = week.warned, week.breaches
        else:
            told, count = state.trailing_warned, state.trailing_breaches
        lost = equity < limit.base or equity <= 0
        tiers = _crossed(state, limit, told, account, profile) if lost else ()
        if tiers:
            drawdown = drawdown_from(state, limit.base, account)
            warned += [Warned(limit.name, tier, drawdown, limit.limit) for tier in tiers]
            told = (*told, *tiers)
        if lost and is_breached(state, limit, account, profile):
            count = min(count + 1, profile.confirmations)
            if count == profile.confirmations:
                breached.append(_breach(state, limit, account))
        else:
            count = 0
        if limit.name == DAILY:
            day = _tested(day, count, told)
        elif limit.name == WEEKLY:
            week = _tested(week, count, told)
        else:
            trailing_breaches, trailing_warned = count, told
    if (
        day is state.day
        and week is state.week
        and (trailing_breaches, trailing_warned)
        == (
            state.trailing_breaches,
            state.trailing_warned,
        )
    ):
        return state, warned, breached
    tested = replace(state, day=day, week=week, trailing_breaches=trailing_breaches, trailing_warned=trailing_warned)
    return tested, warned, breached


def _tested(period: Period, count: int, told: tuple[Decimal, ...]) -> Period:
    if count == period.breaches and told is period.warned:
        return period
    return replace(period, breaches=count, warned=told)


def _crossed(
    state: Drawdown, limit: Limit, told: tuple[Decimal, ...], account: AccountRules, profile: Profile
) -> tuple[Decimal, ...]:
    """The tiers that the drawdown has reached and that were not told yet, rising."""
    crossed: list[Decimal] = []
    for tier in sorted(profile.warning):
        if not reaches(state, limit.base, tier * limit.limit, account):
            break
        if tier not in told and tier not in crossed:
            crossed.append(tier)
    return tuple(crossed)


# -- unlocking -----------------------------------------------------------------------------------------------------


def rebased(state: Drawdown, reasons: frozenset[str]) -> Drawdown:
    """The bases of the named limits at the present equity, whatever the account's base convention."""
    equity, day, week = state.equity, state.day, state.week
    if equity is None or day is None or week is None:
        return state
    return replace(
        state,
        day=replace(day, base=equity) if DAILY in reasons else day,
        week=replace(week, base=equity) if WEEKLY in reasons else week,
        hwm=equity if TRAILING in reasons else state.hwm,
        trailing_warned=() if TRAILING in reasons else state.trailing_warned,
    )


def recounted(state: Drawdown) -> Drawdown:
    """No breaching updates counted."""
    return replace(
        state,
        day=replace(state.day, breaches=0) if state.day else None,
        week=replace(state.week, breaches=0) if state.week else None,
        trailing_breaches=0,
    )
