"""A desk in steady state: 1,000 accounts, 80 % pnl, 15 % signals, 5 % fills.

A third of the signals is approved and filled: entries and exits take turns, so positions and open orders stay small
however long it runs. The other signals ask too much and are rejected. A fill comes only after its order could have been
approved. Whether a signal passes depends on nothing but itself, so that engines which interleave the topics in other
ways than the gate come to the same decisions: no drawdown comes near its limit, and no age near the (long) ones
configured.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from schemas.types import write_time
from streams.core.outputs import order_id_of

PROFILES = ("low", "normal", "aggressive")
SHARE = {"pnl": 0.80, "signals": 0.15, "fills": 0.05}
_GOOD = SHARE["fills"] / SHARE["signals"]
# Access by rank r has weight 1 / r: a few accounts trade most.
_ZIPF_EXPONENT = 1.0
_TRIES = 50


class Event(NamedTuple):
    """One record to publish; times are filled in when it is."""

    topic: str
    account_id: str
    value: dict[str, Any]

    def at(self, now_ms: int) -> dict[str, Any]:
        """The value with its times."""
        field = {"pnl": "as_of", "signals": "created_at", "fills": "filled_at"}[self.topic]
        return self.value | {field: write_time(now_ms)}


def account_name(number: int) -> str:
    return f"account-{number:07d}"


def configuration(accounts: int) -> dict[str, Any]:
    """The configuration that the workload trades under; its ages outlast any measurement."""
    return {
        "accounts": {
            account_name(number): {"exchange": "binance", "profile": PROFILES[number % len(PROFILES)]}
            for number in range(accounts)
        },
        "instruments": {"BTC-USD": {"fee_rate": "0.0005", "slippage": "0.0005"}},
        "limits": {"max_pnl_age": "12h", "max_signal_age": "12h", "order_valid": "12h"},
    }


def toml_of(tables: dict[str, Any]) -> str:
    """A configuration of two levels as ``tidegate.toml``."""
    lines = []
    for kind, entries in tables.items():
        if all(isinstance(value, str) for value in entries.values()):
            lines.append(f"[{kind}]")
            lines += [f'{key} = "{value}"' for key, value in entries.items()]
            continue
        for name, values in entries.items():
            lines.append(f'[{kind}."{name}"]')
            lines += [f'{key} = "{value}"' for key, value in values.items()]
    return "\n".join(lines) + "\n"


class Workload:
    """An endless stream of events, the same for the same seed."""

    def __init__(self, accounts: int, seed: int = 1, fill_delay: int = 10_000, *, zipf: bool = False) -> None:
        """``fill_delay``: how many events lie at least between an order and its fill; a twentieth of it has to be below
        the number of accounts, for none has two orders at once. ``zipf``: a few accounts have most events."""
        self._names = [account_name(number) for number in range(accounts)]
        self._random = random.Random(seed)
        self._choices = {False: self._uniform_choice(accounts)}
        self.access(zipf=zipf)
        self._fill_delay = fill_delay
        self._sequences = [0] * accounts
        self._holding = bytearray(accounts)
        self._busy = bytearray(accounts)
        self._waiting: deque[tuple[int, int, Event]] = deque()
        self._count = 0

    def access(self, *, zipf: bool) -> None:
        """Choose accounts in this way from now on."""
        if zipf not in self._choices:
            self._choices[zipf] = self._zipf_choice(len(self._names))
        self._choose = self._choices[zipf]

    def first_marks(self) -> Iterator[Event]:
        """One equity mark for each account: without it every signal is ``RISK_DATA_MISSING``."""
        return (self._pnl(number) for number in range(len(self._names)))

    def events(self, count: int) -> Iterator[Event]:
        """The next events."""
        for _ in range(count):
            self._count += 1
            yield self._next()

    def of(self, topic: str, count: int) -> Iterator[Event]:
        """Events of one topic only."""
        make = {"pnl": self._pnl, "signals": self._signal, "fills": self._hand_trade}[topic]
        return (make(self._choose()) for _ in range(count))

    def _uniform_choice(self, accounts: int) -> Callable[[], int]:
        return lambda: int(self._random.random() * accounts)

    def _zipf_choice(self, accounts: int) -> Callable[[], int]:
        weights = [1 / (rank + 1) ** _ZIPF_EXPONENT for rank in range(accounts)]
        total, sums = 0.0, []
        for weight in weights:
            total += weight
            sums.append(total)
        drawn: list[int] = []

        def choose() -> int:
            if not drawn:
                drawn.extend(self._random.choices(range(accounts), cum_weights=sums, k=10_000))
            return drawn.pop()

        return choose

    def _next(self) -> Event:
        if self._waiting and self._waiting[0][0] <= self._count:
            _, number, fill = self._waiting.popleft()
            self._busy[number] = False
            return fill
        if self._random.random() < SHARE["signals"] / (1 - SHARE["fills"]):
            return self._signal(self._choose())
        return self._pnl(self._choose())

    def _pnl(self, number: int) -> Event:
        self._sequences[number] += 1
        value = {
            "account_id": self._names[number],
            "sequence": self._sequences[number],
            "equity": f"{100_000 + self._random.randint(-20_000, 20_000) / 100:.2f}",
            "balance": "100000.00",
            "marks": {"BTC-USD": f"{16_500 + self._random.randint(-500, 500) / 100:.2f}"},
        }
        return Event("pnl", self._names[number], value)

    def _signal(self, number: int) -> Event:
        signal_id = f"s-{self._random.getrandbits(64):016x}"
        free = self._free(number) if self._random.random() < _GOOD else None
        good, number = free is not None, number if free is None else free
        exits = good and bool(self._holding[number])
        value = {
            "signal_id": signal_id,
            "account_id": self._names[number],
            "strategy_id": "trend_follow_btc",
            "instrument": "BTC-USD",
            "side": "sell" if exits else "buy",
            "quantity": "0.05" if good else "500",
            "price": "16500",
            "stop_loss": "16830" if exits else "16170",
            "leverage": "1",
        }
        if good:
            self._busy[number] = True
            self._holding[number] = not exits
            fill = self._fill(self._names[number], signal_id, value)
            self._waiting.append((self._count + self._fill_delay, number, fill))
        return Event("signals", self._names[number], value)

    def _free(self, number: int) -> int | None:
        """This account, else another without an order of its own; None if there is hardly one."""
        for _ in range(_TRIES):
            if not self._busy[number]:
                return number
            number = int(self._random.random() * len(self._names))
        return None

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

    def _hand_trade(self, number: int) -> Event:
        """A trade without an order: turns the position over and back."""
        self._holding[number] = not self._holding[number]
        signal = {"instrument": "BTC-USD", "side": "buy" if self._holding[number] else "sell", "quantity": "0.05"}
        fill = self._fill(self._names[number], f"{self._random.getrandbits(64):016x}", signal)
        return fill._replace(value=fill.value | {"order_id": None})
