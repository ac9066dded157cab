"""The words of the reference for ``tidegate.toml``: every key, how it is written and what it means.

Defaults that a model holds are taken from there. Tests hold the tables to the models and to the gate's own profiles.
"""

from typing import NamedTuple

from pydantic import BaseModel

from schemas import config


class Section(NamedTuple):
    """One table of ``tidegate.toml``: its model and, by key, how a value is written and what it means."""

    header: str
    model: type[BaseModel]
    keys: dict[str, tuple[str, str]]


CONFIG = (
    Section(
        "(top)",
        config.ConfigFile,
        {
            "clock": ("`wall` or `record`", "What *now* is: wall clock, or the record's timestamp (replays, demos)."),
            "broker": (
                "`kafka://host:port[,…]`",
                "Where Kafka is; required by the worker, here or as `TIDEGATE_BROKER`.",
            ),
        },
    ),
    Section(
        "[accounts.A]",
        config.AccountSection,
        {
            "exchange": ("name", "Primary venue."),
            "failover": ("list of names", "Next venues, in order."),
            "profile": ("`micro`, `low`, `normal`, `aggressive`", "Capital profile, until a `set_profile`."),
            "timezone": ("IANA zone", "Of the account's day and week."),
            "day_start": ("`HH:MM`", "Local time at which the day starts; the week starts on Monday at it."),
            "currency": ("name", "Currency of its equity; unset: no conversion."),
            "base": ("`equity`, `balance`, `max`", "What a period's base is taken from."),
            "loss_basis": ("`base` or `initial`", "What a drawdown is a fraction of: the base, or `initial_capital`."),
            "initial_capital": ("amount", 'Required by `loss_basis = "initial"`.'),
        },
    ),
    Section(
        "[profiles.P]",
        config.ProfileSection,
        {
            "max_daily_drawdown": ("fraction", "Loss since the start of the day that locks."),
            "max_weekly_drawdown": ("fraction", "Loss since the start of the week that locks."),
            "max_trailing_drawdown": ("fraction", "Loss from the highest equity that locks."),
            "max_trade_risk": ("fraction", "What one trade may lose, of equity."),
            "max_leverage": ("multiple", "Asked leverage, and gross notional over equity."),
            "max_open_positions": ("count", "Instruments held or being entered."),
            "spot_only": ("flag", "No order may open or enlarge a short."),
            "headroom": ("flag", "Whether all risk must fit above the drawdown floor."),
            "breach": ("`reach` or `exceed`", "Whether a drawdown equal to its limit locks."),
            "confirmations": ("count", "Breaching updates in a row that lock."),
            "warning": ("list of fractions", "Tiers of a limit that raise a `WARNING`."),
        },
    ),
    Section(
        "[strategies]",
        config.StrategiesSection,
        {
            "blacklist": ("list of names", "Strategies that no account may use."),
            "micro": ("table", "As `[strategies.P]`."),
            "low": ("table", "As `[strategies.P]`."),
            "normal": ("table", "As `[strategies.P]`."),
            "aggressive": ("table", "As `[strategies.P]`."),
            "routes": ("table", "As `[strategies.routes]`."),
        },
    ),
    Section(
        "[strategies.P]",
        config.ListsSection,
        {
            "whitelist": ("list of names", "Strategies that accounts of profile P may use; empty: all."),
            "blacklist": ("list of names", "Strategies that they may not use; wins over the whitelist."),
        },
    ),
    Section(
        "[strategies.routes] S",
        config.RouteSection,
        {
            "account": ("name", "Account of strategy S's signals that name none."),
            "exchange": (
                "name",
                "Venue of S's orders there; a worker starts only if some configured account has it.",
            ),
        },
    ),
    Section(
        "[controls]",
        config.ControlsSection,
        {
            "two_person": (
                "flag",
                "`unlock`, `resume`, an upward `set_profile` and policies that loosen need `approved_by` ≠ `operator`.",
            ),
            "auto_downgrade": (
                "flag",
                "`tidegate steward` moves an account that a drawdown has locked one rung down; never below `micro`.",
            ),
        },
    ),
    Section(
        "[venue_watch]",
        config.VenueWatchSection,
        {
            "orders": ("count", "So many orders that a venue rejected, or reported expired and unfilled, …"),
            "window": ("duration", "… in so long a time: `tidegate steward` marks it down. Without the table: never."),
            "cool_down": ("duration", "How long it stays down, unless an operator decides otherwise."),
        },
    ),
    Section(
        "[notify]",
        config.NotifySection,
        {
            "digest_at": ("count", "From so many messages on, what waits for a route becomes one message."),
            "digest_window": ("duration", "How long a route gathers messages after it told one."),
            "give_up": ("duration", "A message that could not be told for so long is given up; at most 2 days."),
            "routes": ("table", "Who is told of what by `tidegate notify`."),
        },
    ),
    Section(
        "[notify.routes.R]",
        config.NotifyRouteSection,
        {
            "severity": ("`info`, `warning`, `critical`", "The least that the route is told of."),
            "accounts": ("list of names or patterns (`main_*`)", "Whose; empty: all."),
        },
    ),
    Section(
        "[limits]",
        config.LimitsSection,
        {
            "max_pnl_age": ("duration", "Older equity lets no entry pass."),
            "max_signal_age": ("duration", "How far `created_at` may be from now."),
            "order_valid": ("duration", "From `decided_at` to `valid_until`."),
            "dedup_horizon": ("duration", "How long ids are remembered, and how old signals and fills may be."),
            "max_notional_per_order": ("amount", "In the account's currency."),
            "price_collar": ("fraction", "How far the price may be from the mark."),
            "rate_limit": ('`{ orders = 100, per = "1s" }`', "Approved orders of one account."),
        },
    ),
    Section(
        "[limits] rate_limit",
        config.RateLimitSection,
        {
            "orders": ("count", "At most so many approvals …"),
            "per": ("duration", "… in any such time."),
        },
    ),
    Section(
        '[instruments."I"]',
        config.InstrumentSection,
        {
            "multiplier": ("amount", "Contract size: money per unit of quantity and price."),
            "fee_rate": ("rate", "Fee per side, of notional."),
            "slippage": ("rate", "Expected slippage of an entry, of notional."),
        },
    ),
    Section(
        "[fanout.S]",
        config.FanoutSection,
        {
            "accounts": (
                '`{ a = "0.6", b = "0.4" }`',
                (
                    "Who shares strategy S's signals without account, by weights that sum to 1: each gets a signal "
                    "`signal_id/account`. A strategy has a route or a fan-out."
                ),
            ),
        },
    ),
)
CONFIG_TABLES = (
    "accounts",
    "profiles",
    "strategies",
    "controls",
    "venue_watch",
    "notify",
    "limits",
    "instruments",
    "fanout",
)
"""Keys of the file that are tables, each described by a section of its own."""

PROFILES: dict[str, tuple[str, str, str, str]] = {
    "max_daily_drawdown": ("0.005", "0.01", "0.02", "0.035"),
    "max_weekly_drawdown": ("0.015", "0.03", "0.05", "0.08"),
    "max_trailing_drawdown": ("off", "off", "off", "off"),
    "max_trade_risk": ("0.002", "0.005", "0.01", "0.02"),
    "max_leverage": ("1", "2", "3", "5"),
    "max_open_positions": ("2", "4", "6", "10"),
    "spot_only": ("true", "false", "false", "false"),
    "headroom": ("true", "true", "true", "true"),
    "breach": ("reach", "reach", "reach", "reach"),
    "confirmations": ("1", "1", "1", "1"),
    "warning": ("[0.5, 0.8]", "[0.5, 0.8]", "[0.5, 0.8]", "[0.5, 0.8]"),
}
"""Defaults by rung of the ladder: micro, low, normal, aggressive."""
