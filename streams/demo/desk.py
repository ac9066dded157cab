"""The desk around the gate as one pure closed loop: market, strategies, executor, portfolio, operator.

Per tick the loop asks for the messages of each phase in turn, and tells what the gate answered before it asks for the
next:

    controls   the operator's commands
    touches    resting orders that the market reached, or that expired
    marks      equity of every account that could have changed
    signals    the strategies' entries, exits and stops
    oddities   what goes wrong on a normal day: malformed, late and repeated records
    reports    fills of what was approved, cancels of what was locked

Nothing here waits, reads a clock or draws a random number: the same answers give the same messages.
"""

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

import orjson

from streams.demo.accounts import ACCOUNTS, COSTS, UNLOCKED, Account, Seat
from streams.demo.chronicle import Chronicle, Heard
from streams.demo.executor import Executor, Fill
from streams.demo.market import HOUR_MS, Tick, time_text
from streams.demo.mishaps import MISHAPS, Mishap, odd_signal
from streams.demo.portfolio import Portfolio
from streams.demo.strategies import Holding, Intent, Scene, decide, flatten, stop_reached

SIGNAL_DELAY_MS = 1_000
REPEAT_DELAY_MS = 1_500
REPORT_DELAY_MS = 2_000
REVIEW_HOUR = 8
CLOSES_KEPT = 48
CENT = Decimal("0.01")


class Message(NamedTuple):
    """One record to publish, keyed by its account. A stray is put on the wrong partition."""

    topic: str
    key: str
    value: bytes
    timestamp_ms: int
    is_stray: bool = False


