"""Checks of what is configured and in force: the ladder, limits, two persons, venues, strategies, phase."""

from collections.abc import Iterator, Mapping
from itertools import pairwise

from schemas.config import LADDER
from streams.core.rules import ACTIVE, NO_LISTS, Profile, Rules
from streams.ops.preflight.check import Finding, check, failed, passed, some, warned
from streams.ops.preflight.context import Context

CONFIGURATION, VENUES, STRATEGIES = "configuration", "venues", "strategies"

_RISING = ("max_daily_drawdown", "max_weekly_drawdown", "max_trade_risk", "max_leverage", "max_open_positions")
_PNL_AGE_LONG_MS = 300_000


@check(CONFIGURATION, "clock-wall")
def wall_clock(context: Context) -> Finding:
    """Time is the wall's."""
    if context.rules.clock != "wall":
        return failed(
            'clock = "record"',
            'set clock = "wall": by the records\' own clock a feed that has stopped never gets stale',
        )
    return passed('clock = "wall"')


@check(CONFIGURATION, "two-person")
def two_persons(context: Context) -> Finding:
    """Loosening takes two persons."""
    if not context.rules.two_person:
        return warned(
            "controls.two_person = false", "set it to true: one person alone could unlock, resume and promote"
        )
    return passed("controls.two_person = true")


@check(CONFIGURATION, "ladder-rises")
def ladder_rises(context: Context) -> Finding:
    """Each rung of the ladder allows more than the one below."""
    falls = list(_falls(context.rules.configured_profiles))
    if falls:
        return failed(
            some(falls), "let every limit rise from rung to rung: as it is, a downgrade after a loss would loosen"
        )
    return passed(f"{' ≤ '.join(LADDER)} in every limit")


@check(CONFIGURATION, "ladder-in-force")
def ladder_in_force(context: Context) -> Finding:
    """Policies keep the ladder's order."""
    falls = list(_falls(context.in_force().profiles))
    if falls:
        return warned(
            some(falls),
            "see `tidegate policy list`: a profile/P policy puts a rung above the next one",
        )
    return passed("in every limit")


@check(CONFIGURATION, "limits-nest")
def limits_nest(context: Context) -> Finding:
    """A trade cannot lose a day, nor a day a week."""
    faults = [fault for profile in context.in_force().profiles.values() for fault in _crossed(profile)]
    if faults:
        return failed(some(faults, 3), "order them: trade risk < daily drawdown ≤ weekly and trailing drawdown")
    return passed("trade risk < daily ≤ weekly and trailing drawdown, in every profile")


@check(CONFIGURATION, "warnings")
def warned_before_locked(context: Context) -> Finding:
    """A warning comes before a lock."""
    silent = [p.name for p in context.in_force().profiles.values() if not any(tier < 1 for tier in p.warning)]
    if silent:
        return warned(
            f"no warning tier below 1 for {some(silent)}",
            'set warning = ["0.5", "0.8"]: the first word would be a lock',
        )
    return passed("in every profile")


@check(CONFIGURATION, "ages")
def ages_make_sense(context: Context) -> Finding:
    """Ages and horizon make sense."""
    limits = context.rules.limits
    if limits.max_signal_age_ms > limits.dedup_horizon_ms:
        return failed(
            f"max_signal_age {limits.max_signal_age_ms} ms is above dedup_horizon {limits.dedup_horizon_ms} ms",
            "raise limits.dedup_horizon: a signal that is fresh enough to trade would be TOO_OLD to be told apart",
        )
    if limits.max_pnl_age_ms > _PNL_AGE_LONG_MS:
        return warned(
            f"max_pnl_age = {limits.max_pnl_age_ms // 1000} s",
            "lower limits.max_pnl_age: that long, entries pass on an equity that nobody has confirmed",
        )
    return passed(
        f"max_pnl_age {limits.max_pnl_age_ms} ms, max_signal_age {limits.max_signal_age_ms} ms, "
        f"dedup_horizon {limits.dedup_horizon_ms // 1000} s"
    )


