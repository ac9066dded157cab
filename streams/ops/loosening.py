"""What a change of the rules loosens: the question that ``controls.two_person`` puts to every policy.

Pure, and by effect rather than by name: two :class:`Rules` are compared limit by limit. Whatever would let one signal
more pass, or bring one warning less, is told in a sentence; what only restricts is not. A venue that goes down
restricts, although entries fail over: the venue that takes them was allowed to before.
"""

from collections.abc import Iterator
from decimal import Decimal

from schemas.config import LADDER
from streams.core.rules import ACTIVE, NO_LISTS, STATES, Lists, Profile, Rollout, Rules
from streams.ops.terminal import listed

_HIGHER_IS_LOOSER = (
    "max_daily_drawdown",
    "max_weekly_drawdown",
    "max_trailing_drawdown",
    "max_trade_risk",
    "max_leverage",
    "max_open_positions",
    "confirmations",
)


def loosened(before: Rules, after: Rules) -> tuple[str, ...]:
    """Each thing that ``after`` allows and ``before`` did not, in words; empty if it only restricts."""
    return (
        *_states(before, after),
        *_venues(before, after),
        *(text for name in LADDER for text in _profile(name, before.profiles[name], after.profiles[name])),
        *(
            text
            for scope in ("", *LADDER)
            for text in _lists(scope, before.lists.get(scope, NO_LISTS), after.lists.get(scope, NO_LISTS))
        ),
        *_rollout(before.rollout, after.rollout),
    )


def _states(before: Rules, after: Rules) -> Iterator[str]:
    for scope, was in sorted(before.states.items()):
        state = after.states.get(scope, ACTIVE)
        if STATES.index(state) < STATES.index(was):
            yield f"{scope} goes from {was} to {state}"


def _venues(before: Rules, after: Rules) -> Iterator[str]:
    for venue, was_up in sorted(before.venues_up.items()):
        if not was_up and after.venues_up.get(venue, True):
            yield f"venue {venue} comes up"


def _profile(name: str, before: Profile, after: Profile) -> Iterator[str]:
    for key in _HIGHER_IS_LOOSER:
        was: Decimal | None = getattr(before, key)
        limit: Decimal | None = getattr(after, key)
        if was is not None and (limit is None or limit > was):
            yield f"profile {name}: {key} rises from {was} to {'none' if limit is None else limit}"
    for key in ("spot_only", "headroom"):
        if getattr(before, key) and not getattr(after, key):
            yield f"profile {name}: {key} is turned off"
    if (before.breach, after.breach) == ("reach", "exceed"):
        yield f"profile {name}: breach goes from reach to exceed"
    if dropped := [str(tier) for tier in before.warning if tier not in after.warning]:
        yield f"profile {name}: no warning any more at {listed(dropped)} of a limit"


def _lists(scope: str, before: Lists, after: Lists) -> Iterator[str]:
    place = f"profile {scope}" if scope else "all profiles"
    if freed := before.blacklist - after.blacklist:
        yield f"{place}: {listed(sorted(freed))} off the blacklist"
    # An empty whitelist allows everything.
    if before.whitelist and not after.whitelist:
        yield f"{place}: the whitelist ends"
    elif before.whitelist and (added := after.whitelist - before.whitelist):
        yield f"{place}: {listed(sorted(added))} on the whitelist"


def _rollout(before: Rollout | None, after: Rollout | None) -> Iterator[str]:
    if before is None:
        return
    if after is None:
        yield f"the restrictions of rollout phase {before.phase} end"
        return
    for key in ("accounts", "profiles", "venues"):
        was: frozenset[str] | None = getattr(before, key)
        allowed: frozenset[str] | None = getattr(after, key)
        if was is not None and (allowed is None or allowed - was):
            added = "all" if allowed is None else listed(sorted(allowed - was))
            yield f"rollout phase {after.phase} adds {key}: {added}"
