"""Sequences of input records that are meant to hurt: adversarial, and still sessions that a desk could have had.

``generate`` makes one from a seed. It runs the naive model beside it, so that it can aim: fills name orders that were
approved, equities land on a limit or an atom beside it, times on the boundary of an account's day, quantities on what
may still be risked, held or reduced. ``sequences`` is the same as a hypothesis strategy, and ``minimal`` makes a
failing sequence short.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from random import Random
from typing import Any, Final, NamedTuple

from hypothesis import strategies as st

from tests.model.naive import (
    DAILY,
    PROFILES,
    TRAILING,
    WEEKLY,
    Account,
    Json,
    NaiveGate,
    Order,
    duration_ms,
    end_ms,
    exactly,
    read_time,
    write_amount,
    write_time,
)


class Record(NamedTuple):
    """One input record of partition 0."""

    topic: str
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    offset: int


class Raw(str):
    """Text that goes into the JSON as it is, for numbers with all their digits."""


def encode(value: Any) -> str:
    """JSON as a producer might write it."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{encode(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(encode(item) for item in value) + "]"
    return json.dumps(value)


PRICES: Final = {"BTC-USD": "16500", "ETH-USD": "800", "EUR-JPY": "132.5", "GOLD": "1250", "ADA-NOK": "5"}
# Cents and ticks that decide between below, at and above.
NUDGES: Final = [
    Fraction(0),
    Fraction(0),
    Fraction(1, 10**12),
    Fraction(-1, 10**12),
    Fraction(1, 100),
    Fraction(-1, 100),
]
VENUES: Final = ["binance", "firi", "kraken"]
STRATEGIES: Final = ["trend", "mean", "carry", "scalp"]
ZONES: Final = ["UTC", "Europe/Oslo", "America/New_York"]
# Days before a day of 23 or 25 hours, a Sunday, the end of a year, and an ordinary day.
STARTS: Final = [
    "2017-03-11T20:00:00Z",
    "2017-03-25T20:00:00Z",
    "2017-10-28T20:00:00Z",
    "2017-11-04T20:00:00Z",
    "2017-12-17T21:30:00Z",
    "2017-12-31T21:00:00Z",
    "2017-12-19T11:00:00Z",
]
LIMIT_KEYS: Final = [
    ("max_daily_drawdown", DAILY),
    ("max_weekly_drawdown", WEEKLY),
    ("max_trailing_drawdown", TRAILING),
]
UNREADABLE: Final[list[Any]] = [
    True,
    [],
    {},
    "",
    "abc",
    "1_000",
    " 1",
    "5.",
    "0x10",
    "1e30",
    "1e-31",
    Raw("1e999999999"),
    "1" * 41,
    "\ud800",
    "x" * 300,
]
NOT_FINITE: Final[list[Any]] = ["NaN", "-inf", "Infinity", Raw("NaN"), Raw("Infinity"), Raw("-Infinity")]
NOT_TIMES: Final[list[Any]] = [
    Raw("1513681200"),
    "2017-12-19",
    "2017-12-19T11:00:00",
    "2017-02-30T00:00:00Z",
    "2017-12-19T24:00:00Z",
    "1969-12-31T23:59:59Z",
    "2017-12-19T11:00Z",
    "yesterday",
]


def generate(seed: int, n: int) -> tuple[Json, list[Record]]:
    """A configuration and ``n`` records; a longer sequence of the same seed begins with the shorter one."""
    scenario = Scenario(Random(seed))
    return scenario.config, [scenario.next_record() for _ in range(n)]


def sequences(n_max: int = 60) -> st.SearchStrategy[tuple[Json, list[Record]]]:
    """``generate`` as a hypothesis strategy."""
    return st.builds(generate, st.integers(0, 2**32 - 1), st.integers(1, n_max))


def minimal(records: Sequence[Record], fails: Callable[[list[Record]], bool]) -> list[Record]:
    """The records without which the failure would not be: drops ever smaller runs of them while it still fails."""
    kept = list(records)
    size = len(kept) // 2
    while size >= 1:
        at = 0
        while at < len(kept):
            without = kept[:at] + kept[at + size :]
            if fails(without):
                kept = without
            else:
                at += size
        size //= 2
    return kept


