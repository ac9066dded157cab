"""``tidegate preflight`` and ``tidegate drill lock`` against real Kafka and a real worker, as a desk runs them."""

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.protocol.admin import CreateAclsRequest
from typer.testing import CliRunner, Result

from infra.brokers import Broker, KafkaCluster
from infra.cluster import free_ports
from streams.ops.cli import app
from streams.ops.drill import DrillOutcome, run_drill
from streams.ops.exits import ExitStatus
from streams.runtime import kafka as clients
from streams.runtime.settings import Settings
from streams.runtime.topics import verify_topics
from tests.integration.support import Names, poll, produce, read_topic, require_local_kafka
from tests.integration.workers import WorkerProcess, settings_for

PARTITIONS = 2
CHECKS_MIN = 29
_DEADLINE_S = 40.0
CONFIG = """
[accounts.main]
exchange = "binance"
failover = ["kraken"]
profile = "normal"
[accounts.drill]
exchange = "binance"
[accounts.busy]
exchange = "binance"
profile = "normal"
[limits]
max_pnl_age = "5m"
"""
RULES: dict[str, Any] = {
    "accounts": {
        "main": {"exchange": "binance", "failover": ["kraken"], "profile": "normal"},
        "drill": {"exchange": "binance"},
        "busy": {"exchange": "binance", "profile": "normal"},
    },
    "limits": {"max_pnl_age": "5m"},
}


class Desk:
    """A gate's own corner of a broker, and ``tidegate`` for it."""

    def __init__(self, broker: Broker, directory: Path) -> None:
        self.names = Names(f"pre-{secrets.token_hex(4)}")
        self.broker = broker
        self.directory = directory
        self.config = directory / "tidegate.toml"
        self.config.write_text(CONFIG)
        self._sequence = 0

    def tidegate(self, *arguments: str, **environment: str) -> Result:
        shell = {
            "TIDEGATE_BROKER": self.broker.url,
            "TIDEGATE_TOPIC_PREFIX": self.names.prefix,
            "TIDEGATE_APP_ID": self.names.app_id,
            "TIDEGATE_OPERATOR": "ann",
            "TIDEGATE_DATA_DIR": str(self.directory / "data"),
            "COLUMNS": "160",
        }
        return CliRunner().invoke(app, list(arguments), env=shell | environment)

    def preflight(self, *arguments: str) -> tuple[int, dict[str, Any]]:
        """The exit status, and the checks by name."""
        result = self.tidegate("preflight", "--config", str(self.config), "--json", *arguments)
        assert result.exit_code in (ExitStatus.DONE, ExitStatus.REFUSED), result.output
        return result.exit_code, {check["name"]: check for check in json.loads(result.stdout)["checks"]}

    def drill(self, account: str, *arguments: str) -> Result:
        return self.tidegate("drill", "lock", "--account", account, "--config", str(self.config), "--json", *arguments)

    def send(self, topic: str, account: str, partition: int | None = None, **value: Any) -> None:
        body = json.dumps({"account_id": account, **value}).encode()
        where = {} if partition is None else {"partition": partition}
        asyncio.run(produce(self.broker.bootstrap, self.names.topic(topic), [(account.encode(), body)], **where))

    def pnl(self, account: str, equity: str) -> None:
        self._sequence += 1
        self.send("pnl", account, sequence=self._sequence, equity=equity, as_of=now())

    def records(self, topic: str, account: str) -> list[Any]:
        records = asyncio.run(read_topic(self.broker.bootstrap, self.names.topic(topic)))
        return [json.loads(record.value) for record in records if record.key == account.encode()]

    def account(self, name: str) -> Any:
        result = self.tidegate("accounts", name, "--json", "--config", str(self.config))
        assert result.exit_code == ExitStatus.DONE, result.output
        return json.loads(result.stdout)

    @contextmanager
    def worker(self) -> Iterator[None]:
        names = Names(self.names.app_id)
        settings = settings_for(self.broker, names, self.directory / secrets.token_hex(4))
        with WorkerProcess(settings, core="real", rules=RULES) as process:
            process.wait_serving(PARTITIONS)
            yield


def now() -> str:
    return datetime.fromtimestamp(time.time(), UTC).isoformat()


def created(broker: Broker, directory: Path) -> Desk:
    desk = Desk(broker, directory)
    result = desk.tidegate("topics", "create", "--partitions", str(PARTITIONS))
    assert result.exit_code == ExitStatus.DONE, result.output
    return desk


