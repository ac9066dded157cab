"""A log that makes the gate write everything it can: every topic, event type, reason and reject code.

It is the log of a desk that does everything wrong once. Tests assert that nothing is missing, so a new code or event
must come in here, too.
"""

from functools import cache
from typing import Any

from schemas.types import write_time
from streams.config import parse_config
from streams.core.rules import rules_of
from tests.schemas.log import Log, Written

START_MS = 1_513_677_600_000  # 2017-12-19T10:00:00Z, a Tuesday
DAY_S = 86_400
CONFIG: dict[str, Any] = {
    "accounts": {
        "fund": {"exchange": "binance", "failover": ["kraken"], "profile": "normal", "currency": "USD"},
        "ladder": {"exchange": "binance", "profile": "low"},
        "slow": {"exchange": "binance", "profile": "aggressive"},
        "spot": {"exchange": "firi", "profile": "micro"},
        "bare": {},
    },
    "profiles": {
        "low": {"max_trailing_drawdown": "0.02"},
        "aggressive": {"confirmations": 2},
        "normal": {"max_trailing_drawdown": "0.1"},
    },
    "strategies": {
        "blacklist": ["martingale"],
        "micro": {"whitelist": ["trend"]},
        "routes": {"routed": {"account": "fund", "exchange": "kraken"}},
    },
    "limits": {
        "max_notional_per_order": "50000",
        "price_collar": "0.05",
        "rate_limit": {"orders": 2, "per": "1s"},
    },
    "instruments": {"BTC-USD": {"fee_rate": "0.0005", "slippage": "0.0005"}},
}


class Desk:
    """Writes to all input topics with a clock of its own; what is not given is ordinary."""

    def __init__(self) -> None:
        self.log = Log(rules_of(parse_config(CONFIG, {})))
        self._now_ms = START_MS
        self._count = 0

    def wait(self, seconds: float) -> None:
        self._now_ms += int(seconds * 1000)

    def at(self, seconds: float = 0) -> str:
        """The desk's time, or one before (−) or after it."""
        return write_time(self._now_ms + int(seconds * 1000))

    def signal(self, account: str | None = "fund", after: float = 1.5, **fields: Any) -> Written:
        """Returns the last record that it yields: its decision, or its dead letter."""
        self.wait(after)
        ordinary = {
            "signal_id": self._name("s"),
            "account_id": account,
            "strategy_id": "trend",
            "instrument": "BTC-USD",
            "side": "buy",
            "quantity": "0.01",
            "price": "16500",
            "stop_loss": "16170",
            "created_at": self.at(),
        }
        return self.put("signals", ordinary | fields)[-1]

    def fill(self, **fields: Any) -> None:
        self.wait(1.5)
        ordinary = {
            "fill_id": self._name("f"),
            "account_id": "fund",
            "instrument": "BTC-USD",
            "side": "buy",
            "quantity": "0.01",
            "price": "16500",
            "status": "filled",
            "filled_at": self.at(),
        }
        self.put("fills", ordinary | fields)

    def pnl(self, account: str = "fund", equity: str = "10000", **fields: Any) -> None:
        self.wait(1.5)
        self._count += 1
        ordinary = {
            "account_id": account,
            "sequence": self._count,
            "equity": equity,
            "marks": {"BTC-USD": "16500"},
            "as_of": self.at(),
        }
        self.put("pnl", ordinary | fields)

    def command(self, kind: str, account: str = "fund", **fields: Any) -> None:
        self.wait(1.5)
        ordinary = {
            "command_id": self._name("c"),
            "account_id": account,
            "type": kind,
            "operator": "ann",
            "reason": "test",
            "issued_at": self.at(),
        }
        self.put("controls", ordinary | fields)

    def policy(self, name: str, rule: Any) -> None:
        self.put("policies", {"name": name, "rule": rule, "operator": "ann", "reason": "test"})

    def put(self, topic: str, value: Any, key: str | None = None) -> list[Written]:
        return self.log.put(topic, self.at(), value, key)

    def _name(self, kind: str) -> str:
        self._count += 1
        return f"{kind}-{self._count}"


@cache
def everything() -> tuple[Written, ...]:
    """All that the gate writes to the desk's log."""
    desk = Desk()
    for chapter in (_bad_signals, _orders_and_fills, _rules_for_everyone, _limits, _commands, _drawdowns, _unusable):
        chapter(desk)
    return tuple(desk.log.written)


def _bad_signals(desk: Desk) -> None:
    desk.signal("nobody")
    desk.signal("bare")
    desk.signal(strategy_id="martingale")
    for account in ("fund", "ladder", "slow", "spot"):
        desk.pnl(account, rates={"JPY": "0.0067"})
    desk.signal(leverage="-1", quantity="much", created_at="yesterday", instrument=None, strategy_id=None)
    desk.signal(price="NaN", quantity="-Infinity")
    desk.signal(created_at="2017-12-19T09:00:00.250Z", expires_at="2017-12-19T10:01:00+01:00")
    desk.signal(reduce_only=True)
    desk.signal("spot", side="sell", stop_loss="16830", strategy_id="other")
    desk.signal(stop_loss=None, leverage="2")


