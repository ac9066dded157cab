"""The command line against a real broker and a real worker, as an operator meets them."""

import asyncio
import json
import os
import secrets
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from infra.brokers import Broker
from streams.ops.cli import app
from streams.ops.exits import ExitStatus
from tests.integration.processes import Program, tidegate_command
from tests.integration.support import Names, poll, produce, read_topic

PARTITIONS = 2
ACCOUNTS = ("locking", "repeating", "halting", "trading", "sinking", "strategic", "keeping", "hurried", "silent")
_DEADLINE_S = 40.0


class Desk:
    """A gate's own corner of the broker, its configuration, and ``tidegate`` for it."""

    def __init__(self, kafka: Broker, directory: Path) -> None:
        self.names = Names(f"cli-{secrets.token_hex(4)}")
        self._bootstrap = kafka.bootstrap
        self._directory = directory
        self._config = directory / "tidegate.toml"
        accounts = "".join(f'[accounts.{name}]\nexchange = "binance"\nprofile = "normal"\n' for name in ACCOUNTS)
        self._config.write_text(accounts)
        self._environment = {
            "TIDEGATE_BROKER": kafka.url,
            "TIDEGATE_TOPIC_PREFIX": self.names.prefix,
            "TIDEGATE_APP_ID": self.names.app_id,
            "TIDEGATE_OPERATOR": "ann",
            "COLUMNS": "160",
        }
        self._sequence = 0

    def tidegate(self, *arguments: str) -> Result:
        """Run a command that needs no configuration."""
        return CliRunner().invoke(app, list(arguments), env=self._environment)

    def accounts(self, *arguments: str) -> Any:
        """``tidegate accounts … --json`` with the workers' configuration."""
        result = self.tidegate("accounts", *arguments, "--json", "--config", str(self._config))
        assert result.exit_code == ExitStatus.DONE, result.output
        return json.loads(result.stdout)

    def send(self, topic: str, account: str, **value: Any) -> None:
        """One record as a producer of the desk would send it."""
        body = json.dumps({"account_id": account, **value}).encode()
        asyncio.run(produce(self._bootstrap, self.names.topic(topic), [(account.encode(), body)]))

    def pnl(self, account: str, equity: str, **fields: Any) -> None:
        self._sequence += 1
        self.send("pnl", account, sequence=self._sequence, equity=equity, as_of=now(), **fields)

    def signal(self, account: str, signal_id: str) -> None:
        order = {"instrument": "BTC-USD", "side": "buy", "quantity": "0.01", "price": "16500", "stop_loss": "16400"}
        self.send("signals", account, signal_id=signal_id, strategy_id="trend", created_at=now(), **order)

    def records(self, topic: str, account: str) -> list[Any]:
        """Every record of an output topic for one account."""
        records = asyncio.run(read_topic(self._bootstrap, self.names.topic(topic)))
        return [json.loads(record.value) for record in records if record.key == account.encode()]

    @contextmanager
    def worker(self) -> Iterator[Program]:
        """``tidegate worker`` in a process of its own, serving every partition."""
        log = self._directory / "worker.log"
        data_dir = str(self._directory / "data" / "of" / "worker")
        command = ["worker", "--config", str(self._config), "--data-dir", data_dir]
        with Program(tidegate_command(*command), log, os.environ | self._environment) as process:
            process.wait_for("serving partition", PARTITIONS)
            yield process


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat()


def created(kafka: Broker, directory: Path) -> Desk:
    desk = Desk(kafka, directory)
    result = desk.tidegate("topics", "create", "--partitions", str(PARTITIONS), "--json")
    assert result.exit_code == ExitStatus.DONE, result.output
    return desk


