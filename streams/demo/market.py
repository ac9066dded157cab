"""Bars, and the ticks that the demo makes of them.

An hourly bar is four prices without an order. The usual convention is followed: a bar that closes at or above its
open is read as open, low, high, close, any other as open, high, low, close. The close is the next bar's open, so a
bar makes three ticks: its open on the hour, its first extreme twenty minutes later and its second another twenty
minutes later.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from importlib import resources
from typing import NamedTuple

HOUR_MS = 3_600_000
TICK_MS = 1_200_000

FILES = {"BTC-USD": "btcusd_1h_2017-12.csv", "EUR-USD": "eurusd_1h_2017-12.csv"}


class Bar(NamedTuple):
    """One hour of one instrument; `start_ms` is its opening time in Unix milliseconds."""

    start_ms: int
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal


class Hour(NamedTuple):
    """The bars of one hour by instrument; a closed market has none."""

    number: int
    start_ms: int
    bars: Mapping[str, Bar]


class Tick(NamedTuple):
    """The market at one instant: the last price of every instrument, and which of them trade at this instant."""

    hour: int
    at_ms: int
    prices: Mapping[str, Decimal]
    trading: frozenset[str]
    opens_bar: bool


def load_bars(instrument: str) -> dict[int, Bar]:
    """The month's bars of an instrument by opening time in milliseconds."""
    text = resources.files("streams.demo").joinpath("data", FILES[instrument]).read_text(encoding="utf-8")
    return {bar.start_ms: bar for bar in map(_bar, csv.DictReader(text.splitlines()))}


def hours(count: int | None = None) -> list[Hour]:
    """The first `count` hours of the month (all 744 without it). Bitcoin trades in each; the euro rests at weekends."""
    by_instrument = {instrument: load_bars(instrument) for instrument in FILES}
    starts = sorted(by_instrument["BTC-USD"])[:count]
    return [
        Hour(number, start, {name: bars[start] for name, bars in by_instrument.items() if start in bars})
        for number, start in enumerate(starts)
    ]


def ticks(month: Sequence[Hour]) -> Iterator[Tick]:
    """Every tick of the month in time order, closed by one that marks the last bar's close."""
    prices: dict[str, Decimal] = {}
    for hour in month:
        for step in range(3):
            prices |= {name: path(bar)[step] for name, bar in hour.bars.items()}
            yield Tick(hour.number, hour.start_ms + step * TICK_MS, dict(prices), frozenset(hour.bars), step == 0)
        prices |= {name: bar.close for name, bar in hour.bars.items()}
    if month:
        yield Tick(month[-1].number, month[-1].start_ms + HOUR_MS, dict(prices), frozenset(), False)


def path(bar: Bar) -> tuple[Decimal, Decimal, Decimal]:
    """Open, first and second extreme of a bar, in the order that the convention above reads them."""
    if bar.close >= bar.open:
        return bar.open, bar.low, bar.high
    return bar.open, bar.high, bar.low


def time_text(at_ms: int) -> str:
    """Unix milliseconds as RFC 3339 in UTC, with milliseconds only when there are any."""
    whole, ms = divmod(at_ms, 1000)
    text = datetime.fromtimestamp(whole, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{text}.{ms:03d}Z" if ms else f"{text}Z"


def time_ms(text: str) -> int:
    """RFC 3339 as Unix milliseconds. Raises ValueError for anything else."""
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"time without an offset: {text!r}")
    return round(moment.timestamp() * 1000)


def _bar(row: Mapping[str, str]) -> Bar:
    low, high = Decimal(row["low"]), Decimal(row["high"])
    return Bar(time_ms(row["time_utc"]), Decimal(row["open"]), high, low, Decimal(row["close"]))