def _orders_and_fills(desk: Desk) -> None:
    order = desk.signal(leverage="2", expires_at=desk.at(20), signal_id="sjø-ørret ☂").value["order_id"]
    desk.signal(signal_id="sjø-ørret ☂")
    half = {"fill_id": "f-half", "order_id": order, "quantity": "0.004", "status": "partially_filled"}
    desk.fill(**half)
    desk.fill(**half)
    desk.wait(40)
    desk.fill(order_id=order, quantity="0.02")
    desk.fill(order_id=order, quantity="0.001")
    desk.fill(order_id="o-by-hand", instrument="SHIB-USD", price="0.1", quantity="99999999999999999999999999999.5")
    desk.fill(order_id=None, instrument="SHIB-USD", price="0.1", quantity="0.000000000001")
    desk.command("lock")
    desk.command("unlock")
    desk.fill(side="sell", instrument="SHIB-USD", quantity="99999999999999999999999999999")
    desk.signal(side="sell", reduce_only=True, quantity="0.005", stop_loss=None)
    desk.signal(account=None, strategy_id="routed")


def _rules_for_everyone(desk: Desk) -> None:
    desk.policy("rollout", {"phase": 2, "accounts": ["ladder"], "venues": ["binance"]})
    desk.policy("state/strategy/trend", {"state": "REDUCING"})
    desk.policy("venue/binance", {"up": False})
    desk.signal(venue="binance")
    desk.policy("state/global", {"state": "CLOSED"})
    desk.signal()
    for name in ("rollout", "state/strategy/trend", "venue/binance", "state/global"):
        desk.policy(name, None)


def _limits(desk: Desk) -> None:
    desk.pnl()
    desk.signal(quantity="4", price="18000", stop_loss="10000", leverage="99")
    desk.wait(90)
    desk.signal()
    desk.pnl("slow", marks={"ETH-USD": "700"})
    for _ in range(3):
        desk.signal("slow", after=0.25, instrument="ETH-USD", price="700", stop_loss="690")
    desk.policy("profile/aggressive", {"max_open_positions": 1})
    desk.signal("slow", instrument="LTC-USD", price="300", stop_loss="290")
    desk.policy("profile/aggressive", None)
    desk.pnl()
    desk.signal(instrument="ETH-EUR")


def _commands(desk: Desk) -> None:
    desk.command("halt", command_id="c-halt")
    desk.command("halt", command_id="c-halt")
    desk.signal()
    desk.command("resume")
    desk.command("resume")
    desk.command("lock")
    desk.signal()
    desk.command("unlock", profile="low")
    desk.command("set_profile", profile="micro")
    desk.pnl("ladder")
    order = desk.signal("ladder", stop_loss="16400").value["order_id"]
    desk.command("release_order", "ladder", order_id=order)
    desk.signal("ladder", stop_loss="16400")
    desk.command("dance")
    desk.command("lock", "nobody")


def _drawdowns(desk: Desk) -> None:
    desk.pnl("slow", "9640")
    desk.signal("slow")
    desk.pnl("slow", "9100")
    desk.pnl("ladder", "9890")
    desk.pnl("ladder", "9650")
    desk.signal("ladder")
    desk.pnl("spot", "9990")
    tight = {"max_daily_drawdown": "0.0005", "max_weekly_drawdown": "0.0006", "max_trailing_drawdown": "0.0007"}
    desk.policy("profile/micro", tight)
    desk.signal("spot")
    desk.pnl("spot", "9990")
    desk.wait(8 * DAY_S)
    desk.pnl("spot", "9989.5")
    desk.pnl("bare", as_of="1970-01-01T00:00:00Z")
    desk.pnl("bare")


def _unusable(desk: Desk) -> None:
    desk.fill(quantity="NaN")
    desk.fill(filled_at="2017-12-01T00:00:00Z")
    desk.pnl(sequence=1)
    desk.pnl(equity="NaN")
    desk.put("signals", "not an object")
    desk.put("signals", {"signal_id": 7, "account_id": "fund"})
    desk.put("pnl", {"nothing": True}, key="spot")
    desk.put("controls", {"command_id": "c-x"}, key="k" * 300)
    desk.put("fills", {"note": "☂" * 2000})
    desk.log.line('{"topic": "signals", "timestamp": "2018-01-01T00:00:00Z", "value": {"signal_id": "\\ud800"}}')
    desk.log.line('{"topic": "controls", "timestamp": "2018-01-01T00:00:00Z"}')
    desk.log.line("not a line of the log, and not Unicode: \ud800")
