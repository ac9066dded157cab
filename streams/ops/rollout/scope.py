"""What is published for a phase: its accounts, profiles and venues as the configuration has them, or why it cannot be.

Everything is named, so what is added to the configuration later is refused with ``ROLLOUT_PHASE`` until an operator
adds it to the phase too. Only where a phase takes all accounts is their list left open.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from schemas.types import write_amount
from streams.core.rules import Rules
from streams.core.state import Breach
from streams.ops.overview import Overview
from streams.ops.rollout.phases import Phase, Phases
from streams.ops.terminal import amount, listed


class Scope(NamedTuple):
    """The rule for a phase, and what forbids it (sentences with the remedy)."""

    rule: Mapping[str, Any]
    faults: tuple[str, ...]


class Capital(NamedTuple):
    """One account beside the phase's limit. ``equity`` None: not known; ``limit`` None: none."""

    account_id: str
    equity: Decimal | None
    limit: Decimal | None
    last_breach: Breach | None = None

    @property
    def exceeds(self) -> bool:
        """Also where it cannot be known."""
        return self.limit is not None and (self.equity is None or self.equity > self.limit)


def scope_for(
    phase: Phase, phases: Phases, rules: Rules, accounts: Mapping[str, Overview], wanted: Sequence[str] | None
) -> Scope:
    """The rule for ``phase``; ``wanted``: the accounts that an operator names, None: as the phase has it."""
    names, faults = _accounts(phase, rules, wanted)
    venues = {name: _venues(name, phase, phases, rules) for name in names}
    # Which accounts is to be settled first: each one's own obstacles would only bury the question.
    if not faults:
        faults += _obstacles(phase, accounts, venues, named=phase.accounts_max is not None or wanted is not None)
    if not faults and not any(venues.values()):
        testnets = listed(phases.testnet_venues)
        faults.append(f"no account has a {phase.venues} venue; configure one (testnets: {testnets})")
    rule: dict[str, Any] = {
        "phase": phase.phase,
        "title": phase.title,
        "accounts": None if phase.accounts_max is None and wanted is None else sorted(names),
        "profiles": list(phase.profiles),
        "venues": sorted(set().union(*venues.values())),
        "capital_max": None if phase.capital_max is None else write_amount(phase.capital_max),
    }
    return Scope(rule, tuple(faults))


def members(rule: Mapping[str, Any], rules: Rules) -> list[str]:
    """The configured accounts that a rollout rule lets enter."""
    named = rule.get("accounts")
    return sorted(rules.accounts if named is None else set(named) & set(rules.accounts))


def capital(phase: Phase, accounts: Mapping[str, Overview], names: Iterable[str]) -> list[Capital]:
    """Each account's equity beside the phase's limit."""
    return [
        Capital(one.account_id, one.equity if one.has_equity else None, phase.capital_max, one.last_breach)
        for one in (accounts[name] for name in names)
    ]


def _accounts(phase: Phase, rules: Rules, wanted: Sequence[str] | None) -> tuple[list[str], list[str]]:
    configured = sorted(rules.accounts)
    names = configured if wanted is None else sorted(set(wanted) & set(configured))
    faults = [
        f"account {name!r} is not in the configuration that was read here; add [accounts.{name}] or give --config"
        for name in sorted(set(wanted or ()) - set(configured))
    ]
    most = phase.accounts_max
    if most is not None and len(names) > most:
        allowed = "1 account" if most == 1 else f"{most} accounts"
        faults.append(f"phase {phase.label} takes at most {allowed}, not {len(names)}; name them with --account")
    if not names and not faults:
        faults.append("no account is configured here; give the workers' --config")
    return names, faults


def _venues(account_id: str, phase: Phase, phases: Phases, rules: Rules) -> set[str]:
    """The account's venues of the phase's kind, those of its routes too."""
    routed = {route.exchange for route in rules.routes.values() if route.account == account_id and route.exchange}
    testnet = phase.venues == "testnet"
    return {venue for venue in {*rules.accounts[account_id].venues, *routed} if phases.is_testnet(venue) == testnet}


def _obstacles(
    phase: Phase, accounts: Mapping[str, Overview], venues: Mapping[str, set[str]], *, named: bool
) -> Iterator[str]:
    """What keeps single accounts out; where a phase takes all, the gate itself refuses those that do not fit."""
    for name, known in venues.items():
        if named and not known:
            yield f"account {name} has no {phase.venues} venue; configure accounts.{name}.exchange"
        if named and (profile := accounts[name].profile) not in phase.profiles:
            yield (
                f"account {name} is on profile {profile}, the phase allows {', '.join(phase.profiles)}; "
                f"`tidegate profile set {name} {phase.profiles[-1]}`"
            )
    for one in capital(phase, accounts, venues):
        if one.exceeds:
            yield _over(one)


def _over(one: Capital) -> str:
    if one.equity is None:
        return (
            f"account {one.account_id} has no usable equity to hold against {amount(one.limit)}; wait for a pnl update"
        )
    return (
        f"account {one.account_id} has {amount(one.equity)} of capital, the phase allows {amount(one.limit)}; "
        "withdraw the rest"
    )
