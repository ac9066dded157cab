"""``tidegate notify``: run the notifier, try its routes, see what it has told and what waits."""

import asyncio
import os
from typing import Annotated, Any

import typer
from aiokafka.structs import ConsumerRecord

from schemas.config import NotifySection
from schemas.types import write_time
from streams.core.records import EVENTS, LOCKED
from streams.ops import broker as kafka_broker
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import (
    AppId,
    Broker,
    Config,
    Json,
    LogLevel,
    LogStyle,
    Prefix,
    configured,
    connect,
    examples,
)
from streams.ops.terminal import note, plain_table, print_json, say, stdout
from streams.runtime import clock
from streams.runtime.logs import configure_logging
from streams.runtime.settings import Settings, SettingsError
from streams.runtime.topics import NOTIFICATIONS, Layout, TopicNames

EXAMPLES = examples(
    "# In tidegate.toml, who is told of what:",
    "#   [notify.routes.desk]",
    '#   severity = "warning"',
    "#   [notify.routes.pager]",
    '#   severity = "critical"',
    '#   accounts = ["main_*"]',
    "",
    "# Where: an apprise URL for each route, from the environment or a file:",
    "export TIDEGATE_NOTIFY_DESK=slack://TokenA/TokenB/TokenC/#risk",
    "export TIDEGATE_NOTIFY_PAGER_FILE=/run/secrets/pager",
    "tidegate notify test --config tidegate.toml",
    "tidegate notify --config tidegate.toml",
)
TEST_EXAMPLES = examples("tidegate notify test", "tidegate notify test --route pager")
STATUS_EXAMPLES = examples(
    "tidegate notify status",
    "",
    "# For a script: status 1 while anything waits.",
    "tidegate notify status --json | jq '.routes[].waiting'",
)

_DAY_MS = 86_400_000

notify = typer.Typer(invoke_without_command=True)


@notify.callback(epilog=EXAMPLES)
def run(
    ctx: typer.Context,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
    log_level: LogLevel = "info",
    log_style: LogStyle = "console",
) -> None:
    """Run the notifier until SIGTERM or Ctrl-C: it tells people of locks, warnings and unlocks.

    Each route of the table notify says of which accounts and how grave; its address, an apprise URL with one recipient,
    is a secret and stands in TIDEGATE_NOTIFY_<ROUTE> (or …_FILE). One route that does not answer holds up no other;
    what fails is tried again until it is notify.give_up old. When many accounts lock at once, a route gets one message
    for all.

    What was told is kept in a topic: over restarts nothing is lost, and nothing is told twice but what a service took
    without an answer in time, or in the moment in which a notifier died. The gate never waits for it. A second notifier
    waits until the first ends.
    """
    if ctx.invoked_subcommand is not None:
        return
    section = _section(config)
    settings = connect(config, broker, prefix, app_id)
    if not section.routes:
        note("no route is configured: nobody will be told of anything")
    _check_routes(section)
    # What would end the notifier at once is told here in words, before its machinery starts.
    _require_topic(settings, kafka_broker.run(kafka_broker.ready_for("notifier", settings), settings).counts)
    configure_logging(log_level, log_style)
    # Faust is slow to import; the other commands do without it.
    from streams.notify.process import run_notifier  # noqa: PLC0415

    raise typer.Exit(run_notifier(settings, section))


@notify.command("test", epilog=TEST_EXAMPLES)
def try_routes(
    config: Config = None,
    route: Annotated[
        list[str] | None, typer.Option("--route", metavar="NAME", help="Only this one; may be repeated.")
    ] = None,
) -> None:
    """Send a test message on every route, and say what came of it. No broker is needed.

    Status 1 if a service did not take it, 2 if a route has no address that can be used.
    """
    section = _section(config)
    names = route or list(section.routes)
    if unknown := [name for name in names if name not in section.routes]:
        known = ", ".join(section.routes) or "none is configured"
        raise CommandError(f"there is no route {unknown[0]!r}", ExitStatus.USAGE, f"routes: {known}")
    if not names:
        raise CommandError("no route is configured", ExitStatus.USAGE, "add [notify.routes.NAME] to tidegate.toml")
    senders = _check_routes(section, names)
    # What a service answers is told by apprise, as a warning.
    configure_logging("warning")
    results = asyncio.run(_try_all(senders))
    table = plain_table()
    for column in ("Route", "Severity", "Accounts", ""):
        table.add_column(column)
    for name, taken in results.items():
        terms = section.routes[name]
        said = (
            "[green]told[/green]" if taken else "[red]not taken[/red]: is the address right, and reachable from here?"
        )
        table.add_row(name, terms.severity, ", ".join(terms.accounts) or "all", said)
    stdout().print(table)
    if not all(results.values()):
        raise typer.Exit(ExitStatus.REFUSED)


