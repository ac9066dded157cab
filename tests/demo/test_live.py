import io
from decimal import Decimal

import pytest
from rich.console import Console

from streams.demo.accounts import ACCOUNTS
from streams.demo.desk import Desk
from streams.demo.live import Lines, Screen, gauge, spark
from streams.demo.market import hours, ticks
from streams.demo.summary import table
from tests.demo.conftest import TWO_DAYS
from tests.demo.inprocess import InProcessGate


def rendered(console: Console, shown: object) -> str:
    with console.capture() as capture:
        console.print(shown)
    return capture.get()


@pytest.mark.parametrize(("width", "height"), [(160, 50), (80, 24)])
def test_the_screen_shows_accounts_decisions_and_locks(
    two_days: tuple[Desk, InProcessGate], width: int, height: int
) -> None:
    console = Console(width=width, height=height, file=io.StringIO())
    screen = Screen(console, two_days[0].chronicle, TWO_DAYS, "2 workers")
    last = list(ticks(hours(TWO_DAYS)))[-1]
    screen(last)
    text = rendered(console, screen.render(last))
    assert max(map(len, text.splitlines())) <= width
    assert "2017-12-03 00:00 UTC" in text
    assert "bar 48/48" in text
    for account in ACCOUNTS:
        assert account.name[:6] in text
    assert "DAILY" in text


def test_plain_lines_tell_days_locks_and_unlocks_once(two_days: tuple[Desk, InProcessGate]) -> None:
    told: list[str] = []
    lines = Lines(told.append, two_days[0].chronicle)
    for tick in ticks(hours(TWO_DAYS)):
        lines(tick)
    assert [line.split()[2] for line in told] == ["lock", "unlock", "day", "day"]
    assert "alpha_bybit: DAILY_DRAWDOWN" in told[0]


@pytest.mark.parametrize(
    ("part", "cells", "style"),
    [
        ("0", 0, "green"),
        ("0.0099", 6, "green"),
        ("0.01", 7, "yellow"),
        ("0.016", 11, "red"),
        ("0.02", 14, "red"),
        ("0.5", 14, "red"),
    ],
)
def test_a_gauge_is_full_at_its_limit(part: str, cells: int, style: str) -> None:
    bar = gauge(Decimal(part), Decimal("0.02"))
    lit = next((span.end - span.start for span in bar.spans if span.style == style), 0)
    assert lit == cells
    assert bar.plain.endswith(f"{Decimal(part):.2%}")


def test_a_spark_spans_lowest_to_highest() -> None:
    assert spark([Decimal(n) for n in (1, 4, 8)]) == "▁▄█"
    assert spark([Decimal(5), Decimal(5)]) == "▁▁"
    assert spark([]) == ""


def test_the_closing_table_has_a_row_for_every_account(two_days: tuple[Desk, InProcessGate]) -> None:
    stories = two_days[0].chronicle.stories
    text = rendered(Console(width=150, file=io.StringIO()), table(stories.values()))
    for name, story in stories.items():
        row = next(line for line in text.splitlines() if line.strip().startswith(name))
        assert row.split()[1:4] == [str(story.signals), str(story.approved), str(story.rejected.total())]
    assert "12-01 08:40 daily 144,678.78" in text
    assert "12-02 08:00 unlocked" in text
