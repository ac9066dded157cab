"""What the desk publishes: an endless stream of records that follows the gate, as a desk with executors does.

Two thirds are equity marks. Signals are mostly sound and partly not, each in its own way, so that most reject codes
come in numbers. What the gate approves (``approved``) is filled, in part or whole, cancelled, or left until an operator
releases it; positions are closed again. Now and then an account loses until it is locked, goes on signalling, and is
unlocked on a new base. A few fills are strangers': trades by hand, of orders that nobody knows, of entries that nobody
waited to see approved. Some records are repeated, come on the wrong partition, or cannot be read.

The same seed and the same approvals between the same records make the same choices. A gate under fire approves at other
moments in every run, so what a seed repeats exactly is the schedule of faults, and of the load only its kind. While no
approvals come, everything else goes on; what comes late is still reported, as expired once it is no longer valid.
"""

import json
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from heapq import heappop, heappush
from typing import Any, NamedTuple

from schemas.types import read_time, write_time
from streams.core.outputs import order_id_of
from tests.chaos.desk import (
    ACCOUNTS,
    BLACKLISTED,
    PRICES,
    ROUTED,
    ROUTED_TO,
    STRATEGIES,
    partition_of,
    primary_of,
    profile_of,
)
from tests.chaos.executor import RELEASED, Report, reports_of
from tests.chaos.schedule import PARTITIONS

_DAILY = {"micro": 0.005, "low": 0.01, "normal": 0.02, "aggressive": 0.035}
_RISK = {"micro": 0.002, "low": 0.005, "normal": 0.01, "aggressive": 0.02}
_SLOTS = {"micro": 2, "low": 4, "normal": 6, "aggressive": 10}
# Of 1,000 records. What is left over are equity marks.
_SHARES = {"signal": 215, "fill": 95, "control": 12, "policy": 2, "repeat": 14, "misplaced": 12, "malformed": 10}
_REMEMBERED = 400
_AWAITED = 3_000
"""For how many records an instrument is left alone after a sound signal on it, unless an approval comes before."""
_RASH = 0.02
"""Of the sound entries: filled without waiting for the approval, by somebody who is not the executor."""
ENTRY, EXIT, OTHER = "entry", "exit", "s"
"""How ids of signals begin: sound entries of accounts that nothing is wrong with, exits, all others."""


class Message(NamedTuple):
    """One record to publish."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    """None: by key."""
    kind: str = ""
    """What it is meant to be, for the count of the mix."""


@dataclass
class _Book:
    """What the desk believes of one account."""

    account_id: str
    equity: float = 100_000.0
    anchor: float = 100_000.0
    sequence: int = 0
    marks: int = 0
    """Marks still to come in the present mood."""
    mood: str = "calm"
    """``calm``, ``falling``, or ``locked`` until the unlock is published."""
    positions: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Millionths by instrument and venue, as filled."""
    working: Counter[str] = field(default_factory=Counter)
    """Approved orders that are not done with, by instrument."""
    awaited: dict[str, int] = field(default_factory=dict)
    """By instrument, up to which record an approval is waited for."""

    @property
    def held(self) -> list[tuple[str, str]]:
        """Where it has positions."""
        return [place for place, quantity in self.positions.items() if quantity]

    def is_busy(self, instrument: str, count: int) -> bool:
        """Whether a sound signal would only be in the way of another."""
        return self.working[instrument] > 0 or self.awaited.get(instrument, 0) > count