@check(CONFIGURATION, "fat-fingers")
def fat_fingers(context: Context) -> Finding:
    """Mistaken orders are stopped."""
    limits = context.rules.limits
    named = {
        "max_notional_per_order": limits.max_notional_per_order,
        "price_collar": limits.price_collar,
        "rate_limit": limits.rate_limit_orders,
    }
    off = [f"limits.{name}" for name, value in named.items() if value is None]
    if off:
        return warned(f"off: {some(off)}", "set them: they stop an order whose size, price or number is a mistake")
    return passed("order size, price collar and rate limit are set")


@check(CONFIGURATION, "costs")
def costs_are_known(context: Context) -> Finding:
    """Costs are counted.

    Risk per trade and headroom count fees only where they are configured.
    """
    snapshot = context.state.get().snapshot
    traded: set[str] = set()
    for one in context.accounts():
        account = snapshot.account(one.account_id)
        if account is not None:
            traded |= {*account.drawdown.marks, *account.book.positions}
    free = [name for name in traded if name not in context.rules.instruments]
    if free:
        return warned(
            f"no fee, slippage or multiplier is configured for {some(free)}",
            "add [instruments.…]: without it they count as multiplier 1 and no costs",
        )
    return passed(
        "every instrument that is marked or held is configured" if traded else "nothing is marked or held yet"
    )


@check(CONFIGURATION, "policies-usable")
def policies_are_usable(context: Context) -> Finding:
    """Every policy can be used."""
    unusable = context.state.get().snapshot.unusable
    if unusable:
        return failed(
            some(f"{line.name} (version {line.version}): {line.fault}" for line in unusable.values()),
            "set or clear it: `tidegate policy set NAME …`; a state that cannot be used is HALTED",
        )
    return passed(f"policy version {context.in_force().version}, {len(context.state.get().snapshot.policies)} in force")


@check(CONFIGURATION, "states-active")
def nothing_is_stopped(context: Context) -> Finding:
    """Nothing is stopped by policy."""
    stopped = [f"{name} is {state}" for name, state in context.in_force().states.items() if state != ACTIVE]
    if stopped:
        return warned(
            some(stopped), "if it is not meant: `tidegate policy resume --reason …` (--venue V, --strategy S)"
        )
    return passed("every state/… policy is ACTIVE, or there is none")


@check(CONFIGURATION, "rollout-phase")
def phase_is_set(context: Context) -> Finding:
    """A rollout phase is in force."""
    rollout = context.in_force().rollout
    if rollout is None:
        return warned("no rollout policy: every account, profile and venue may trade", "tidegate rollout start")
    return passed(f"phase {rollout.phase}")


# -- venues --------------------------------------------------------------------------------------------------------


@check(VENUES, "venues-configured")
def accounts_have_venues(context: Context) -> Finding:
    """Every account has a venue."""
    without = [name for name, terms in context.rules.accounts.items() if not terms.venues]
    if without:
        return failed(f"no exchange: {some(without)}", "set accounts.X.exchange: every entry is refused as NO_VENUE")
    return passed(f"{len(context.rules.accounts)} accounts")


@check(VENUES, "venues-failover")
def accounts_fail_over(context: Context) -> Finding:
    """Every account has another venue."""
    alone = [name for name, terms in context.rules.accounts.items() if len(terms.venues) < 2]
    if alone:
        return warned(f"one venue only: {some(alone)}", "set accounts.X.failover, if another venue can take its orders")
    return passed(f"{len(context.rules.accounts)} accounts")


@check(VENUES, "venues-up")
def venues_are_up(context: Context) -> Finding:
    """Venues are up."""
    rules = context.in_force()
    down = {venue for venue, up in rules.venues_up.items() if not up}
    stranded = [name for name, terms in rules.accounts.items() if terms.venues and down.issuperset(terms.venues)]
    if stranded:
        return failed(
            f"down: {some(down)}; nowhere to go: {some(stranded)}",
            "tidegate policy venue V up --reason …, once it works: exits there are refused too",
        )
    if down:
        return warned(f"down: {some(down)}", "failover takes their entries; exits wait for the venue")
    return passed("none is marked down")


