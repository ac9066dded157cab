"""Accounts as tables: one line each for all of them, or everything about one."""

from collections.abc import Sequence
from decimal import Decimal

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from streams.core.rules import ACTIVE, HALTED, REDUCING
from streams.core.state import Breach
from streams.ops.overview import GLOBAL_POLICY, LimitLine, Overview
from streams.ops.terminal import age, amount, moment, money, percent, plain_table

_STATE_STYLES = {ACTIVE: "green", REDUCING: "bold yellow", HALTED: "bold white on red"}
_BAR_MIN, _BAR_MAX = 4, 24
_HALF, _MOST = Decimal("0.5"), Decimal("0.8")
_SHORT = {"DAILY_DRAWDOWN": "Daily", "WEEKLY_DRAWDOWN": "Weekly", "TRAILING_DRAWDOWN": "Trailing"}
_DAY_MS = 86_400_000
_NOTHING = Text("–", style="dim")
# What the table takes without its gauges, and each gauge with a bar that can be read.
_COLUMNS_PLAIN, _COLUMNS_A_LIMIT = 72, 20


class Gauge:
    """A drawdown as a bar that is full at its limit, with both figures in percent."""

    def __init__(self, line: LimitLine, *, narrow: bool = False) -> None:
        self._line = line
        shown = "–" if line.drawdown is None else percent(line.drawdown)
        self._figures = f"{shown}/{percent(line.limit)}" if narrow else f"{shown:>5} / {percent(line.limit)}"

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        del console, options
        figures = len(self._figures) + 1
        return Measurement(figures + _BAR_MIN, figures + _BAR_MAX)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        full, empty = "#." if options.ascii_only else "█░"
        width = min(_BAR_MAX, max(_BAR_MIN, options.max_width - len(self._figures) - 1))
        drawdown = self._line.drawdown
        used = Decimal(0) if drawdown is None else drawdown / self._line.limit
        cells = min(width, int(used * width))
        style = "green" if used < _HALF else "yellow" if used < _MOST else "dark_orange" if used < 1 else "bold red"
        yield Text.assemble(
            (full * cells, style),
            (empty * (width - cells), "bright_black"),
            " ",
            (self._figures, "dim" if drawdown is None else "bold red" if used >= 1 else ""),
            no_wrap=True,
        )


def state(one: Overview) -> Text:
    """The trading state in its colour; of an account that was never heard of, that it was not."""
    return Text(one.trading_state, style=_STATE_STYLES[one.trading_state])


# -- all accounts --------------------------------------------------------------------------------------------------


def accounts_table(accounts: Sequence[Overview], *, policy_version: int, now_ms: int, columns: int) -> RenderableType:
    """A line for each account, and below what holds them; ``columns``: the width of the terminal."""
    limits = [name for name in _SHORT if any(line.name == name for one in accounts for line in one.limits)]
    narrow = columns < _COLUMNS_PLAIN + _COLUMNS_A_LIMIT * len(limits)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 0 if narrow else 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("Account", style="bold", overflow="fold")
    table.add_column("State", no_wrap=True)
    table.add_column("Profile", no_wrap=True)
    table.add_column("Equity", justify="right", no_wrap=True)
    for name in limits:
        table.add_column(f"{_SHORT[name]} %" if narrow else f"{_SHORT[name]} drawdown, limit %")
    table.add_column("Pos", justify="right")
    table.add_column("Ord", justify="right")
    if not narrow:
        table.add_column("As of", justify="right", no_wrap=True)
    for one in accounts:
        by_name = {line.name: line for line in one.limits}
        table.add_row(
            Text(one.account_id),
            state(one),
            _profile(one),
            _equity(one),
            *(Gauge(by_name[name], narrow=narrow) if name in by_name else _NOTHING for name in limits),
            str(len(one.positions) or "–"),
            str(len(one.orders) or "–"),
            *(() if narrow else (_as_of(one, now_ms),)),
        )
    parts: list[RenderableType] = [table]
    held = _held_table(accounts)
    if held.row_count:
        parts += [Text(), held]
    footer = f"\n{len(accounts)} accounts, policy version {policy_version}"
    if any(not one.configured for one in accounts):
        footer += "; * not in the configuration that was read here, its limits are not known"
    return Group(*parts, Text(footer, style="dim"))


