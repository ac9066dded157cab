"""``tidegate worker`` and ``tidegate topics``: run the gate, and make the topics that it runs on."""

import asyncio
import time
from pathlib import Path
from typing import Annotated

import typer

from schemas.config import read_duration
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
    connect,
    examples,
    rules_to_run,
)
from streams.ops.terminal import note, plain_table, print_json, say, stdout
from streams.runtime.logs import configure_logging
from streams.runtime.settings import Settings
from streams.runtime.topics import FOREVER_MS, REQUESTS, Layout, TopicNames, TopicsError, create_topics

WORKER_EXAMPLES = examples(
    "# Accounts from the environment alone, profile micro:",
    "QT_ACCOUNT_MAIN_EXCHANGE=binance TIDEGATE_BROKER=kafka://localhost:9092 tidegate worker",
    "",
    "# Two workers on one machine share the partitions; each has its own directory:",
    "tidegate worker --config tidegate.toml --data-dir /var/lib/tidegate/a &",
    "tidegate worker --config tidegate.toml --data-dir /var/lib/tidegate/b &",
)
TOPICS_EXAMPLES = examples(
    "# A laptop:",
    "tidegate topics create --broker kafka://localhost:9092 --partitions 4",
    "",
    "# Three brokers, 30 days of records (policies and state are kept for ever):",
    "tidegate topics create --partitions 24 --replication 3 --retention 30d",
)

# A topic that was just created is not in every broker's metadata yet.
_VISIBLE_DEADLINE_S = 10.0
_VISIBLE_INTERVAL_S = 0.1

topics = typer.Typer(no_args_is_help=True, help="The Kafka topics that the gate runs on.")


def worker_command(
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
    data_dir: Annotated[
        Path | None,
        typer.Option(
            "--data-dir",
            envvar="TIDEGATE_DATA_DIR",
            metavar="DIR",
            help="This worker's own directory. Losing it only costs a longer restore.",
            show_default=".tidegate",
        ),
    ] = None,
    log_level: LogLevel = "info",
    log_style: LogStyle = "console",
) -> None:
    """Run one worker until SIGTERM or Ctrl-C: one decision per signal.

    Start as many as you like with the same configuration: they share the partitions, and take over from one that dies.

    A configuration with an unknown key or a nonsensical limit stops the start and names the key (status 2).
    TIDEGATE_HTTP=host:port serves /health, /ready and /metrics (off by default). TIDEGATE_STANDBY=1 follows the state
    of partitions that others serve. TIDEGATE_INSTANCE_ID, a name of its own for each worker, keeps its partitions for
    it while it restarts within TIDEGATE_SESSION_TIMEOUT (10s). A worker that could work and does not ends with status 1
    after TIDEGATE_STALL_DEADLINE (60s).
    TLS and SASL are set by TIDEGATE_KAFKA_SECURITY_PROTOCOL, …_SASL_MECHANISM, …_SASL_USERNAME,
    …_SASL_PASSWORD_FILE, …_SSL_CAFILE, …; secrets are never given on the command line.
    """
    rules = rules_to_run(config)
    settings = connect(config, broker, prefix, app_id, data_dir=data_dir)
    if not rules.accounts:
        note("no account is configured: every signal will be rejected with UNKNOWN_ACCOUNT")
    # What would end the worker at once is told here in words, before its machinery starts.
    kafka_broker.run(kafka_broker.ready_for("worker", settings), settings)
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"--data-dir {settings.data_dir}: {error.strerror}", ExitStatus.USAGE) from None
    configure_logging(log_level, log_style)
    # Faust is slow to import; the other commands do without it.
    from streams.runtime.worker import run_worker  # noqa: PLC0415

    raise typer.Exit(run_worker(settings, rules))


# -- topics --------------------------------------------------------------------------------------------------------


@topics.callback()
def _topics() -> None:
    """The Kafka topics that the gate runs on."""


@topics.command("create", epilog=TOPICS_EXAMPLES)
def create(
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
    partitions: Annotated[
        int, typer.Option("--partitions", "-p", min=1, max=10_000, help="Of all topics but policies, which has one.")
    ] = 8,
    replication: Annotated[
        int, typer.Option("--replication", min=1, max=32, help="Copies of each partition; 3 survives a lost broker.")
    ] = 1,
    retention: Annotated[
        str,
        typer.Option(
            "--retention",
            metavar="DURATION",
            help="Of inputs, outputs and journal: 12h, 30d, or forever. Policies and state are kept for ever.",
        ),
    ] = "forever",
    as_json: Json = False,
) -> None:
    """Create the topics that are missing; those that exist are left as they are.

    The partition count is for ever: accounts are spread over it by key. It bounds how many workers can share the work.
    """
    settings = connect(config, broker, prefix, app_id)
    retention_ms = _retention(retention)
    created, layout = kafka_broker.run(_create(settings, partitions, replication, retention_ms), settings)
    names = TopicNames.of(settings)
    lines = [
        {"topic": names.physical(topic), "partitions": count, "created": names.physical(topic) in created}
        for topic, count in layout.counts.items()
    ]
    if as_json:
        print_json({"broker": settings.broker, "topics": lines})
        return
    table = plain_table()
    table.add_column("Topic")
    table.add_column("Partitions", justify="right")
    table.add_column("")
    for line in lines:
        table.add_row(
            str(line["topic"]), str(line["partitions"]), "[green]created[/green]" if line["created"] else "was there"
        )
    stdout().print(table)
    if layout.partitions != partitions:
        say(f"{layout.partitions} partitions as before, not {partitions}: existing topics are never changed")


def _retention(text: str) -> int:
    if text == "forever":
        return FOREVER_MS
    try:
        return read_duration(text)
    except ValueError as error:
        raise CommandError(f"--retention {text!r}: {error}", ExitStatus.USAGE) from None


async def _create(settings: Settings, partitions: int, replication: int, retention_ms: int) -> tuple[set[str], Layout]:
    async with asyncio.timeout(2 * kafka_broker.REACH_DEADLINE_S):
        created = await create_topics(
            settings,
            partitions=partitions,
            replication_factor=replication,
            input_retention_ms=retention_ms,
            output_retention_ms=retention_ms,
            journal_retention_ms=retention_ms,
        )
    deadline_s = time.monotonic() + (_VISIBLE_DEADLINE_S if created else 0)
    while True:
        try:
            layout = await kafka_broker.layout_of(settings)
            if REQUESTS in layout.counts or time.monotonic() > deadline_s:
                return set(created), layout
        except TopicsError:
            if time.monotonic() > deadline_s:
                raise
        await asyncio.sleep(_VISIBLE_INTERVAL_S)
