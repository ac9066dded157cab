"""``tidegate.toml`` as models (contract, section 6): every key, its default, and what makes it nonsensical.

Unknown keys are refused: a misspelt limit must stop the start, not be ignored. Errors name the key by its path.
"""

import re
from decimal import Decimal
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    StringConstraints,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from schemas.types import AMOUNT_PLACES_OUT, Id, read_amount

LADDER = ("micro", "low", "normal", "aggressive")
ProfileName = Literal["micro", "low", "normal", "aggressive"]

_DURATION = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?)(ms|s|m|h|d)", re.ASCII)
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_CLOCK_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)


def read_duration(value: object) -> int:
    """``"30s"``, ``"5m"``, ``"24h"`` (also ms, d) as whole milliseconds above 0. Raises ValueError."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a duration; write it as '30s', '5m' or '24h'")
    milliseconds = Decimal(match[1]) * _UNIT_MS[match[2]]
    if milliseconds < 1 or milliseconds % 1 or milliseconds > 10**13:
        raise ValueError("must be at least one whole millisecond and at most 300 years")
    return int(milliseconds)


def read_day_start(value: object) -> int:
    """``"HH:MM"`` as minutes after local midnight. Raises ValueError."""
    match = _CLOCK_TIME.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a time of day; write it as '00:00'")
    return int(match[1]) * 60 + int(match[2])


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (KeyError, OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError
        raise ValueError("is not an IANA time zone; write it as 'Europe/Oslo'") from None
    return name


def _finite(amount: Decimal) -> Decimal:
    if not amount.is_finite():
        raise ValueError("must be finite")
    return amount


def _positive(amount: Decimal) -> Decimal:
    if amount <= 0:
        raise ValueError("must be above 0")
    return amount


def _at_most_one(amount: Decimal) -> Decimal:
    if amount > 1:
        raise ValueError("is a fraction and must be at most 1 (2 % is '0.02')")
    return amount


def _at_most_places_out(amount: Decimal) -> Decimal:
    if amount != round(amount, AMOUNT_PLACES_OUT):
        raise ValueError(f"has more than {AMOUNT_PLACES_OUT} places; round it")
    return amount


def _at_most_two_days(milliseconds: int) -> int:
    if milliseconds > 2 * _UNIT_MS["d"]:
        raise ValueError("must be at most '2d': what is older is no news")
    return milliseconds


def _not_negative(amount: Decimal) -> Decimal:
    if amount < 0:
        raise ValueError("must not be negative")
    return amount


_Number = Annotated[
    Decimal,
    PlainValidator(read_amount),
    AfterValidator(_finite),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "number"}]}),
]
Positive = Annotated[_Number, AfterValidator(_positive)]
Fraction = Annotated[_Number, AfterValidator(_positive), AfterValidator(_at_most_one)]
Weight = Annotated[Fraction, AfterValidator(_at_most_places_out)]
Rate = Annotated[_Number, AfterValidator(_not_negative), AfterValidator(_at_most_one)]
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000)]
Flag = Annotated[bool, Field(strict=True)]
Duration = Annotated[int, PlainValidator(read_duration), WithJsonSchema({"type": "string"})]
DayStart = Annotated[int, PlainValidator(read_day_start), WithJsonSchema({"type": "string"})]
RouteName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,31}$")]
Zone = Annotated[Id, AfterValidator(_known_zone)]


class Section(BaseModel):
    """A table of the file; a key that it does not know stops the start."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AccountSection(Section):
    """One account: where it trades, when its day starts, and by which convention its drawdown is measured."""

    exchange: Id | None = None
    failover: tuple[Id, ...] = ()
    profile: ProfileName = "micro"
    timezone: Zone = "UTC"
    day_start: DayStart = 0
    currency: Id | None = None
    base: Literal["equity", "balance", "max"] = "equity"
    loss_basis: Literal["base", "initial"] = "base"
    initial_capital: Positive | None = None

    @model_validator(mode="after")
    def _capital_for_initial(self) -> "AccountSection":
        if self.loss_basis == "initial" and self.initial_capital is None:
            raise ValueError("loss_basis = 'initial' needs initial_capital")
        return self


class ProfileSection(Section):
    """The keys of one capital profile; what is not named keeps its default. Also the rule of policy ``profile/P``."""

    max_daily_drawdown: Fraction | None = None
    max_weekly_drawdown: Fraction | None = None
    max_trailing_drawdown: Fraction | None = None
    max_trade_risk: Fraction | None = None
    max_leverage: Positive | None = None
    max_open_positions: Count | None = None
    spot_only: Flag | None = None
    headroom: Flag | None = None
    breach: Literal["reach", "exceed"] | None = None
    confirmations: Count | None = None
    warning: tuple[Fraction, ...] | None = None

    def named(self) -> dict[str, Any]:
        """Only the keys that are given a value, as Python values by name; null is the same as absent."""
        return {name: value for name in self.model_fields_set if (value := getattr(self, name)) is not None}


