"""``tidegate drill``: try the gate's alarms out, on real topics and an account that holds nothing."""

from typing import Annotated, Any

import typer

from streams.core.records import CONTROLS, SIGNALS
from streams.core.rules import Rules
from streams.ops import broker as kafka_broker
from streams.ops import requests
from streams.ops.controls import ApprovedBy
from streams.ops.drill import LOCK_DRILL, DrillOutcome, run_drill, unfit
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import (
    ACCOUNTABILITY,
    AppId,
    Broker,
    Config,
    Json,
    Operator,
    Prefix,
    Timeout,
    connect,
    examples,
    operator_or_login,
    rules_in,
)
from streams.ops.overview import overview
from streams.ops.snapshot import SnapshotReader
from streams.ops.terminal import print_json, say
from streams.runtime import clock
from streams.runtime.settings import Settings
from streams.runtime.topics import REQUESTS, Layout, TopicNames

EXAMPLES = examples(
    "# On an account that is kept for drills:",
    "tidegate drill lock --account drill --config tidegate.toml",
    "",
    "# Where [controls] two_person is true, the unlock needs a second operator:",
    "tidegate drill lock --account drill --approved-by bob --reason 'monthly drill'",
    "",
    "# How long does a lock take?",
    "tidegate drill lock --account drill --json | jq .lock_ms",
)

drill = typer.Typer(no_args_is_help=True)


@drill.callback()
def _drill() -> None:
    """Try the gate's alarms out, end to end."""


@drill.command("lock", epilog=EXAMPLES)
def lock(
    account: Annotated[
        str, typer.Option("--account", metavar="ACCOUNT", help="A configured account without positions and orders.")
    ],
    reason: Annotated[
        str,
        typer.Option("--reason", "-r", metavar="TEXT", help="Kept with each record.", rich_help_panel=ACCOUNTABILITY),
    ] = "lock drill",
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    timeout: Timeout = 10,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Lock an account, see a signal rejected with ACCOUNT_LOCKED_MANUAL, unlock it; time each step.

    The signal could never become an order: it names a venue that no account has.
    The result is kept on the topic of requests, where preflight and rollout look for it.
    Refused on an account that holds anything, has open orders or is locked.
    Status 1: the gate did not do as it has to. Status 4: no worker answered in time.
    """
    who = operator_or_login(operator)
    rules = rules_in(config)
    settings = connect(config, broker, prefix, app_id)
    outcome = kafka_broker.run(_drill_once(settings, rules, account, who, approved_by, reason, timeout), settings)
    if as_json:
        print_json({"account_id": account, "operator": who} | detail_of(outcome))
    else:
        _show(outcome)
    if outcome.passed:
        return
    remedy = "see the workers' logs and `tidegate preflight`"
    if outcome.still_locked:
        remedy = f"the account may still be locked: see `tidegate accounts {account}`, then `tidegate unlock {account}`"
    raise CommandError(
        f"lock drill failed: {outcome.fault}",
        ExitStatus.UNANSWERED if outcome.unanswered else ExitStatus.REFUSED,
        remedy,
    )


def detail_of(outcome: DrillOutcome) -> dict[str, Any]:
    """What is kept of a drill, and what ``--json`` shows."""
    return {
        "drill": LOCK_DRILL,
        "account_id": outcome.account_id,
        "passed": outcome.passed,
        "fault": outcome.fault,
        "lock_ms": outcome.lock_ms,
        "reject_ms": outcome.reject_ms,
        "unlock_ms": outcome.unlock_ms,
        "codes": list(outcome.codes),
        "still_locked": outcome.still_locked,
    }


async def _drill_once(
    settings: Settings,
    rules: Rules,
    account: str,
    operator: str,
    approved_by: str | None,
    reason: str,
    timeout_s: float,
) -> DrillOutcome:
    layout = await kafka_broker.layout_of(settings)
    _require_requests(settings, layout)
    await kafka_broker.require_writes(settings, SIGNALS, CONTROLS, REQUESTS)
    reader = SnapshotReader(settings, rules, with_state=True)
    async with kafka_broker.reader(settings) as consumer:
        await reader.read(consumer)
    snapshot = reader.snapshot
    seen = overview(account, snapshot.account(account), snapshot.rules, clock.now_ms())
    if (fault := unfit(seen, snapshot.rules, operator, approved_by)) is not None:
        raise CommandError(
            fault,
            ExitStatus.REFUSED,
            "nothing was published; keep an empty account for drills, and name --approved-by where two_person is true",
        )
    outcome = await run_drill(
        settings, layout, account, operator=operator, approved_by=approved_by, reason=reason, timeout_s=timeout_s
    )
    await requests.append(
        settings,
        requests.DRILL_RUN,
        key=account,
        operator=operator,
        reason=reason,
        now_ms=clock.now_ms(),
        **detail_of(outcome),
    )
    return outcome


def _require_requests(settings: Settings, layout: Layout) -> None:
    """Before anything is locked: a drill that cannot be recorded is not run."""
    if REQUESTS not in layout.counts:
        raise CommandError(
            f"topic {TopicNames.of(settings).physical(REQUESTS)} is missing: the drill is recorded there",
            ExitStatus.BROKER,
            "create it with `tidegate topics create`; the topics that exist are left as they are",
        )


def _show(outcome: DrillOutcome) -> None:
    lines = (
        ("lock", outcome.lock_ms, "from the command to account-locked, read committed"),
        ("signal", outcome.reject_ms, f"to its rejection: {', '.join(outcome.codes)}"),
        ("unlock", outcome.unlock_ms, "from the command to UNLOCKED"),
    )
    for name, took_ms, what in lines:
        if took_ms is not None:
            say(f"{name:<7}{took_ms:>8.0f} ms  {what}")
    if outcome.passed:
        say(f"{outcome.account_id}: lock drill passed, and recorded")
