"""``RESULTS.md``, section by section."""

from typing import Any

from tests.benchmarks import one_worker, report, steps
from tests.benchmarks.items import ITEMS

_HEAD = """# Benchmark results

Written by `make bench` (`python -m tests.benchmarks`); do not edit. Every figure is measured beside what it is compared with, in one run on one real Kafka
broker: same topics and events, and in every Python engine the same pure step. Broker and load are pinned to one core, the engine to the other. Medians,
with the spread (lowest–highest) in brackets. CPU is user and system time of the engine's process. What an item says about its conditions holds for it alone.

To reproduce: `make bench` (all items, about an hour), `make bench QUICK=1` (items 1 and 2, under ten minutes), or one item: `make bench ITEMS=state`.
"""


def write() -> None:
    """Write the page from what is kept; an item that was never measured says so."""
    parts = [_HEAD]
    for name, item in ITEMS.items():
        kept = report.load(name)
        parts.append(f"## {item.title}\n")
        if kept is None:
            parts.append(f"Not measured yet (`make bench ITEMS={name}`).\n")
            continue
        parts.append(_SECTIONS[name](kept["results"]))
        parts.append(_goals(name, kept["results"]))
        parts.append(report.conditions_line(kept) + "\n")
    report.PAGE.write_text("\n".join(part for part in parts if part))


def _goals(name: str, results: dict[str, Any]) -> str:
    held = [figure for figure in ITEMS[name].figures(results) if figure.goal is not None]
    if not held:
        return ""
    lines = [
        (f.figure, f"{f.value:.4g} {f.unit}", f.against or "", f"{f.ratio:.2f}", f.goal or "", "yes" if f.met else "**no**")
        for f in held
        if f.ratio is not None
    ]
    return report.table(("figure", "value", "against", "ratio", "goal", "met"), lines) + "\n"


def _one_worker(results: dict[str, Any]) -> str:
    size = results["size"]
    rows = one_worker.rows(results)
    ours = {row.engine.name: row for row in rows}
    lines = []
    for row in rows:
        base = ours["tidegate_reduced" if row.engine.fold is one_worker.TIDEGATE_REDUCED.fold else "tidegate"]
        lines.append(
            (
                row.engine.title,
                row.engine.guarantee,
                row.engine.state,
                row.cpu_us,
                row.own_us or "–",
                f"{row.cpu_us.value / base.cpu_us.value:.2f}",
                row.wall_us,
                f"{1e6 / row.wall_us.value:,.0f}",
                f"{row.resident_mb:.0f}",
            )
        )
    header = ("engine", "guarantee", "state", "CPU µs/event", "own µs", "CPU × Tidegate", "wall µs/event", "events/s", "MB")
    step = {name: f"{one_worker.median_of(values).value:.1f}" for name, values in results["steps"].items()}
    return (
        f"{one_worker.ACCOUNTS:,} accounts, {one_worker.PARTITIONS} partitions, 80 % pnl, 15 % signals, 5 % fills; {size['events']:,} events measured after "
        f"{size['warm_up']:,}, {size['rounds']} interleaved rounds. In every run the engine's decisions were those of a fold without a broker "
        f"({results['decisions']['approved-orders']:,} approvals, {results['decisions']['rejected-signals']:,} rejections).\n\n"
        f"{report.table(header, lines)}\n\n"
        f"*Own* is the total without the pure step, measured alone in the same rounds on the same core: {step['batched']} µs an event in batches of 500, "
        f"{step['one_by_one']} one by one, {step['reduced']} under the reduced rules. The reduced rules are in `reduced.py`; they are compared among themselves. "
        "Reading state back is the engine's own cost: Tidegate, (b), (d) and (e) hold live accounts, (a) and (c) decode what their tables hand out.\n"
    )


def _step(results: dict[str, Any]) -> str:
    header = ("kind", "total ns", "decode ns", "encode state ns", "the rest ns", "blocks held")
    lines = []
    for kind in (*steps.KINDS, "mixture"):
        total, decode, encode, blocks = (
            steps.summary(results, f"{kind}_{name}") for name in ("total_ns", "decode_ns", "encode_state_ns", "blocks")
        )
        lines.append((kind, *(f"{value:,.0f}" for value in (total, decode, encode, total - decode - encode)), f"{blocks:.1f}"))
    return (
        f"Folds of {results['batch']} records of {steps.ACCOUNTS:,} accounts, no broker; CPU time of the thread. *Total* is from a record's bytes to the bytes of "
        "outputs and state.\n\n" + report.table(header, lines) + "\n"
    )


_SECTIONS = {"one-worker": _one_worker, "step": _step}
