"""``tidegate policy …`` on a real broker: in force on every worker within a second, and refused without a trace."""

import asyncio
import itertools
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import ConsumerRecord
from typer.testing import CliRunner, Result

from infra.brokers import Broker
from schemas.types import read_time
from streams.core.records import POLICIES, REJECTED, SIGNALS
from streams.ops.cli import app
from streams.ops.exits import ExitStatus
from streams.runtime import kafka as clients
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames, create_topics
from tests.integration.processes import Program, tidegate_command
from tests.integration.support import Names, poll, read_topic
from tests.integration.workers import WorkerProcess, settings_for

PARTITIONS = 2
DEADLINE_S = 30.0
IN_FORCE_MS = 1_000
_PAUSE_S = 0.02
CONFIG = """
[accounts.{0}]
exchange = "binance"
failover = ["kraken"]
[accounts.{1}]
exchange = "firi"
[strategies]
blacklist = ["old"]
[controls]
two_person = true
"""


def accounts_of_each_partition() -> list[str]:
    """One account for each partition, so that every worker has something to decide."""
    found: dict[int, str] = {}
    for number in itertools.count():
        name = f"desk{number}"
        found.setdefault(clients.partition_of_key(name.encode(), PARTITIONS), name)
        if len(found) == PARTITIONS:
            return list(found.values())
    raise AssertionError("unreachable: the count has no end")


ACCOUNTS = accounts_of_each_partition()