@notify.command("status", epilog=STATUS_EXAMPLES)
def status(
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
    as_json: Json = False,
) -> None:
    """What each route was told in the last 24 hours, what was given up, and what waits.

    Read from the topics, whether a notifier runs or not. Status 1 while anything waits for longer than a minute.
    """
    section = _section(config)
    settings = connect(config, broker, prefix, app_id)
    layout = kafka_broker.run(kafka_broker.layout_of(settings), settings)
    _require_topic(settings, layout.counts)
    routes = kafka_broker.run(_status(settings, section, layout), settings)
    late = any(one["oldest_waiting_seconds"] > 60 for one in routes)
    if as_json:
        print_json({"routes": routes})
        raise typer.Exit(ExitStatus.REFUSED if late else ExitStatus.DONE)
    if not routes:
        say("no route is configured: nobody is told of anything")
        return
    table = plain_table()
    table.add_column("Route")
    for column in ("Told, 24 h", "Given up, 24 h", "Waiting", "Oldest"):
        table.add_column(column, justify="right")
    table.add_column("Last told")
    for one in routes:
        oldest = f"{one['oldest_waiting_seconds']:.0f} s" if one["waiting"] else ""
        last = f"{one['last_told_at']} {one['last_told']}" if one["last_told"] else "never"
        table.add_row(one["route"], str(one["told"]), str(one["given_up"]), str(one["waiting"]), oldest, last)
    stdout().print(table)
    raise typer.Exit(ExitStatus.REFUSED if late else ExitStatus.DONE)


def _section(config: Any) -> NotifySection:
    return configured(config).notify or NotifySection()


def _check_routes(section: NotifySection, names: list[str] | None = None) -> dict[str, Any]:
    """What sends, by route. Raises CommandError that names the variable."""
    # apprise is slow to import; the other commands do without it.
    from streams.notify.routes import route_of  # noqa: PLC0415
    from streams.notify.sender import sender_of  # noqa: PLC0415

    try:
        return {
            name: sender_of(route_of(name, section, os.environ))
            for name in (section.routes if names is None else names)
        }
    except SettingsError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from None


def _require_topic(settings: Settings, counts: Any) -> None:
    if NOTIFICATIONS not in counts:
        raise CommandError(
            f"topic {TopicNames.of(settings).physical(NOTIFICATIONS)} is missing: what was told is kept there",
            ExitStatus.BROKER,
            "run `tidegate topics create`",
        )


async def _try_all(senders: dict[str, Any]) -> dict[str, bool]:
    from streams.notify.messages import Message  # noqa: PLC0415

    now_ms = clock.now_ms()
    body = f"Sent by `tidegate notify test` at {write_time(now_ms)}. Nothing happened; the route works."
    message = Message("test", "", "info", now_ms, "Tidegate: a test", body)
    taken = await asyncio.gather(*(send(message) for send in senders.values()))
    return dict(zip(senders, taken, strict=True))


async def _status(settings: Settings, section: NotifySection, layout: Layout) -> list[dict[str, Any]]:
    from streams.notify.memory import read_told  # noqa: PLC0415
    from streams.notify.messages import message_of  # noqa: PLC0415
    from streams.notify.routes import Route  # noqa: PLC0415

    now_ms = clock.now_ms()
    records = await _records_since(settings, layout, now_ms - section.give_up)
    messages = [one for topic, value in records if (one := message_of(topic, value)) is not None]
    # Read last: what is told meanwhile must not look as if it waited.
    told = await read_told(settings)
    lines = []
    for name, terms in section.routes.items():
        route = Route(name, "", terms.severity, terms.accounts)
        mine = [one for one in told if one.route == name]
        settled = {one.fact_id for one in mine}
        waiting = [one for one in messages if route.wants(one) and one.fact_id not in settled]
        recent = [one for one in mine if one.at_ms > now_ms - _DAY_MS]
        last = next((one for one in reversed(mine) if one.fate == "sent"), None)
        lines.append(
            {
                "route": name,
                "told": sum(one.fate == "sent" for one in recent),
                "given_up": sum(one.fate == "given_up" for one in recent),
                "waiting": len(waiting),
                "oldest_waiting_seconds": max(((now_ms - one.at_ms) / 1000 for one in waiting), default=0.0),
                "last_told": last.title if last else None,
                "last_told_at": write_time(last.at_ms) if last else None,
            }
        )
    return lines


async def _records_since(settings: Settings, layout: Layout, since_ms: int) -> list[tuple[str, bytes]]:
    names = TopicNames.of(settings)
    places = layout.places(names, LOCKED) + layout.places(names, EVENTS)
    records: list[tuple[str, bytes]] = []

    def take(record: ConsumerRecord) -> None:
        records.append((names.logical(record.topic), record.value))

    async with kafka_broker.reader(settings) as consumer:
        await kafka_broker.read_since(consumer, places, since_ms, take)
    return records