def _profile(one: Overview) -> Text:
    if one.profile is None:
        return Text("*", style="dim")
    return Text(one.profile + ("" if one.configured else " *"))


def _equity(one: Overview) -> Text:
    if one.equity is None:
        return Text("no pnl yet", style="dim")
    return Text(money(one.equity), style="red strike" if not one.has_equity else "yellow" if one.is_stale else "")


def _as_of(one: Overview, now_ms: int) -> Text:
    if one.as_of_ms is None:
        return Text("–", style="dim")
    if not one.has_equity:
        return Text("unusable", style="red")
    recent = now_ms - one.as_of_ms < _DAY_MS
    shown = age(one.as_of_ms, now_ms) if recent else moment(one.as_of_ms)[:10]
    return Text(shown, style="yellow" if one.is_stale else "dim")


def _held_table(accounts: Sequence[Overview]) -> Table:
    table = plain_table()
    table.add_column("Account", style="bold", overflow="fold")
    table.add_column("Held by", no_wrap=True)
    table.add_column("Since", no_wrap=True)
    table.add_column("At lock, limit %", no_wrap=True, justify="right")
    if any(GLOBAL_POLICY in one.causes for one in accounts):
        table.add_row("every account", Text(GLOBAL_POLICY, style="yellow"), "–", "–")
    for one in accounts:
        locks = {lock.reason: lock for lock in one.locks}
        for cause in one.causes:
            if cause == GLOBAL_POLICY:
                continue
            lock = locks.get(cause)
            table.add_row(
                Text(one.account_id),
                Text(cause, style="red" if lock else "yellow"),
                moment(lock.at_ms) if lock else "–",
                f"{percent(lock.observed)} / {percent(lock.limit)}" if lock and lock.observed and lock.limit else "–",
            )
        breach = one.last_breach
        if breach is not None and breach.reason not in locks:
            table.add_row(
                Text(one.account_id, style="dim"),
                Text(f"last breach {breach.reason}", style="dim"),
                Text(moment(breach.at_ms), style="dim"),
                Text("unlocked", style="dim"),
            )
    return table


# -- one account ---------------------------------------------------------------------------------------------------


def account_page(one: Overview, *, policy_version: int, now_ms: int) -> RenderableType:
    """Everything about one account."""
    parts: list[RenderableType] = [_headline(one), _facts(one, now_ms)]
    if one.locks:
        parts += [_title("Locks"), _locks_table(one)]
    if one.limits:
        parts += [_title("Drawdown"), _limits_table(one)]
    if one.positions:
        parts += [_title("Positions"), _positions_table(one)]
    if one.orders:
        parts += [_title("Open orders"), _orders_table(one, now_ms)]
    if not one.configured:
        remedy = "not in the configuration that was read here: give the workers' --config to see its limits"
        parts.append(Text(f"\n{remedy}", style="yellow"))
    parts.append(Text(f"\npolicy version {policy_version}", style="dim"))
    return Group(*parts)


def _headline(one: Overview) -> Text:
    causes = ", ".join(one.causes)
    return Text.assemble((one.account_id, "bold"), "  ", state(one), f"  {causes}" if causes else "")


def _facts(one: Overview, now_ms: int) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    origin = "set by command" if one.profile_by_command else "as configured"
    grid.add_row("Profile", f"{one.profile} ({origin})" if one.profile else "not known here")
    if one.venues:
        grid.add_row("Venues", Text(" → ".join(one.venues)))
    if one.timezone:
        grid.add_row("Time zone", one.timezone)
    grid.add_row("Equity", _equity_fact(one, now_ms))
    grid.add_row("Last breach", "none" if one.last_breach is None else breach_in_words(one.last_breach))
    return grid


