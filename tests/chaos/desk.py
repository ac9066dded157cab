"""The desk that the workload trades for: its configuration and the names in it.

Sixty trading accounts on all four profiles and several conventions of drawdown, and one probe account for each
partition that does nothing but ask. Ids are remembered for minutes instead of a day, so that forgetting happens within
a run; some accounts have their day's boundary a few minutes after the start, so that days are rolled under fire.
"""

import time
from collections.abc import Mapping
from typing import Any

from streams.runtime.kafka import partition_of_key
from tests.chaos.schedule import PARTITIONS

PROFILES = ("micro", "low", "normal", "aggressive")
VENUES = ("binance", "kraken", "firi")
PRICES: Mapping[str, float] = {"BTC-USD": 16_500, "ETH-USD": 800, "SOL-USD": 95, "ADA-EUR": 5}
STRATEGIES = ("trend", "mean", "carry")
BLACKLISTED = "martingale"
ROUTED = "routed"
PROBING = "probe"
ACCOUNTS = tuple(f"desk-{number:02d}" for number in range(60))
ROUTED_TO = ACCOUNTS[2]
DEDUP_HORIZON = "6m"
MAX_SIGNAL_AGE_S = 30


def partition_of(account_id: str) -> int:
    """The partition of an account's records."""
    return partition_of_key(account_id.encode(), PARTITIONS)


def profile_of(account_id: str) -> str:
    """The profile that it is configured with."""
    return PROFILES[ACCOUNTS.index(account_id) % len(PROFILES)]


def primary_of(account_id: str) -> str:
    """The venue that it is configured with."""
    return VENUES[ACCOUNTS.index(account_id) % 2]


def probes() -> dict[int, str]:
    """An account for each partition whose key maps there."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < PARTITIONS:
        name = f"probe-{number}"
        found.setdefault(partition_of(name), name)
        number += 1
    return found


def configuration(started_s: float) -> dict[str, Any]:
    """The tables of ``tidegate.toml`` for a run that starts now (seconds since 1970)."""
    accounts: dict[str, dict[str, Any]] = {}
    for number, name in enumerate(ACCOUNTS):
        account: dict[str, Any] = {
            "exchange": primary_of(name),
            "failover": [VENUES[2 - number % 2]],
            "profile": profile_of(name),
        }
        if number % 10 == 3:
            account["currency"] = "USD"
        if number % 10 == 5:
            account["base"] = "max"
        if number % 10 == 7:
            account |= {"loss_basis": "initial", "initial_capital": "100000"}
        if number % 6 == 0:
            account["day_start"] = time.strftime("%H:%M", time.gmtime(started_s + 60 * (3 + number // 12)))
        accounts[name] = account
    accounts |= {name: {"exchange": VENUES[0], "profile": "micro"} for name in probes().values()}
    return {
        "accounts": accounts,
        "profiles": {
            "low": {"max_trailing_drawdown": "0.06"},
            "normal": {"confirmations": 2},
            "aggressive": {"headroom": False},
        },
        "strategies": {
            "blacklist": [BLACKLISTED],
            "micro": {"whitelist": ["trend", "mean", ROUTED, PROBING]},
            "routes": {ROUTED: {"account": ROUTED_TO}},
        },
        "limits": {
            "max_signal_age": f"{MAX_SIGNAL_AGE_S}s",
            "dedup_horizon": DEDUP_HORIZON,
            "max_notional_per_order": "60000",
            "price_collar": "0.05",
            "rate_limit": {"orders": 8, "per": "10s"},
        },
        "instruments": {
            "BTC-USD": {"fee_rate": "0.0005", "slippage": "0.0005"},
            "ETH-USD": {"multiplier": "0.1", "fee_rate": "0.001"},
        },
    }


def toml_of(table: Mapping[str, Any]) -> str:
    """The tables as TOML: what the standard library reads and does not write."""
    return "\n".join(_tables(table, ())) + "\n"


def _tables(table: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    lines = [f"{_quoted(key)} = {_value(value)}" for key, value in table.items() if not isinstance(value, dict)]
    if path and lines:
        lines = [f"[{'.'.join(map(_quoted, path))}]", *lines]
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _tables(value, (*path, key))
    return lines


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return _quoted(value)


def _quoted(text: str) -> str:
    return f'"{text}"'