class Workload:
    """``next(now_ms)`` is the next record, with times of about ``now_ms``; ``approved`` hears of what is approved."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._rng = random.Random(f"workload {seed}")
        self._books = {name: _Book(name) for name in ACCOUNTS}
        self._count = 0
        self._planned = 0
        self._due: list[tuple[int, int, Callable[[int], Message]]] = []
        self._orders: set[str] = set()
        self._sent: dict[str, list[Message]] = {"signals": [], "fills": [], "controls": [], "pnl": []}
        self.mix: Counter[str] = Counter()
        """Published so far, by what it was meant to be."""

    def next(self, now_ms: int) -> Message:
        """The next record."""
        self._count += 1
        message = self._next(now_ms)
        self.mix[message.kind] += 1
        if message.topic in self._sent and message.kind not in ("malformed", "misplaced", "repeat"):
            sent = self._sent[message.topic]
            if len(sent) < _REMEMBERED:
                sent.append(message)
            else:
                sent[self._rng.randrange(_REMEMBERED)] = message
        return message

    def approved(self, order: Mapping[str, Any], now_ms: int) -> None:
        """Take over an order as published on ``approved-orders``, once; those of other desks are none of ours.

        Of an order that is no longer valid at ``now_ms`` nothing will be filled.
        """
        book = self._books.get(order["account_id"])
        if book is None or order["order_id"] in self._orders:
            return
        self._orders.add(order["order_id"])
        book.awaited.pop(order["instrument"], None)
        book.working[order["instrument"]] += 1
        reports = reports_of(self._seed, order["order_id"], _millionths(order["quantity"]))
        if read_time(order["valid_until"]) < now_ms:
            reports = [Report(reports[0].after, 0, "expired")]
        for report in reports:
            self._at(self._count + report.after, partial(self._report, book, order, report))

    def positions(self, account_id: str) -> Mapping[tuple[str, str], int]:
        """What an account of the desk holds after all fills so far: millionths by instrument and venue, without 0."""
        book = self._books[account_id]
        return {place: book.positions[place] for place in book.held}

    def _next(self, now_ms: int) -> Message:
        if self._count <= len(ACCOUNTS):
            return self._pnl(self._books[ACCOUNTS[self._count - 1]], now_ms)
        if self._due and self._due[0][0] <= self._count:
            return heappop(self._due)[2](now_ms)
        dice = self._rng.randrange(1000)
        for kind, share in _SHARES.items():
            if dice < share:
                return self._of(kind, now_ms)
            dice -= share
        return self._pnl(self._book(), now_ms)

    def _of(self, kind: str, now_ms: int) -> Message:
        match kind:
            case "signal":
                return self._signal(self._book(), now_ms)
            case "fill":
                return self._strange_trade(self._book(), now_ms)
            case "control":
                return self._control(self._book(), now_ms)
            case "policy":
                return self._policy(now_ms)
            case "repeat":
                return self._repeat(now_ms)
            case "misplaced":
                return self._misplaced(now_ms)
            case _:
                return self._malformed(now_ms)

    def _book(self) -> _Book:
        return self._books[self._rng.choice(ACCOUNTS)]

    def _later(self, after: tuple[int, int], make: Callable[[int], Message]) -> None:
        self._at(self._count + self._rng.randint(*after), make)

    def _at(self, count: int, make: Callable[[int], Message]) -> None:
        self._planned += 1
        heappush(self._due, (count, self._planned, make))

    def _name(self, letter: str) -> str:
        return f"{letter}-{self._count}-{self._rng.randrange(10**6)}"

    # -- equity

    def _pnl(self, book: _Book, now_ms: int) -> Message:
        book.sequence += 1
        flow = 0.0
        if book.mood == "calm":
            book.equity = book.anchor * (1 + self._rng.uniform(-0.0008, 0.0008))
            if self._rng.random() < 0.004:
                book.mood, book.marks = "falling", self._rng.randint(4, 9)
            elif self._rng.random() < 0.001:
                flow = float(self._rng.choice((5_000, -2_000, 12_500)))
                book.equity += flow
                book.anchor += flow
        elif book.mood == "falling":
            book.equity -= book.anchor * _DAILY[profile_of(book.account_id)] * self._rng.uniform(0.2, 0.4)
            book.marks -= 1
            if not book.marks:
                book.mood, book.marks = "locked", self._rng.randint(5, 20)
                book.anchor = book.equity
        elif book.mood == "locked":
            book.equity = book.anchor * (1 + self._rng.uniform(0, 0.0005))
            book.marks -= 1
            if not book.marks:
                book.mood = "calm"
                self._later((1, 30), lambda when: self._command(book, "unlock", when, rebase="now"))
        value = {
            "account_id": book.account_id,
            "sequence": book.sequence,
            "equity": f"{book.equity:.2f}",
            "balance": f"{book.equity * 1.001:.2f}",
            "marks": {name: f"{self._price(name):.2f}" for name in PRICES},
            "rates": {"EUR": "1.18", "USD": "1"},
            "as_of": write_time(now_ms - self._rng.randint(0, 500)),
        }
        if flow:
            value["cash_flow"] = f"{flow:.2f}"
        return self._message("pnl", book.account_id, value, "mark" if book.mood == "calm" else f"mark, {book.mood}")

    def _price(self, instrument: str) -> float:
        return PRICES[instrument] * (1 + self._rng.uniform(-0.002, 0.002))

    # -- signals

    def _signal(self, book: _Book, now_ms: int) -> Message:
        held = [place for place in book.held if not book.is_busy(place[0], self._count)]
        dice = self._rng.random()
        if held and dice < 0.35:
            return self._exit(book, self._rng.choice(held), now_ms)
        taken = {instrument for instrument, _ in book.held}
        taken |= {instrument for instrument in PRICES if book.is_busy(instrument, self._count)}
        if dice < 0.7 and len(taken) < min(len(PRICES), _SLOTS[profile_of(book.account_id)]):
            return self._entry(book, self._rng.choice([name for name in PRICES if name not in taken]), now_ms)
        return self._bad_signal(book, now_ms)

    def _sound(self, book: _Book, instrument: str, now_ms: int, kind: str = OTHER) -> dict[str, Any]:
        """A long entry that asks for a third of what may be risked."""
        price = self._price(instrument)
        multiplier = 0.1 if instrument == "ETH-USD" else 1
        rate = 1.18 if instrument.endswith("EUR") else 1
        risk = 0.3 * _RISK[profile_of(book.account_id)] * book.equity
        quantity = risk / (price * 0.025 * multiplier * rate)
        return {
            "signal_id": self._name(kind),
            "account_id": book.account_id,
            "strategy_id": self._rng.choice(STRATEGIES[:2]),
            "instrument": instrument,
            "side": "buy",
            "quantity": f"{quantity:.6f}",
            "price": f"{price:.2f}",
            "stop_loss": f"{price * 0.98:.2f}",
            "leverage": "1",
            "created_at": write_time(now_ms - self._rng.randint(0, 300)),
        }

    def _entry(self, book: _Book, instrument: str, now_ms: int) -> Message:
        """Of an account that is losing or locked it is asked again and again: nobody waits for an answer."""
        is_calm = book.mood == "calm"
        value = self._sound(book, instrument, now_ms, ENTRY if is_calm else OTHER)
        if is_calm:
            book.awaited[instrument] = self._count + _AWAITED
            if self._rng.random() < _RASH:
                order = value | {"order_id": order_id_of(book.account_id, value["signal_id"])}
                venue, quantity = primary_of(book.account_id), _millionths(value["quantity"])
                # It names the venue: whether the gate knows the order by then, and so where it went, is open.
                self._later((100, 1_800), lambda when: self._fill(book, order, venue, quantity, "filled", when, None))
        return self._message("signals", book.account_id, value, f"entry, {book.mood}")

    def _exit(self, book: _Book, place: tuple[str, str], now_ms: int) -> Message:
        instrument, _ = place
        value = self._sound(book, instrument, now_ms, EXIT)
        quantity = book.positions[place]
        value |= {
            "side": "sell" if quantity > 0 else "buy",
            "quantity": _written(abs(quantity)),
            "stop_loss": None,
            "reduce_only": self._rng.random() < 0.3,
        }
        book.awaited[instrument] = self._count + _AWAITED
        return self._message("signals", book.account_id, value, "exit")

    def _bad_signal(self, book: _Book, now_ms: int) -> Message:
        value = self._sound(book, self._rng.choice(list(PRICES)), now_ms)
        much = f"{float(value['quantity']) * 40:.6f}"
        kind, change = self._rng.choice(
            (
                ("risk", {"quantity": much}),
                ("leverage", {"leverage": "20"}),
                ("no stop", {"stop_loss": None}),
                ("wrong stop", {"stop_loss": f"{float(value['price']) * 1.02:.2f}"}),
                ("blacklisted", {"strategy_id": BLACKLISTED}),
                ("not whitelisted", {"strategy_id": "carry"}),
                ("unknown account", {"account_id": f"nobody-{self._rng.randrange(50)}"}),
                ("stale", {"created_at": write_time(now_ms - 90_000)}),
                ("too old", {"created_at": write_time(now_ms - 86_400_000 * 2)}),
                ("expired", {"expires_at": write_time(now_ms - 1_000)}),
                ("price", {"price": "-1"}),
                ("quantity", {"quantity": "0"}),
                ("venue", {"venue": "nowhere"}),
                ("collar", {"price": f"{float(value['price']) * 1.2:.2f}"}),
                ("short", {"side": "sell", "stop_loss": f"{float(value['price']) * 1.02:.2f}"}),
                ("reduce only", {"reduce_only": True}),
                ("no side", {"side": None}),
                ("routed", {"account_id": None, "strategy_id": ROUTED}),
                ("no route", {"account_id": None, "strategy_id": "lost"}),
                ("not finite", {"quantity": "NaN"}),
            )
        )
        value |= change
        # The gate decides routed signals where their account is: keyed as a desk would, by what it names.
        key = value["account_id"] or (ROUTED_TO if kind == "routed" else None)
        message = self._message("signals", key or "", value, f"signal, {kind}")
        return message if key else message._replace(key=None, partition=self._rng.randrange(PARTITIONS))

    # -- fills

    def _report(self, book: _Book, order: Mapping[str, Any], report: Report, now_ms: int) -> Message:
        if report.is_final:
            book.working[order["instrument"]] -= 1
        if report.status == RELEASED:
            return self._command(book, "release_order", now_ms, order_id=order["order_id"])
        venue, default = order["venue"], None if report.is_late else order["venue"]
        message = self._fill(book, order, venue, report.quantity, report.status, now_ms, default)
        return message._replace(kind="fill, late") if report.is_late else message

    def _fill(
        self,
        book: _Book,
        order: Mapping[str, Any],
        venue: str,
        quantity: int,
        status: str,
        now_ms: int,
        default: str | None,
    ) -> Message:
        """The ``venue`` is left out where it is the ``default``: what the gate goes by then."""
        book.positions[order["instrument"], venue] += quantity if order["side"] == "buy" else -quantity
        value = {
            "fill_id": self._name("f"),
            "order_id": order["order_id"],
            "account_id": book.account_id,
            "instrument": order["instrument"],
            "venue": None if venue == default else venue,
            "side": order["side"],
            "quantity": _written(quantity),
            "price": order["price"],
            "fee": "0.41",
            "status": status,
            "filled_at": write_time(now_ms - self._rng.randint(0, 200)),
        }
        return self._message("fills", book.account_id, value, f"fill, {status}")

    def _strange_trade(self, book: _Book, now_ms: int) -> Message:
        """By hand or of an order that nobody knows, mostly closing: without a stop a position takes much headroom."""
        held = book.held
        if self._rng.random() < (0.85 if held else 0.97):
            return self._pnl(book, now_ms)
        primary = primary_of(book.account_id)
        instrument, venue = self._rng.choice(held or [(name, primary) for name in PRICES])
        quantity = book.positions[instrument, venue]
        order = {
            "order_id": self._rng.choice((None, None, order_id_of(book.account_id, self._name("unknown")))),
            "instrument": instrument,
            "side": "sell" if quantity > 0 else "buy",
            "price": f"{self._price(instrument):.2f}",
        }
        small = round(200 * 10**6 / PRICES[instrument])
        message = self._fill(book, order, venue, abs(quantity) or small, "filled", now_ms, primary)
        return message._replace(kind="fill, unknown order" if order["order_id"] else "hand trade")

    # -- operators

    def _control(self, book: _Book, now_ms: int) -> Message:
        dice = self._rng.random()
        if dice < 0.25:
            self._later((20, 600), lambda when: self._command(book, "unlock", when, rebase="keep"))
            return self._command(book, "lock", now_ms)
        if dice < 0.45:
            self._later((20, 600), lambda when: self._command(book, "resume", when))
            return self._command(book, "halt", now_ms)
        if dice < 0.6:
            own = profile_of(book.account_id)
            if own != "micro":
                down = ("micro", "low", "normal")[("low", "normal", "aggressive").index(own)]
                self._later((200, 2_000), lambda when: self._command(book, "set_profile", when, profile=own))
                return self._command(book, "set_profile", now_ms, profile=down)
        if dice < 0.9:
            return self._command(book, "unlock", now_ms, rebase=self._rng.choice(("keep", "now")))
        if dice < 0.95:
            return self._command(book, "resume", now_ms)
        return self._command(book, "unlock", now_ms, reason=None)

    def _command(self, book: _Book, kind: str, now_ms: int, **more: Any) -> Message:
        value = {
            "command_id": self._name("c"),
            "account_id": book.account_id,
            "type": kind,
            "operator": "ann",
            "reason": "reviewed with desk",
            "issued_at": write_time(now_ms),
        } | more
        return self._message("controls", book.account_id, value, f"command, {kind}")

    def _policy(self, now_ms: int) -> Message:
        rng = self._rng
        name, rule, end = rng.choice(
            (
                ("state/strategy/trend", {"state": "REDUCING"}, None),
                ("state/strategy/mean", {"state": "HALTED"}, None),
                ("state/venue/kraken", {"state": "REDUCING"}, {"state": "ACTIVE"}),
                ("state/global", {"state": "REDUCING"}, None),
                ("venue/binance", {"up": False}, {"up": True}),
                ("venue/kraken", {"up": False}, {"up": True}),
                ("profile/normal", {"max_trade_risk": "0.004"}, None),
                ("profile/aggressive", {"max_open_positions": 2}, None),
                ("profile/micro", {"max_daily_drawdown": "0.003"}, None),
                ("strategies", {"blacklist": ["mean", BLACKLISTED]}, None),
                ("strategies/low", {"whitelist": ["trend"]}, None),
                ("state/strategy/carry", {"state": "OFF"}, None),
                ("profile/huge", {"max_leverage": "2"}, None),
                ("weather", {"rain": True}, None),
            )
        )
        self._later((50, 900), lambda when: self._policy_record(name, end, when))
        return self._policy_record(name, rule, now_ms)

    def _policy_record(self, name: str, rule: dict[str, Any] | None, now_ms: int) -> Message:
        value = {"name": name, "rule": rule, "operator": "ann", "reason": "chaos", "issued_at": write_time(now_ms)}
        return self._message("policies", name, value, "policy")

    # -- what goes wrong before the gate

    def _repeat(self, now_ms: int) -> Message:
        sent = self._sent[self._rng.choice(("signals", "fills", "fills", "controls", "pnl"))]
        return self._rng.choice(sent)._replace(kind="repeat") if sent else self._pnl(self._book(), now_ms)

    def _misplaced(self, now_ms: int) -> Message:
        """A sound record on a partition that is not its account's."""
        book = self._book()
        make = self._rng.choice((self._pnl, self._strange_trade, self._bad_signal))
        message = make(book, now_ms)
        right = partition_of(book.account_id)
        wrong = (right + self._rng.randrange(1, PARTITIONS)) % PARTITIONS
        key = self._rng.choice((message.key, None, b"someone-else"))
        return message._replace(partition=wrong, key=key, kind="misplaced")

    def _malformed(self, now_ms: int) -> Message:
        book = self._book()
        held = book.positions.copy()
        make = self._rng.choice((self._pnl, self._bad_signal, self._strange_trade))
        message = make(book, now_ms)
        book.positions = held
        whole = message.value or b"{}"
        # A record needs a key or a value.
        absent = None if message.key else b""
        value = self._rng.choice((absent, b"", whole[: len(whole) // 2], b"\xff" + whole, b"[" + whole + b"]", b"7"))
        if message.topic == "fills":
            # The account may only reduce until somebody has looked.
            self._later((20, 400), lambda when: self._command(book, "resume", when))
        return message._replace(value=value, kind="malformed")

    def _message(self, topic: str, key: str, value: dict[str, Any], kind: str) -> Message:
        return Message(topic, key.encode(), json.dumps(value).encode(), kind=kind)


def _millionths(quantity: str) -> int:
    return int(Decimal(quantity) * 10**6)


def _written(millionths: int) -> str:
    return f"{millionths / 10**6:.6f}"
