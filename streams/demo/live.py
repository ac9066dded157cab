"""What a user sees while the demo runs: a live screen on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from decimal import Decimal
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streams.demo.chronicle import Chronicle, Moment, Story
from streams.demo.market import Tick
from streams.demo.summary import STYLES, moment

REFRESH_S = 0.15
GAUGE_CELLS = 14
SPARK_HOURS = 48
SPARKS = "▁▂▃▄▅▆▇█"
KINDS = {
    "approved": ("✓", "green"),
    "exit": ("↓", "cyan"),
    "rejected": ("✗", "red"),
    "lock": ("■", "bold red"),
    "unlock": ("□", "bold green"),
    "warning": ("!", "yellow"),
    "fill": ("·", "dim"),
    "dead-letter": ("?", "magenta"),
}


class Screen:
    """A live screen: the market, every account with its drawdown against its limits, the last decisions, all locks."""

    def __init__(self, console: Console, chronicle: Chronicle, bars: int, workers: str) -> None:
        self._chronicle = chronicle
        self._console = console
        self._bars = bars
        self._workers = workers
        self._sparks: dict[str, list[Decimal]] = {}
        self._drawn_s = 0.0
        self._live = Live(console=console, auto_refresh=False, screen=console.is_terminal)

    def __enter__(self) -> Self:
        self._live.start()
        waiting = Panel(f"Tidegate: waiting for {self._workers}", box=box.ROUNDED, border_style="cyan")
        self._live.update(waiting, refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def __call__(self, tick: Tick) -> None:
        """Show the state after this tick, as often as a screen is worth."""
        if tick.opens_bar:
            for instrument, price in tick.prices.items():
                spark = self._sparks.setdefault(instrument, [])
                spark.append(price)
                del spark[:-SPARK_HOURS]
        now_s = time.monotonic()
        if now_s - self._drawn_s >= REFRESH_S:
            self._drawn_s = now_s
            self._live.update(self.render(tick), refresh=True)

    def render(self, tick: Tick) -> RenderableType:
        """The whole screen at this tick."""
        accounts = self._accounts()
        room = max(3, self._console.height - len(self._chronicle.stories) - 11)
        return Group(
            self._header(tick), Panel(accounts, box=box.ROUNDED, border_style="dim", padding=(0, 1)), self._log(room)
        )

    def _header(self, tick: Tick) -> RenderableType:
        stories = self._chronicle.stories.values()
        signals, approved = sum(story.signals for story in stories), sum(story.approved for story in stories)
        rejected, locked = sum(story.rejected.total() for story in stories), sum(story.is_locked for story in stories)
        line = Table.grid(expand=True, padding=(0, 2))
        line.add_column(no_wrap=True)
        line.add_column(ratio=1)
        line.add_column(no_wrap=True, justify="right")
        line.add_row(
            Text.assemble(("Tidegate ", "bold cyan"), (moment(tick.at_ms) + " UTC", "bold")),
            ProgressBar(total=self._bars, completed=tick.hour + 1, complete_style="cyan", finished_style="cyan"),
            Text(f"bar {tick.hour + 1}/{self._bars} · {self._workers}", style="dim"),
        )
        prices = Text("  ").join(self._price(instrument, tick) for instrument in tick.prices)
        counts = Text.assemble(
            f"{signals} signals  ",
            (f"{approved} approved  ", "green"),
            (f"{rejected} rejected  ", "red"),
            (f"{locked} of {len(self._chronicle.stories)} accounts locked", "bold red" if locked else "dim"),
        )
        return Panel(Group(line, prices, counts), box=box.ROUNDED, border_style="cyan")

    def _price(self, instrument: str, tick: Tick) -> Text:
        price = tick.prices[instrument]
        closed = "" if instrument in tick.trading else " closed"
        return Text.assemble(
            (instrument, "bold"), f" {price:>9,} ", (spark(self._sparks.get(instrument, [])), "cyan"), (closed, "dim")
        )

    def _accounts(self) -> Table:
        grid = Table(box=None, expand=True, pad_edge=False, header_style="dim", padding=(0, 1))
        for heading, justify in (("account", "left"), ("profile", "left"), ("equity", "right"), ("", "right")):
            grid.add_column(heading, justify=justify, no_wrap=True)  # type: ignore[arg-type]
        grid.add_column("day, of limit", no_wrap=True)
        grid.add_column("week, of limit", no_wrap=True)
        for heading in ("ok", "no"):
            grid.add_column(heading, justify="right", no_wrap=True)
        grid.add_column("state", no_wrap=True)
        grid.add_column("last", ratio=1, no_wrap=True, overflow="ellipsis", style="dim")
        for story in self._chronicle.stories.values():
            grid.add_row(*_account_row(story))
        return grid

    def _log(self, room: int) -> RenderableType:
        """The last decisions, and beside them every lock so far: decisions scroll away, locks must not."""
        decided = [entry for entry in self._chronicle.log if entry.kind not in ("fill", "lock", "unlock")]
        locked = [
            entry
            for story in self._chronicle.stories.values()
            for entry in story.moments
            if entry.kind in ("lock", "unlock")
        ]
        locked.sort(key=lambda entry: entry.at_ms)
        columns = Table.grid(expand=True)
        columns.add_column(ratio=3)
        columns.add_column(ratio=2)
        columns.add_row(_panel("decisions", decided[-room:], room, "dim"), _panel("locks", locked[-room:], room, "red"))
        return columns


class Lines:
    """Plain progress for pipes and logs: a line a day, and one for each lock and unlock."""

    def __init__(self, write: Callable[[str], None], chronicle: Chronicle) -> None:
        self._write = write
        self._chronicle = chronicle
        self._told: dict[str, int] = dict.fromkeys(chronicle.stories, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def __call__(self, tick: Tick) -> None:
        """Say what the tick brought."""
        for name, story in self._chronicle.stories.items():
            fresh = story.moments[self._told[name] :]
            self._told[name] = len(story.moments)
            for entry in fresh:
                if entry.kind in ("lock", "unlock"):
                    self._write(f"{moment(entry.at_ms)}  {entry.kind:6}  {name}: {entry.text} {entry.detail}".rstrip())
        if tick.opens_bar and tick.hour % 24 == 0:
            self._write(self._day(tick))

    def _day(self, tick: Tick) -> str:
        stories = self._chronicle.stories.values()
        signals, approved = sum(story.signals for story in stories), sum(story.approved for story in stories)
        rejected, locked = sum(story.rejected.total() for story in stories), sum(story.is_locked for story in stories)
        return (
            f"{moment(tick.at_ms)}  day {tick.hour // 24 + 1:2}  BTC {tick.prices['BTC-USD']:>9,}  "
            f"{signals:5} signals, {approved:4} approved, {rejected:4} rejected, {locked:2} locked"
        )


def gauge(part: Decimal, limit: Decimal) -> Text:
    """A bar that is full when the limit is reached, and the drawdown in percent."""
    share = min(Decimal(1), part / limit)
    filled = int(share * GAUGE_CELLS)
    style = "green" if share < Decimal("0.5") else "yellow" if share < Decimal("0.8") else "red"
    return Text.assemble(("━" * filled, style), ("━" * (GAUGE_CELLS - filled), "bright_black"), f" {part:6.2%}")


def spark(prices: list[Decimal]) -> str:
    """A line of blocks between the lowest and the highest price."""
    if not prices:
        return ""
    low, span = min(prices), max(prices) - min(prices)
    return "".join(SPARKS[int((price - low) / span * (len(SPARKS) - 1)) if span else 0] for price in prices)


def _panel(title: str, entries: list[Moment], room: int, style: str) -> Panel:
    text = Text("\n", no_wrap=True, overflow="ellipsis").join(map(_log_line, entries))
    text.no_wrap, text.overflow = True, "ellipsis"
    return Panel(text, title=title, title_align="left", box=box.ROUNDED, border_style=style, height=room + 2)


def _account_row(story: Story) -> tuple[RenderableType, ...]:
    change = story.equity / story.account.capital - 1
    state = Text("LOCKED", "bold red") if story.is_locked else Text("ACTIVE", "green")
    return (
        Text(story.account.name, "bold"),
        Text(story.account.profile, STYLES[story.account.profile]),
        f"{story.equity:,.2f}",
        Text(f"{change:+.2%}", "green" if change >= 0 else "red"),
        gauge(story.day_drawdown, story.profile.max_daily_drawdown),
        gauge(story.week_drawdown, story.profile.max_weekly_drawdown),
        Text(str(story.approved), "green"),
        Text(str(story.rejected.total()), "red"),
        state,
        story.last,
    )


def _log_line(entry: Moment) -> Text:
    mark, style = KINDS[entry.kind]
    return Text.assemble(
        (moment(entry.at_ms)[5:], "dim"),
        " ",
        (mark, style),
        f" {entry.account:15} ",
        (entry.text, style),
        " ",
        (entry.detail, "dim"),
    )
