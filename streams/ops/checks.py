"""The checks of one signal as a person reads them: what each asks, what it observed, and how much was left.

The sentence of a check is the gate's own (its docstring in :mod:`streams.core.guard`): it says what has to hold.
"""

from collections.abc import Iterable
from decimal import Decimal
from typing import Any, NamedTuple

from rich.table import Table
from rich.text import Text

from schemas.types import write_amount
from streams.core.guard import RULES, Check, Figure
from streams.core.step import ARITHMETIC
from streams.ops.terminal import plain_table

MEANINGS = {rule.code: " ".join((rule.check.__doc__ or "").replace("``", "`").split()) for rule in RULES}
"""What has to hold, by code."""
# Codes whose limit is a floor; a buy's stop has to be below its price, a sell's above it.
_FLOORS = ("EXPIRED_SIGNAL", "INVALID_PRICE", "INVALID_QUANTITY")
# Its count has to be 0, and its limit is where the account locks.
_WITHOUT_MARGIN = ("DRAWDOWN_UNCONFIRMED",)


class CheckLine(NamedTuple):
    """One check. ``margin``: how far ``observed`` is within its limit, in its unit; below 0 outside of it."""

    code: str
    passed: bool
    observed: str | None
    limit: str | None
    margin: str | None
    unit: str
    scope: str


def check_line(code: str, check: Check, side: str | None) -> CheckLine:
    """One check as the gate made it, unrounded."""
    margin = _margin(code, check.observed, check.limit, check.unit, side)
    return CheckLine(
        code, check.passed, _written(check.observed), _written(check.limit), _written(margin), check.unit, check.scope
    )


def published_line(check: dict[str, Any], side: str | None) -> CheckLine:
    """One check of an approval, or one reason of a rejection, as it was published."""
    code, observed, limit, unit = check["code"], check["observed"], check["limit"], check["unit"]
    margin = _margin(code, observed, limit, unit, side)
    return CheckLine(code, check.get("passed", False), observed, limit, _written(margin), unit, check["scope"])


def _margin(code: str, observed: Figure, limit: Figure, unit: str, side: str | None) -> Decimal | None:
    if observed is None or limit is None or unit == "name" or code in _WITHOUT_MARGIN:
        return None
    seen, bound = Decimal(observed), Decimal(limit)
    if not seen.is_finite():
        return None
    is_floor = code in _FLOORS or (code == "STOP_LOSS_REQUIRED" and side == "sell")
    return ARITHMETIC.subtract(seen, bound) if is_floor else ARITHMETIC.subtract(bound, seen)


def _written(figure: Figure) -> str | None:
    if figure is None or isinstance(figure, str):
        return figure
    return write_amount(Decimal(figure))


def checks_table(lines: Iterable[CheckLine]) -> Table:
    """All checks in the order in which they were made."""
    table = plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("Check", no_wrap=True)
    for heading in ("Observed", "Limit", "Margin"):
        table.add_column(heading, justify="right", overflow="fold")
    table.add_column("Unit", style="dim", no_wrap=True)
    table.add_column("Has to hold", style="dim", overflow="fold")
    for line in lines:
        table.add_row(
            Text("✓" if line.passed else "✗", style="green" if line.passed else "bold red"),
            Text(line.code, style="" if line.passed else "bold red"),
            Text(line.observed or "–"),
            Text(line.limit or "–"),
            Text(line.margin or "–", style="" if line.passed else "red"),
            Text(f"{line.unit}, {line.scope}"),
            Text(MEANINGS.get(line.code, "")),
        )
    return table


def check_document(line: CheckLine) -> dict[str, Any]:
    """One check as JSON."""
    return {**line._asdict(), "meaning": MEANINGS.get(line.code, "")}