def of_status(checks: dict[str, Any], status: str) -> set[str]:
    return {name for name, check in checks.items() if check["status"] == status}


def test_before_anything_runs_preflight_says_what_is_missing(kafka: Broker, tmp_path: Path) -> None:
    desk = created(kafka, tmp_path)

    status, checks = desk.preflight()

    assert status == ExitStatus.REFUSED
    assert len(checks) >= CHECKS_MIN
    assert of_status(checks, "fail") == {"workers-run", "drill-passed", "equity-known"}
    assert {"brokers-enough", "replication", "authorizer", "partitioner-pnl"} <= of_status(checks, "warn")
    assert {"topics-exist", "state-compacted", "policies-kept", "partitions-in-sync"} <= of_status(checks, "pass")
    for check in checks.values():
        assert check["seen"]
        assert check["status"] == "pass" or check["fix"], check
        assert "could not be looked at" not in check["seen"]


def test_without_topics_the_checks_that_need_them_fail_and_the_others_run(kafka: Broker, tmp_path: Path) -> None:
    status, checks = Desk(kafka, tmp_path).preflight()

    assert status == ExitStatus.REFUSED
    assert checks["broker-answers"]["status"] == "pass"
    assert (checks["topics-exist"]["status"], checks["state-readable"]["status"]) == ("fail", "fail")
    assert "tidegate topics create" in checks["topics-exist"]["fix"]
    assert "is missing" in checks["state-readable"]["seen"]


