"""``tidegate preflight``: is this gate ready for real money? Every check, what it saw, and the fix."""

from collections import Counter
from typing import Annotated, Any

import typer
from rich.text import Text

from schemas.config import ConfigFile
from schemas.types import write_time
from streams.ops import broker as kafka_broker
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import AppId, Broker, Config, Json, Prefix, configured, connect, examples
from streams.ops.preflight.check import Check, Result, Status, run_checks
from streams.ops.preflight.gather import gather
from streams.ops.preflight.registry import CHECKS, groups_of
from streams.ops.terminal import plain_table, print_json, say, stdout
from streams.runtime import clock
from streams.runtime.settings import Settings

EXAMPLES = examples(
    "# With the workers' own configuration, on the machine that a worker runs on:",
    "tidegate preflight --config tidegate.toml",
    "",
    "# One group; without a check that does not apply here:",
    "tidegate preflight --group accounts --group venues",
    "tidegate preflight --skip brokers-enough --skip replication",
    "",
    "# In a script: what stands against a launch?",
    'tidegate preflight --json | jq -r \'.checks[] | select(.status == "fail") | "\\(.name): \\(.fix)"\'',
)

_STYLES = {Status.PASS: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}


def preflight_command(
    group: Annotated[
        list[str] | None,
        typer.Option("--group", "-g", metavar="GROUP", help="Only the checks of this group; may be repeated."),
    ] = None,
    skip: Annotated[
        list[str] | None,
        typer.Option("--skip", "-s", metavar="NAME", help="Leave a check out, by name; may be repeated."),
    ] = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Run the checklist before a launch: each check passes, warns or fails, and says what it saw and how to mend it.

    It only reads. Memory, disk and clock are those of the machine that it runs on.
    Status 0: nothing failed (warnings are allowed). Status 1: something did.
    """
    chosen = choose(group or [], skip or [])
    checked = configured(config)
    settings = connect(config, broker, prefix, app_id)
    results = kafka_broker.run(_run(chosen, settings, checked), settings)
    if as_json:
        print_json(document(results, clock.now_ms(), skip or []))
    else:
        _show(results, skip or [])
    if any(result.finding.status is Status.FAIL for result in results):
        raise typer.Exit(ExitStatus.REFUSED)


def choose(groups: list[str], skipped: list[str], checks: tuple[Check, ...] = CHECKS) -> list[Check]:
    """The checks of ``groups`` (none: all) without those ``skipped``. Raises CommandError for an unknown name."""
    for option, named, known in (
        ("--group", groups, groups_of(checks)),
        ("--skip", skipped, [check.name for check in checks]),
    ):
        if unknown := [name for name in named if name not in known]:
            raise CommandError(f"{option} {unknown[0]!r} is unknown", ExitStatus.USAGE, f"known: {', '.join(known)}")
    chosen = [check for check in checks if (not groups or check.group in groups) and check.name not in skipped]
    if not chosen:
        raise CommandError("no check is left to run", ExitStatus.USAGE, "skip fewer, or name another group")
    return chosen


async def _run(checks: list[Check], settings: Settings, config: ConfigFile) -> list[Result]:
    return await run_checks(checks, await gather(settings, config))


def document(results: list[Result], now_ms: int, skipped: list[str]) -> dict[str, Any]:
    """The outcome as JSON."""
    counts = Counter(result.finding.status for result in results)
    return {
        "schema_version": 1,
        "run_at": write_time(now_ms),
        "ready": not counts[Status.FAIL],
        "passed": counts[Status.PASS],
        "warned": counts[Status.WARN],
        "failed": counts[Status.FAIL],
        "skipped": skipped,
        "checks": [
            {
                "group": check.group,
                "name": check.name,
                "title": check.title,
                "status": finding.status,
                "seen": finding.seen,
                "fix": finding.fix or None,
            }
            for check, finding in results
        ],
    }


def _show(results: list[Result], skipped: list[str]) -> None:
    table = plain_table()
    table.add_column("")
    table.add_column("Check", style="bold", no_wrap=True)
    table.add_column("", overflow="fold")
    group = ""
    for check, finding in results:
        if check.group != group:
            group = check.group
            table.add_section()
            table.add_row("", Text(group, style="bold cyan"), "")
        cell = Text.assemble((check.title, "dim"), ": ", finding.seen)
        if finding.fix:
            cell.append(f"\n→ {finding.fix}", style=_STYLES[finding.status])
        table.add_row(Text(finding.status.upper(), style=_STYLES[finding.status]), check.name, cell)
    stdout().print(table)
    counts = Counter(result.finding.status for result in results)
    left_out = f", {len(skipped)} skipped" if skipped else ""
    say(
        f"\n{counts[Status.PASS]} passed, {counts[Status.WARN]} warned, {counts[Status.FAIL]} failed{left_out}: "
        + ("not ready" if counts[Status.FAIL] else "ready")
    )