class Desk:
    """A gate's own corner of the broker, its configuration with two persons, and ``tidegate`` for it."""

    def __init__(self, kafka: Broker, topics: Names, directory: Path) -> None:
        self._kafka = kafka
        self._topics = topics
        self._directory = directory
        self._config = directory / "tidegate.toml"
        self._config.write_text(CONFIG.format(*ACCOUNTS))
        self.environment = {
            "TIDEGATE_BROKER": kafka.url,
            "TIDEGATE_TOPIC_PREFIX": topics.prefix,
            "TIDEGATE_APP_ID": topics.app_id,
            "TIDEGATE_OPERATOR": "ann",
            "COLUMNS": "200",
        }
        self.names = TopicNames.of(self.settings("any"))
        asyncio.run(create_topics(self.settings("any"), partitions=PARTITIONS))

    def settings(self, name: str) -> Settings:
        return settings_for(self._kafka, self._topics, self._directory / name)

    def worker(self, name: str) -> WorkerProcess:
        rules = {"accounts": {account: {"exchange": "binance"} for account in ACCOUNTS}}
        return WorkerProcess(self.settings(name), core="real", rules=rules)

    @contextmanager
    def steward(self) -> Iterator[None]:
        """``tidegate steward`` in a process of its own."""
        command = tidegate_command("steward", "--config", str(self._config))
        with Program(command, self._directory / "steward.log", os.environ | self.environment) as process:
            process.wait_for("steward serving")
            yield

    def policy(self, *arguments: str, status: ExitStatus = ExitStatus.DONE) -> Result:
        """``tidegate policy …`` by ann, with the configuration; it must end with ``status``."""
        # Without the configuration a change would be judged as if two_person were off.
        options = ["--config", str(self._config)]
        result = CliRunner().invoke(app, ["policy", *arguments, *options], env=self.environment)
        assert result.exit_code == status, result.output
        return result

    def answer(self, *arguments: str) -> Any:
        return json.loads(self.policy(*arguments, "--json").stdout)

    def records(self, topic: str) -> list[ConsumerRecord]:
        return asyncio.run(read_topic(self._kafka.bootstrap, self.names.physical(topic)))

    def published(self) -> list[Any]:
        return [json.loads(record.value) for record in self.records(POLICIES)]

    def rejected_under(self, version: int) -> dict[int, list[Any]]:
        """Rejections that name this version or a later one, by partition, oldest first."""
        found: dict[int, list[Any]] = {}
        for record in self.records(REJECTED):
            value = json.loads(record.value)
            if value["basis"]["policy_version"] >= version:
                found.setdefault(record.partition, []).append(value)
        return found

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Signals of every account, one after the other, for as long as it lasts."""
        ended = threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(self._send(ended)))
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(DEADLINE_S)
        assert not thread.is_alive()

    async def _send(self, ended: threading.Event) -> None:
        producer = clients.producer(self.settings("any"))
        await producer.start()
        try:
            while not ended.is_set():
                created_at = datetime.now(UTC).isoformat()
                for account in ACCOUNTS:
                    signal = {
                        "signal_id": f"{account}-{created_at}",
                        "account_id": account,
                        "strategy_id": "trend",
                        "instrument": "BTC-USD",
                        "side": "buy",
                        "quantity": "0.01",
                        "price": "16500",
                        "stop_loss": "16400",
                        "created_at": created_at,
                    }
                    topic = self.names.physical(SIGNALS)
                    await producer.send_and_wait(topic, json.dumps(signal).encode(), account.encode())
                # The pace of the signals; nothing is waited for by it.
                await asyncio.sleep(_PAUSE_S)
        finally:
            await producer.stop()


@pytest.fixture
def desk(kafka: Broker, topics: Names, tmp_path: Path) -> Desk:
    return Desk(kafka, topics, tmp_path)


# -- in force ------------------------------------------------------------------------------------------------------


def test_the_kill_switch_reaches_every_worker_within_a_second_and_outlives_them(desk: Desk) -> None:
    with desk.worker("one") as one, desk.worker("two") as two:
        poll(lambda: len(one.serving()) == len(two.serving()) == 1, DEADLINE_S, "a partition for each worker")
        with desk.signals():
            poll(lambda: len(desk.rejected_under(0)) == PARTITIONS, DEADLINE_S, "decisions of both workers")
            version = desk.answer("halt", "--reason", "wrong prices")["version"]
            halted = poll_all(desk, version)

        assert {decision["code"] for each in halted.values() for decision in each} == {"TRADING_HALTED"}
        published_ms = desk.records(POLICIES)[version - 1].timestamp
        for decisions in halted.values():
            assert read_time(decisions[0]["decided_at"]) - published_ms <= IN_FORCE_MS

        two.kill()
        with desk.worker("three") as three:
            poll(lambda: len(one.serving()) == len(three.serving()) == 1, DEADLINE_S, "the new worker's partition")
            seen = {number: len(each) for number, each in desk.rejected_under(version).items()}
            with desk.signals():

                def more() -> bool:
                    return all(len(each) > seen[number] for number, each in desk.rejected_under(version).items())

                poll(more, DEADLINE_S, "decisions after the restart")
            codes = {decision["code"] for each in desk.rejected_under(version).values() for decision in each}
            assert codes == {"TRADING_HALTED"}


def poll_all(desk: Desk, version: int) -> dict[int, list[Any]]:
    def under_it() -> dict[int, list[Any]]:
        found = desk.rejected_under(version)
        return found if len(found) == PARTITIONS else {}

    return poll(under_it, DEADLINE_S, f"decisions of both workers under version {version}")


# -- verbs ---------------------------------------------------------------------------------------------------------


def test_every_verb_publishes_its_rule(desk: Desk) -> None:
    who = ("--reason", "x", "--approved-by", "bob")
    desk.policy("strategy", "block", "trend", *who)
    desk.policy("strategy", "allow", "old", *who)
    desk.policy("strategy", "block", "trend", "--profile", "micro", *who)
    desk.policy("limit", "normal", "max_daily_drawdown=0.01", "max_open_positions=3", *who)
    desk.policy("limit", "normal", "max_daily_drawdown=configured", *who)
    desk.policy("venue", "kraken", "down", *who)
    desk.policy("venue", "kraken", "up", *who)
    desk.policy("reduce", "--strategy", "trend", *who)
    desk.policy("halt", "--venue", "binance", *who)
    desk.policy("resume", "--venue", "binance", *who)

    assert [(record["name"], record["rule"]) for record in desk.published()] == [
        ("strategies", {"blacklist": ["old", "trend"]}),
        ("strategies", {"blacklist": ["trend"]}),
        ("strategies/micro", {"blacklist": ["trend"]}),
        ("profile/normal", {"max_daily_drawdown": "0.01", "max_open_positions": 3}),
        ("profile/normal", {"max_open_positions": 3}),
        ("venue/kraken", {"up": False}),
        ("venue/kraken", {"up": True}),
        ("state/strategy/trend", {"state": "REDUCING"}),
        ("state/venue/binance", {"state": "HALTED"}),
        ("state/venue/binance", None),
    ]
    assert {(record["operator"], record["approved_by"]) for record in desk.published()} == {("ann", "bob")}


def test_what_restricts_needs_one_person_and_what_loosens_two(desk: Desk) -> None:
    desk.policy("venue", "kraken", "down", "-r", "maintenance")
    up = ("venue", "kraken", "up", "-r", "it is back")

    alone = desk.policy(*up, status=ExitStatus.REFUSED)
    by_oneself = desk.policy(*up, "--approved-by", "ann", status=ExitStatus.REFUSED)

    assert "venue kraken comes up" in alone.stderr
    assert "--approved-by" in by_oneself.stderr
    assert len(desk.published()) == 1
    assert desk.answer(*up, "--approved-by", "bob")["loosens"] == ["venue kraken comes up"]
    assert desk.published()[-1]["approved_by"] == "bob"


def test_a_change_may_end_by_itself(desk: Desk) -> None:
    told = desk.policy("reduce", "-r", "payrolls", "--expires", "2h").stdout
    assert "puts back: no rule" in told

    (record,) = desk.published()
    lasts_ms = read_time(record["expires_at"]) - read_time(record["issued_at"])
    assert 0 < 2 * 3_600_000 - lasts_ms + 10_000 <= 20_000
    assert record["then"] is None
    (line,) = desk.answer("list")["policies"]
    assert line["expires_at"] == record["expires_at"]


def test_the_steward_puts_back_what_stood_before_within_a_second(desk: Desk) -> None:
    desk.policy("limit", "normal", "max_leverage=2", "-r", "thin books")
    with desk.steward():
        desk.policy("limit", "normal", "max_leverage=1", "-r", "CPI day", "--expires", "2s")
        poll(lambda: len(desk.published()) == 3, DEADLINE_S, "the end of the change")

    first, change, end = desk.published()
    assert (end["rule"], end["reverts"]) == (first["rule"], 2)
    assert 0 <= desk.records(POLICIES)[2].timestamp - read_time(change["expires_at"]) <= IN_FORCE_MS
    assert [one["effect"] for one in desk.answer("history")["changes"]] == ["took effect"] * 3
    (line,) = desk.answer("list")["policies"]
    assert (line["rule"], line["expires_at"]) == ({"max_leverage": "2"}, None)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("halt", "--expires", "2020-01-01T00:00:00Z"), ExitStatus.USAGE, "is in the past"),
        (("halt", "--expires", "soon"), ExitStatus.USAGE, "neither a duration nor a time"),
        (("halt", "--venue", "a", "--strategy", "b"), ExitStatus.USAGE, "two commands"),
        (("halt", "--venue", "binanse"), ExitStatus.REFUSED, "configured are binance, firi, kraken"),
        (("venue", "binanse", "down"), ExitStatus.REFUSED, "configured are binance, firi, kraken"),
        (("venue", "binance", "up"), ExitStatus.REFUSED, "allows that already"),
        (("resume",), ExitStatus.REFUSED, "is not in force"),
        (("clear", "profile/normal"), ExitStatus.REFUSED, "is not in force"),
        (("strategy", "allow", "trend"), ExitStatus.REFUSED, "allows that already"),
        (("strategy", "allow", "old"), ExitStatus.REFUSED, "old off the blacklist"),
        (("limit", "normal", "max_daily_drawdown=0.03"), ExitStatus.REFUSED, "rises from 0.020 to 0.03"),
        (("limit", "normal", "max_daily_drawdown=3"), ExitStatus.USAGE, "must be at most 1"),
        (("limit", "normal", "spot_only=maybe"), ExitStatus.USAGE, "spot_only"),
        (("limit", "normal", "max_drawdown=0.03"), ExitStatus.USAGE, "the keys are"),
        (("history", "state/global"), ExitStatus.REFUSED, "was never set"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_a_change_that_is_refused_says_what_to_do_and_changes_nothing(
    refusing: Desk, arguments: tuple[str, ...], status: ExitStatus, told: str
) -> None:
    why = () if arguments[0] == "history" else ("-r", "x")

    result = refusing.policy(*arguments, *why, status=status)

    assert told in result.stderr
    assert "→" in result.stderr
    assert refusing.published() == []


@pytest.fixture(scope="module")
def refusing(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Topics that stay empty, for all commands that must publish nothing."""
    return Desk(kafka, Names(f"refusing-{id(kafka):x}"), tmp_path_factory.mktemp("refusing"))


