"""``RESULTS.md``, section by section."""

from typing import Any

from tests.benchmarks import burst, latency, one_worker, report, scale, sizing, state, steps
from tests.benchmarks.engines import TIDEGATE, TIDEGATE_REDUCED
from tests.benchmarks.figures import median_of
from tests.benchmarks.items import ITEMS

_HEAD = """# Benchmark results

Written by `make bench` (`python -m tests.benchmarks`); do not edit.

Every figure is measured beside what it is compared with, in one run on one real Kafka broker: same topics and events,
and in every Python engine the same pure step, so that what differs is the engine and its guarantee. Broker and load
are pinned to one core, the engine to the other. Medians, with the spread (lowest–highest) in brackets. CPU is user and
system time of the engine's process. Each section says when and under which conditions it was measured.

To reproduce: `make bench` (everything, about an hour), `make bench QUICK=1` (one worker, latency and burst at small
sizes, under ten minutes), or one item: `make bench ITEMS=state`.
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
    lines = [
        (one.figure, f"{one.value:.4g} {one.unit}", one.against, f"{one.ratio:.2f}", one.goal, _answer(one.met))
        for one in ITEMS[name].figures(results)
        if one.goal is not None and one.ratio is not None
    ]
    return report.table(("figure", "value", "against", "ratio", "goal", "met"), lines) + "\n" if lines else ""


def _answer(met: bool | None) -> str:
    return "yes" if met else "**no**"


def _one_worker(results: dict[str, Any]) -> str:
    size, decisions = results["size"], results["decisions"]
    by_name = {row.engine.name: row for row in one_worker.rows(results)}
    lines = []
    for row in by_name.values():
        base = by_name[(TIDEGATE_REDUCED if row.engine.fold is TIDEGATE_REDUCED.fold else TIDEGATE).name]
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
    figures = ("CPU µs/event", "own µs", "CPU × Tidegate", "wall µs/event", "events/s", "MB")
    step = {name: f"{median_of(values).value:.1f}" for name, values in results["steps"].items()}
    return (
        f"{one_worker.ACCOUNTS:,} accounts, {one_worker.PARTITIONS} partitions, 80 % pnl, 15 % signals, 5 % fills; "
        f"{size['events']:,} events measured after {size['warm_up']:,}, {size['rounds']} interleaved rounds. In every "
        f"run the engine's decisions were those of a fold without a broker ({decisions['approved-orders']:,} "
        f"approvals, {decisions['rejected-signals']:,} rejections under the full rules), or the run would not count."
        f"\n\n{report.table(('engine', 'guarantee', 'state', *figures), lines)}\n\n"
        "*Own* is the total without the pure step, measured alone in the same rounds on the same core: "
        f"{step['batched']} µs an event in batches of 500, {step['one_by_one']} one by one, {step['reduced']} under "
        "the reduced rules. Reading state back is the engine's own: Tidegate, (b), (d) and (e) hold live accounts, "
        "(a) and (c) decode what their tables hand out. The last two lines run the reduced rules (`reduced.py`) and "
        "are compared with each other.\n"
    )


def _latency(results: dict[str, Any]) -> str:
    size = results["size"]
    return (
        "From the call that publishes a record to the read-committed receipt of its output, in ms: a signal to its "
        f"decision, a breaching `pnl` to `account-locked`. {latency.ACCOUNTS:,} accounts, {latency.PARTITIONS} "
        f"partitions, {size['seconds']} s at each rate, {size['rounds']} rounds in turns with a bare transactional "
        "echo (consume, produce, commit; no state, no offsets in the transaction) on the same clients. p50 and p99 "
        "are medians of the rounds, p99.9 is of all rounds together.\n\n"
        f"{_percentiles(results)}\n"
    )


def _percentiles(results: dict[str, Any]) -> str:
    lines = [(row.name, row.samples, row.p50, row.p99, f"{row.p999:.1f}") for row in latency.rows(results)]
    return report.table(("what", "n", "p50", "p99", "p99.9"), lines)


def _burst(results: dict[str, Any]) -> str:
    size = results["size"]
    return (
        "A breaching `pnl` of one partition until its `account-locked` is received, in ms, every 20 ms. *Idle*: no "
        f"other load. *Amid a burst*: another partition works off {burst.UPDATES:,} updates of another process, which "
        "takes only what the broker leaves of the core that they share. *Burst unread*: the same burst goes to a topic "
        f"that Tidegate does not read, which is what broker and load make of it. In turns, {size['bursts']} times in "
        f"each of {size['rounds']} lives of a worker.\n\n"
        f"{_percentiles(results)}\n"
    )


def _state(results: dict[str, Any]) -> str:
    lines = [
        (f"{row.accounts:,}, {row.access}", f"{1e6 / row.wall_us.value:,.0f}", row.wall_us, row.cpu_us, row.p99_ms)
        for row in state.rows(results)
    ]
    desks = [
        (
            f"{desk['accounts']:,}",
            f"{desk['resident_bytes'] / 1e6:,.0f}",
            f"{desk['disk_bytes'] / 1e6:,.1f}",
            f"{desk['changelog_records']:,}",
            median_of(desk["restore_s"]),
            median_of(desk["read_s"]),
            f"{desk['start_s']:.1f}",
        )
        for desk in results["desks"]
    ]
    header = ("accounts", "memory MB", "RocksDB MB", "changelog records", "restore s", "bare read s", "start s")
    return (
        f"One worker a size, {state.PARTITIONS} partitions, {results['size']['events']:,} events a round and access, "
        f"{results['size']['rounds']} rounds. p99: of signals at 1,000 events/s.\n\n"
        f"{report.table(('accounts, access', 'events/s', 'wall µs/event', 'CPU µs/event', 'p99 ms'), lines)}\n\n"
        "*Restore*: from the assignment until every partition is served, on an empty disk. *Bare read*: the same "
        "changelog with the same client, nothing kept. *Start*: the process, with every account in its configuration, "
        f"until it serves. *Memory*: the worker's resident set at the end.\n\n{report.table(header, desks)}\n"
    )


def _scale(results: dict[str, Any]) -> str:
    waits = scale.pauses(results)
    cpu = [(f"{name} worker(s)", median_of(values)) for name, values in results["cpu_us"].items()]
    lines = [("undisturbed", waits.steady), ("a second worker joins", waits.join), ("it leaves (SIGTERM)", waits.leave)]
    return (
        f"{report.table(('workers', 'CPU µs/event, all together'), cpu)}\n\n"
        f"The longest that any signal waited for its decision, at {scale.RATE} events/s on {scale.PARTITIONS} "
        f"partitions:\n\n{report.table(('while', 'ms'), lines)}\n\n"
        f"### On paper: a million events a second\n\n{sizing.text(results)}"
    )


def _step(results: dict[str, Any]) -> str:
    lines = []
    for kind in (*steps.KINDS, "mixture"):
        parts = {name: steps.summary(results, f"{kind}_{name}") for name in steps.PARTS}
        rest = parts["total_ns"] - parts["decode_ns"] - parts["encode_state_ns"] - parts["encode_outputs_ns"]
        times = (parts["total_ns"], parts["decode_ns"], rest, parts["encode_state_ns"], parts["encode_outputs_ns"])
        lines.append((kind, *(f"{value:,.0f}" for value in times), f"{parts['blocks']:.1f}"))
    header = ("kind", "total ns", "decode ns", "rules ns", "encode state ns", "encode outputs ns", "blocks")
    return (
        f"Folds of {results['batch']} records of {steps.ACCOUNTS:,} accounts without a broker, CPU time of the thread "
        "per event. *Total*: from a record's bytes to the bytes of outputs and state. Decode and encode are measured "
        "apart, *rules* is the rest. *Blocks*: pieces of memory that an event leaves allocated while its batch is "
        f"held.\n\n{report.table(header, lines)}\n"
    )


_SECTIONS = {
    "one-worker": _one_worker,
    "latency": _latency,
    "burst": _burst,
    "state": _state,
    "scale": _scale,
    "step": _step,
}