class ListsSection(Section):
    """A whitelist (empty: all) and a blacklist (wins). Also the rule of policies ``strategies``, ``strategies/P``."""

    whitelist: tuple[Id, ...] | None = None
    blacklist: tuple[Id, ...] | None = None


class RouteSection(Section):
    """The account of a strategy's signals that name none, and the venue that they prefer there."""

    account: Id
    exchange: Id | None = None


class StrategiesSection(Section):
    """Which strategies may trade, by profile, and where they go."""

    blacklist: tuple[Id, ...] = ()
    micro: ListsSection = ListsSection()
    low: ListsSection = ListsSection()
    normal: ListsSection = ListsSection()
    aggressive: ListsSection = ListsSection()
    routes: dict[Id, RouteSection] = {}


class ControlsSection(Section):
    """Rules for operators."""

    two_person: Flag = False
    auto_downgrade: Flag = False


class VenueWatchSection(Section):
    """When the steward marks a venue down: so many orders failed there in ``window``. Durations in milliseconds."""

    orders: Count = 5
    window: Duration = 60_000
    cool_down: Duration = 300_000


Severity = Literal["info", "warning", "critical"]


class NotifyRouteSection(Section):
    """Who is told of what. The address is a secret and stands in the environment: ``TIDEGATE_NOTIFY_<ROUTE>``."""

    severity: Severity = "info"
    accounts: tuple[Id, ...] = ()


class NotifySection(Section):
    """What ``tidegate notify`` tells people, and how patiently. Durations in milliseconds."""

    digest_at: Count = 5
    digest_window: Duration = 3_000
    give_up: Annotated[Duration, AfterValidator(_at_most_two_days)] = 21_600_000
    routes: dict[RouteName, NotifyRouteSection] = {}

    @field_validator("routes")
    @classmethod
    def _each_with_a_variable_of_its_own(cls, routes: dict[str, NotifyRouteSection]) -> dict[str, NotifyRouteSection]:
        names: dict[str, str] = {}
        for name in routes:
            if name.upper().endswith("_FILE"):
                raise ValueError(f"{name!r} ends as the variables of files do; name the route otherwise")
            if (other := names.setdefault(name.upper(), name)) != name:
                raise ValueError(f"{other!r} and {name!r} would have one variable; names must differ by more than case")
        return routes


class RateLimitSection(Section):
    """At most ``orders`` approvals of one account in ``per``."""

    orders: Count
    per: Duration


class LimitsSection(Section):
    """Limits that hold for every account. Durations in milliseconds once read."""

    max_pnl_age: Duration = 60_000
    max_signal_age: Duration = 30_000
    order_valid: Duration = 30_000
    dedup_horizon: Duration = 86_400_000
    max_notional_per_order: Positive | None = None
    price_collar: Fraction | None = None
    rate_limit: RateLimitSection | None = None


class FanoutSection(Section):
    """The accounts that share one strategy's signals: each gets its weight of the quantity."""

    accounts: dict[Id, Weight]

    @field_validator("accounts")
    @classmethod
    def _shares_of_one(cls, accounts: dict[str, Decimal]) -> dict[str, Decimal]:
        total = sum(accounts.values(), Decimal(0))
        if total != 1:
            raise ValueError(f"weights sum to {total:f}, not to 1; change them until they do")
        return accounts


class InstrumentSection(Section):
    """Contract size and costs of one instrument."""

    multiplier: Positive = Decimal(1)
    fee_rate: Rate = Decimal(0)
    slippage: Rate = Decimal(0)


class ConfigFile(Section):
    """The whole file. ``broker`` and what else the shell needs is read by the shell from the environment."""

    clock: Literal["wall", "record"] = "wall"
    broker: str | None = None
    accounts: dict[Id, AccountSection] = {}
    profiles: dict[ProfileName, ProfileSection] = {}
    strategies: StrategiesSection = StrategiesSection()
    controls: ControlsSection = ControlsSection()
    venue_watch: VenueWatchSection | None = None
    notify: NotifySection | None = None
    limits: LimitsSection = LimitsSection()
    instruments: dict[Id, InstrumentSection] = {}
    fanout: dict[Id, FanoutSection] = {}

    @model_validator(mode="after")
    def _fanout_reaches_accounts(self) -> "ConfigFile":
        for strategy, section in self.fanout.items():
            if strategy in self.strategies.routes:
                raise ValueError(f"fanout.{strategy}: the strategy has a route too; keep one of them")
            for account in section.accounts:
                if account not in self.accounts:
                    key = f"fanout.{strategy}.accounts.{account}"
                    raise ValueError(f"{key}: is not configured; add [accounts.{account}]")
        return self
