"""What commands write: results to standard output, messages to standard error, figures as a desk reads them."""

import contextlib
import os
import sys
from collections.abc import Sequence
from decimal import ROUND_FLOOR, Context, Decimal
from typing import Any

import orjson
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.types import write_amount, write_time
from streams.ops.exits import CommandError

# Wide enough for every table: whoever reads a pipe or a file can scroll, a wrapped cell cannot be read.
_PIPE_COLUMNS = 160
_PERCENT = Context(prec=60, rounding=ROUND_FLOOR)
_ROUNDED = Context(prec=60)
_LISTED_MAX = 10
_AGES = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


def stdout() -> Console:
    """The console for results."""
    width = None if sys.stdout.isatty() or os.environ.get("COLUMNS") else _PIPE_COLUMNS
    return Console(width=width, highlight=False)


def stderr() -> Console:
    """The console for messages."""
    return Console(stderr=True, highlight=False)


def plain_table() -> Table:
    """A table without a frame: it may be narrow, copied, or one of several."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 2, 0, 0), pad_edge=False, show_edge=False)


def say(*lines: str | Text) -> None:
    """Results in words, never wrapped by us: they may be copied or searched."""
    console = stdout()
    for line in lines:
        console.print(line, soft_wrap=True, markup=False)


def note(message: str) -> None:
    """A message beside the result."""
    stderr().print(message, style="dim", soft_wrap=True, markup=False)


def show_error(error: CommandError) -> None:
    """One error: what is wrong, then what to do about it."""
    console = stderr()
    console.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.remedy:
        console.print(Text(f"  → {error.remedy}", style="dim"), soft_wrap=True)


def print_json(document: Any) -> None:
    """A document for scripts: one line, or indented for a person who looks."""
    option = orjson.OPT_INDENT_2 if sys.stdout.isatty() else 0
    # Flushed here: a reader that has left is noticed while somebody still handles it.
    print(orjson.dumps(document, option=option).decode(), flush=True)


def silence_broken_pipe() -> None:
    """Let the interpreter's last flush go nowhere: the reader (``| head``) has left, which is not worth a word."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def listed(names: Sequence[str]) -> str:
    """Names in a sentence: at most ten of them, so that a long list stays one line."""
    shown = ", ".join(names[:_LISTED_MAX])
    more = len(names) - _LISTED_MAX
    return f"{shown} and {more} more" if more > 0 else shown


# -- figures -------------------------------------------------------------------------------------------------------


def percent(fraction: Decimal) -> str:
    """A fraction as percent with two places, cut: a limit is never shown as reached before it is."""
    return format((fraction * 100).quantize(Decimal("0.01"), context=_PERCENT), "f")


def amount(value: Decimal | None) -> str:
    """An amount with thousands separated, exact."""
    if value is None:
        return "–"
    return format(Decimal(write_amount(value)), ",f")


def money(value: Decimal | None) -> str:
    """An amount to two places, thousands separated."""
    return "–" if value is None else format(value.quantize(Decimal("0.01"), context=_ROUNDED), ",f")


def moment(at_ms: int) -> str:
    """A time to the second, in UTC."""
    return write_time(at_ms // 1000 * 1000).replace("T", " ").replace("Z", " UTC")


def age(at_ms: int, now_ms: int) -> str:
    """How long ago, in its largest unit."""
    seconds = max(0, now_ms - at_ms) // 1000
    for size, unit in _AGES:
        if seconds >= size:
            return f"{seconds // size} {unit} ago"
    return "now"
