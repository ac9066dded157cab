"""What is in force: configuration, and the policies that override it (contract, sections 1, 3 and 6).

``Rules`` is one frozen value. A policy record makes a new one with the next version; nothing else changes it. A rule
that cannot be used never loosens anything: a trading state becomes HALTED for its scope, any other rule keeps the
old one, and either way there is a dead letter.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace
from pydantic import TypeAdapter, ValidationError

from schemas.config import LADDER, ConfigFile, ListsSection, ProfileSection
from schemas.inputs import Policy, read_fields
from schemas.types import ID_BYTES_MAX, Id
from streams.core.decode import parse_object
from streams.core.outputs import dead_letter
from streams.core.records import Output, Record, text_of

ACTIVE, REDUCING, HALTED = "ACTIVE", "REDUCING", "HALTED"
STATES = (ACTIVE, REDUCING, HALTED)


class Profile(Struct, frozen=True):
    """Limits of one rung of the ladder. Fractions of equity, multiples of equity, counts."""

    name: str
    max_daily_drawdown: Decimal
    max_weekly_drawdown: Decimal
    max_trade_risk: Decimal
    max_leverage: Decimal
    max_open_positions: int
    spot_only: bool = False
    max_trailing_drawdown: Decimal | None = None
    headroom: bool = True
    breach: str = "reach"
    confirmations: int = 1
    warning: tuple[Decimal, ...] = (Decimal("0.5"), Decimal("0.8"))


def _profile(name: str, daily: str, weekly: str, risk: str, leverage: str, positions: int) -> Profile:
    return Profile(
        name, Decimal(daily), Decimal(weekly), Decimal(risk), Decimal(leverage), positions, spot_only=name == "micro"
    )


DEFAULT_PROFILES = {
    profile.name: profile
    for profile in (
        _profile("micro", "0.005", "0.015", "0.002", "1", 2),
        _profile("low", "0.010", "0.030", "0.005", "2", 4),
        _profile("normal", "0.020", "0.050", "0.010", "3", 6),
        _profile("aggressive", "0.035", "0.080", "0.020", "5", 10),
    )
}


class AccountRules(Struct, frozen=True):
    """One configured account. ``day_start_minutes`` after local midnight of ``timezone``."""

    exchange: str | None = None
    failover: tuple[str, ...] = ()
    profile: str = "micro"
    timezone: str = "UTC"
    day_start_minutes: int = 0
    currency: str | None = None
    base: str = "equity"
    loss_basis: str = "base"
    initial_capital: Decimal | None = None

    @property
    def venues(self) -> tuple[str, ...]:
        """The account's venues, in the order in which they are tried."""
        return (self.exchange, *self.failover) if self.exchange is not None else self.failover


class Instrument(Struct, frozen=True):
    """``fee_rate`` per side and ``slippage`` are fractions of notional."""

    multiplier: Decimal = Decimal(1)
    fee_rate: Decimal = Decimal(0)
    slippage: Decimal = Decimal(0)


class Limits(Struct, frozen=True):
    """Limits that hold for every account; None: not checked."""

    max_pnl_age_ms: int = 60_000
    max_signal_age_ms: int = 30_000
    order_valid_ms: int = 30_000
    dedup_horizon_ms: int = 86_400_000
    max_notional_per_order: Decimal | None = None
    price_collar: Decimal | None = None
    rate_limit_orders: int | None = None
    rate_limit_per_ms: int = 0


class Lists(Struct, frozen=True):
    """Strategies of one scope. An empty whitelist allows all."""

    whitelist: frozenset[str] = frozenset()
    blacklist: frozenset[str] = frozenset()


class Route(Struct, frozen=True):
    """Where a strategy's signals go that name no account, and the venue that they prefer there."""

    account: str
    exchange: str | None = None


class Rollout(Struct, frozen=True):
    """What the present phase allows. None: all."""

    phase: str
    accounts: frozenset[str] | None = None
    profiles: frozenset[str] | None = None
    venues: frozenset[str] | None = None