def breach_in_words(breach: Breach) -> str:
    """Which limit was breached, and when."""
    return f"{breach.reason}, {moment(breach.at_ms)}"


def _equity_fact(one: Overview, now_ms: int) -> Text:
    if one.as_of_ms is None:
        return Text("no pnl update yet: entries are refused with RISK_DATA_MISSING", style="yellow")
    currency = f" {one.currency}" if one.currency else ""
    text = Text(f"{amount(one.equity)}{currency} as of {moment(one.as_of_ms)}")
    if not one.has_equity:
        text.append("  unusable since: entries are refused with RISK_DATA_MISSING", style="red")
    elif one.is_stale:
        text.append(f"  {age(one.as_of_ms, now_ms)}: entries are refused with RISK_DATA_STALE", style="yellow")
    return text


def _title(text: str) -> Text:
    return Text(f"\n{text}", style="bold")


def _locks_table(one: Overview) -> Table:
    table = plain_table()
    table.add_column("Reason", style="red", no_wrap=True)
    table.add_column("Since", no_wrap=True)
    table.add_column("Drawdown %", justify="right")
    table.add_column("Limit %", justify="right")
    table.add_column("Base equity", justify="right")
    for lock in one.locks:
        table.add_row(
            lock.reason,
            moment(lock.at_ms),
            "–" if lock.observed is None else percent(lock.observed),
            "–" if lock.limit is None else percent(lock.limit),
            money(lock.base),
        )
    return table


def _limits_table(one: Overview) -> Table:
    table = plain_table()
    table.add_column("Limit", no_wrap=True)
    table.add_column("Drawdown, limit %")
    table.add_column("Base", justify="right", no_wrap=True)
    table.add_column("Floor", justify="right", no_wrap=True)
    table.add_column("Room", justify="right", no_wrap=True)
    table.add_column("Period from", no_wrap=True)
    for line in one.limits:
        room = one.equity - line.floor if one.equity is not None and one.has_equity else None
        table.add_row(
            Text(_SHORT[line.name], style="red" if line.held else ""),
            Gauge(line),
            money(line.base),
            money(line.floor),
            Text(money(room), style="red" if room is not None and room <= 0 else ""),
            "high-water mark" if line.period_start_ms is None else moment(line.period_start_ms),
        )
    return table


def _positions_table(one: Overview) -> Table:
    table = plain_table()
    table.add_column("Instrument", style="bold", overflow="fold")
    table.add_column("Venue", overflow="fold")
    for heading in ("Quantity", "Average price", "Mark", "Stop"):
        table.add_column(heading, justify="right", overflow="fold")
    for line in one.positions:
        table.add_row(
            Text(line.instrument),
            Text(line.venue),
            Text(amount(line.quantity), style="green" if line.quantity > 0 else "red"),
            amount(line.average_price),
            amount(line.mark),
            amount(line.stop),
        )
    return table


def _orders_table(one: Overview, now_ms: int) -> Table:
    table = plain_table()
    table.add_column("Order", overflow="fold")
    table.add_column("Side", no_wrap=True)
    table.add_column("Instrument", overflow="fold")
    table.add_column("Venue", overflow="fold")
    table.add_column("Left", justify="right")
    table.add_column("Price", justify="right")
    table.add_column("Valid", no_wrap=True)
    for line in one.orders:
        late = now_ms > line.valid_until_ms
        table.add_row(
            Text(line.order_id),
            f"{line.side}, exit" if line.reduces else line.side,
            Text(line.instrument),
            Text(line.venue),
            amount(line.left),
            amount(line.price),
            Text("ended " + age(line.valid_until_ms, now_ms) if late else "yes", style="yellow" if late else ""),
        )
    return table
