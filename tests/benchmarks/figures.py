"""Figures as they are printed: one JSON line each, with the goal that a figure is held against."""

import json
import statistics
from collections.abc import Iterable
from typing import NamedTuple


class Median(NamedTuple):
    """Of several runs, with their spread."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{_rounded(self.value)} ({_rounded(self.low)}–{_rounded(self.high)})"


def median_of(values: Iterable[float]) -> Median:
    """Raises statistics.StatisticsError without any value."""
    listed = list(values)
    return Median(statistics.median(listed), min(listed), max(listed))


class Figure(NamedTuple):
    """One measured value; ``ratio`` compares it with ``against``, ``goal`` is what the ratio should be."""

    figure: str
    value: float
    unit: str
    against: str | None = None
    ratio: float | None = None
    goal: str | None = None
    """``>= x`` or ``<= x``."""

    @property
    def met(self) -> bool | None:
        if self.goal is None or self.ratio is None:
            return None
        relation, _, limit = self.goal.partition(" ")
        return self.ratio >= float(limit) if relation == ">=" else self.ratio <= float(limit)

    def line(self) -> str:
        """The figure as one line of JSON."""
        fields = self._asdict() | {"value": _number(self.value), "met": self.met}
        if self.ratio is not None:
            fields["ratio"] = _number(self.ratio)
        return json.dumps(fields, ensure_ascii=False)


def percentile(values: Iterable[float], share: float) -> float:
    """The smallest value that at least ``share`` of all are not above. Raises ValueError without any."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values")
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def _number(value: float) -> float:
    return float(f"{value:.4g}")


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:.3g}" if abs(value) < 10 else f"{value:.1f}"
