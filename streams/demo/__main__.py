"""`python -m streams.demo`: the whole loop through Kafka, the closing table, the report, and the proof."""

import asyncio
import logging
import sys
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Annotated

import typer
from aiokafka.errors import KafkaError
from rich.console import Console

from infra.brokers import Broker, BrokerFailed, KafkaUnavailable, broker
from streams.demo import report, wire, workers
from streams.demo.accounts import config_toml
from streams.demo.desk import Desk
from streams.demo.live import Lines, Screen
from streams.demo.loop import run
from streams.demo.market import Hour, Tick, hours, ticks
from streams.demo.summary import table
from streams.demo.verify import Verdict, verify
from streams.demo.wire import GateSilentError
from streams.demo.workers import WorkerFailedError
from streams.runtime import kafka
from streams.runtime.settings import Settings, SettingsError
from streams.runtime.topics import TopicsError, create_topics, verify_topics

WORKERS = 2
PARTITIONS = 4
PLAIN_WIDTH = 150
SHOWN_FINDINGS = 20
VISIBLE_DEADLINE_S = 10.0
VISIBLE_INTERVAL_S = 0.1
EXIT_BROKEN_PROMISE = 1
EXIT_NOT_RUN = 2


def demo(
    bars: Annotated[int, typer.Option(min=1, max=744, help="Hourly bars to play, from 1 December 2017.")] = 744,
    report_path: Annotated[
        Path, typer.Option("--report", dir_okay=False, writable=True, help="Where to write the HTML report.")
    ] = Path("demo-report.html"),
    live: Annotated[bool, typer.Option("--live/--no-live", help="The live screen; plain lines without it.")] = True,
    speed: Annotated[float, typer.Option(min=0, help="Bars per second at most; 0 is as fast as it goes.")] = 0,
) -> None:
    """Play the Bitcoin and euro bars of December 2017 through Tidegate on Kafka.

    Ten accounts trade, two Tidegate workers decide, an executor fills and a portfolio marks. At the end everything is
    read again from the topics: the exit status is 0 only if every signal has exactly one decision and nothing but
    reducing orders was approved between a lock and its unlock (1: it was not so, 2: the demo could not run).
    """
    # Topics that are still finding their leaders make clients complain and retry; what they give up on is raised.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    console = Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH)
    month = hours(bars)
    began_s = time.monotonic()
    with ExitStack() as stack:
        try:
            chosen = stack.enter_context(broker())
        except (BrokerFailed, KafkaUnavailable, ValueError) as error:
            raise _cannot_run(error) from error
        try:
            desk, verdict = asyncio.run(_play(chosen, month, console, live=live and console.is_terminal, speed=speed))
        except (KafkaError, SettingsError, TopicsError, WorkerFailedError, GateSilentError) as error:
            raise _cannot_run(error) from error
    console.print(table(desk.chronicle.stories.values()))
    report_path.write_text(report.render(desk.chronicle, month, verdict), encoding="utf-8")
    _tell_verdict(verdict)
    print(f"report: {report_path}")
    print(f"demo: {bars} bars in {time.monotonic() - began_s:.0f} s", file=sys.stderr)
    if verdict.findings:
        raise typer.Exit(EXIT_BROKEN_PROMISE)


def _cannot_run(error: Exception) -> typer.Exit:
    print(f"demo: {error}", file=sys.stderr)
    return typer.Exit(EXIT_NOT_RUN)


async def _play(
    chosen: Broker, month: Sequence[Hour], console: Console, *, live: bool, speed: float
) -> tuple[Desk, Verdict]:
    desk = Desk()
    settings = Settings.from_environment(broker=chosen.url, topic_prefix=f"demo-{uuid.uuid4().hex[:8]}-")
    with tempfile.TemporaryDirectory(prefix="tidegate-demo-") as directory:
        scratch = Path(directory)
        config = scratch / "tidegate.toml"
        config.write_text(config_toml(), encoding="utf-8")
        async with _topics(settings, keep=chosen.kind != "external"):
            async with (
                workers.running(WORKERS, settings, config, scratch) as watch,
                wire.connect(settings, PARTITIONS) as gate,
            ):
                view = (
                    Screen(console, desk.chronicle, len(month), f"{WORKERS} workers on {_broker_name(chosen)}")
                    if live
                    else Lines(print, desk.chronicle)
                )
                with view:
                    await _unless_failed(run(desk, gate, ticks(month), _paced(view, speed)), watch)
            return desk, verify(await wire.read_all(settings, PARTITIONS))


@asynccontextmanager
async def _topics(settings: Settings, *, keep: bool) -> AsyncIterator[None]:
    """Topics of this run alone, without retention, which would delete what 2017 wrote.

    On a broker that outlives the demo they are taken away at the end.
    """
    created = await create_topics(settings, partitions=PARTITIONS)
    await _visible(settings)
    try:
        yield
    finally:
        if not keep:
            admin = kafka.admin(settings)
            await admin.start()
            try:
                await admin.delete_topics(list(created))
            finally:
                await admin.close()


async def _visible(settings: Settings) -> None:
    """Wait until the broker shows the topics that it has created."""
    deadline_s = time.monotonic() + VISIBLE_DEADLINE_S
    while True:
        try:
            await verify_topics(settings)
            return
        except TopicsError:
            if time.monotonic() > deadline_s:
                raise
        await asyncio.sleep(VISIBLE_INTERVAL_S)


async def _unless_failed(playing: Awaitable[None], watch: asyncio.Task[None]) -> None:
    """Play to the end. Raises what a worker died of as soon as one does, instead of waiting for its answers."""
    player = asyncio.ensure_future(playing)
    try:
        await asyncio.wait({player, watch}, return_when=asyncio.FIRST_COMPLETED)
        if watch.done():
            await watch
        await player
    finally:
        player.cancel()


def _paced(view: Callable[[Tick], None], speed: float) -> Callable[[Tick], Awaitable[None]]:
    began_s = time.monotonic()

    async def watch(tick: Tick) -> None:
        view(tick)
        if speed and tick.opens_bar:
            await asyncio.sleep(max(0.0, began_s + (tick.hour + 1) / speed - time.monotonic()))

    return watch


def _broker_name(chosen: Broker) -> str:
    return {"kafka": "Apache Kafka", "emulator": "an emulated broker", "external": "your broker"}[chosen.kind]


def _tell_verdict(verdict: Verdict) -> None:
    print(
        f"re-read from the topics: signals {verdict.signals}, decisions {verdict.decisions}, "
        f"dead letters {verdict.dead_letters}, locks {verdict.locks}, "
        f"approved under a lock {verdict.approved_while_locked}"
    )
    if verdict.findings:
        print(f"FAILED: {len(verdict.findings)} broken promises")
    else:
        print(
            "verified: every signal has exactly one decision, and nothing but reducing orders was approved under a lock"
        )
    for finding in verdict.findings[:SHOWN_FINDINGS]:
        print(f"  {finding}")
    if len(verdict.findings) > SHOWN_FINDINGS:
        print(f"  … and {len(verdict.findings) - SHOWN_FINDINGS} more")


if __name__ == "__main__":
    typer.run(demo)
