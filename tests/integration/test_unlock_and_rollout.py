"""The unlock workflow and the rollout on a real broker with a real worker, under the two-person rule."""

import asyncio
import json
import secrets
import time
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from infra.brokers import Broker
from streams.ops.cli import app
from streams.ops.exits import ExitStatus
from tests.integration.support import Names, poll, produce, read_topic
from tests.integration.workers import WorkerProcess, settings_for

DEADLINE_S = 30.0
CONFIG = """
[controls]
two_person = true
[limits]
max_pnl_age = "1h"
[accounts.sinking]
exchange = "binance"
profile = "low"
[accounts.rejected]
exchange = "binance"
[accounts.relocked]
exchange = "binance"
[accounts.waiting]
exchange = "binance"
[accounts.small]
exchange = "binance"
[accounts.drill]
exchange = "binance_testnet"
"""
PHASES = """
testnet_venues = ["*_testnet"]
[[phases]]
phase = 1
title = "Testnet only"
venues = "testnet"
profiles = ["micro", "low"]
lasts = "1ms"
drills = ["lock"]
[phases.sign]
playbook = "Walked through"
[[phases]]
phase = 2
title = "One account"
venues = "live"
profiles = ["micro"]
accounts_max = 1
capital_max = "1000"
"""


class Desk:
    """A gate's own corner of the broker, and ``tidegate`` for two operators."""

    def __init__(self, kafka: Broker, directory: Path) -> None:
        self.names = Names(f"unlock-{secrets.token_hex(4)}")
        self._kafka = kafka
        self._sequence = 0
        (directory / "tidegate.toml").write_text(CONFIG)
        (directory / "phases.toml").write_text(PHASES)
        self._config = str(directory / "tidegate.toml")
        self._environment = {
            "TIDEGATE_BROKER": kafka.url,
            "TIDEGATE_TOPIC_PREFIX": self.names.prefix,
            "TIDEGATE_APP_ID": self.names.app_id,
            "TIDEGATE_OPERATOR": "ann",
            "TIDEGATE_ROLLOUT_PHASES": str(directory / "phases.toml"),
            "COLUMNS": "200",
        }

    def tidegate(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, [*arguments, "--config", self._config], env=self._environment)

    def done(self, *arguments: str) -> Any:
        """The JSON of a command that succeeds."""
        result = self.tidegate(*arguments, "--json")
        assert result.exit_code == ExitStatus.DONE, result.output
        return json.loads(result.stdout)

    def refused(self, *arguments: str, status: ExitStatus = ExitStatus.REFUSED) -> str:
        """What a command that is refused says."""
        result = self.tidegate(*arguments)
        assert result.exit_code == status, result.output
        return result.stderr or result.stdout

    def send(self, topic: str, account: str, **value: Any) -> None:
        body = json.dumps({"account_id": account, **value}).encode()
        asyncio.run(produce(self._kafka.bootstrap, self.names.topic(topic), [(account.encode(), body)]))

    def pnl(self, account: str, equity: str) -> None:
        self._sequence += 1
        self.send("pnl", account, sequence=self._sequence, equity=equity, as_of=now())
        poll(lambda: self.account(account)["equity"] == equity, DEADLINE_S, "the mark")

    def signal(self, account: str) -> Any:
        """The decision on a new entry."""
        signal_id = secrets.token_hex(4)
        order = {"instrument": "BTC-USD", "side": "buy", "quantity": "0.001", "price": "100", "stop_loss": "99"}
        self.send("signals", account, signal_id=signal_id, strategy_id="trend", created_at=now(), **order)

        def decisions() -> list[Any]:
            both = self.records("approved-orders") + self.records("rejected-signals")
            return [one for one in both if one["signal_id"] == signal_id]

        return poll(decisions, DEADLINE_S, "a decision")[0]

    def account(self, account: str) -> Any:
        return self.done("accounts", account)

    def lock_by_hand(self, account: str) -> None:
        self.done("lock", account, "--reason", "odd fills")

    def request(self, account: str, *options: str) -> str:
        return str(self.done("unlock", account, "--request", "--reason", "reviewed", *options)["request_id"])

    def requested(self, request_id: str) -> Any:
        (one,) = (one for one in self.done("requests")["requests"] if one["request_id"] == request_id)
        return one

    def records(self, topic: str) -> list[Any]:
        records = asyncio.run(read_topic(self._kafka.bootstrap, self.names.topic(topic)))
        return [json.loads(record.value) for record in records]


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("desk")


@pytest.fixture(scope="module")
def desk(kafka: Broker, directory: Path) -> Desk:
    one = Desk(kafka, directory)
    one.done("topics", "create", "--partitions", "1")
    return one


