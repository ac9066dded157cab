"""A desk in steady state: 1,000 accounts, 80 % pnl, 15 % signals, 5 % fills (issue: one worker's figures).

A third of the signals is approved and filled: entries and exits take turns, so positions and open orders stay small
however long it runs. The other signals ask too much and are rejected. A fill comes only after its order could have been
approved.
"""

import random
from collections import deque
from collections.abc import Iterator
from typing import Any, NamedTuple

from schemas.types import write_time
from streams.core.outputs import order_id_of

PROFILES = ("low", "normal", "aggressive")
SHARE = {"pnl": 0.80, "signals": 0.15, "fills": 0.05}


class Event(NamedTuple):
    """One record to publish; times are filled in when it is."""

    topic: str
    account_id: str
    value: dict[str, Any]

    def at(self, now_ms: int) -> dict[str, Any]:
        """The value with its times."""
        field = {"pnl": "as_of", "signals": "created_at", "fills": "filled_at"}[self.topic]
        return self.value | {field: write_time(now_ms)}


def configuration(accounts: int) -> dict[str, Any]:
    """The configuration that the workload trades under."""
    return {
        "accounts": {
            f"account-{number:06d}": {"exchange": "binance", "profile": PROFILES[number % len(PROFILES)]}
            for number in range(accounts)
        },
        "instruments": {"BTC-USD": {"fee_rate": "0.0005", "slippage": "0.0005"}},
    }


class Workload:
    """An endless stream of events, the same for the same seed."""

    def __init__(self, accounts: int, seed: int = 1, fill_delay: int = 10_000) -> None:
        """``fill_delay``: how many events lie at least between an order and its fill."""
        self._accounts = [f"account-{number:06d}" for number in range(accounts)]
        self._random = random.Random(seed)
        self._fill_delay = fill_delay
        self._sequences = dict.fromkeys(self._accounts, 0)
        self._holding = dict.fromkeys(self._accounts, False)
        self._waiting: deque[tuple[int, Event]] = deque()
        self._busy: set[str] = set()
        self._count = 0

    def first_marks(self) -> Iterator[Event]:
        """One equity mark for each account: without it every signal is ``RISK_DATA_MISSING``."""
        return (self._pnl(account_id) for account_id in self._accounts)

    def events(self, count: int) -> Iterator[Event]:
        """The next events."""
        for _ in range(count):
            self._count += 1
            yield self._next()

    def of(self, topic: str, count: int) -> Iterator[Event]:
        """Events of one topic only."""
        make = {"pnl": self._pnl, "signals": self._signal, "fills": self._hand_trade}[topic]
        return (make(self._random.choice(self._accounts)) for _ in range(count))

    def _next(self) -> Event:
        if self._waiting and self._waiting[0][0] <= self._count:
            fill = self._waiting.popleft()[1]
            self._busy.discard(fill.account_id)
            return fill
        account_id = self._random.choice(self._accounts)
        if self._random.random() < SHARE["signals"] / (1 - SHARE["fills"]):
            return self._signal(account_id)
        return self._pnl(account_id)

    def _pnl(self, account_id: str) -> Event:
        self._sequences[account_id] += 1
        value = {
            "account_id": account_id,
            "sequence": self._sequences[account_id],
            "equity": f"{100_000 + self._random.randint(-20_000, 20_000) / 100:.2f}",
            "balance": "100000.00",
            "marks": {"BTC-USD": f"{16_500 + self._random.randint(-500, 500) / 100:.2f}"},
        }
        return Event("pnl", account_id, value)

    def _signal(self, account_id: str) -> Event:
        signal_id = f"s-{self._random.getrandbits(64):016x}"
        good = account_id not in self._busy and self._random.random() < 1 / 3
        exits = good and self._holding[account_id]
        value = {
            "signal_id": signal_id,
            "account_id": account_id,
            "strategy_id": "trend_follow_btc",
            "instrument": "BTC-USD",
            "side": "sell" if exits else "buy",
            "quantity": "0.05" if good else "500",
            "price": "16500",
            "stop_loss": "16830" if exits else "16170",
            "leverage": "1",
        }
        if good:
            self._busy.add(account_id)
            self._holding[account_id] = not exits
            self._waiting.append((self._count + self._fill_delay, self._fill(account_id, signal_id, value)))
        return Event("signals", account_id, value)

    def _fill(self, account_id: str, signal_id: str, signal: dict[str, Any]) -> Event:
        value = {
            "fill_id": f"f-{signal_id}",
            "order_id": order_id_of(account_id, signal_id),
            "account_id": account_id,
            "instrument": signal["instrument"],
            "side": signal["side"],
            "quantity": signal["quantity"],
            "price": "16501.5",
            "fee": "0.41",
            "status": "filled",
        }
        return Event("fills", account_id, value)

    def _hand_trade(self, account_id: str) -> Event:
        """A trade without an order: turns the position over and back."""
        self._holding[account_id] = not self._holding[account_id]
        signal = {"instrument": "BTC-USD", "side": "buy" if self._holding[account_id] else "sell", "quantity": "0.05"}
        fill = self._fill(account_id, f"{self._random.getrandbits(64):016x}", signal)
        return fill._replace(value=fill.value | {"order_id": None})
