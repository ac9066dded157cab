"""``tidegate notify`` on a real broker, telling a real HTTP service: each fact once, whatever dies."""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import orjson
import pytest
from typer.testing import CliRunner

from infra.brokers import Broker
from schemas.types import write_time
from streams.core.records import EVENTS, LOCKED, PNL, SIGNALS
from streams.notify.memory import read_told
from streams.ops.cli import app
from streams.runtime import clock
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames, create_topics
from tests.integration.processes import Program, environment_of, tidegate_command
from tests.integration.support import Names, grow_topics, poll, produce, read_topic, wait_for
from tests.integration.workers import WorkerProcess, settings_for
from tests.notify.records import event, lock, warning
from tests.observe.scrape import listed, scraped, shown

pytestmark = pytest.mark.integration

DEADLINE_S = 40.0
TOML = """
[accounts.main]
exchange = "binance"
profile = "normal"
[notify]
digest_at = 4
digest_window = "200ms"
[notify.routes.desk]
[notify.routes.pager]
severity = "critical"
"""


class Service:
    """A local service behind apprise's ``json://``."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.up = True
        self.when_told: Callable[[], None] | None = None
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if outer.up:
                    outer.titles.append(body["title"])
                if outer.when_told is not None:
                    outer.when_told()
                self.send_response(200 if outer.up else 503)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def address(self) -> str:
        return f"json://127.0.0.1:{self._server.server_port}/canary-token"

    def has(self, words: str) -> bool:
        return any(words in title for title in self.titles)

    def told(self, count: int) -> list[str]:
        return poll(lambda: self.titles if len(self.titles) >= count else [], DEADLINE_S, f"{count} messages")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class Desk:
    """A test's topics, its services, and notifiers that come and go."""

    def __init__(self, kafka: Broker, topics: Names, directory: Path, services: Mapping[str, str]) -> None:
        self.settings = settings_for(kafka, topics, directory / "any")
        self._names = TopicNames.of(self.settings)
        self._kafka = kafka
        self._config = directory / "tidegate.toml"
        self._config.write_text(TOML)
        self._directory = directory
        self._count = 0
        self.environment = environment_of(self.settings) | {"TIDEGATE_HTTP": "127.0.0.1:0"}
        self.environment |= {f"TIDEGATE_NOTIFY_{name.upper()}": address for name, address in services.items()}

    async def create(self) -> Self:
        await create_topics(self.settings, partitions=2)
        return self

    async def publish(self, topic: str, *bodies: dict[str, Any], **options: Any) -> None:
        records = [(body["account_id"].encode(), orjson.dumps(body)) for body in bodies]
        await produce(self._kafka.bootstrap, self._names.physical(topic), records, **options)

    async def grow(self, topic: str, partitions: int) -> None:
        await grow_topics(self._kafka.bootstrap, [self._names.physical(topic)], partitions)

    def notifier(self) -> Program:
        self._count += 1
        log = self._directory / f"notifier-{self._count}.log"
        return Program(tidegate_command("notify", "--config", str(self._config)), log, os.environ | self.environment)

    async def status(self) -> list[dict[str, Any]]:
        words = ["notify", "status", "--json", "--config", str(self._config)]
        result = await asyncio.to_thread(CliRunner().invoke, app, words, env=self.environment)
        assert result.exit_code in (0, 1), result.output
        routes: list[dict[str, Any]] = orjson.loads(result.stdout)["routes"]
        return routes

    async def values(self, topic: str) -> list[dict[str, Any]]:
        return [orjson.loads(one.value) for one in await read_topic(self._kafka.bootstrap, self._names.physical(topic))]


def fresh(number: int, account: str = "main") -> dict[str, Any]:
    """A lock of now."""
    return lock(account, number, locked_at=write_time(clock.now_ms()))


@pytest.fixture
def service() -> Iterator[Service]:
    with Service() as one:
        yield one


@pytest.fixture
def pager() -> Iterator[Service]:
    with Service() as one:
        yield one


@pytest.fixture
async def desk(kafka: Broker, topics: Names, tmp_path: Path, service: Service, pager: Service) -> Desk:
    return await Desk(kafka, topics, tmp_path, {"desk": service.address, "pager": pager.address}).create()


