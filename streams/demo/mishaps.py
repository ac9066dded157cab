"""What goes wrong on a normal day: fat fingers, broken encoders, late strategies, redelivered records.

Each is due at the opening tick of an hour of the month and touches one account. The first dozen come within two days,
so that a short demo meets them too. A repeat waits until there is something to repeat.
"""

from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from streams.demo.accounts import BLACKLISTED_STRATEGY
from streams.demo.market import time_text

STRANGER = "ghost_account"
TEN_MINUTES_MS = 600_000
CENT = Decimal("0.01")

Signal = dict[str, Any]


class Mishap(NamedTuple):
    """`kind` is what is odd: of `odd_signal`, or one of repeat_signal, repeat_fill, repeat_pnl, broken_pnl."""

    hour: int
    account: str
    kind: str


MISHAPS: tuple[Mishap, ...] = (
    Mishap(2, "main_binance", "not_json"),
    Mishap(5, "friend1_firi", "short_sale"),
    Mishap(7, "swing_binance", "no_stop"),
    Mishap(8, "main_binance", "repeat_signal"),
    Mishap(9, "family_kraken", "too_much_leverage"),
    Mishap(10, "nordic_kraken", "blacklisted"),
    Mishap(11, "carry_kraken", "far_from_market"),
    Mishap(13, "friend2_firi", "not_a_number"),
    Mishap(14, "gamma_bybit", "late"),
    Mishap(15, "main_binance", "fat_finger"),
    Mishap(17, "swing_binance", "naive_time"),
    Mishap(19, "alpha_bybit", "repeat_fill"),
    Mishap(21, STRANGER, "stranger"),
    Mishap(22, "gamma_bybit", "repeat_pnl"),
    Mishap(26, "reserve_kraken", "broken_pnl"),
    Mishap(30, "family_kraken", "no_id"),
    Mishap(32, "swing_binance", "stray"),
    Mishap(34, "nordic_kraken", "repeat_signal"),
    Mishap(130, "main_binance", "fat_finger"),
    Mishap(170, "carry_kraken", "repeat_signal"),
    Mishap(211, "reserve_kraken", "too_much_leverage"),
    Mishap(256, "gamma_bybit", "not_json"),
    Mishap(300, "friend1_firi", "short_sale"),
    Mishap(330, "swing_binance", "repeat_fill"),
    Mishap(377, "family_kraken", "far_from_market"),
    Mishap(420, "nordic_kraken", "late"),
    Mishap(471, "friend2_firi", "no_id"),
    Mishap(505, "carry_kraken", "blacklisted"),
    Mishap(560, "reserve_kraken", "repeat_pnl"),
    Mishap(610, "main_binance", "repeat_signal"),
    Mishap(690, "gamma_bybit", "not_a_number"),
)


def odd_signal(mishap: Mishap, at_ms: int, price: Decimal) -> bytes:
    """The value of an odd signal. Raises ValueError for a kind that is none."""
    signal = _plain(mishap, at_ms, price)
    if mishap.kind == "not_json":
        return orjson.dumps(signal)[:-12]
    if mishap.kind == "no_id":
        del signal["signal_id"]
        return orjson.dumps(signal)
    return orjson.dumps(signal | _changes(mishap.kind, at_ms, price))


def _plain(mishap: Mishap, at_ms: int, price: Decimal) -> Signal:
    return {
        "signal_id": f"odd-{mishap.account}-{mishap.hour:03d}",
        "account_id": mishap.account,
        "strategy_id": "discretionary_btc",
        "instrument": "BTC-USD",
        "side": "buy",
        "quantity": "0.001",
        "price": str(price),
        "stop_loss": str((price * Decimal("0.98")).quantize(CENT)),
        "leverage": None,
        "reduce_only": False,
        "venue": None,
        "created_at": time_text(at_ms),
        "expires_at": None,
    }


def _changes(kind: str, at_ms: int, price: Decimal) -> Signal:
    """What sets a signal of this kind apart from a plain one."""
    match kind:
        case "short_sale":
            return {"side": "sell", "quantity": "0.2", "stop_loss": str((price * Decimal("1.02")).quantize(CENT))}
        case "no_stop":
            return {"stop_loss": None}
        case "too_much_leverage":
            return {"leverage": "20"}
        case "blacklisted":
            return {"strategy_id": BLACKLISTED_STRATEGY}
        case "far_from_market":
            return {"price": str((price * Decimal("1.1")).quantize(CENT))}
        case "not_a_number":
            return {"quantity": "NaN"}
        case "late":
            return {"created_at": time_text(at_ms - TEN_MINUTES_MS)}
        case "fat_finger":
            return {"quantity": "500"}
        case "naive_time":
            return {"created_at": time_text(at_ms).removesuffix("Z")}
        case "stray":
            return {"strategy_id": "wrong_partitioner", "stop_loss": None}
        case "stranger":
            return {"strategy_id": "unconfigured"}
        case _:
            raise ValueError(f"no such mishap: {kind}")