def configuration(rng: Random) -> Json:
    """A configuration of 3 to 6 accounts, as ``tidegate.toml`` would be read."""
    accounts: dict[str, Json] = {}
    for number in range(rng.randint(3, 6)):
        venues = rng.sample(VENUES, rng.randint(1, 3))
        account: Json = {"exchange": venues[0], "failover": venues[1:], "timezone": rng.choice(ZONES)}
        if rng.random() < 0.9:
            account["profile"] = PROFILES[number % 4] if number < 4 else rng.choice(PROFILES)
        if rng.random() < 0.3:
            account["day_start"] = rng.choice(["02:30", "17:00", "22:15"])
        if rng.random() < 0.35:
            account["currency"] = rng.choice(["USD", "NOK", "JPY"])
        account["base"] = rng.choice(["equity", "equity", "balance", "max"])
        if rng.random() < 0.25:
            account.update(loss_basis="initial", initial_capital=rng.choice(["10000", "12500.5"]))
        accounts[f"acc{number}"] = account
    profiles: dict[str, Json] = {}
    for profile in PROFILES:
        changes = profile_changes(rng)
        if changes:
            profiles[profile] = changes
    limits: Json = {
        "max_pnl_age": rng.choice(["60s", "5m", "1h"]),
        "max_signal_age": rng.choice(["30s", "30s", "5s"]),
        "order_valid": rng.choice(["30s", "10s"]),
        "dedup_horizon": rng.choice(["24h", "1h", "10m"]),
    }
    if rng.random() < 0.3:
        limits["max_notional_per_order"] = rng.choice(["5000", "10000.5"])
    if rng.random() < 0.3:
        limits["price_collar"] = rng.choice(["0.05", "0.01"])
    if rng.random() < 0.3:
        limits["rate_limit"] = {"orders": rng.randint(1, 3), "per": rng.choice(["1s", "10s", "1m"])}
    names = list(accounts)
    strategies: Json = {
        "blacklist": ["scalp"] if rng.random() < 0.5 else [],
        "routes": {
            "trend": {"account": names[0], "exchange": accounts[names[0]]["exchange"]},
            "carry": {"account": names[1]},
        },
    }
    if rng.random() < 0.4:
        strategies[rng.choice(PROFILES)] = {"whitelist": ["trend", "mean"], "blacklist": rng.choice([[], ["mean"]])}
    instruments: Json = {
        "BTC-USD": {"fee_rate": "0.0005", "slippage": "0.0005"},
        "ETH-USD": {"multiplier": "0.1", "fee_rate": "0.001"},
    }
    return {
        "clock": "record",
        "accounts": accounts,
        "profiles": profiles,
        "strategies": strategies,
        "controls": {"two_person": rng.random() < 0.3},
        "limits": limits,
        "instruments": instruments if rng.random() < 0.7 else {},
    }


def profile_changes(rng: Random) -> Json:
    """Some keys of a profile's table."""
    options: Json = {
        "max_daily_drawdown": rng.choice(["0.004", "0.01", "0.03"]),
        "max_weekly_drawdown": rng.choice(["0.008", "0.02", "0.1"]),
        "max_trailing_drawdown": rng.choice(["0.012", "0.03", "0.06"]),
        "max_trade_risk": rng.choice(["0.002", "0.01", "0.05"]),
        "max_leverage": rng.choice(["1", "2.5", "10"]),
        "max_open_positions": rng.choice([1, 2, 5]),
        "spot_only": rng.random() < 0.4,
        "headroom": rng.random() < 0.6,
        "breach": rng.choice(["reach", "exceed"]),
        "confirmations": rng.choice([1, 2, 3]),
        "warning": rng.choice([[], ["0.5"], ["0.25", "0.5", "1"]]),
    }
    return {name: value for name, value in options.items() if rng.random() < 0.25}