class Rules(Struct, frozen=True):
    """Everything that a decision depends on besides the account's state.

    ``configured_profiles`` and ``configured_lists`` are what a removed policy falls back on. ``lists`` is keyed by
    profile name, ``""`` for the global one; ``fanouts`` by strategy: the weight of each account in its signals;
    ``states`` by policy name (``state/venue/V``). ``versions``: by policy name, the version of the record that decides
    about it now (also of one that removed the rule).
    """

    clock: str = "wall"
    two_person: bool = False
    accounts: Mapping[str, AccountRules] = {}
    routes: Mapping[str, Route] = {}
    fanouts: Mapping[str, Mapping[str, Decimal]] = {}
    instruments: Mapping[str, Instrument] = {}
    limits: Limits = Limits()
    configured_profiles: Mapping[str, Profile] = field(default_factory=lambda: DEFAULT_PROFILES)
    configured_lists: Mapping[str, Lists] = {}
    version: int = 0
    versions: Mapping[str, int] = {}
    profiles: Mapping[str, Profile] = field(default_factory=lambda: DEFAULT_PROFILES)
    lists: Mapping[str, Lists] = {}
    states: Mapping[str, str] = {}
    venues_up: Mapping[str, bool] = {}
    rollout: Rollout | None = None

    def state_of(self, scope: str, name: str | None = None) -> str:
        """The trading state that policies set for ``global``, ``venue`` or ``strategy``."""
        if not self.states:
            return ACTIVE
        key = f"state/{scope}" if name is None else f"state/{scope}/{name}"
        return self.states.get(key, ACTIVE)


NO_INSTRUMENT = Instrument()
_ID: TypeAdapter[str] = TypeAdapter(Id)
NO_LISTS = Lists()


def _account_rules(config: ConfigFile) -> dict[str, AccountRules]:
    """Accounts with the same rules share one value: a million of them would otherwise take most of the memory."""
    shared: dict[AccountRules, AccountRules] = {}
    accounts: dict[str, AccountRules] = {}
    for name, account in config.accounts.items():
        rules = AccountRules(
            account.exchange,
            account.failover,
            account.profile,
            account.timezone,
            account.day_start,
            account.currency,
            account.base,
            account.loss_basis,
            account.initial_capital,
        )
        accounts[name] = shared.setdefault(rules, rules)
    return accounts


def rules_of(config: ConfigFile) -> Rules:
    """The rules of a configuration before any policy was read."""
    profiles = {
        name: replace(profile, **config.profiles[name].named()) if name in config.profiles else profile
        for name, profile in DEFAULT_PROFILES.items()
    }
    lists = {"": Lists(blacklist=frozenset(config.strategies.blacklist))}
    for name in LADDER:
        section: ListsSection = getattr(config.strategies, name)
        lists[name] = Lists(frozenset(section.whitelist or ()), frozenset(section.blacklist or ()))
    limits = config.limits
    rate = limits.rate_limit
    return Rules(
        clock=config.clock,
        two_person=config.controls.two_person,
        accounts=_account_rules(config),
        routes={name: Route(route.account, route.exchange) for name, route in config.strategies.routes.items()},
        fanouts={name: section.accounts for name, section in config.fanout.items()},
        instruments={
            name: Instrument(one.multiplier, one.fee_rate, one.slippage) for name, one in config.instruments.items()
        },
        limits=Limits(
            limits.max_pnl_age,
            limits.max_signal_age,
            limits.order_valid,
            limits.dedup_horizon,
            limits.max_notional_per_order,
            limits.price_collar,
            rate.orders if rate else None,
            rate.per if rate else 0,
        ),
        configured_profiles=profiles,
        configured_lists=lists,
        profiles=profiles,
        lists=lists,
    )