@pytest.fixture(scope="module")
def desk(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """A desk with a worker that runs; every test has an account of its own."""
    one = created(kafka, tmp_path_factory.mktemp("desk"))
    with one.worker():
        yield one


def the(accounts: Any, account: str) -> Any:
    (one,) = (one for one in accounts["accounts"] if one["account_id"] == account)
    return one


# -- topics and the worker -----------------------------------------------------------------------------------------


def test_without_topics_every_command_says_how_to_create_them(kafka: Broker, tmp_path: Path) -> None:
    desk = Desk(kafka, tmp_path)

    for command in (("worker",), ("accounts",), ("lock", "locking", "-r", "x"), ("policy", "list")):
        result = desk.tidegate(*command)
        assert result.exit_code == ExitStatus.BROKER, result.output
        assert "tidegate topics create" in result.stderr


def test_topics_are_created_once(kafka: Broker, tmp_path: Path) -> None:
    desk = Desk(kafka, tmp_path)

    first, second = (json.loads(desk.tidegate("topics", "create", "-p", "3", "--json").stdout) for _ in range(2))

    assert {line["created"] for line in first["topics"]} == {True}
    assert {line["created"] for line in second["topics"]} == {False}
    counts = {line["topic"].removeprefix(desk.names.prefix): line["partitions"] for line in first["topics"]}
    assert counts["signals"] == counts[f"{desk.names.app_id}-state"] == 3
    assert counts["policies"] == 1


def test_a_command_waits_for_a_worker_and_the_state_outlives_it(kafka: Broker, tmp_path: Path) -> None:
    desk = created(kafka, tmp_path)
    lock = ("lock", "locking", "--reason", "before any worker", "--command-id", "c-early")

    unanswered = desk.tidegate(*lock, "--timeout", "0.5")
    assert unanswered.exit_code == ExitStatus.UNANSWERED
    assert "c-early" in unanswered.stderr

    with desk.worker() as process:
        repeated = desk.tidegate(*lock, "--json")
        assert repeated.exit_code == ExitStatus.DONE, repeated.output
        answer = json.loads(repeated.stdout)
        assert (answer["result"], answer["repeated"]) == ("done", True)
        assert len(desk.records("account-locked", "locking")) == 1
        assert process.end(signal.SIGTERM) == ExitStatus.DONE

    assert [lock["reason"] for lock in desk.accounts("locking")["locks"]] == ["MANUAL"]


# -- commands ------------------------------------------------------------------------------------------------------


def test_a_lock_is_shown_refused_twice_and_ended(desk: Desk) -> None:
    locked = desk.tidegate("lock", "locking", "--reason", "odd fills")
    assert locked.exit_code == ExitStatus.DONE, locked.output
    assert "locking: locked at" in locked.stdout

    shown = desk.accounts("locking")
    assert (shown["trading_state"], shown["causes"]) == ("REDUCING", ["MANUAL"])
    assert "MANUAL" in desk.tidegate("accounts").stdout

    again = desk.tidegate("lock", "locking", "--reason", "odd fills")
    assert again.exit_code == ExitStatus.REFUSED
    assert "locked manually already" in again.stdout

    assert desk.tidegate("unlock", "locking", "--reason", "fine again").exit_code == ExitStatus.DONE
    assert desk.accounts("locking")["trading_state"] == "ACTIVE"
    assert desk.tidegate("unlock", "locking", "--reason", "fine again").exit_code == ExitStatus.REFUSED


@pytest.mark.parametrize(("kind", "status"), [("halt", ExitStatus.DONE), ("unlock", ExitStatus.REFUSED)])
def test_a_repeated_command_tells_what_became_of_the_first(desk: Desk, kind: str, status: ExitStatus) -> None:
    command = (kind, "repeating", "--reason", "script", "--command-id", f"c-{kind}", "--json")

    first, second, third = (desk.tidegate(*command) for _ in range(3))

    assert first.exit_code == second.exit_code == third.exit_code == status, first.output
    told = [json.loads(result.stdout) for result in (first, second, third)]
    assert [one["repeated"] for one in told] == [False, True, True]
    assert told[0]["answer"] == told[1]["answer"] == told[2]["answer"]


def test_a_halt_is_ended_by_resume(desk: Desk) -> None:
    assert desk.tidegate("halt", "halting", "--reason", "migration").exit_code == ExitStatus.DONE
    assert desk.accounts("halting")["trading_state"] == "HALTED"
    assert desk.tidegate("resume", "halting", "--reason", "migrated").exit_code == ExitStatus.DONE
    assert desk.accounts("halting")["trading_state"] == "ACTIVE"


def test_the_operator_and_the_reason_are_kept_with_the_record(desk: Desk) -> None:
    desk.tidegate("halt", "keeping", "--reason", "on leave")
    desk.tidegate("resume", "keeping", "--reason", "back", "--operator", "bob", "--approved-by", "cat")

    commands = [(one["operator"], one["approved_by"], one["reason"]) for one in desk.records("controls", "keeping")]

    assert commands == [("ann", None, "on leave"), ("bob", "cat", "back")]


def test_an_unknown_account_is_refused(desk: Desk) -> None:
    result = desk.tidegate("lock", "nobody", "--reason", "x")

    assert result.exit_code == ExitStatus.REFUSED
    assert "'nobody' is not configured" in result.stdout
    assert desk.tidegate("accounts", "nobody").exit_code == ExitStatus.REFUSED


def test_no_wait_publishes_only(desk: Desk) -> None:
    result = desk.tidegate("resume", "hurried", "--reason", "x", "--no-wait", "--json")

    assert result.exit_code == ExitStatus.DONE
    told = json.loads(result.stdout)
    assert (told["result"], told["answer"]) == ("published", None)


def test_a_profile_whose_limits_are_breached_says_that_it_locked(desk: Desk) -> None:
    for equity in ("10000", "9900"):
        desk.pnl("sinking", equity)
    poll(lambda: desk.accounts("sinking")["equity"] == "9900", _DEADLINE_S, "the loss to be marked")

    result = desk.tidegate("profile", "set", "sinking", "micro", "--reason", "careful")

    assert result.exit_code == ExitStatus.DONE, result.output
    assert "profile normal → micro" in result.stdout
    assert "sinking: locked by DAILY_DRAWDOWN, 1.00 % of at most 0.50 %" in result.stdout
    shown = desk.accounts("sinking")
    assert (shown["profile"], shown["profile_by_command"]) == ("micro", True)
    assert shown["last_breach"]["reason"] == "DAILY_DRAWDOWN"
    assert shown["drawdowns"][0]["observed"] == "0.01"


def test_an_open_order_is_shown_and_released(desk: Desk) -> None:
    desk.pnl("trading", "100000")
    poll(lambda: desk.accounts("trading")["equity"], _DEADLINE_S, "equity")
    desk.signal("trading", "s-1")
    (order,) = poll(lambda: desk.accounts("trading")["open_orders"], _DEADLINE_S, "an approved order")

    released = desk.tidegate("order", "release", "trading", order["order_id"], "--reason", "no report")

    assert released.exit_code == ExitStatus.DONE, released.output
    assert desk.accounts("trading")["open_orders"] == []


# -- policies and the overview -------------------------------------------------------------------------------------


def test_a_policy_is_in_force_until_it_is_cleared(desk: Desk) -> None:
    name = "state/strategy/trend"
    desk.pnl("strategic", "100000")
    put = desk.tidegate("policy", "set", name, '{"state": "HALTED"}', "--reason", "backtest was wrong", "--json")
    assert put.exit_code == ExitStatus.DONE, put.output
    version = json.loads(put.stdout)["version"]

    listed = json.loads(desk.tidegate("policy", "list", "--json").stdout)
    (line,) = (one for one in listed["policies"] if one["name"] == name)
    assert (line["rule"], line["operator"], line["reason"]) == ({"state": "HALTED"}, "ann", "backtest was wrong")
    assert line["version"] == version
    assert "backtest was wrong" in desk.tidegate("policy", "list").stdout

    def rejected_by_it() -> list[Mapping[str, Any]]:
        # Workers follow policies; how soon is not promised, so signals are sent until one meets the rule.
        desk.signal("strategic", secrets.token_hex(8))
        rejected = desk.records("rejected-signals", "strategic")
        return [one for one in rejected if one["basis"]["policy_version"] >= version]

    decision = poll(rejected_by_it, _DEADLINE_S, "a decision under the new rule")[0]
    assert decision["code"] == "TRADING_HALTED"

    clear = ("policy", "clear", name, "--reason", "fixed", "--config", str(desk._config))
    assert desk.tidegate(*clear).exit_code == ExitStatus.DONE
    assert desk.tidegate(*clear).exit_code == ExitStatus.REFUSED
    assert name not in desk.tidegate("policy", "list", "--json").stdout


def test_accounts_without_state_are_shown_too(desk: Desk) -> None:
    accounts = desk.accounts()

    assert {one["account_id"] for one in accounts["accounts"]} >= set(ACCOUNTS)
    silent = the(accounts, "silent")
    assert (silent["seen"], silent["profile"], silent["trading_state"]) == (False, "normal", "ACTIVE")