class Scenario:
    """A session that is being made up, record by record, with the model of what the gate knows by now."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.config = configuration(rng)
        self.gate = NaiveGate(self.config)
        self.now_ms = read_time(rng.choice(STARTS)) + rng.randint(0, 3_600_000)
        self.offsets = dict.fromkeys(("signals", "fills", "pnl", "controls", "policies"), -1)
        self.count = 0
        self.sent: dict[str, list[Json]] = {"signals": [], "fills": [], "controls": []}
        # What comes at a later count: mostly the end of a policy or a halt that would decide the rest of the session.
        self.later: list[tuple[int, Callable[[], tuple[str, Json]]]] = []
        # Accounts whose bases went through a division that decimals cannot write down: nothing is aimed exactly there.
        self.inexact: set[str] = set()

    def next_record(self) -> Record:
        """Make the next record and let the model apply it."""
        self.count += 1
        self._pass_time()
        topic, key, value = self._make()
        if value is not None and self.rng.random() < 0.02:
            value = self._spoil(value)
        timestamp_ms = self.now_ms - (self.rng.randint(1, 5_000) if self.rng.random() < 0.03 else 0)
        self.offsets[topic] += 1
        record = Record(topic, key, value, timestamp_ms, self.offsets[topic])
        self.gate.feed(topic, value, key=key, timestamp_ms=timestamp_ms, offset=record.offset)
        for account in self.gate.accounts.values():
            if any((base * 10**12).denominator != 1 for base in account.bases.values()):
                self.inexact.add(account.account_id)
        return record

    def _pass_time(self) -> None:
        dice = self.rng.random()
        if dice < 0.25:
            return
        if dice < 0.85:
            self.now_ms += self.rng.choice([1, 250, 1_000, 3_000, self.rng.randint(1, 8_000)])
        elif dice < 0.93:
            self.now_ms += self.rng.choice([30_000, 60_000, 60_001, self.rng.randint(10_000, 400_000)])
        elif dice < 0.97:
            account = self._account()
            period = self.rng.choice(["day", "day", "day", "week"])
            boundary_ms = end_ms(account, period, self.now_ms)
            if period == "day" or boundary_ms - self.now_ms < 2 * 86_400_000:
                self.now_ms = max(self.now_ms, boundary_ms + self.rng.choice([-1, 0, 0, 1, 1_500]))
        else:
            self.now_ms += self.rng.choice([600_000, 3_600_000, 7_200_000, 86_400_000])

    def _account(self) -> Account:
        return self.rng.choice(list(self.gate.accounts.values()))

    def _make(self) -> tuple[str, bytes | None, bytes | None]:
        for due in self.later:
            if due[0] <= self.count:
                self.later.remove(due)
                return self._keyed(*due[1]())
        account = self._account()
        dice = self.rng.random()
        if dice < 0.28 or (account.update is None and dice < 0.9):
            return self._keyed("pnl", self._pnl(account), account.account_id)
        if dice < 0.68:
            if account.locks and self.rng.random() < 0.6:
                return self._keyed("controls", self._control(account))
            if not self._is_fresh(account) and self.rng.random() < 0.75:
                # The signal comes next, with fresh equity behind it.
                self.later.append((self.count + 1, lambda: ("signals", self._signal(account))))
                return self._keyed("pnl", self._pnl(account), account.account_id)
            return self._keyed("signals", self._signal(account))
        if dice < 0.85:
            return self._keyed("fills", self._fill(account), account.account_id)
        if dice < 0.92:
            return self._keyed("controls", self._control(account))
        return self._keyed("policies", self._policy(account))

    def _is_fresh(self, account: Account) -> bool:
        usable = account.usable
        return usable is not None and self.now_ms - usable.as_of_ms <= duration_ms(self.gate.limits["max_pnl_age"])

    def _keyed(self, topic: str, value: Json, key: str | None = None) -> tuple[str, bytes | None, bytes | None]:
        if topic in self.sent:
            self.sent[topic].append(value)
        key = key or value.get("name" if topic == "policies" else "account_id")
        usable_key = None if not isinstance(key, str) or self.rng.random() < 0.05 else key.encode("utf-8", "replace")
        if self.rng.random() < 0.005:
            usable_key = b"\xff\xfe"
        return topic, usable_key, encode(value).encode("utf-8")

    def _spoil(self, value: bytes) -> bytes | None:
        return self.rng.choice(
            [
                None,
                b"",
                value[: len(value) // 2],
                b"[" + value + b"]",
                b"\xff" + value,
                b"null",
                b'{"a":' * 150 + b"1" + b"}" * 150,
                value[:-1] + b',"note":"' + "ø".encode() * 3_000 + b'"',
                value[:-1] + b',"note":"' + "æøå€".encode() * 1_000 + b'"}',
            ]
        )

    # ------------------------------------------------------------------------------------------------------- amounts

    def _amount(self, amount: Fraction) -> Any:
        """One of the ways to write an amount."""
        text = str(write_amount(amount))
        dice = self.rng.random()
        if dice < 0.7:
            return text
        if dice < 0.9:
            return Raw(text)
        if dice < 0.95:
            return f"{round(amount * 10**12)}e-12"
        return "+" + text if amount >= 0 else text

    def _near(self, amount: Fraction, share: str) -> Fraction:
        """The amount moved by up to a share of it, to six places."""
        moved = amount * (1 + exactly(share) * self.rng.randint(-100, 100) / 100)
        return Fraction(round(moved * 10**6), 10**6)

    def _written(self, amount: Fraction, places: int = 8) -> Fraction:
        """The amount itself where 12 places can hold it, else rounded down."""
        if (amount * 10**12).denominator == 1:
            return amount
        return Fraction(amount * 10**places // 1, 10**places)

    def _time(self, moment_ms: int) -> str:
        text = str(write_time(moment_ms))
        dice = self.rng.random()
        if dice < 0.8:
            return text
        if dice < 0.9:
            return text[:-1] + "+00:00"
        return str(write_time(moment_ms + 7_200_000))[:-1] + "+02:00"

    # ----------------------------------------------------------------------------------------------------------- pnl

    def _pnl(self, account: Account) -> Json:
        rng = self.rng
        equity, flow = self._equity(account)
        as_of_ms = self.now_ms
        if rng.random() < 0.2:
            as_of_ms += rng.choice([-100, -2_000, -59_000, -61_000, 4_000])
        if rng.random() < 0.04 and account.periods:
            as_of_ms = account.periods["day"].start_ms + rng.choice([-1, 0, 1])
        sequence = (account.sequence or 0) + rng.choice([1, 1, 1, 1, 7])
        update: Json = {
            "account_id": account.account_id,
            "sequence": Raw(str(sequence)),
            "equity": self._amount(equity),
            "as_of": self._time(as_of_ms),
        }
        if account.config["base"] != "equity" or rng.random() < 0.2:
            update["balance"] = self._amount(self._near(equity, "0.004"))
        if flow or rng.random() < 0.3:
            update["cash_flow"] = self._amount(flow)
        if rng.random() < 0.5:
            names = rng.sample(list(PRICES), 2)
            update["marks"] = {name: self._amount(self._near(exactly(PRICES[name]), "0.02")) for name in names}
        if rng.random() < (0.5 if "currency" in account.config else 0.05):
            update["rates"] = {
                name: self._amount(exactly(rate))
                for name, rate in (("USD", "1.05"), ("JPY", "0.0067"), ("NOK", "0.125"), ("GOLD", "1"))
                if rng.random() < 0.95
            }
        if rng.random() < 0.12:
            self._break_pnl(update, account)
        return update

    def _break_pnl(self, update: Json, account: Account) -> None:
        rng = self.rng
        name, value = rng.choice(
            [
                ("equity", rng.choice(NOT_FINITE)),
                ("equity", rng.choice(UNREADABLE)),
                ("equity", None),
                ("balance", rng.choice([*NOT_FINITE, "abc", None])),
                ("cash_flow", rng.choice(NOT_FINITE)),
                ("cash_flow", "ten"),
                ("marks", {"BTC-USD": rng.choice(["0", "-1", "NaN", "x"])}),
                ("rates", {"USD": "0"}),
                ("rates", []),
                ("as_of", rng.choice(NOT_TIMES)),
                ("as_of", write_time(self.now_ms + 5_000)),
                ("as_of", write_time(self.now_ms + 5_001)),
                ("sequence", Raw(str(account.sequence or 0))),
                ("sequence", Raw(str((account.sequence or 0) - 3))),
                ("sequence", rng.choice(["7", Raw("7.0"), Raw("9e3"), Raw("9223372036854775808"), None, True])),
                ("account_id", rng.choice(["nobody", "", 7, None])),
            ]
        )
        update[name] = value
        if name == "equity" and rng.random() < 0.5:
            update["cash_flow"] = self._amount(Fraction(rng.choice([500, -250])))

    def _equity(self, account: Account) -> tuple[Fraction, Fraction]:
        """The next equity, and the cash flow in it."""
        rng = self.rng
        if account.update is None:
            return Fraction(rng.choice([10_000, 10_000, 12_345, 100_000, 0])), Fraction(rng.choice([0, 10_000]))
        last = account.update.equity
        dice = rng.random()
        if last <= 0:
            funded = Fraction(rng.choice([10_000, 5_000]))
            return rng.choice(
                [(last, Fraction(0)), (funded, funded - last), (funded, Fraction(0)), (Fraction(-50), Fraction(0))]
            )
        if dice < 0.5:
            return self._near(last, "0.002"), Fraction(0)
        if dice < 0.65:
            return self._aimed_equity(account), Fraction(0)
        if dice < 0.8:
            return self._near(max(account.bases.values()), "0.001"), Fraction(0)
        if dice < 0.87:
            return self._near(account.bases[TRAILING] * Fraction(101, 100), "0.005"), Fraction(0)
        if dice < 0.97:
            share = rng.choice([Fraction(1, 10), Fraction(1, 4), Fraction(-1, 5), Fraction(-1, 3), Fraction(1, 7)])
            flow = Fraction(round(last * share * 100), 100)
            gain = rng.choice([Fraction(0), self._near(last, "0.004") - last])
            return last + gain + flow, flow
        if dice < 0.99:
            return Fraction(0), -last
        return Fraction(rng.choice([0, -100])), Fraction(0)

    def _aimed_equity(self, account: Account) -> Fraction:
        """An equity at a limit, or at a warning's tier of it, or an atom beside it."""
        rng = self.rng
        settings = self.gate._settings(account.profile)
        reason, limit = rng.choice(list(self.gate._drawdown_limits(settings).items()))
        share = rng.choice([Fraction(1), Fraction(1), Fraction(1), Fraction(1, 2), Fraction(4, 5), Fraction(3, 2)])
        base = account.bases[reason]
        aim = base - share * limit * (account.initial_capital or base)
        if account.account_id in self.inexact:
            # Rounding may put a decimal base on either side of an exact hit.
            return self._written(aim, 6) + rng.choice([-1, 1]) * Fraction(1, 10**4)
        return self._written(aim) + rng.choice(NUDGES)

    # ------------------------------------------------------------------------------------------------------- signals

    def _signal(self, account: Account) -> Json:
        rng = self.rng
        if self.sent["signals"] and rng.random() < 0.05:
            return dict(rng.choice(self.sent["signals"]), quantity="1")
        instrument = rng.choice(list(PRICES))
        price = self._price(account, instrument)
        side = rng.choice(["buy", "buy", "buy", "sell"])
        stop = self._written(price * (Fraction(98, 100) if side == "buy" else Fraction(102, 100)), 4)
        signal: Json = {
            "signal_id": f"s{self.count}",
            "account_id": account.account_id,
            "strategy_id": rng.choice([*STRATEGIES, "trend", "trend", "mean", "mean"]),
            "instrument": instrument,
            "side": side,
            "quantity": self._amount(self._entry_quantity(account, instrument, price, stop)),
            "price": self._amount(price),
            "stop_loss": self._amount(stop),
            "created_at": self._time(self.now_ms - rng.choice([0, 0, 500, 2_000])),
        }
        if account.held and rng.random() < 0.3:
            self._make_exit(signal, account)
        for name, value, odds in (
            ("leverage", self._amount(exactly(rng.choice(["1", "1", "2", "3", "3.5", "6"]))), 0.25),
            ("venue", rng.choice([*account.venues, *account.venues, *VENUES, "nowhere"]), 0.15),
            ("reduce_only", rng.random() < 0.4, 0.15),
            ("expires_at", self._time(self.now_ms + rng.choice([-1, 0, 1, 5_000, 5_000, 60_000])), 0.12),
        ):
            if rng.random() < odds:
                signal[name] = value
        if rng.random() < 0.14:
            self._break_signal(signal)
        return signal

    def _price(self, account: Account, instrument: str) -> Fraction:
        """Near the mark; sometimes on the collar's edge, or beside it."""
        mark = account.mark(instrument) or exactly(PRICES[instrument])
        collar = self.gate.limits.get("price_collar")
        if collar is None or self.rng.random() < 0.8:
            return self._near(mark, "0.01")
        return mark * (1 + exactly(collar) * self.rng.choice([-1, 1])) + self.rng.choice(NUDGES)

    def _entry_quantity(self, account: Account, instrument: str, price: Fraction, stop: Fraction) -> Fraction:
        """Mostly small; sometimes exactly what leverage or risk allows, or just beyond."""
        rng = self.rng
        settings = self.gate._settings(account.profile)
        usable = account.usable
        rate = account.rate(instrument)
        equity = Fraction(10_000) if usable is None or usable.equity <= 0 else usable.equity
        at_once = exactly(settings["max_trade_risk"]) * equity / abs(price - stop)
        dice = rng.random()
        if dice < 0.7 or rate is None:
            if account.held and rng.random() < 0.1:
                return Fraction(1, 1_000)
            return max(self._written(at_once * rng.randint(5, 90) / 100, 4), Fraction(1, 10_000))
        if dice < 0.85:
            risk = self.gate._trade_risk(account, instrument, Fraction(1), price, stop)
            quantity = exactly(settings["max_trade_risk"]) * equity / risk
        else:
            notional = self.gate._order_notional(account, instrument, Fraction(1), price)
            quantity = exactly(settings["max_leverage"]) * equity / notional
        return max(self._written(quantity) + rng.choice(NUDGES), Fraction(1, 10_000))

    def _make_exit(self, signal: Json, account: Account) -> None:
        """Turn the signal into one that goes against a position."""
        rng = self.rng
        instrument, venue, held = rng.choice(account.held)
        working = sum(order.left for order in account.open_orders if order.is_exit and order.instrument == instrument)
        free = max(Fraction(0), abs(held.quantity) - working)
        share = rng.choice([Fraction(1), Fraction(1), Fraction(1, 2), Fraction(1, 3), Fraction(2)])
        quantity = max(self._written(free * share, 6) + rng.choice(NUDGES[:4]), Fraction(1, 10**6))
        mark = account.mark(instrument)
        assert mark is not None
        signal.update(
            instrument=instrument,
            side="sell" if held.quantity > 0 else "buy",
            quantity=self._amount(quantity),
            price=self._amount(self._near(mark, "0.01")),
        )
        if rng.random() < 0.7:
            signal["stop_loss"] = None
        if rng.random() < 0.3:
            signal["venue"] = venue
        if rng.random() < 0.3:
            signal["reduce_only"] = True

    def _break_signal(self, signal: Json) -> None:
        rng = self.rng
        horizon_ms = self.gate._dedup_ms()
        name, value = rng.choice(
            [
                ("signal_id", rng.choice(["", None, 7, "\ud800", "s" * 257])),
                ("account_id", rng.choice(["nobody", "nobody", 7, "", None, None, None])),
                ("strategy_id", rng.choice([None, 7])),
                ("instrument", rng.choice([None, "", ["BTC-USD"]])),
                ("side", rng.choice([None, "BUY", "hold"])),
                ("quantity", rng.choice([*UNREADABLE, None])),
                ("quantity", rng.choice([*NOT_FINITE, "0", "-1", "1e-13"])),
                ("price", rng.choice([*UNREADABLE, None])),
                ("price", rng.choice([*NOT_FINITE, "0", "-1"])),
                ("stop_loss", rng.choice([*UNREADABLE, *NOT_FINITE, "0", "-1"])),
                ("stop_loss", rng.choice([None, signal["price"]])),
                ("leverage", rng.choice([*UNREADABLE, *NOT_FINITE, "0", "-2"])),
                ("reduce_only", rng.choice(["true", 1])),
                ("venue", rng.choice([7, ""])),
                ("created_at", rng.choice([*NOT_TIMES, None])),
                ("created_at", write_time(self.now_ms + rng.choice([-30_001, -30_000, 30_000, 30_001, -5_001]))),
                ("created_at", write_time(self.now_ms - horizon_ms - rng.choice([0, 1, 60_000]))),
                ("expires_at", rng.choice(NOT_TIMES)),
            ]
        )
        signal[name] = value

    # --------------------------------------------------------------------------------------------------------- fills

    def _fill(self, account: Account) -> Json:
        rng = self.rng
        if self.sent["fills"] and rng.random() < 0.06:
            return dict(rng.choice(self.sent["fills"]))
        fill: Json = {
            "fill_id": f"f{self.count}",
            "order_id": None,
            "account_id": account.account_id,
            "filled_at": self._time(self.now_ms - rng.choice([0, 100, 1_000])),
        }
        orders = list(account.orders.values())
        working = account.open_orders
        if working and rng.random() < 0.85:
            self._fill_order(fill, rng.choice(working))
        elif orders and rng.random() < 0.6:
            self._fill_order(fill, rng.choice(orders))
        else:
            self._fill_by_hand(fill, account)
        if rng.random() < 0.3:
            fill["fee"] = self._amount(exactly(rng.choice(["1.25", "0", "-0.5"])))
        if rng.random() < 0.1:
            fill["venue"] = rng.choice(account.venues)
        if rng.random() < 0.1:
            self._break_fill(fill)
        return fill

    def _fill_order(self, fill: Json, order: Order) -> None:
        rng = self.rng
        left = order.left or order.quantity
        kind = rng.random()
        if kind < 0.45:
            quantity, status = left, "filled"
        elif kind < 0.7:
            quantity, status = self._written(left / 2, 6), "partially_filled"
        elif kind < 0.78:
            quantity, status = left, "partially_filled"
        elif kind < 0.86:
            quantity, status = left * rng.choice([2, 3]), rng.choice(["filled", "partially_filled"])
        else:
            quantity, status = Fraction(0), rng.choice(["cancelled", "rejected", "expired"])
            if rng.random() < 0.3:
                quantity = self._written(left / 4, 6)
        fill.update(
            order_id=order.order_id,
            instrument=order.instrument,
            side=order.side,
            quantity=self._amount(quantity),
            price=None if quantity == 0 and rng.random() < 0.5 else self._amount(self._near(order.price, "0.004")),
            status=status,
        )

    def _fill_by_hand(self, fill: Json, account: Account) -> None:
        """A trade that the gate did not approve, or one that closes a position."""
        rng = self.rng
        instrument = rng.choice(list(PRICES))
        quantity, side = Fraction(rng.choice([1, 2, 3]), rng.choice([10, 100, 1_000])), rng.choice(["buy", "sell"])
        if account.held and rng.random() < 0.6:
            instrument, venue, held = rng.choice(account.held)
            quantity, side = abs(held.quantity) * rng.choice([1, 1, 2]), "sell" if held.quantity > 0 else "buy"
            fill["venue"] = venue
        fill.update(
            instrument=instrument,
            side=side,
            quantity=self._amount(quantity),
            price=self._amount(self._near(exactly(PRICES[instrument]), "0.01")),
            status="filled",
            order_id=rng.choice([None, None, None, f"o-unknown{self.count}"]),
        )

    def _break_fill(self, fill: Json) -> None:
        rng = self.rng
        name, value = rng.choice(
            [
                ("fill_id", rng.choice([None, 7, ""])),
                ("order_id", rng.choice([7, ""])),
                ("account_id", rng.choice(["nobody", "nobody", None, 7])),
                ("instrument", rng.choice([None, 7])),
                ("side", rng.choice([None, "both"])),
                ("quantity", rng.choice([*UNREADABLE, *NOT_FINITE, "-1", None])),
                ("price", rng.choice([*NOT_FINITE, "0", "-1"])),
                ("fee", rng.choice([*UNREADABLE, *NOT_FINITE])),
                ("status", rng.choice([None, "done"])),
                ("filled_at", rng.choice([*NOT_TIMES, None])),
                ("filled_at", write_time(self.now_ms - self.gate._dedup_ms() - rng.choice([0, 1]))),
                ("filled_at", write_time(self.now_ms + 60_000)),
                ("venue", 7),
            ]
        )
        fill[name] = value
        if name != "account_id" and rng.random() < 0.8:
            self._later("controls", lambda: self._command(str(fill["account_id"]), "resume"))

    # ------------------------------------------------------------------------------------------------------ controls

    def _later(self, topic: str, make: Callable[[], Json]) -> None:
        self.later.append((self.count + self.rng.randint(2, 12), lambda: (topic, make())))

    def _command(self, account_id: str, kind: str, **more: Any) -> Json:
        return {
            "command_id": f"c{self.count}-{self.rng.randint(0, 999)}",
            "account_id": account_id,
            "type": kind,
            "operator": "ann",
            "approved_by": "bob" if self.rng.random() < 0.9 else self.rng.choice([None, "ann", ""]),
            "reason": "reviewed with desk",
            "issued_at": self._time(self.now_ms),
            **more,
        }

    def _control(self, account: Account) -> Json:
        rng = self.rng
        if self.sent["controls"] and rng.random() < 0.08:
            return dict(rng.choice(self.sent["controls"]))
        rung = PROFILES.index(account.profile)
        if account.locks and rng.random() < 0.7:
            kind = "unlock"
        else:
            kind = rng.choice(["lock", "unlock", "set_profile", "set_profile", "halt", "resume", "release_order"])
        command = self._command(account.account_id, kind)
        if kind == "unlock":
            command["rebase"] = rng.choice(["keep", "now", "now", None])
            if rng.random() < 0.3:
                command["profile"] = rng.choice(PROFILES)
        elif kind == "set_profile":
            command["profile"] = PROFILES[max(0, min(3, rung + rng.choice([-2, -1, 0, 1, 1, 2])))]
        elif kind == "release_order":
            orders = list(account.orders)
            command["order_id"] = rng.choice(orders) if orders and rng.random() < 0.9 else "o-nothing"
        elif kind in ("lock", "halt") and rng.random() < 0.8:
            undo = {"lock": "unlock", "halt": "resume"}[kind]
            self._later("controls", lambda: self._command(account.account_id, undo))
        if rng.random() < 0.1:
            name, value = rng.choice(
                [
                    ("command_id", rng.choice([None, 7])),
                    ("account_id", rng.choice(["nobody", None, 7])),
                    ("type", rng.choice(["explode", None])),
                    ("operator", rng.choice(["", None])),
                    ("down_only", rng.choice([True, True, False, None, "yes"])),
                    ("reason", None),
                    ("issued_at", rng.choice(NOT_TIMES)),
                    ("rebase", "later"),
                    ("profile", "huge"),
                ]
            )
            command[name] = value
        return command

    # ------------------------------------------------------------------------------------------------------ policies

    def _policy(self, account: Account) -> Json:
        rng = self.rng
        if self._is_fresh(account) and not account.locks and rng.random() < 0.3:
            return self._tightened(account)
        scope = rng.choice(["global", f"venue/{rng.choice(VENUES)}", f"strategy/{rng.choice(STRATEGIES)}"])
        profile = rng.choice(PROFILES)
        accounts = list(self.gate.accounts)
        name, rule = rng.choice(
            [
                (f"state/{scope}", {"state": rng.choice(["ACTIVE", "REDUCING", "REDUCING", "HALTED"])}),
                (f"state/{scope}", rng.choice([{"state": "OFF"}, {}, "HALTED", [], {"state": None}])),
                *[(f"venue/{venue}", {"up": False}) for venue in account.venues[:2]],
                (f"venue/{rng.choice(VENUES)}", {"up": rng.choice([True, "no", None])}),
                (f"profile/{profile}", profile_changes(rng)),
                (f"profile/{profile}", {rng.choice(["max_daily_drawdown", "max_weekly_drawdown"]): "0.0025"}),
                (f"profile/{profile}", {"max_trade_risk": "0.02", "headroom": False}),
                (f"profile/{profile}", rng.choice([{"max_leverage": "0"}, {"breach": "touch"}, {"depth": 1}, 5])),
                ("profile/huge", {"max_leverage": "2"}),
                ("strategies", {"blacklist": [rng.choice(STRATEGIES)]}),
                ("strategies", {"whitelist": rng.sample(STRATEGIES, 2)}),
                (f"strategies/{profile}", {"whitelist": rng.sample(STRATEGIES, 3), "blacklist": []}),
                ("strategies", rng.choice([{"greylist": []}, {"whitelist": "trend"}, {"blacklist": [7]}])),
                ("rollout", {"phase": rng.choice([Raw("2"), "pilot"]), "accounts": rng.sample(accounts, 2)}),
                ("rollout", {"phase": "pilot", "profiles": [profile, "micro"], "venues": rng.sample(VENUES, 2)}),
                ("rollout", rng.choice([{"accounts": []}, {"phase": Raw("1.5")}, {"phase": "x", "venues": "kraken"}])),
                ("weather", {"rain": True}),
            ]
        )
        if rng.random() < 0.5:
            self._later("policies", lambda: self._ended(name))
        elif rng.random() < 0.8:
            self._later("policies", lambda: {"name": name, "rule": None, "operator": "ann", "reason": "over"})
        return {"name": name, "rule": rule, "operator": "ann", "reason": "test", "issued_at": self._time(self.now_ms)}

    def _ended(self, name: str) -> Json:
        """The end of a temporary rule: mostly of the one in force, sometimes of another or of none."""
        version = self.gate.ruling_versions.get(name, 1)
        reverts = self.rng.choice([version, version, version, version + 1, max(1, version - 1), Raw("0"), "1", None])
        rule = self.rng.choice([None, None, {"state": "REDUCING"}, {"up": False}])
        return {"name": name, "rule": rule, "reverts": reverts, "operator": "tidegate", "reason": "expired"}

    def _tightened(self, account: Account) -> Json:
        """A policy that puts a limit at what the account has lost by now, or just beside it; a signal follows."""
        rng = self.rng
        assert account.update is not None
        key, reason = rng.choice(LIMIT_KEYS)
        drawdown = self.gate._drawdown(account, account.bases[reason], account.update.equity)
        exact = (drawdown * 10**12).denominator == 1 and account.account_id not in self.inexact
        limit = drawdown + rng.choice(NUDGES[:4]) if exact else self._written(drawdown, 4)
        rule = {key: str(write_amount(min(max(limit, Fraction(1, 10_000)), Fraction(1))))}
        name = f"profile/{account.profile}"
        self.later.append((self.count + 1, lambda: ("signals", self._signal(account))))
        self._later("policies", lambda: {"name": name, "rule": None})
        return {"name": name, "rule": rule}
