"""The story that the published examples tell: one account on the day of a drawdown.

``main_binance`` (aggressive) marks its equity, buys, is filled in part, falls to its daily limit, is locked, refused,
and unlocked by its operator the next morning. ``schemas/examples`` holds one record of each topic from it.
"""

from typing import Any

from streams.config import parse_config
from streams.core.rules import rules_of
from tests.schemas.log import Log

CONFIG: dict[str, Any] = {
    "accounts": {"main_binance": {"exchange": "binance", "failover": ["kraken"], "profile": "aggressive"}},
    "instruments": {"BTC-USD": {"fee_rate": "0.0005", "slippage": "0.0005"}},
}


def told(examples: dict[str, Any]) -> Log:
    """The story, with the input examples in their places."""
    log = Log(rules_of(parse_config(CONFIG, {})))
    log.put("policies", "2017-12-19T10:55:00Z", examples["policies"])
    log.put("pnl", "2017-12-19T11:00:00Z", examples["pnl"])
    signal = examples["signals"]
    log.put("signals", "2017-12-19T11:00:00Z", signal)
    log.put("signals", "2017-12-19T11:00:01Z", signal)
    fill = examples["fills"]
    log.put("fills", "2017-12-19T11:00:02Z", fill)
    fall = {**examples["pnl"], "sequence": 43, "equity": "9640.00", "marks": {"BTC-USD": "15310"}}
    log.put("pnl", "2017-12-19T11:30:00Z", {**fall, "as_of": "2017-12-19T11:30:00Z"})
    late = {**signal, "signal_id": "s-2", "quantity": "1", "price": "15310", "stop_loss": None}
    log.put("signals", "2017-12-19T11:30:05Z", {**late, "created_at": "2017-12-19T11:30:05Z"})
    rise = {**fall, "sequence": 44, "equity": "9700.00", "as_of": "2017-12-20T07:59:45Z"}
    log.put("pnl", "2017-12-20T07:59:45Z", rise)
    log.put("controls", "2017-12-20T08:00:00Z", examples["controls"])
    return log