def test_the_history_shows_who_changed_what_and_why(desk: Desk) -> None:
    desk.policy("limit", "normal", "max_daily_drawdown=0.01", "-r", "CPI day")
    desk.policy("limit", "normal", "max_daily_drawdown=0.015", "-r", "CPI is out", "--approved-by", "bob")
    desk.policy("halt", "-r", "odd fills")

    history = desk.answer("history")
    assert [one["name"] for one in history["changes"]] == ["profile/normal", "profile/normal", "state/global"]
    assert history["changes"][1] | {"published_at": None, "issued_at": None} == {
        "name": "profile/normal",
        "version": 2,
        "rule": {"max_daily_drawdown": "0.015"},
        "before": {"max_daily_drawdown": "0.01"},
        "diff": ["max_daily_drawdown: 0.01 → 0.015"],
        "effect": "took effect",
        "operator": "ann",
        "approved_by": "bob",
        "reason": "CPI is out",
        "issued_at": None,
        "published_at": None,
        "expires_at": None,
        "then": None,
    }
    shown = desk.policy("history", "profile/normal").stdout
    assert "max_daily_drawdown: 0.01 → 0.015" in shown
    assert "ann, approved by bob" in shown
    assert "odd fills" not in shown


def test_a_kill_switch_does_not_wait_for_a_faulty_configuration(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tidegate.toml").write_text("[limits]\nmax_pnl_age = 3\n")

    def without_option(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["policy", *arguments, "-r", "x"], env=desk.environment)

    assert without_option("halt").exit_code == ExitStatus.DONE
    refused = without_option("resume")
    assert refused.exit_code == ExitStatus.USAGE
    assert "limits.max_pnl_age" in refused.stderr
    assert [record["rule"] for record in desk.published()] == [{"state": "HALTED"}]