class Desk:
    """The state of everything around the gate. `chronicle` is what a user gets to see of it."""

    def __init__(self, accounts: Iterable[Account] = ACCOUNTS, mishaps: Iterable[Mishap] = MISHAPS) -> None:
        self.chronicle = Chronicle()
        self.executor = Executor()
        self._accounts = tuple(accounts)
        self._portfolios = {account.name: Portfolio(account.capital) for account in self._accounts}
        self._sequences = dict.fromkeys(self._portfolios, 0)
        self._closes: dict[str, list[Decimal]] = {instrument: [] for instrument in COSTS}
        self._due = sorted(mishaps)
        self._last_signal: dict[str, Message] = {}
        self._last_fill: dict[str, Message] = {}
        self._last_mark: dict[str, Message] = {}
        self._answered: list[tuple[int, str]] = []
        self._unlocks = 0

    def hear(self, records: Iterable[Heard]) -> None:
        """Take what the gate published in answer to the phase before."""
        for record in records:
            if record.topic == "approved-orders":
                self.executor.approved(record.value)
            elif record.topic == "account-locked":
                self.executor.locked(record.value)
            self.chronicle.heard(record)
        for at_ms, account in self._answered:
            self.chronicle.close_mark(at_ms, account)
        self._answered.clear()

    def controls(self, tick: Tick) -> list[Message]:
        """The desk reviews one account in the morning after its lock, and unlocks it once; all others stay locked."""
        story = self.chronicle.stories[UNLOCKED]
        is_review = tick.opens_bar and tick.at_ms // HOUR_MS % 24 == REVIEW_HOUR
        if not is_review or not story.is_locked or self._unlocks:
            return []
        self._unlocks += 1
        command = {
            "command_id": f"c-unlock-{UNLOCKED}-{self._unlocks}",
            "account_id": UNLOCKED,
            "type": "unlock",
            "operator": "ann",
            "approved_by": "bo",
            "reason": "reviewed with the desk: stops moved closer",
            "rebase": "keep",
            "issued_at": time_text(tick.at_ms),
        }
        return [Message("controls", UNLOCKED, orjson.dumps(command), tick.at_ms)]

    def touches(self, tick: Tick) -> list[Message]:
        """Reports of resting orders that this tick reached or that end with it."""
        return self._reported(self.executor.on_tick(tick), tick.at_ms)

    def marks(self, tick: Tick) -> list[Message]:
        """Equity marks: of everyone on the hour, in between of those who hold something."""
        if tick.opens_bar:
            for instrument in tick.trading:
                self._remember_close(instrument, tick.prices[instrument])
        return [
            self._mark(account.name, tick)
            for account in self._accounts
            if tick.opens_bar or not tick.trading or not self._portfolios[account.name].is_flat
        ]

    def signals(self, tick: Tick) -> list[Message]:
        """The strategies' signals."""
        at_ms = tick.at_ms + SIGNAL_DELAY_MS
        signals = [
            _signal(account, seat, intent, at_ms)
            for account in self._accounts
            for seat in account.seats
            if (intent := self._intent(account, seat, tick)) is not None
        ]
        self._last_signal = {message.key: message for message in signals}
        return self._counted(signals)

    def oddities(self, tick: Tick) -> list[Message]:
        """The mishaps that are due, in a phase of their own: a broken mark must not race a strategy's signal."""
        return self._counted(list(self._odd(tick))) if tick.opens_bar else []

    def reports(self, tick: Tick) -> list[Message]:
        """Fills of the orders approved since the last phase, and cancels of the entries of locked accounts."""
        return self._reported(self.executor.on_decisions(tick), tick.at_ms + REPORT_DELAY_MS)

    def _remember_close(self, instrument: str, price: Decimal) -> None:
        closes = self._closes[instrument]
        closes.append(price)
        del closes[:-CLOSES_KEPT]

    def _intent(self, account: Account, seat: Seat, tick: Tick) -> Intent | None:
        if seat.instrument not in tick.trading:
            return None
        held = self._portfolios[account.name].position(seat.instrument)
        working = self.executor.entry_working(account.name, seat.strategy)
        holding = Holding(held.quantity, held.average, held.stop, working)
        price = tick.prices[seat.instrument]
        if stop_reached(price, holding):
            return flatten(price, holding) if _guards(account, seat) else None
        if not tick.opens_bar:
            return None
        equity = self._portfolios[account.name].equity(tick.prices)
        return decide(
            seat, COSTS[seat.instrument], Scene(tick.hour, price, self._closes[seat.instrument], equity), holding
        )

    def _counted(self, messages: list[Message]) -> list[Message]:
        for message in messages:
            if message.topic == "signals":
                self.chronicle.sent_signal(message.key)
        return messages

    def _mark(self, account: str, tick: Tick) -> Message:
        portfolio = self._portfolios[account]
        equity = portfolio.equity(tick.prices).quantize(CENT)
        self._sequences[account] += 1
        value = {
            "account_id": account,
            "sequence": self._sequences[account],
            "equity": str(equity),
            "balance": str(portfolio.cash.quantize(CENT)),
            "cash_flow": "0",
            "marks": {instrument: str(price) for instrument, price in tick.prices.items()},
            "as_of": time_text(tick.at_ms),
        }
        message = Message("pnl", account, orjson.dumps(value), tick.at_ms)
        self._last_mark[account] = message
        self.chronicle.marked(account, equity)
        self._answered.append((tick.at_ms, account))
        return message

    def _reported(self, fills: Iterable[Fill], at_ms: int) -> list[Message]:
        return [self._book(fill, at_ms) for fill in fills]

    def _book(self, fill: Fill, at_ms: int) -> Message:
        if fill.quantity:
            portfolio = self._portfolios[fill.account]
            portfolio.apply(fill.instrument, fill.side, fill.quantity, fill.price, fill.fee, fill.stop)
        text = f"{fill.side} {fill.quantity} {fill.instrument} @ {fill.price}" if fill.quantity else fill.status
        self.chronicle.sent_fill(at_ms, fill.account, text, fill.status)
        message = Message("fills", fill.account, orjson.dumps(_fill_value(fill, at_ms)), at_ms)
        self._last_fill[fill.account] = message
        return message

    def _odd(self, tick: Tick) -> Iterator[Message]:
        due = [mishap for mishap in self._due if mishap.hour <= tick.hour]
        for mishap in due:
            message = self._oddity(mishap, tick)
            if message is not None:
                self._due.remove(mishap)
                yield message

    def _oddity(self, mishap: Mishap, tick: Tick) -> Message | None:
        at_ms = tick.at_ms + REPEAT_DELAY_MS
        match mishap.kind:
            case "repeat_signal":
                repeated = self._last_signal.get(mishap.account)
            case "repeat_fill":
                repeated = self._last_fill.get(mishap.account)
            case "repeat_pnl":
                repeated = self._last_mark.get(mishap.account)
            case "broken_pnl":
                return Message("pnl", mishap.account, b'{"account_id": "' + mishap.account.encode(), at_ms)
            case _:
                value = odd_signal(mishap, at_ms, tick.prices["BTC-USD"])
                return Message("signals", mishap.account, value, at_ms, is_stray=mishap.kind == "stray")
        return None if repeated is None else repeated._replace(timestamp_ms=at_ms)


def _guards(account: Account, seat: Seat) -> bool:
    """One seat per account and instrument watches the stop: a position needs one exit."""
    return seat is next(other for other in account.seats if other.instrument == seat.instrument)


def _signal(account: Account, seat: Seat, intent: Intent, at_ms: int) -> Message:
    value = {
        "signal_id": f"{seat.strategy}-{account.name}-{at_ms // 1000}",
        "account_id": account.name,
        "strategy_id": seat.strategy,
        "instrument": seat.instrument,
        "side": intent.side,
        "quantity": str(intent.quantity),
        "price": str(intent.price),
        "stop_loss": None if intent.stop is None else str(intent.stop),
        "leverage": None,
        "reduce_only": intent.is_exit,
        "venue": None,
        "created_at": time_text(at_ms),
        "expires_at": None,
    }
    return Message("signals", account.name, orjson.dumps(value), at_ms)


def _fill_value(fill: Fill, at_ms: int) -> Mapping[str, Any]:
    return {
        "fill_id": fill.fill_id,
        "order_id": fill.order_id,
        "account_id": fill.account,
        "instrument": fill.instrument,
        "side": fill.side,
        "venue": None,
        "quantity": str(fill.quantity),
        "price": str(fill.price),
        "fee": str(fill.fee),
        "status": fill.status,
        "filled_at": time_text(at_ms),
    }
