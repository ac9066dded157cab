"""Lines, limits and marks as SVG paths, and the labels that are laid over them.

All of it is in percent of the chart's box, so that charts stretch with the page while labels and flags, which are
HTML, keep their size. Coordinates are floats: they are ink, not amounts.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from typing import NamedTuple

from streams.demo.chronicle import Point
from streams.demo.market import HOUR_MS

ABOVE = 0.08
FACTORS = (0.1, 0.2, 0.25, 0.5, 1, 2, 2.5, 5)


class Frame(NamedTuple):
    """What a chart shows: a span of time, and amounts from `low` (bottom) to `high` (top)."""

    start_ms: int
    end_ms: int
    low: float
    high: float

    def x(self, at_ms: int) -> float:
        """Percent from the left."""
        return 100 * (at_ms - self.start_ms) / (self.end_ms - self.start_ms)

    def y(self, amount: Decimal | float) -> float:
        """Percent from the top."""
        return 100 * (1 - (float(amount) - self.low) / (self.high - self.low))


def frame(start_ms: int, end_ms: int, amounts: Sequence[Decimal], below: float) -> Frame:
    """A frame around the amounts, with the fraction `below` of their span left free under them."""
    low, high = float(min(amounts)), float(max(amounts))
    span = (high - low) or abs(high) * 0.01 or 1.0
    return Frame(start_ms, end_ms, low - below * span, high + ABOVE * span)


def line(box: Frame, samples: Iterable[tuple[int, Decimal]]) -> str:
    """A path through the samples. Where an amount holds, only the ends of its run are drawn."""
    kept: list[tuple[int, Decimal]] = []
    for sample in samples:
        if len(kept) > 1 and kept[-1][1] == kept[-2][1] == sample[1]:
            kept[-1] = sample
        else:
            kept.append(sample)
    return "M" + "L".join(f"{box.x(at_ms):.3f} {box.y(amount):.2f}" for at_ms, amount in kept)


def steps(box: Frame, curve: Sequence[Point], level: Callable[[Point], Decimal]) -> str:
    """A staircase: each level holds until the next begins."""
    path = f"M0 {box.y(level(curve[0])):.2f}"
    for before, after in pairwise(curve):
        if level(before) != level(after):
            path += f"H{box.x(after.at_ms):.3f}V{box.y(level(after)):.2f}"
    return path + "H100"


def rug(box: Frame, kind: str, times_ms: Iterable[int], top: float, bottom: float) -> str:
    """A stroke for each time between two heights, as one path."""
    marks = "".join(f"M{box.x(at_ms):.3f} {top}V{bottom}" for at_ms in times_ms)
    return f'<path class="rug {kind}" d="{marks}"/>' if marks else ""


def grid(box: Frame) -> str:
    """A hairline at each labelled amount."""
    lines = "".join(f"M0 {box.y(amount):.2f}H100" for amount in _round_amounts(box))
    return f'<path class="grid-line" d="{lines}"/>'


def labels(box: Frame) -> str:
    """Amounts beside the chart, times below it."""
    amounts = "".join(
        f'<span class="y" style="top:{box.y(amount):.2f}%">{amount:,.0f}</span>' for amount in _round_amounts(box)
    )
    return amounts + "".join(_times(box))


def date(at_ms: int) -> str:
    """A day as people write it: 8 Dec."""
    day = datetime.fromtimestamp(at_ms / 1000, UTC)
    return f"{day.day} {day:%b}"


def clock(at_ms: int) -> str:
    """Day and time in UTC: 8 Dec 14:20."""
    return f"{date(at_ms)} {datetime.fromtimestamp(at_ms / 1000, UTC):%H:%M}"


def _round_amounts(box: Frame) -> list[float]:
    """Three to six round amounts between bottom and top."""
    span = box.high - box.low
    unit: float = 10 ** (len(str(int(span))) - 1) if span >= 1 else 0.1
    step = next(unit * factor for factor in FACTORS if span / (unit * factor) <= 5.5)
    return [step * number for number in range(int(box.low // step) + 1, int(box.high // step) + 1)]


def _times(box: Frame) -> Iterator[str]:
    hours = (box.end_ms - box.start_ms) // HOUR_MS
    step_h = next((step for step in (1, 6, 12, 24, 48, 120) if hours / step <= 7), 240)
    for number, at_ms in enumerate(range(box.start_ms, box.end_ms, step_h * HOUR_MS)):
        text = date(at_ms) if step_h >= 24 else clock(at_ms)
        minor = " minor" if number % 2 else ""
        yield f'<span class="x{minor}" style="left:{box.x(at_ms):.2f}%">{text}</span>'
