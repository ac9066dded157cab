"""The small HTTP server: statuses that probes understand, reasons that people do."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from streams.runtime.settings import Settings, SettingsError
from streams.runtime.web import Report, Web, web_for

HOST = "127.0.0.1"
FINE = Report(True)


@dataclass
class Process:
    """What is probed."""

    health: Report = FINE
    ready: Report = FINE
    metrics: bytes = b"tidegate_up 1\n"


@pytest.fixture
def process() -> Process:
    return Process()


@pytest.fixture
async def served(process: Process) -> AsyncIterator[Web]:
    web = Web(
        HOST,
        0,
        health=lambda: process.health,
        ready=lambda: process.ready,
        metrics=lambda: (process.metrics, "text/plain; version=0.0.4; charset=utf-8"),
    )
    await web.start()
    yield web
    await web.stop()


async def get(web: Web, path: str) -> tuple[int, str, bytes]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{HOST}:{web.port}{path}") as answer:
        return answer.status, answer.headers["Content-Type"], await answer.read()


async def test_all_is_well(served: Web) -> None:
    for path in ("/health", "/ready"):
        assert await get(served, path) == (200, "application/json", b'{"ok":true,"reasons":[]}\n')


async def test_each_probe_tells_its_own_reasons_and_facts(served: Web, process: Process) -> None:
    process.ready = Report.of(("partition 3 is being restored",), serving=[1, 2])
    status, _, body = await get(served, "/ready")
    assert (status, body) == (503, b'{"ok":false,"reasons":["partition 3 is being restored"],"serving":[1,2]}\n')
    assert (await get(served, "/health"))[0] == 200
    process.health, process.ready = Report.of(("the broker is away",)), Report.of((), serving=[])
    assert [(await get(served, path))[0] for path in ("/health", "/ready")] == [503, 200]


async def test_metrics_come_as_they_are(served: Web, process: Process) -> None:
    process.metrics = b"tidegate_up 0\n"
    assert await get(served, "/metrics") == (200, "text/plain; version=0.0.4; charset=utf-8", b"tidegate_up 0\n")


async def test_a_process_without_metrics_has_no_such_page() -> None:
    web = Web(HOST, 0, health=lambda: FINE, ready=lambda: FINE)
    await web.start()
    try:
        assert [(await get(web, path))[0] for path in ("/metrics", "/health")] == [404, 200]
    finally:
        await web.stop()


async def test_a_port_that_is_taken_names_the_setting(served: Web) -> None:
    with pytest.raises(SettingsError, match=rf"TIDEGATE_HTTP={HOST}:{served.port} cannot be listened on"):
        await Web(HOST, served.port, health=lambda: FINE, ready=lambda: FINE).start()


def settings(**environ: str) -> Settings:
    return Settings.from_environment({"TIDEGATE_BROKER": "kafka://one:9092"} | environ)


def test_nothing_listens_unless_it_is_asked_for() -> None:
    assert web_for(settings(), health=lambda: FINE, ready=lambda: FINE) is None
    web = web_for(settings(TIDEGATE_HTTP="0.0.0.0:9464"), health=lambda: FINE, ready=lambda: FINE)
    assert web is not None
    assert (web.host, web.port) == ("0.0.0.0", 9464)


@pytest.mark.parametrize(
    ("text", "address"), [("localhost:0", ("localhost", 0)), ("[::1]:9464", ("::1", 9464)), ("::1:9464", ("::1", 9464))]
)
def test_where_to_listen(text: str, address: tuple[str, int]) -> None:
    assert settings(TIDEGATE_HTTP=text).http_address == address


@pytest.mark.parametrize("text", ["9464", ":9464", "localhost", "localhost:http", "localhost:65536", "localhost:-1"])
def test_an_address_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_HTTP must look like"):
        settings(TIDEGATE_HTTP=text)