@pytest.fixture(scope="module", autouse=True)
def worker(kafka: Broker, desk: Desk, directory: Path) -> Iterator[WorkerProcess]:
    settings = settings_for(kafka, desk.names, directory / "data")
    with WorkerProcess(settings, core="real", rules=tomllib.loads(CONFIG)) as process:
        process.wait_serving(1)
        yield process


# -- unlock --------------------------------------------------------------------------------------------------------


def test_an_account_that_is_not_locked_has_nothing_to_request(desk: Desk) -> None:
    assert "is not locked" in desk.refused("unlock", "small", "--request", "--reason", "x")
    assert "nothing to do" in desk.refused("unlock", "small", "--dry-run")
    assert "not in the configuration" in desk.refused("unlock", "nobody", "--dry-run")
    assert desk.records("controls") == []


def test_a_breach_is_unlocked_by_request_and_approval(desk: Desk) -> None:
    desk.pnl("sinking", "10000")
    desk.pnl("sinking", "9900")
    commands = len(desk.records("controls"))

    tried = desk.tidegate("unlock", "sinking", "--dry-run", "--json")
    assert tried.exit_code == ExitStatus.REFUSED, tried.output
    told = json.loads(tried.stdout)
    assert ["second operator" in told["refusals"][0], "DAILY_DRAWDOWN" in told["refusals"][1]] == [True, True]
    assert told["with_rebase_now"]["done"]
    assert told["account"]["last_breach"]["reason"] == "DAILY_DRAWDOWN"
    assert "Last breach" in desk.refused("unlock", "sinking", "--dry-run")
    assert "not below 'low'" in desk.refused("unlock", "sinking", "--request", "-r", "x", "--profile", "normal")

    kept = desk.request("sinking")
    assert kept in desk.refused("unlock", "sinking", "--request", "--reason", "again")
    assert "still be breached" in desk.refused("approve", kept, "--operator", "bob")
    assert desk.requested(kept)["state"] == "open"
    desk.done("reject", kept, "--reason", "will not recover today", "--operator", "bob")

    request_id = desk.request("sinking", "--rebase", "now", "--profile", "micro")
    assert "somebody else" in desk.refused("approve", request_id)
    assert len(desk.records("controls")) == commands
    answer = desk.done("approve", request_id, "--operator", "bob")

    assert (answer["result"], answer["command_id"], answer["request_id"]) == ("done", request_id, request_id)
    command = desk.records("controls")[-1]
    assert (command["operator"], command["approved_by"], command["rebase"], command["profile"]) == (
        "ann",
        "bob",
        "now",
        "micro",
    )
    shown = desk.account("sinking")
    assert (shown["locks"], shown["profile"], shown["last_breach"]["reason"]) == ([], "micro", "DAILY_DRAWDOWN")
    assert desk.requested(request_id)["state"] == "done"
    assert "done already by bob" in desk.refused("approve", request_id, "--operator", "cat")
    kinds = [one["kind"] for one in desk.records(f"{desk.names.app_id}-requests")]
    assert kinds == [
        "unlock-requested",
        "unlock-rejected",
        "unlock-requested",
        "unlock-approved",
        "unlock-answered",
    ]


def test_a_rejected_request_is_not_approved_any_more(desk: Desk) -> None:
    desk.lock_by_hand("rejected")
    request_id = desk.request("rejected")

    desk.done("reject", request_id, "--reason", "not reconciled", "--operator", "bob")

    assert "rejected already by bob" in desk.refused("approve", request_id, "--operator", "cat")
    assert "rejected already by bob" in desk.refused("reject", request_id, "--reason", "x", "--operator", "cat")
    assert [lock["reason"] for lock in desk.account("rejected")["locks"]] == ["MANUAL"]
    assert request_id in desk.tidegate("requests").stdout
    assert "there is no request 'u-none'" in desk.refused("approve", "u-none")


def test_a_request_does_not_unlock_locks_that_came_after_it(desk: Desk) -> None:
    desk.lock_by_hand("relocked")
    request_id = desk.request("relocked")
    desk.done("unlock", "relocked", "--reason", "was nothing", "--approved-by", "bob")
    desk.lock_by_hand("relocked")

    assert "not held by the locks" in desk.refused("approve", request_id, "--operator", "bob")

    assert desk.requested(request_id)["state"] == "open"
    assert [lock["reason"] for lock in desk.account("relocked")["locks"]] == ["MANUAL"]