async def settled(settings: Settings, count: int) -> None:
    """Until so many fates are noted for good."""

    async def noted() -> bool:
        return len(await read_told(settings)) >= count

    await wait_for(noted, DEADLINE_S, f"{count} fates")


async def test_each_fact_is_told_once_over_restarts(desk: Desk, service: Service, pager: Service) -> None:
    at = write_time(clock.now_ms())
    with desk.notifier() as first:
        first.wait_for("notifier serving: desk, pager")
        await desk.publish(LOCKED, fresh(1))
        await desk.publish(EVENTS, warning("main", 2, at=at), event("UNLOCKED", "main", 3, at=at))
        service.told(3)
        pager.told(1)
        await settled(desk.settings, 4)
        first.end(signal.SIGKILL)
    await desk.publish(LOCKED, fresh(4, "other"))  # nobody is there to tell it
    with desk.notifier() as second:
        second.wait_for("notifier serving")
        service.told(4)
        pager.told(2)
        await settled(desk.settings, 6)
        assert second.end(signal.SIGTERM) == 0
        assert "canary-token" not in second.log
    assert sorted(service.titles) == [
        "main is unlocked",
        "main locked: daily drawdown 3.6 % of 3.5 %",
        "main: daily drawdown 1.04 %, limit 2 %",
        "other locked: daily drawdown 3.6 % of 3.5 %",
    ]
    assert [title.split()[0] for title in pager.titles] == ["main", "other"]


async def test_a_death_between_telling_and_noting_tells_again_and_only_then(desk: Desk, service: Service) -> None:
    """The one duplicate that is possible: the service took it, and nobody lived to note it."""
    with desk.notifier() as first:
        first.wait_for("notifier serving")
        service.when_told = partial(first.send, signal.SIGKILL)
        await desk.publish(LOCKED, fresh(1))
        service.told(1)
        first.wait_exit()
    service.when_told = None
    with desk.notifier() as second:
        second.wait_for("notifier serving")
        service.told(2)
        await settled(desk.settings, 2)
        second.end(signal.SIGKILL)
    with desk.notifier() as third:
        third.wait_for("notifier serving")
        await desk.publish(LOCKED, fresh(2, "marker"))
        service.told(3)
    assert [title.split()[0] for title in service.titles] == ["main", "main", "marker"]


async def test_one_that_was_paused_past_its_session_tells_nothing_of_what_it_held(desk: Desk, service: Service) -> None:
    with desk.notifier() as first:
        first.wait_for("notifier serving")
        service.up = False
        await desk.publish(LOCKED, fresh(1))
        first.wait_for("route desk: not told")
        first.send(signal.SIGSTOP)
        service.up = True
        with desk.notifier() as second:
            second.wait_for("notifier serving")  # which waits until the group has missed the first
            service.told(1)
            await settled(desk.settings, 2)
            first.send(signal.SIGCONT)
            assert first.wait_exit() == 1
            assert "notifier failed: NotAlone" in first.log
            # It may have joined the group once more before it ended: then this one ends as well, and the next goes on.
            second.end(signal.SIGKILL)
    with desk.notifier() as third:
        third.wait_for("notifier serving")
        await desk.publish(LOCKED, fresh(2, "marker"))
        service.told(2)
    assert [title.split()[0] for title in service.titles] == ["main", "marker"]


async def test_a_dead_route_holds_up_no_other_and_catches_up_as_a_digest(
    desk: Desk, service: Service, pager: Service
) -> None:
    pager.up = False
    with desk.notifier() as notifier:
        notifier.wait_for("notifier serving")
        for number in range(6):
            await desk.publish(LOCKED, fresh(number, f"account{number}"))
            poll(partial(service.has, f"account{number}"), DEADLINE_S, "the living route")
        notifier.wait_for("route pager: not told")
        assert {one["route"]: one["waiting"] for one in await desk.status()}["pager"] == 6
        pager.up = True
        pager.told(1)
        await settled(desk.settings, 12)
        told = 'tidegate_notify_messages_total{fate="sent",route="pager"} 6.0'
        # It is counted after it is noted.
        poll(lambda: told in scraped(notifier.address), DEADLINE_S, told)
        text = scraped(notifier.address)
    assert shown(text) == listed("notifier")
    assert 'tidegate_notify_failures_total{route="desk"} 0.0' in text
    assert 'tidegate_notify_waiting_messages{route="pager"} 0.0' in text
    assert len(pager.titles) == 1
    assert pager.titles[0].startswith("6 accounts locked: account0")
    after = [(one["route"], one["told"], one["waiting"]) for one in await desk.status()]
    assert after == [("desk", 6, 0), ("pager", 6, 0)]


