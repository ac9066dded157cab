"""The closing table: what became of every account's signals, when it locked and at which equity."""

from collections.abc import Iterable

from rich import box
from rich.table import Table
from rich.text import Text

from streams.demo.chronicle import Lock, Story
from streams.demo.market import time_text

STYLES = {"micro": "cyan", "low": "green", "normal": "yellow", "aggressive": "magenta"}


def table(stories: Iterable[Story]) -> Table:
    """One row per account. It holds nothing but what followed from the market, so that two runs print the same."""
    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    grid.add_column("account", no_wrap=True)
    for heading in ("signals", "approved", "rejected"):
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("by code")
    grid.add_column("dead letters")
    grid.add_column("locked (UTC), equity then")
    grid.add_column("equity", justify="right", no_wrap=True)
    for story in stories:
        profile = story.account.profile
        grid.add_row(
            Text.assemble(story.account.name, "\n", (profile, STYLES[profile]), "\n", (story.account.timezone, "dim")),
            str(story.signals),
            str(story.approved),
            str(story.rejected.total()),
            _lines(f"{code} {count}" for code, count in sorted(story.rejected.items())),
            _lines(f"{reason} {count}" for reason, count in sorted(story.dead_letters.items())),
            _lines(map(_lock, story.locks)),
            f"{story.equity:,.2f}",
            end_section=True,
        )
    return grid


def moment(at_ms: int) -> str:
    """An instant as people write it: 2017-12-08 14:20."""
    return time_text(at_ms)[:16].replace("T", " ")


def _lock(lock: Lock) -> str:
    reason = lock.reason.removesuffix("_DRAWDOWN").lower()
    until = "" if lock.until_ms is None else f"\n{moment(lock.until_ms)[5:]} unlocked"
    return f"{moment(lock.at_ms)[5:]} {reason} {lock.equity:,.2f}{until}"


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts) or "–"
