"""Each example beside a real gate, over TLS, with the ACLs of its role alone; the way an integrator would start it."""

import asyncio
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from streams.core.records import APPROVED, CONTROLS, EVENTS, FILLS, LOCKED, PNL, REJECTED, SIGNALS
from streams.ops.exits import ExitStatus
from streams.runtime.kafka import partition_of_key
from streams.runtime.topics import create_topics
from tests.examples.signals import now, order
from tests.integration.processes import Program, tidegate_command
from tests.integration.secured import MTLS, Authority, Desk, secured_cluster
from tests.integration.support import Names, poll, produce, read_topic, require_local_kafka, skip_or_fail
from tests.mirror.servers import Server, server

PARTITIONS = 4
_DEADLINE_S = 40.0
EXAMPLES = Path("infra/examples")
ACCOUNTS = ("aio", "rdk", "cat", "plain", "filling", "resting", "blind", "watched")
CONFIG = """
[limits]
max_pnl_age = "1h"
order_valid = "5s"
max_signal_age = "5m"
""" + "".join(f'[accounts.{name}]\nexchange = "binance"\nprofile = "normal"\n' for name in ACCOUNTS)


@dataclass
class Stage:
    """A gate on the secured broker: a worker and a mirror run, and every role has a login."""

    desk: Desk
    directory: Path
    redis: Server

    def environment(self, role: str, **more: str) -> dict[str, str]:
        bare = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}
        own = self.desk.environment(role, self.directory / f"{role}.password")
        return bare | own | {"TIDEGATE_REDIS_URL": self.redis.url, "TIDEGATE_OPERATOR": "ann"} | more

    def tidegate(self, role: str, *arguments: str) -> str:
        """A command to its end; what it printed."""
        result = subprocess.run(
            tidegate_command(*arguments, "--config", str(self.directory / "tidegate.toml")),
            env=self.environment(role),
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=False,
        )
        assert result.returncode == ExitStatus.DONE, result.stderr
        return result.stdout

    def account(self, name: str) -> Any:
        return json.loads(self.tidegate("observer", "accounts", name, "--json"))

    def send(self, topic: str, account: str, **body: Any) -> None:
        """As the desk's other programs do."""
        value = json.dumps({"account_id": account, **body}).encode()
        asyncio.run(produce(self.desk.cluster.bootstrap, self.desk.topics.physical(topic), [(account.encode(), value)]))

    def fund(self, account: str) -> None:
        self.send(PNL, account, sequence=1, equity="10000", as_of=now())

    def records(self, topic: str, account: str) -> list[Any]:
        """The values of a topic that are about an account; each must lie where its key belongs."""
        found = asyncio.run(read_topic(self.desk.cluster.bootstrap, self.desk.topics.physical(topic)))
        mine = [record for record in found if record.key == account.encode()]
        assert {record.partition for record in mine} <= {partition_of_key(account.encode(), PARTITIONS)}
        return [json.loads(record.value) for record in mine]

    def program(self, command: list[str], log: str, **environment: str) -> Program:
        return Program(command, self.directory / log, environment)


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    require_local_kafka()
    directory = tmp_path_factory.mktemp("examples")
    authority = Authority(directory / "tls")
    (directory / "tidegate.toml").write_text(CONFIG)
    with ExitStack() as stack:
        redis = stack.enter_context(server())
        cluster = stack.enter_context(secured_cluster(authority))
        desk = Desk(cluster, authority, Names(f"examples-{secrets.token_hex(4)}"), directory / "data")
        one = Stage(desk, directory, redis)
        asyncio.run(_prepare(one))
        for role, words, times in (("worker", "serving partition", PARTITIONS), ("mirror", "", 0)):
            command = tidegate_command(role, "--config", str(directory / "tidegate.toml"))
            environment = one.environment(role, TIDEGATE_DATA_DIR=str(directory / "data" / role))
            stack.enter_context(one.program(command, f"{role}.log", **environment)).wait_for(words, times)
        for account in ACCOUNTS:
            one.fund(account)
        yield one


async def _prepare(stage: Stage) -> None:
    await create_topics(stage.desk.admin, partitions=PARTITIONS)
    for role in ("worker", "mirror", "pipeline", "executor", "operator", "observer"):
        password = secrets.token_hex(8)
        (stage.directory / f"{role}.password").write_text(password)
        await stage.desk.add_user(role, password)
        await stage.desk.grant(role, role)


