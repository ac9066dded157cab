"""The reason for the design: a plain Faust table counts twice after a SIGKILL, Tidegate's state does not.

Both get three signals of one account, are killed once all three are decided, and are started again.
"""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from infra.brokers import Broker
from streams.runtime.settings import Settings
from streams.runtime.topics import create_topics
from tests.integration.support import Names, produce, read_topic, wait_for
from tests.integration.workers import WorkerProcess, settings_for

DEADLINE_S = 60.0
SIGNALS = [(b"account", orjson.dumps({"id": f"s-{n}"})) for n in range(1, 4)]


class PlainFaust:
    """The plain Faust application in a process of its own."""

    def __init__(self, settings: Settings, topics: Names) -> None:
        settings.data_dir.mkdir(exist_ok=True)
        self._log = (settings.data_dir / "log").open("ab")
        arguments = [settings.broker, topics.app_id, topics.prefix, str(settings.data_dir / "faust")]
        command = [sys.executable, "-m", "tests.integration.plain_faust_app", *arguments]
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self._log.close()


def tidegate(settings: Settings, _topics: Names) -> WorkerProcess:
    return WorkerProcess(settings).start()


@pytest.fixture
async def settings(kafka: Broker, topics: Names, tmp_path: Path) -> Settings:
    settings = settings_for(kafka, topics, tmp_path / "data")
    await create_topics(settings, partitions=1)
    return settings


async def decided(kafka: Broker, topics: Names) -> list[tuple[str, int]]:
    """Each decision's signal, and the count of signals in its account that the gate believed in."""
    records: list[Any] = await read_topic(kafka.bootstrap, topics.topic("approved-orders"))
    values = [orjson.loads(record.value) for record in records]
    return [(value["id"], value["counts"]["signals"]) for value in values]


async def decide_then_kill_then_restart(
    start: Callable[[Settings, Names], PlainFaust | WorkerProcess], settings: Settings, kafka: Broker, topics: Names
) -> list[tuple[str, int]]:
    """All decisions up to that on a fourth signal, which is sent after the restart."""

    async def has(name: str) -> bool:
        return any(one == name for one, _ in await decided(kafka, topics))

    await produce(kafka.bootstrap, topics.topic("signals"), SIGNALS)
    first = start(settings, topics)
    try:
        await wait_for(lambda: has("s-3"), DEADLINE_S, "a decision on the third signal")
    finally:
        first.kill()
    second = start(settings, topics)
    try:
        await produce(kafka.bootstrap, topics.topic("signals"), [(b"account", b'{"id": "s-4"}')])
        await wait_for(lambda: has("s-4"), DEADLINE_S, "a decision on the fourth signal")
    finally:
        second.kill()
    return await decided(kafka, topics)


@pytest.mark.timeout(180)
async def test_a_plain_faust_table_counts_twice_what_it_replays(
    settings: Settings, kafka: Broker, topics: Names
) -> None:
    # RocksDB was written at once, the offsets were not: the replay counts on from what it had counted already.
    assert await decide_then_kill_then_restart(PlainFaust, settings, kafka, topics) == [
        ("s-1", 1),
        ("s-2", 2),
        ("s-3", 3),
        ("s-1", 4),
        ("s-2", 5),
        ("s-3", 6),
        ("s-4", 7),
    ]


@pytest.mark.timeout(180)
async def test_tidegate_counts_once(settings: Settings, kafka: Broker, topics: Names) -> None:
    assert await decide_then_kill_then_restart(tidegate, settings, kafka, topics) == [
        ("s-1", 1),
        ("s-2", 2),
        ("s-3", 3),
        ("s-4", 4),
    ]
