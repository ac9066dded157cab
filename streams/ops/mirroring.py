"""``tidegate mirror``: run the Redis mirror, see how far it is, make its model anew."""

import asyncio
import os
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from streams.core.rules import Rules
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
    rules_in,
)
from streams.ops.terminal import note, plain_table, print_json, say, stdout
from streams.runtime.logs import configure_logging
from streams.runtime.settings import Settings, SettingsError

if TYPE_CHECKING:
    from streams.mirror.settings import MirrorSettings
    from streams.mirror.status import Status

EXAMPLES = examples(
    "# Beside the workers, with the same configuration:",
    "export TIDEGATE_REDIS_URL=redis://localhost:6379/0",
    "tidegate mirror --config tidegate.toml",
    "",
    "# How far behind is it? An account, and what is locked, as a screen reads them:",
    "tidegate mirror status",
    "redis-cli HGETALL tidegate:account:main_binance",
    "redis-cli SMEMBERS tidegate:locked",
)
STATUS_EXAMPLES = examples(
    "tidegate mirror status",
    "",
    "# For a probe: status 1 unless a last look would trust the model.",
    "tidegate mirror status --json | jq .behind_records",
)
REBUILD_EXAMPLES = examples(
    "# Only where the model is in doubt: a wiped Redis is noticed and filled without it.",
    "tidegate mirror rebuild --config tidegate.toml",
)

_REDIS_REMEDY = "is Redis running there? It is named by TIDEGATE_REDIS_URL"

T = TypeVar("T")

mirror = typer.Typer(invoke_without_command=True)


@mirror.callback(epilog=EXAMPLES)
def run(
    ctx: typer.Context,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
    log_level: LogLevel = "info",
    log_style: LogStyle = "console",
) -> None:
    """Run the mirror until SIGTERM or Ctrl-C: what the gate knows, in Redis, for screens and the executors' last look.

    TIDEGATE_REDIS_URL (or TIDEGATE_REDIS_URL_FILE) names Redis 7 or later, or Valkey. TIDEGATE_REDIS_PREFIX goes before
    every key; by default it is the gate's name. Give it the workers' own configuration.

    The gate never reads Redis and does not wait for it. While Redis is away the mirror tries on; a wiped one is noticed
    and filled from Kafka. Two mirrors may run at once: what comes second writes nothing.
    """
    if ctx.invoked_subcommand is not None:
        return
    rules = rules_in(config)
    settings, redis = _connect(config, broker, prefix, app_id)
    # What would end the mirror at once is told here in words, before its machinery starts.
    kafka_broker.run(kafka_broker.ready_for("mirror", settings), settings)
    configure_logging(log_level, log_style)
    # Faust is slow to import; the other commands do without it.
    from streams.mirror.process import run_mirror  # noqa: PLC0415

    raise typer.Exit(run_mirror(settings, redis, rules))


@mirror.command("status", epilog=STATUS_EXAMPLES)
def status(
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Show how fresh the model is, and how far behind the topics.

    Read from Redis alone, so it works while Kafka is down. Fresh: all that was committed by then is in Redis.
    Status 1: a last look would not trust the model; the message says why.
    """
    _, redis = _connect(config, broker, prefix, app_id)
    found = _asking(_read_status(redis), redis)
    if as_json:
        from streams.mirror.status import document  # noqa: PLC0415

        print_json({"redis": redis.address, "prefix": redis.prefix} | document(found))
    else:
        _show(found, redis)
    if faults := found.faults():
        raise CommandError(
            f"{redis.address}, prefix {redis.prefix!r}: {'; '.join(faults)}",
            ExitStatus.REFUSED,
            "is `tidegate mirror` running? Its log says what it waits for",
        )


@mirror.command("rebuild", epilog=REBUILD_EXAMPLES)
def rebuild(
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
    log_level: LogLevel = "warning",
    log_style: LogStyle = "console",
) -> None:
    """Make the model anew from Kafka, also where the prefix holds another gate's, and wait until it is whole.

    Until then every last look is refused; what screens show is the former model, marked as being built in status.
    The stream of locks stays, and gets none twice; only the model of another gate loses it. Run it at any time: a
    mirror that runs does its share.
    """
    rules = rules_in(config)
    settings, redis = _connect(config, broker, prefix, app_id)
    kafka_broker.run(kafka_broker.ready_for("mirror", settings), settings)
    configure_logging(log_level, log_style)
    began_s = time.monotonic()
    records = _asking(_rebuild(settings, redis, rules), redis)
    say(f"{redis.address}, prefix {redis.prefix!r}: whole after {time.monotonic() - began_s:.1f} s, {records} records")


def _connect(
    config: Any, broker: str | None, prefix: str | None, app_id: str | None
) -> "tuple[Settings, MirrorSettings]":
    settings = connect(config, broker, prefix, app_id)
    try:
        from streams.mirror.settings import MirrorSettings  # noqa: PLC0415

        return settings, MirrorSettings.from_environment(settings, os.environ)
    except SettingsError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from None


def _asking(work: Coroutine[Any, Any, T], redis: "MirrorSettings") -> T:
    """Run work that asks Redis. Raises CommandError where it does not answer."""
    from redis.exceptions import RedisError  # noqa: PLC0415

    from streams.mirror.model import ModelError, in_words  # noqa: PLC0415

    try:
        return asyncio.run(work)
    except ModelError as error:
        raise CommandError(str(error), ExitStatus.REFUSED) from None
    except (RedisError, OSError) as error:
        raise CommandError(f"{redis.address}: {in_words(error)}", ExitStatus.BROKER, _REDIS_REMEDY) from None


async def _read_status(redis: "MirrorSettings") -> "Status":
    from streams.mirror.model import connect as connect_redis  # noqa: PLC0415
    from streams.mirror.status import read_status  # noqa: PLC0415

    async with connect_redis(redis) as client:
        return await read_status(client, redis.prefix)


async def _rebuild(settings: Settings, redis: "MirrorSettings", rules: Rules) -> int:
    from streams.mirror.model import connect as connect_redis  # noqa: PLC0415
    from streams.mirror.process import rebuild as make_anew  # noqa: PLC0415

    async with connect_redis(redis) as client:
        # The mirror itself would wait for a Redis that is away; a person wants to be told.
        await client.ping()
    return await make_anew(settings, redis, rules)


def _show(found: "Status", redis: "MirrorSettings") -> None:
    if found.phase is None:
        note(f"{redis.address} holds no model under the prefix {redis.prefix!r}")
        return
    behind = "–" if found.behind_records is None else found.behind_records
    say(
        f"{redis.address}  prefix {redis.prefix!r}  {found.phase}, generation {found.generation} by {found.writer}",
        f"fresh {_age(found.fresh_age_ms)}, heartbeat {_age(found.heartbeat_age_ms)}, {behind} records behind, "
        f"policy version {found.policy_version}, {found.accounts} accounts, {found.locked} locked",
        "",
    )
    table = plain_table()
    table.add_column("Topic", no_wrap=True)
    for heading in ("Partitions", "End offsets, sum", "Behind"):
        table.add_column(heading, justify="right")
    for topic in dict.fromkeys(place.topic for place in found.places):
        places = [place for place in found.places if place.topic == topic]
        behind_here = sum(max(0, place.end - place.position) for place in places)
        table.add_row(topic, str(len(places)), str(sum(place.end for place in places)), str(behind_here))
    stdout().print(table)


def _age(ms: int | None) -> str:
    return "never" if ms is None else f"{ms / 1000:.1f} s ago"