# -- pipelines -----------------------------------------------------------------------------------------------------


def pipe(stage: Stage, command: list[str], signals: list[dict[str, Any]], **more: str) -> tuple[int, str, str]:
    """Run a pipeline with signals on its standard input; exit status, output, errors."""
    result = subprocess.run(
        command,
        input="".join(json.dumps(one) + "\n" for one in signals),
        env=stage.environment("pipeline", **more),
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    return result.returncode, result.stdout, result.stderr


PYTHON = {
    "aio": [sys.executable, "-m", "infra.examples.pipeline_aiokafka"],
    "rdk": [sys.executable, "-m", "infra.examples.pipeline_librdkafka"],
}
KCAT = ["bash", str(EXAMPLES / "pipeline_kcat.sh")]


def by_certificate(stage: Stage, role: str) -> dict[str, str]:
    """The same principal by client certificate: Debian's kcat has a librdkafka whose SCRAM today's brokers refuse."""
    identity = stage.desk.authority.issue(role)
    return stage.environment(role) | {
        "TIDEGATE_BROKER": f"kafka://{stage.desk.cluster.bootstrap_of(MTLS)}",
        "TIDEGATE_KAFKA_SECURITY_PROTOCOL": "SSL",
        "TIDEGATE_KAFKA_SSL_CERTFILE": str(identity.cert),
        "TIDEGATE_KAFKA_SSL_KEYFILE": str(identity.key),
    }


def require_program(*names: str) -> None:
    if missing := [name for name in names if shutil.which(name) is None]:
        skip_or_fail(f"no {', '.join(missing)}: apt-get install {' '.join(missing)}")


def require_librdkafka() -> None:
    if find_spec("confluent_kafka") is None:
        skip_or_fail("no confluent-kafka: pip install confluent-kafka")


@pytest.mark.parametrize("account", PYTHON)
def test_a_pipeline_sends_signals_and_tells_their_decisions(stage: Stage, account: str) -> None:
    if account == "rdk":
        require_librdkafka()
    good, bad = order(account, "s-good"), order(account, "s-bad", stop_loss=None)

    status, out, errors = pipe(stage, PYTHON[account], [good, bad])

    assert (status, errors) == (1, ""), errors
    (approved,) = stage.records(APPROVED, account)
    (rejected,) = stage.records(REJECTED, account)
    assert f"s-good {account}: approved as {approved['order_id']} until {approved['valid_until']}\n" in out
    assert f"s-bad {account}: rejected: {rejected['code']}" in out
    # Where every other producer puts them: the gate had nothing to forward.
    assert len(stage.records(SIGNALS, account)) == 2


@pytest.mark.parametrize("account", PYTHON)
def test_a_pipeline_says_when_nothing_was_decided(stage: Stage, account: str) -> None:
    if account == "rdk":
        require_librdkafka()
    repeated = order(account, "s-twice")
    assert pipe(stage, PYTHON[account], [repeated])[0] == 0
    # A repeat gets a dead letter, which a pipeline's login does not read, and no second decision.
    status, out, errors = pipe(stage, PYTHON[account], [repeated])
    assert (status, out) == (2, "")
    assert "s-twice" in errors
    assert "no decision within 10 s" in errors


@pytest.mark.parametrize("account", PYTHON)
def test_a_pipeline_says_when_it_may_not_send(stage: Stage, account: str) -> None:
    if account == "rdk":
        require_librdkafka()
    observer = stage.environment("observer")
    status, out, errors = pipe(stage, PYTHON[account], [order(account, "s-denied")], **observer)
    assert (status, out) == (2, ""), errors
    assert "not sent: " in errors
    assert "uthoriz" in errors
    assert "Traceback" not in errors
    assert [one for one in stage.records(SIGNALS, account) if one["signal_id"] == "s-denied"] == []


def test_a_pipeline_needs_no_login_where_the_broker_asks_for_none(stage: Stage) -> None:
    admin = stage.desk.admin
    plain = {"TIDEGATE_BROKER": admin.broker, "TIDEGATE_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}
    status, out, errors = pipe(stage, PYTHON["aio"], [order("plain", "s-plain")], **plain)
    assert (status, "approved" in out) == (0, True), errors


def test_kcat_sends_signals_and_shows_decisions(stage: Stage) -> None:
    require_program("kcat", "jq", "bash")
    pipeline = by_certificate(stage, "pipeline")
    with stage.program([*KCAT, "decisions"], "kcat.log", **pipeline) as watching:
        # It says nothing before the first decision, so it is given one after the other until it has begun.
        sent = 0

        def hears() -> bool:
            nonlocal sent
            sent += 1
            status, _, errors = pipe(stage, [*KCAT, "send"], [order("cat", f"s-{sent}", stop_loss=None)], **pipeline)
            assert status == 0, errors
            assert watching.exit_status is None, watching.log
            return "rejected: STOP_LOSS_REQUIRED" in watching.log

        poll(hears, _DEADLINE_S, "a decision on the terminal")
        assert pipe(stage, [*KCAT, "send"], [order("cat", "s-good")], **pipeline)[0] == 0
        watching.wait_for("s-good cat: o-")
    assert len(stage.records(SIGNALS, "cat")) == sent + 1


def test_kcat_gives_a_signal_without_account_no_key(stage: Stage) -> None:
    require_program("kcat", "jq", "bash")
    routed = order("cat", "s-routed") | {"account_id": None}
    assert pipe(stage, [*KCAT, "send"], [routed], **by_certificate(stage, "pipeline"))[0] == 0
    found = asyncio.run(read_topic(stage.desk.cluster.bootstrap, stage.desk.topics.physical(SIGNALS)))
    (sent,) = [record for record in found if json.loads(record.value) == routed]
    assert sent.key is None


def test_kcat_says_when_it_may_not_send(stage: Stage) -> None:
    require_program("kcat", "jq", "bash")
    status, _, errors = pipe(stage, [*KCAT, "send"], [order("cat", "s-denied")], **by_certificate(stage, "observer"))
    assert status != 0
    assert "uthoriz" in errors


def test_a_signal_that_kcat_drops_without_a_word_in_its_status_is_told(tmp_path: Path) -> None:
    """kcat 1.7 leaves its loop at a fatal error before it looks at what was delivered, if that comes a moment later."""
    require_program("jq", "bash")
    kcat = tmp_path / "kcat"
    kcat.write_text("#!/bin/sh\ncat > /dev/null\necho '% FATAL CLIENT ERROR: Cluster authorization failed' >&2\n")
    kcat.chmod(0o755)
    result = subprocess.run(
        ["bash", str(EXAMPLES / "pipeline_kcat.sh"), "send"],
        input=json.dumps(order("cat", "s-dropped")),
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "TIDEGATE_BROKER": "kafka://localhost:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "% FATAL CLIENT ERROR: Cluster authorization failed\n"


def test_kcats_password_is_on_no_command_line(stage: Stage) -> None:
    require_program("kcat", "jq", "bash")
    password = (stage.directory / "pipeline.password").read_text()
    # A broker that takes the connection and says nothing keeps it waiting.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        broker = f"kafka://127.0.0.1:{silent.getsockname()[1]}"
        environment = stage.environment("pipeline", TIDEGATE_BROKER=broker)
        with stage.program([*KCAT, "decisions"], "kcat-ps.log", **environment):

            def lines() -> list[str]:
                return [line for line in command_lines() if line.startswith("kcat ") and "isolation.level" in line]

            assert [line for line in poll(lines, _DEADLINE_S, "kcat to run") if password in line] == []


def command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_text().replace("\0", " "))
        except OSError:
            continue  # It has just ended.
    return found


def test_the_script_says_how_it_is_used() -> None:
    result = subprocess.run(
        ["bash", str(EXAMPLES / "pipeline_kcat.sh")],
        env={"PATH": os.environ["PATH"], "TIDEGATE_BROKER": "kafka://localhost:1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 64
    assert "pipeline_kcat.sh send < signals.jsonl" in result.stderr


# -- executor ------------------------------------------------------------------------------------------------------


@contextmanager
def executor(stage: Stage, name: str, *arguments: str, **more: str) -> Iterator[Program]:
    command = [sys.executable, "-m", "infra.examples.executor", "--name", name, "--venue", "binance", *arguments]
    with stage.program(command, f"executor-{name}.log", **stage.environment("executor", **more)) as program:
        program.wait_for("following ", times=2)
        yield program


def test_the_executor_sends_and_reports(stage: Stage) -> None:
    with executor(stage, "filling") as program:
        stage.send(SIGNALS, "filling", **order("filling", "s-1"))
        program.wait_for("filling: sent")

        def position() -> Any:
            return stage.account("filling")["positions"]

        (held,) = poll(position, _DEADLINE_S, "the fill to be counted")
        assert (held["instrument"], held["quantity"]) == ("BTC-USD", "0.01")
        assert program.end(signal.SIGTERM) == 0
    (fill,) = stage.records(FILLS, "filling")
    (approved,) = stage.records(APPROVED, "filling")
    assert (fill["order_id"], fill["status"], fill["venue"]) == (approved["order_id"], "filled", "binance")
    assert stage.account("filling")["open_orders"] == []


def test_the_executor_cancels_entries_of_an_account_that_locks(stage: Stage) -> None:
    with executor(stage, "resting", "--rest") as program:
        stage.send(SIGNALS, "resting", **order("resting", "s-1"))
        program.wait_for("resting: sent")
        assert len(stage.account("resting")["open_orders"]) == 1
        stage.tidegate("operator", "lock", "resting", "--reason", "odd fills")
        program.wait_for("resting: cancelled")
        poll(lambda: stage.account("resting")["open_orders"] == [], _DEADLINE_S, "the order to be released")
    (fill,) = stage.records(FILLS, "resting")
    (lock,) = stage.records(LOCKED, "resting")
    assert (fill["order_id"], fill["status"]) == (lock["open_orders"][0]["order_id"], "cancelled")


def test_without_a_mirror_the_executor_sends_nothing(stage: Stage) -> None:
    """It fails closed, and says so to the gate: what the order reserved is free again."""
    with executor(stage, "blind", TIDEGATE_REDIS_URL="redis://127.0.0.1:1/0") as program:
        stage.send(SIGNALS, "blind", **order("blind", "s-1"))
        program.wait_for("blind: not sent: REDIS_UNAVAILABLE")
        poll(lambda: stage.records(FILLS, "blind"), _DEADLINE_S, "the report")
        assert "sent\n" not in program.log
    (fill,) = stage.records(FILLS, "blind")
    assert (fill["status"], fill["quantity"]) == ("cancelled", "0")
    poll(lambda: stage.account("blind")["open_orders"] == [], _DEADLINE_S, "the order to be released")


def test_the_executor_does_not_start_without_a_last_look(stage: Stage) -> None:
    environment = {k: v for k, v in stage.environment("executor").items() if k != "TIDEGATE_REDIS_URL"}
    result = subprocess.run(
        [sys.executable, "-m", "infra.examples.executor", "--name", "none"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    assert result.returncode == 2
    assert "TIDEGATE_REDIS_URL" in result.stderr


# -- operators -----------------------------------------------------------------------------------------------------


def test_the_subscriber_shows_locks_and_events(stage: Stage) -> None:
    command = [sys.executable, "-m", "infra.examples.ops_subscriber"]
    with stage.program(command, "ops.log", **stage.environment("observer")) as program:
        program.wait_for("following account-locked, account-events")
        stage.send(PNL, "watched", sequence=2, equity="9850", as_of=now())
        program.wait_for("WARNING watched: 1.50 % of 2.00 %")
        stage.send(PNL, "watched", sequence=3, equity="9790", as_of=now())
        program.wait_for("LOCKED watched by DAILY_DRAWDOWN: 2.10 % of 2.00 %; to cancel: none")
        stage.tidegate("operator", "lock", "watched", "--reason", "look at it")
        program.wait_for("LOCKED watched by MANUAL; to cancel: none")
        assert program.end(signal.SIGTERM) == 0
    assert {one["type"] for one in stage.records(EVENTS, "watched")} == {"WARNING"}
    assert len(stage.records(CONTROLS, "watched")) == 1
    again = [*command, "--since-the-beginning"]
    with stage.program(again, "ops-again.log", **stage.environment("observer")) as program:
        program.wait_for("LOCKED watched", times=2)
        assert "MANUAL" in program.log


def test_the_subscriber_says_when_it_may_not_read(stage: Stage) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "infra.examples.ops_subscriber"],
        env=stage.environment("pipeline"),
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    assert result.returncode == 1
    assert "account-locked" in result.stderr
    assert "not there, or not for this login" in result.stderr
    assert "Traceback" not in result.stderr


def test_every_example_is_in_the_readme() -> None:
    text = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")} - {"__init__.py"}
    assert {name for name in files if name not in text} == set()