def apply_policy(rules: Rules, record: Record) -> tuple[Rules, Output | None]:
    """The rules after one record of ``policies``, and the dead letter if its rule cannot be used.

    A record that ``reverts`` a version other than the one that decides about its name now changes the version and
    nothing else: the end of a temporary rule never undoes what an operator has set meanwhile.
    """
    rules = replace(rules, version=record.offset + 1)
    raw, fault = parse_object(record.value)
    if raw is None:
        name, rule, faults = text_of(record.key), None, {"value": fault}
    else:
        policy, faults = read_fields(Policy, raw)
        name, rule = policy.name or text_of(record.key), policy.rule
        # Who, why and until when are for people and the steward; a policy without them takes effect (fine print).
        faults = {key: text for key, text in faults.items() if key in ("name", "rule", "reverts")}
        if not faults and policy.reverts is not None and policy.reverts != rules.versions.get(policy.name):
            return rules, None
    if not faults and name is not None:
        try:
            return _standing(_with_rule(rules, name, rule), name), None
        except ValueError as error:
            faults = {"rule": str(error)}
    if name is not None and _is_state(name):
        rules = _standing(replace(rules, states={**rules.states, name: HALTED}), name)
    detail = "; ".join(f"{key} {text}" for key, text in faults.items())
    return rules, dead_letter(record, "POLICY_UNUSABLE", f"policy {name!r}: {detail}")


def _standing(rules: Rules, name: str) -> Rules:
    """The rules with their last record as the one that decides about ``name``."""
    return replace(rules, versions={**rules.versions, name: rules.version})


def _is_state(name: str) -> bool:
    return name == "state/global" or (
        name.startswith(("state/venue/", "state/strategy/"))
        and name.count("/") >= 2
        and len(name.split("/", 2)[2]) > 0
        and len(name.encode(errors="replace")) <= ID_BYTES_MAX
    )


def _with_rule(rules: Rules, name: str, rule: dict[str, Any] | None) -> Rules:
    """Put one rule in force, or remove it (None). Raises ValueError with what is wrong and how to write it."""
    kind, _, scope = name.partition("/")
    if _is_state(name):
        states = {key: state for key, state in rules.states.items() if key != name}
        if rule is not None:
            if rule.get("state") not in STATES:
                raise ValueError(f"state {rule.get('state')!r} is unknown; use one of {', '.join(STATES)}")
            states[name] = rule["state"]
        return replace(rules, states=states)
    if kind == "venue" and scope:
        venues = {venue: up for venue, up in rules.venues_up.items() if venue != scope}
        if rule is not None:
            if not isinstance(rule.get("up"), bool):
                raise ValueError(f"up {rule.get('up')!r} is not true or false")
            venues[scope] = rule["up"]
        return replace(rules, venues_up=venues)
    if kind == "profile" and scope in LADDER:
        profile = rules.configured_profiles[scope]
        if rule is not None:
            profile = replace(profile, **_section(ProfileSection, rule).named())
        return replace(rules, profiles={**rules.profiles, scope: profile})
    if name == "strategies" or (kind == "strategies" and scope in LADDER):
        lists = rules.configured_lists.get(scope, NO_LISTS)
        if rule is not None:
            section = _section(ListsSection, rule)
            if section.whitelist is not None:
                lists = replace(lists, whitelist=frozenset(section.whitelist))
            if section.blacklist is not None:
                lists = replace(lists, blacklist=frozenset(section.blacklist))
        return replace(rules, lists={**rules.lists, scope: lists})
    if name == "rollout":
        return replace(rules, rollout=None if rule is None else _rollout(rule))
    raise ValueError(
        "has an unknown name; use state/global, state/venue/V, state/strategy/S, venue/V, profile/P, strategies, "
        "strategies/P or rollout"
    )


_Section = TypeVar("_Section", ProfileSection, ListsSection)


def _section(model: type[_Section], rule: dict[str, Any]) -> _Section:
    try:
        return model.model_validate(rule)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ValueError(f"{place} is not a key of this rule; check its spelling") from None
        raise ValueError(f"{place} {first['input']!r}: {first['msg'].removeprefix('Value error, ')}") from None


def _rollout(rule: dict[str, Any]) -> Rollout:
    phase = rule.get("phase")
    try:
        phase = _ID.validate_python(str(phase) if type(phase) is int else phase)
    except ValidationError:
        raise ValueError(f"phase {phase!r} is neither a name of at most {ID_BYTES_MAX} bytes nor a number") from None
    named: dict[str, frozenset[str] | None] = {}
    for key in ("accounts", "profiles", "venues"):
        value = rule.get(key)
        if value is not None and not (isinstance(value, list) and all(isinstance(one, str) for one in value)):
            raise ValueError(f"{key} is neither null (all) nor a list of names")
        named[key] = None if value is None else frozenset(value)
    return Rollout(phase, **named)