async def test_what_waits_is_counted_in_every_partition_of_either_topic(desk: Desk) -> None:
    """Outputs may have other numbers of partitions than each other."""
    await desk.grow(EVENTS, 5)
    await desk.publish(EVENTS, warning("main", 1, at=write_time(clock.now_ms())), partition=4)
    await desk.publish(LOCKED, fresh(2), partition=1)
    assert {one["route"]: one["waiting"] for one in await desk.status()} == {"desk": 2, "pager": 1}


async def test_the_gate_does_not_wait_for_a_notifier_and_a_real_lock_is_told(
    desk: Desk, service: Service, pager: Service, tmp_path: Path, kafka: Broker, topics: Names
) -> None:
    settings = settings_for(kafka, topics, tmp_path / "worker")
    rules = {"accounts": {"main": {"exchange": "binance", "profile": "normal"}}}

    def mark(number: int, equity: str) -> dict[str, Any]:
        return {"account_id": "main", "sequence": number, "equity": equity, "as_of": write_time(clock.now_ms())}

    with WorkerProcess(settings, core="real", rules=rules) as worker:
        worker.wait_serving(2)
        with desk.notifier() as notifier:
            notifier.wait_for("notifier serving")
            notifier.send(signal.SIGSTOP)
            await desk.publish(PNL, mark(1, "10000"), mark(2, "9700"))

            async def locked() -> bool:
                return bool(await desk.values(LOCKED))

            await wait_for(locked, DEADLINE_S, "a lock, while the notifier hangs")
            assert service.titles == []
            notifier.send(signal.SIGCONT)
            # Beside it the desk is told of the tiers on the way, from another topic and so in any order.
            told = "main locked: daily drawdown 3 % of 2 %"
            poll(partial(service.has, told), DEADLINE_S, "the desk to be told")
            assert pager.told(1) == [told]


@pytest.fixture
def log_restored() -> Iterator[None]:
    root, apprise = logging.getLogger(), logging.getLogger("apprise")
    handlers, levels = root.handlers[:], (root.level, apprise.level)
    yield
    root.handlers[:] = handlers
    for one, level in zip((root, apprise), levels, strict=True):
        one.setLevel(level)


@pytest.mark.usefixtures("log_restored")
def test_a_test_message_says_what_came_of_it_and_why(tmp_path: Path, service: Service, pager: Service) -> None:
    pager.up = False
    (tmp_path / "tidegate.toml").write_text(TOML)
    env = {"TIDEGATE_NOTIFY_DESK": service.address, "TIDEGATE_NOTIFY_PAGER": pager.address}

    result = CliRunner().invoke(app, ["notify", "test", "--config", str(tmp_path / "tidegate.toml")], env=env)

    assert result.exit_code == 1
    lines = {line.split()[0]: line for line in result.stdout.splitlines() if line.split()}
    assert lines["desk"].rstrip().endswith("told")
    assert "not taken" in lines["pager"]
    assert "error=503" in result.stderr
    assert service.titles == ["Tidegate: a test"]
    assert "canary-token" not in result.output


def test_a_route_without_an_address_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "tidegate.toml").write_text(TOML)
    arguments = ["notify", "--config", str(tmp_path / "tidegate.toml"), "--broker", "kafka://127.0.0.1:1"]

    result = CliRunner().invoke(app, arguments, env={"TIDEGATE_NOTIFY_DESK": "json://host"})

    assert result.exit_code == 2
    assert "notify.routes.pager has no address: set TIDEGATE_NOTIFY_PAGER" in result.stderr


def test_signals_are_not_what_a_notifier_reads() -> None:
    """Its role may read none: a notifier's key must not show a desk's orders."""
    from schemas.roles import ROLES

    assert SIGNALS not in ROLES["notifier"].reads
    assert ROLES["notifier"].writes == ("notifications",)