# -- strategies ----------------------------------------------------------------------------------------------------


@check(STRATEGIES, "routes")
def routes_lead_somewhere(context: Context) -> Finding:
    """Routes lead to accounts."""
    rules = context.rules
    lost = [f"{name} → {route.account}" for name, route in rules.routes.items() if route.account not in rules.accounts]
    if lost:
        return failed(
            f"no such account: {some(lost)}", "correct strategies.routes: its signals are rejected as UNKNOWN_ACCOUNT"
        )
    odd = [
        f"{name} → {route.exchange}"
        for name, route in rules.routes.items()
        if route.exchange is not None and route.exchange not in rules.accounts[route.account].venues
    ]
    if odd:
        return warned(
            f"not among the account's venues: {some(odd)}", "if it is meant, go on; else correct strategies.routes"
        )
    return passed(f"{len(rules.routes)} routes")


@check(STRATEGIES, "routes-allowed")
def routed_strategies_may_trade(context: Context) -> Finding:
    """Strategies may trade where they are routed or fanned out to."""
    rules = context.in_force()
    profiles = {one.account_id: one.profile for one in context.accounts()}
    legs = [(strategy, route.account) for strategy, route in rules.routes.items()]
    legs += [(strategy, account) for strategy, one in context.config.fanout.items() for account in one.accounts]
    barred = [
        f"{strategy} on {account}"
        for strategy, account in legs
        if (profile := profiles.get(account)) is not None and _barred(rules, strategy, profile)
    ]
    if barred:
        return warned(
            f"blocked or not on the list: {some(barred)}",
            "see [strategies] and `tidegate policy list`, if it is not meant",
        )
    return passed(f"{len(legs)} ways from a strategy to an account")


@check(STRATEGIES, "whitelists")
def strategies_are_listed(context: Context) -> Finding:
    """Strategies are named before they trade."""
    lists = context.in_force().lists
    open_to_all = [
        name for name in LADDER if not (lists.get(name, NO_LISTS).whitelist or lists.get("", NO_LISTS).whitelist)
    ]
    if open_to_all:
        return warned(
            f"every strategy may trade on {some(open_to_all)}",
            "name the reviewed ones in strategies.P.whitelist: a misspelt or new strategy is then refused",
        )
    return passed("in every profile")


# -- shared --------------------------------------------------------------------------------------------------------


def _falls(profiles: Mapping[str, Profile]) -> Iterator[str]:
    for lower, higher in pairwise(LADDER):
        for name in _RISING:
            below, above = getattr(profiles[lower], name), getattr(profiles[higher], name)
            if below > above:
                yield f"{name}: {lower} {below} > {higher} {above}"


def _crossed(profile: Profile) -> Iterator[str]:
    steps = (
        ("max_trade_risk", profile.max_trade_risk, "max_daily_drawdown", profile.max_daily_drawdown, True),
        ("max_daily_drawdown", profile.max_daily_drawdown, "max_weekly_drawdown", profile.max_weekly_drawdown, False),
        (
            "max_daily_drawdown",
            profile.max_daily_drawdown,
            "max_trailing_drawdown",
            profile.max_trailing_drawdown or profile.max_daily_drawdown,
            False,
        ),
    )
    for small, low, large, high, strictly in steps:
        if low > high or (strictly and low == high):
            yield f"{profile.name}: {small} {low} against {large} {high}"


def _barred(rules: Rules, strategy: str, profile: str) -> bool:
    scopes = [rules.lists.get(scope, NO_LISTS) for scope in ("", profile)]
    return any(strategy in lists.blacklist or (lists.whitelist and strategy not in lists.whitelist) for lists in scopes)


CHECKS = (
    wall_clock,
    two_persons,
    ladder_rises,
    ladder_in_force,
    limits_nest,
    warned_before_locked,
    ages_make_sense,
    fat_fingers,
    costs_are_known,
    policies_are_usable,
    nothing_is_stopped,
    phase_is_set,
    accounts_have_venues,
    accounts_fail_over,
    venues_are_up,
    routes_lead_somewhere,
    routed_strategies_may_trade,
    strategies_are_listed,
)