def test_an_approval_that_no_worker_answered_unlocks_once(desk: Desk, worker: WorkerProcess) -> None:
    desk.lock_by_hand("waiting")
    request_id = desk.request("waiting")
    worker.pause()
    try:
        unanswered = desk.refused(
            "approve", request_id, "--operator", "bob", "--timeout", "0.5", status=ExitStatus.UNANSWERED
        )
    finally:
        worker.wake()
    assert f"tidegate approve {request_id}" in unanswered
    assert desk.requested(request_id)["state"] == "approved"
    poll(lambda: not desk.account("waiting")["locks"], DEADLINE_S, "the worker to obey")

    again = desk.done("approve", request_id, "--operator", "cat")

    assert (again["result"], again["answer"]["value"]["detail"]["approved_by"]) == ("done", "bob")
    assert (desk.requested(request_id)["state"], desk.requested(request_id)["decided_by"]) == ("done", "bob")
    assert [one["command_id"] for one in desk.records("controls")].count(request_id) == 1


# -- rollout -------------------------------------------------------------------------------------------------------


def test_a_rollout_goes_on_when_its_criteria_are_met_and_not_before(desk: Desk) -> None:
    desk.pnl("small", "900")
    assert desk.done("rollout", "show")["phase"] is None
    assert "no rollout is in force" in desk.refused("rollout", "advance", "--dry-run")

    started = desk.done("rollout", "start", "--reason", "plan")
    assert started["rule"]["venues"] == ["binance_testnet"]
    assert "in force already" in desk.refused("rollout", "start", "--reason", "plan")

    def refused_by_phase() -> Any:
        decision = desk.signal("small")
        return decision if decision["basis"]["policy_version"] >= started["version"] else None

    decision = poll(refused_by_phase, DEADLINE_S, "a decision in the phase")
    assert decision["code"] == "ROLLOUT_PHASE"
    (check,) = (one for one in decision["reasons"] if one["code"] == "ROLLOUT_PHASE")
    assert (check["observed"], check["limit"]) == ("binance", "1")

    desk.send("pnl", "small", sequence=0, equity="900", as_of=now())
    poll(lambda: missing_in(desk) >= {"dead-letters"}, DEADLINE_S, "the dead letter to count")
    assert missing_in(desk) == {"dead-letters", "drill-lock", "playbook", "scope"}
    said = desk.refused("rollout", "advance", "--reason", "now")
    assert "at most 1 account, not 6" in said
    assert "1 STALE_SEQUENCE" in said

    desk.done("drill", "lock", "--account", "drill", "--approved-by", "bob")
    desk.done("rollout", "sign", "playbook", "--reason", "walked")
    desk.done("rollout", "sign", "dead-letters", "--reason", "two feeds")
    assert "read from the topics" in desk.refused("rollout", "sign", "lag", "-r", "x", status=ExitStatus.USAGE)
    assert missing_in(desk) == {"scope"}

    over = desk.refused("rollout", "advance", "--reason", "now", "--account", "sinking", "--approved-by", "bob")
    assert "sinking has 9,900 of capital, the phase allows 1,000" in over
    ready = desk.done("rollout", "advance", "--dry-run", "--account", "small")
    assert (ready["ready"], ready["would_publish"]["accounts"]) == (True, ["small"])
    alone = desk.refused("rollout", "advance", "--reason", "now", "--account", "small")
    assert "no second operator" in alone
    assert desk.done("rollout", "show")["phase"] == 1

    put = desk.done("rollout", "advance", "--reason", "all met", "--account", "small", "--approved-by", "bob")

    shown = desk.done("rollout", "show")
    assert (shown["phase"], shown["accounts"], shown["next"]) == (2, ["small"], None)
    capital = {"account_id": "small", "equity": "900", "limit": "1000", "exceeds": False, "last_breach": None}
    assert shown["capital"] == [capital]
    assert "One account" in desk.tidegate("rollout", "show").stdout

    def let_in() -> Any:
        decision = desk.signal("small")
        return decision if decision["basis"]["policy_version"] >= put["version"] else None

    approved = poll(let_in, DEADLINE_S, "a decision in the next phase")
    (check,) = (one for one in approved["checks"] if one["code"] == "ROLLOUT_PHASE")
    assert (check["passed"], check["limit"]) == (True, "2")
    assert "one" in desk.refused("rollout", "advance", "--reason", "more")
    record = desk.records(f"{desk.names.app_id}-requests")[-1]
    assert (record["kind"], record["detail"]["approved_by"]) == ("rollout-changed", "bob")
    assert {one["met"] for one in record["detail"]["criteria"]} == {True}


def missing_in(desk: Desk) -> set[str]:
    """The criteria that ``rollout show`` finds unmet; input that is being applied is not waited for here."""
    return {one["name"] for one in desk.done("rollout", "show")["criteria"] if not one["met"]}