def test_without_a_broker_preflight_fails_and_says_so(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    nobody = Broker(f"127.0.0.1:{port}", "kafka", "nobody")

    status, checks = Desk(nobody, tmp_path).preflight("--group", "broker", "--group", "machine")

    assert status == ExitStatus.REFUSED
    assert checks["broker-answers"]["status"] == checks["topics-exist"]["status"] == "fail"
    assert "TIDEGATE_BROKER" in checks["broker-answers"]["fix"]
    assert checks["disk"]["status"] in ("pass", "warn")


def test_a_gate_goes_live(kafka: Broker, tmp_path: Path) -> None:
    """From a running worker through a drill to a checklist without failures, and to the one fault that is planted."""
    desk = created(kafka, tmp_path)
    with desk.worker():
        for account in ("main", "busy"):
            desk.pnl(account, "100000")
        poll(lambda: desk.account("main")["equity"], _DEADLINE_S, "equity")

        drilled = desk.drill("drill")
        assert drilled.exit_code == ExitStatus.DONE, drilled.output
        told = json.loads(drilled.stdout)
        assert told["passed"]
        assert "ACCOUNT_LOCKED_MANUAL" in told["codes"]
        assert all(told[step] > 0 for step in ("lock_ms", "reject_ms", "unlock_ms"))
        (lock,) = desk.records("account-locked", "drill")
        (rejection,) = desk.records("rejected-signals", "drill")
        assert (lock["reason"], rejection["code"]) == ("MANUAL", "ACCOUNT_LOCKED_MANUAL")
        assert desk.records("approved-orders", "drill") == []
        assert desk.account("drill")["trading_state"] == "ACTIVE"
        (kept,) = desk.records(f"{desk.names.app_id}-requests", "drill")
        assert (kept["kind"], kept["operator"]) == ("drill-run", "ann")
        assert (kept["detail"]["drill"], kept["detail"]["passed"]) == ("lock", True)

        status, checks = desk.preflight()
        assert of_status(checks, "fail") == set()
        assert status == ExitStatus.DONE
        assert checks["drill-passed"]["seen"].endswith("on drill by ann")
        assert checks["workers-run"]["seen"].startswith("1: ")
        assert checks["workers-standby"]["status"] == "warn"

        right = clients.partition_of_key(b"main", PARTITIONS)
        desk.send("signals", "main", partition=1 - right, signal_id="s-astray", created_at=now())
        poll(lambda: desk.records("rejected-signals", "main"), _DEADLINE_S, "its decision, after it was forwarded")
        status, checks = desk.preflight()
        assert (status, of_status(checks, "fail")) == (ExitStatus.REFUSED, {"partitioner-signals"})
        assert "murmur2" in checks["partitioner-signals"]["fix"]
        status, _ = desk.preflight("--skip", "partitioner-signals")
        assert status == ExitStatus.DONE

        shown = desk.tidegate("preflight", "--config", str(desk.config), "--group", "partitioners")
        assert shown.exit_code == ExitStatus.REFUSED
        assert "FAIL" in shown.stdout
        assert "not ready" in shown.stdout


def test_a_drill_is_refused_where_it_would_do_harm(kafka: Broker, tmp_path: Path) -> None:
    desk = created(kafka, tmp_path)
    with desk.worker():
        fill: dict[str, Any] = {
            "instrument": "BTC-USD",
            "side": "buy",
            "price": "100",
            "status": "filled",
            "filled_at": now(),
        }
        desk.send("fills", "busy", fill_id="f-1", quantity="1", **fill)
        poll(lambda: desk.account("busy")["positions"], _DEADLINE_S, "a position")
        assert desk.tidegate("lock", "drill", "--reason", "by hand").exit_code == ExitStatus.DONE
        commands = len(desk.records("controls", "drill"))

        for account, why in (("busy", "holds BTC-USD"), ("drill", "locked by MANUAL"), ("nobody", "not configured")):
            result = desk.drill(account)
            assert result.exit_code == ExitStatus.REFUSED, result.output
            assert why in result.stderr
            assert "nothing was published" in result.stderr

        assert desk.records("controls", "busy") == []
        assert len(desk.records("controls", "drill")) == commands
        assert [one["reason"] for one in desk.account("drill")["locks"]] == ["MANUAL"]


def test_a_drill_that_nobody_answers_leaves_no_lock_behind(kafka: Broker, tmp_path: Path) -> None:
    desk = created(kafka, tmp_path)

    result = desk.drill("drill", "--timeout", "0.5")

    assert result.exit_code == ExitStatus.UNANSWERED, result.output
    assert [one["type"] for one in desk.records("controls", "drill")] == ["lock", "unlock"]
    assert desk.records("signals", "drill") == []
    (kept,) = desk.records(f"{desk.names.app_id}-requests", "drill")
    assert kept["detail"]["passed"] is False
    with desk.worker():
        poll(lambda: desk.account("drill")["seen"], _DEADLINE_S, "the commands to be obeyed")
        poll(lambda: not desk.account("drill")["locks"], _DEADLINE_S, "the account to be free")
    _, checks = desk.preflight("--group", "drill")
    assert "no worker answered" in checks["drill-passed"]["seen"]


# -- a gate that misbehaves ----------------------------------------------------------------------------------------

Answer = Callable[[Mapping[str, Any]], list[tuple[str, dict[str, Any]]]]


def obeyed(command: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What the gate says to a lock and to an unlock; nothing to a signal."""
    match command.get("type"):
        case "lock":
            return [("account-locked", {"reason": "MANUAL"})]
        case "unlock":
            return [("account-events", {"type": "UNLOCKED", "command_id": command["command_id"]})]
    return []


def approves(signal: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if "signal_id" in signal:
        return [("approved-orders", {"signal_id": signal["signal_id"], "order_id": "o-1"})]
    return obeyed(signal)


def rejects_for_something_else(signal: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if "signal_id" in signal:
        return [("rejected-signals", {"signal_id": signal["signal_id"], "reasons": [{"code": "NO_VENUE"}]})]
    return obeyed(signal)


def loses_meanwhile(signal: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    if "signal_id" in signal:
        reasons = [{"code": "ACCOUNT_LOCKED_DAILY_DRAWDOWN"}, {"code": "ACCOUNT_LOCKED_MANUAL"}]
        breach = ("account-locked", {"reason": "DAILY_DRAWDOWN"})
        return [breach, ("rejected-signals", {"signal_id": signal["signal_id"], "reasons": reasons})]
    return obeyed(signal)


async def _answering(desk: Desk, answer: Answer, account: str) -> None:
    """A gate without a core: whatever comes, it says what ``answer`` makes of it."""
    consumer = AIOKafkaConsumer(
        desk.names.topic("controls"),
        desk.names.topic("signals"),
        bootstrap_servers=desk.broker.bootstrap,
        auto_offset_reset="earliest",
    )
    async with consumer:
        async for record in consumer:
            offsets = {"controls": record.offset} if record.topic.endswith("controls") else {}
            for topic, said in answer(json.loads(record.value)):
                body = {"account_id": account, "basis": {"partition": record.partition, "offsets": offsets}, **said}
                value = json.dumps(body).encode()
                await produce(desk.broker.bootstrap, desk.names.topic(topic), [(account.encode(), value)])


async def _drill_against(desk: Desk, answer: Answer, *, interrupt_at: str | None = None) -> DrillOutcome | None:
    """Run a drill; ``interrupt_at``: the topic on whose first record the operator presses Ctrl-C."""
    settings = Settings(broker=desk.broker.url, app_id=desk.names.app_id, topic_prefix=desk.names.prefix)
    said = asyncio.Event()

    def watched(value: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
        answers = answer(value)
        if interrupt_at is not None and interrupt_at in value:
            said.set()
        return answers

    gate = asyncio.create_task(_answering(desk, watched, "drill"))
    who: dict[str, Any] = {"operator": "ann", "approved_by": None, "reason": "drill", "timeout_s": 20.0}
    drill = asyncio.create_task(run_drill(settings, await verify_topics(settings), "drill", **who))
    try:
        if interrupt_at is None:
            return await drill
        await said.wait()
        drill.cancel()
        with pytest.raises(asyncio.CancelledError):
            await drill
        return None
    finally:
        gate.cancel()
        await asyncio.wait({gate})


@pytest.mark.parametrize(
    ("answer", "fault"),
    [(approves, "was approved, as o-1"), (rejects_for_something_else, "not for the lock: NO_VENUE")],
)
def test_a_gate_that_lets_the_signal_pass_fails_the_drill_and_is_unlocked(
    kafka: Broker, tmp_path: Path, answer: Answer, fault: str
) -> None:
    desk = created(kafka, tmp_path)

    outcome = asyncio.run(_drill_against(desk, answer))

    assert outcome is not None
    assert fault in (outcome.fault or "")
    assert (outcome.passed, outcome.still_locked) == (False, False)
    assert [one["type"] for one in desk.records("controls", "drill")] == ["lock", "unlock"]


def test_a_drawdown_lock_that_comes_meanwhile_is_not_cleared(kafka: Broker, tmp_path: Path) -> None:
    desk = created(kafka, tmp_path)

    outcome = asyncio.run(_drill_against(desk, loses_meanwhile))

    assert outcome is not None
    assert "DAILY_DRAWDOWN locked the account meanwhile" in (outcome.fault or "")
    assert outcome.still_locked
    assert [one["type"] for one in desk.records("controls", "drill")] == ["lock"]


def test_an_interrupted_drill_still_publishes_the_unlock(kafka: Broker, tmp_path: Path) -> None:
    desk = created(kafka, tmp_path)

    asyncio.run(_drill_against(desk, obeyed, interrupt_at="signal_id"))

    assert [one["type"] for one in desk.records("controls", "drill")] == ["lock", "unlock"]


# -- access --------------------------------------------------------------------------------------------------------


@pytest.fixture
def guarded() -> Iterator[Broker]:
    """A broker with an authorizer; whoever is anonymous is a super user, so that the test can look and grant."""
    require_local_kafka()
    config = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": "User:ANONYMOUS",
    }
    with KafkaCluster(config=config) as cluster:
        yield Broker(cluster.bootstrap, "kafka", "with an authorizer")


def test_access_rules_are_read_and_judged(guarded: Broker, tmp_path: Path) -> None:
    desk = created(guarded, tmp_path)
    settings = Settings(broker=guarded.url, app_id=desk.names.app_id, topic_prefix=desk.names.prefix)

    def grant(principal: str, topic: str, pattern: int = 3) -> None:
        asyncio.run(_grant(settings, principal, desk.names.topic(topic), pattern))

    def access() -> dict[str, Any]:
        return desk.preflight("--group", "access")[1]

    assert of_status(access(), "fail") == set()
    grant("User:gate", "", pattern=4)
    grant("User:trend", "signals")
    assert access()["authorizer"]["status"] == "pass"
    assert access()["outputs-owned"]["status"] == "pass"
    assert "User:gate" in access()["controls-owned"]["seen"]
    grant("User:trend", "approved-orders")
    owned = access()["outputs-owned"]
    assert owned["status"] == "fail"
    assert "User:trend" in owned["seen"]


async def _grant(settings: Settings, principal: str, resource: str, pattern: int) -> None:
    topic, write, allow = 2, 4, 3
    async with clients.client(settings) as client:
        request = CreateAclsRequest(topic, resource, pattern, principal, "*", write, allow)
        response = await client.send(client.get_random_node(), request)
    assert [code for code, *_ in response.creation_responses] == [0]
