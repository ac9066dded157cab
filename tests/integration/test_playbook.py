"""Every command of ``infra/playbook.md`` that needs no Docker and no cluster, on real Kafka, with what it promises."""

import asyncio
import json
import os
import re
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from infra.brokers import Broker
from streams.ops.cli import app
from streams.runtime.topics import TopicNames
from tests.integration import playbook
from tests.integration.processes import Program, tidegate_command
from tests.integration.support import Names, poll, produce, read_topic

PLAYBOOK = Path(__file__).parents[2] / "infra" / "playbook.md"
PARTITIONS = 1
DEADLINE_S = 40.0
# What only the machinery around Tidegate can do, and this test has none of it.
ELSEWHERE = ("docker ", "kubectl ", "systemctl ", "journalctl ", "kafka-")


class Desk:
    """The desk of the playbook: its directory, its processes, and the world that acts on it."""

    def __init__(self, kafka: Broker, topics: Names, directory: Path, running: ExitStack) -> None:
        self.directory = directory
        self.environment = {
            "TIDEGATE_BROKER": kafka.url,
            "TIDEGATE_TOPIC_PREFIX": topics.prefix,
            "TIDEGATE_APP_ID": topics.app_id,
            "TIDEGATE_OPERATOR": "ann",
            "COLUMNS": "130",
        }
        self._bootstrap = kafka.bootstrap
        self._names = TopicNames(topics.prefix, topics.app_id)
        self._running = running
        self._processes: dict[str, Program] = {}
        self._sequence = 0

    def tidegate(self, line: str) -> tuple[int, str]:
        """Exit status and output, messages after results as a terminal would show them."""
        name, *arguments = shlex.split(line)
        assert name == "tidegate", line
        result = CliRunner().invoke(app, arguments, env=self.environment)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result.exit_code, result.stdout + result.stderr

    # -- what the world does ---------------------------------------------------------------------------------------

    def do(self, words: str) -> None:
        """One ``given`` of the playbook."""
        for pattern, act in self._acts():
            if found := re.fullmatch(pattern, words):
                act(*found.groups())
                return
        raise AssertionError(f"the test does not know how to do: {words}")

    def _acts(self) -> list[tuple[str, Callable[..., None]]]:
        return [
            (r"a (worker|steward) starts", self._start),
            (r"the (worker|steward) is gone", self._end),
            (r"(\S+) has an equity of (\S+)", self._equity),
            (r"the last pnl of (\S+), (\S+), is ten minutes old", self._stale_equity),
            (r"(\S+) sends signal (\S+)", self._signal),
            (r"(\S+) rejects (\d+) orders of (\S+)", self._rejections),
        ]

    def _start(self, kind: str) -> None:
        environment = os.environ | self.environment | {"PYTHONPATH": str(PLAYBOOK.parents[1])}
        process = Program(tidegate_command(kind), self.directory / f"{kind}.log", environment, self.directory)
        self._processes[kind] = self._running.enter_context(process)
        process.wait_for("serving partition" if kind == "worker" else "steward serving")

    def _end(self, kind: str) -> None:
        self._processes.pop(kind).end(signal.SIGTERM)

    def _send(self, topic: str, account: str, **value: Any) -> None:
        body = json.dumps({"account_id": account, **value}).encode()
        asyncio.run(produce(self._bootstrap, self._names.physical(topic), [(account.encode(), body)]))

    def _equity(self, account: str, equity: str, age: timedelta = timedelta(0)) -> None:
        self._sequence += 1
        as_of = (datetime.now(UTC) - age).isoformat()
        marks = {"BTC-USD": "16500"}
        self._send("pnl", account, sequence=self._sequence, equity=equity, as_of=as_of, marks=marks)

        def marked() -> bool:
            accounts = json.loads(self.tidegate("tidegate accounts --json")[1])["accounts"]
            return any(one["account_id"] == account and one["equity"] == equity for one in accounts)

        poll(marked, DEADLINE_S, f"{account} to have {equity}")

    def _stale_equity(self, account: str, equity: str) -> None:
        self._equity(account, equity, timedelta(minutes=10))

    def _signal(self, strategy: str, signal_id: str) -> None:
        order = {"instrument": "BTC-USD", "side": "buy", "quantity": "0.01", "price": "16500", "stop_loss": "16400"}
        now = datetime.now(UTC).isoformat()
        account = "main_binance"
        self._send("signals", account, signal_id=signal_id, strategy_id=strategy, created_at=now, **order)

        def decided() -> bool:
            return any(json.loads(one)["signal_id"] == signal_id for one in self._decisions())

        poll(decided, DEADLINE_S, f"a decision of {signal_id}")

    def _decisions(self) -> list[bytes]:
        topics = [self._names.physical(topic) for topic in ("approved-orders", "rejected-signals")]
        return [record.value for topic in topics for record in asyncio.run(read_topic(self._bootstrap, topic))]

    def _rejections(self, venue: str, count: str, account: str) -> None:
        for number in range(int(count)):
            report = {"fill_id": f"f-{number}", "order_id": f"o-{number}", "instrument": "BTC-USD", "side": "buy"}
            nothing = {"quantity": "0", "price": "16500", "status": "rejected", "venue": venue}
            self._send("fills", account, **report, **nothing, filled_at=datetime.now(UTC).isoformat())

        def down() -> bool:
            return f"venue/{venue}" in self.tidegate("tidegate policy list --json")[1]

        poll(down, DEADLINE_S, f"{venue} to be marked down")


@pytest.fixture
def desk(kafka: Broker, topics: Names, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.chdir(tmp_path)
    with ExitStack() as running:
        yield Desk(kafka, topics, tmp_path, running)


def test_the_playbook_does_what_it_says(desk: Desk) -> None:
    ids = playbook.Ids()
    for step in playbook.steps(PLAYBOOK.read_text()):
        match step:
            case playbook.File(name, text):
                (desk.directory / name).write_text(text)
            case playbook.Given(words):
                desk.do(words)
            case playbook.Command(line, expected, status):
                actual_status, output = desk.tidegate(ids.in_command(line))
                assert (actual_status, ids.difference(expected, output)) == (status, None), f"$ {line}\n{output}"


def test_what_is_not_run_is_not_ours() -> None:
    excused = [step for step in playbook.steps(PLAYBOOK.read_text()) if isinstance(step, playbook.Excused)]

    lines = [line for step in excused for line in step.text.splitlines() if line and not line.startswith("#")]

    assert [line for line in lines if not line.startswith(ELSEWHERE)] == []
