"""Who trades in the demo: ten accounts over all four profiles and three time zones, and the worker's configuration
for them.

Exposures are staggered by the share of equity that a seat risks and by the distance of its stops, so that the month's
falls reach the accounts' limits at different hours. `reserve_kraken` is the control: it trades so small that no limit
ever comes near.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import NamedTuple


class Profile(NamedTuple):
    """Limits of a capital profile: fractions of equity, `max_leverage` a multiple of it."""

    max_daily_drawdown: Decimal
    max_weekly_drawdown: Decimal
    max_trade_risk: Decimal
    max_leverage: Decimal
    spot_only: bool
    max_open_positions: int


class Seat(NamedTuple):
    """One strategy at work in one account.

    `risk` is the fraction of equity that a trade may lose at its stop, `stop` the stop's distance as a fraction of
    the price. The strategy may enter in the hours where hour % `every_h` == `phase_h`.
    """

    strategy: str
    rule: str
    instrument: str
    risk: Decimal
    stop: Decimal
    every_h: int
    phase_h: int
    shorts: bool = False


class Account(NamedTuple):
    """A trading account of the demo; `capital` in dollars."""

    name: str
    exchange: str
    profile: str
    timezone: str
    capital: Decimal
    seats: tuple[Seat, ...]


class Costs(NamedTuple):
    """What trading an instrument costs, as fractions of notional per side, and the step of its quantities."""

    fee_rate: Decimal
    slippage: Decimal
    quantity_step: Decimal


def _seat(strategy: str, rule: str, risk: str, stop: str, every: int, phase: int, *, shorts: bool = False) -> Seat:
    instrument = "EUR-USD" if strategy.endswith("_eur") else "BTC-USD"
    return Seat(strategy, rule, instrument, Decimal(risk), Decimal(stop), every, phase, shorts)


PROFILES: Mapping[str, Profile] = {
    "micro": Profile(Decimal("0.005"), Decimal("0.015"), Decimal("0.002"), Decimal(1), True, 2),
    "low": Profile(Decimal("0.01"), Decimal("0.03"), Decimal("0.005"), Decimal(2), False, 4),
    "normal": Profile(Decimal("0.02"), Decimal("0.05"), Decimal("0.01"), Decimal(3), False, 6),
    "aggressive": Profile(Decimal("0.035"), Decimal("0.08"), Decimal("0.02"), Decimal(5), False, 10),
}

COSTS: Mapping[str, Costs] = {
    "BTC-USD": Costs(Decimal("0.0005"), Decimal("0.0005"), Decimal("0.0001")),
    "EUR-USD": Costs(Decimal("0.00003"), Decimal("0.00002"), Decimal(1)),
}

ACCOUNTS: tuple[Account, ...] = (
    Account("alpha_bybit", "bybit", "aggressive", "UTC", Decimal(150_000),
            (_seat("momentum_btc", "trend", "0.012", "0.02", 3, 2, shorts=True),)),
    Account("gamma_bybit", "bybit", "aggressive", "America/New_York", Decimal(120_000),
            (_seat("dip_buyer_btc", "dip", "0.015", "0.03", 5, 4),
             _seat("fade_eur", "fade", "0.003", "0.004", 4, 2, shorts=True))),
    Account("main_binance", "binance", "normal", "UTC", Decimal(100_000),
            (_seat("trend_follow_btc", "trend", "0.006", "0.03", 2, 1),
             _seat("deep_bid_btc", "deep", "0.001", "0.03", 6, 0))),
    Account("swing_binance", "binance", "normal", "America/New_York", Decimal(80_000),
            (_seat("breakout_btc", "breakout", "0.0095", "0.06", 3, 2),)),
    Account("carry_kraken", "kraken", "low", "UTC", Decimal(50_000),
            (_seat("fade_eur", "fade", "0.0048", "0.0025", 3, 0, shorts=True),)),
    Account("family_kraken", "kraken", "low", "America/New_York", Decimal(40_000),
            (_seat("dip_buyer_btc", "dip", "0.0048", "0.03", 6, 5),)),
    Account("nordic_kraken", "kraken", "low", "Europe/Oslo", Decimal(60_000),
            (_seat("breakout_btc", "breakout", "0.003", "0.05", 3, 1),
             _seat("trend_follow_eur", "trend", "0.001", "0.004", 6, 3))),
    Account("friend1_firi", "firi", "micro", "Europe/Oslo", Decimal(10_000),
            (_seat("trend_follow_btc", "trend", "0.0018", "0.02", 4, 0),
             _seat("deep_bid_btc", "deep", "0.0002", "0.03", 6, 0))),
    Account("friend2_firi", "firi", "micro", "Europe/Oslo", Decimal(5_000),
            (_seat("dip_buyer_btc", "dip", "0.0019", "0.05", 4, 0),)),
    Account("reserve_kraken", "kraken", "micro", "UTC", Decimal(20_000),
            (_seat("trend_follow_eur", "trend", "0.0003", "0.01", 6, 0),)),
)  # fmt: skip

CONTROL = "reserve_kraken"
UNLOCKED = "alpha_bybit"

BLACKLISTED_STRATEGY = "martingale_btc"


def config_toml() -> str:
    """The worker's `tidegate.toml` for the demo: record clock, and ages that suit hourly bars."""
    lines = [
        "# Written by the demo: record clock, and ages that suit hourly bars.",
        'clock = "record"',
        "",
        "[limits]",
        'max_pnl_age = "2h"',
        'max_signal_age = "30s"',
        'order_valid = "6h"',
        'dedup_horizon = "24h"',
        'price_collar = "0.05"',
        "",
        "[strategies]",
        f'blacklist = ["{BLACKLISTED_STRATEGY}"]',
    ]
    for name, profile in PROFILES.items():
        lines += [
            "",
            f"[profiles.{name}]",
            f'max_daily_drawdown = "{profile.max_daily_drawdown}"',
            f'max_weekly_drawdown = "{profile.max_weekly_drawdown}"',
            f'max_trade_risk = "{profile.max_trade_risk}"',
            f'max_leverage = "{profile.max_leverage}"',
            f"max_open_positions = {profile.max_open_positions}",
            f"spot_only = {str(profile.spot_only).lower()}",
        ]
    for account in ACCOUNTS:
        lines += [
            "",
            f"[accounts.{account.name}]",
            f'exchange = "{account.exchange}"',
            f'profile = "{account.profile}"',
            f'timezone = "{account.timezone}"',
        ]
    for instrument, costs in COSTS.items():
        lines += [
            "",
            f'[instruments."{instrument}"]',
            f'fee_rate = "{costs.fee_rate}"',
            f'slippage = "{costs.slippage}"',
        ]
    return "\n".join(lines) + "\n"
