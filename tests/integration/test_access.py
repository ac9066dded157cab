"""Every role with its own ACLs alone, over TLS and SCRAM, on a broker that denies the rest."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    KafkaError,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
)

from infra.brokers import Broker
from infra.jars import class_path, java
from schemas.roles import EVERY_TOPIC, ROLES
from streams.core.records import (
    APPROVED,
    CONTROLS,
    DEAD_LETTERS,
    EVENTS,
    FILLS,
    LOCKED,
    PNL,
    POLICIES,
    REJECTED,
    SIGNALS,
)
from streams.ops.exits import ExitStatus
from streams.runtime import access, kafka
from streams.runtime.access import Entry, Kind, Operation
from streams.runtime.settings import Security
from streams.runtime.topics import JOURNAL, NOTIFICATIONS, STATE, create_topics
from tests.integration.processes import Program, tidegate_command
from tests.integration.secured import MTLS, SCRAM, STRANGER, Authority, Desk, secured_cluster
from tests.integration.support import Names, poll, read_topic, require_local_kafka, wait_for

PARTITIONS = 2
_DEADLINE_S = 40.0
_DENIALS = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError)
PASSWORDS = {role: secrets.token_hex(12) for role in ROLES}
CONFIG = """
[accounts.main]
exchange = "binance"
profile = "normal"
[accounts.second]
exchange = "binance"
profile = "normal"
[controls]
auto_downgrade = true
[notify.routes.desk]
[limits]
max_pnl_age = "10m"
max_signal_age = "10m"
"""


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """The secured broker, the topics, and a user with its role's ACLs for every role."""
    require_local_kafka()
    directory = tmp_path_factory.mktemp("access")
    authority = Authority(directory / "tls")
    with secured_cluster(authority) as cluster:
        one = Desk(cluster, authority, Names(f"access-{secrets.token_hex(4)}"), directory / "data")
        (directory / "tidegate.toml").write_text(CONFIG)
        asyncio.run(_prepare(one))
        yield one


async def _prepare(desk: Desk) -> None:
    await create_topics(desk.admin, partitions=PARTITIONS)
    for role, password in PASSWORDS.items():
        await desk.add_user(role, password)
        await desk.grant(role, role)


def as_role(desk: Desk, role: str, **values: Any) -> Any:
    return desk.settings(desk.scram(role, PASSWORDS[role]), **values)


def environment(desk: Desk, role: str, **more: str) -> dict[str, str]:
    password = desk.data_dir.with_name(f"{role}.password")
    password.write_text(PASSWORDS[role] + "\n")
    return desk.environment(role, password) | {"COLUMNS": "200", "TIDEGATE_OPERATOR": "ann"} | more


def tidegate(desk: Desk, role: str, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """A command in a process of its own, as a user with that role."""
    return subprocess.run(
        tidegate_command(*arguments),
        env=bare_environment() | environment(desk, role, **more),
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )


def bare_environment() -> dict[str, str]:
    """This process's own, without what would name another broker."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_")}


def program(desk: Desk, log: Path, *arguments: str, env: dict[str, str]) -> Program:
    command = tidegate_command(*arguments, "--config", str(desk.data_dir.with_name("tidegate.toml")))
    return Program(command, log, bare_environment() | env)


async def send(settings: Any, topic: str, key: str, value: Mapping[str, Any]) -> Any:
    async with kafka.producer(settings) as producer, asyncio.timeout(_DEADLINE_S):
        return await producer.send_and_wait(topic, json.dumps(value).encode(), key.encode())


async def next_record(settings: Any, group: str, topic: str, **wanted: str) -> Any:
    """The first record with these fields, read in a consumer group as an integrator does."""
    consumer = kafka.consumer(settings, group_id=group, auto_offset_reset="earliest")
    consumer.subscribe([topic])
    async with asyncio.timeout(_DEADLINE_S), consumer:
        async for record in consumer:
            body = json.loads(record.value)
            if all(body.get(name) == value for name, value in wanted.items()):
                await consumer.commit()
                return body
    raise AssertionError("a consumer without an end has ended")


async def signal_without_order(desk: Desk, signal_id: str) -> None:
    """A signal that no gate can approve, as a pipeline."""
    signal = {"signal_id": signal_id, "account_id": "second", "strategy_id": "trend", "created_at": now()}
    await send(as_role(desk, "pipeline"), desk.topics.physical(SIGNALS), "second", signal)


async def decided(desk: Desk, signal_id: str) -> None:
    """Wait until such a signal is rejected."""
    await signal_without_order(desk, signal_id)
    group = f"{desk.names.prefix}{desk.names.app_id}-pipeline-{signal_id}"
    await next_record(as_role(desk, "pipeline"), group, desk.topics.physical(REJECTED), signal_id=signal_id)


def now() -> str:
    return datetime.now(UTC).isoformat()


# -- what each role may do -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_reads_and_writes_its_topics_and_no_others(desk: Desk, role: str) -> None:
    names = {topic: desk.topics.physical(topic) for topic in EVERY_TOPIC}
    told = await access.allowed(as_role(desk, role), names.values())
    asked = (Operation.READ, Operation.WRITE)
    granted = {topic: {one for one in told[name] or () if one in asked} for topic, name in names.items()}
    reads, writes = ({t for t, may in granted.items() if one in may} for one in asked)
    assert (reads, writes) == (set(ROLES[role].reads), set(ROLES[role].writes))
    assert await access.missing(as_role(desk, role), role) == []


def test_the_table_keeps_apart_what_a_desk_must_keep_apart() -> None:
    def writers(topic: str) -> set[str]:
        return {name for name, role in ROLES.items() if topic in role.writes}

    assert all(
        writers(topic) == {"worker"} for topic in (APPROVED, REJECTED, LOCKED, EVENTS, DEAD_LETTERS, STATE, JOURNAL)
    )
    assert writers(CONTROLS) == {"worker", "steward", "operator", "drill", "repair"}
    assert writers(POLICIES) == {"steward", "operator", "drill", "repair"}
    assert writers(FILLS) == {"worker", "executor", "repair"}
    assert {name for name, role in ROLES.items() if role.transactional} == {"worker"}
    assert not any(ROLES[name].writes for name in ("mirror", "observer"))
    # What it has sent, and nothing that anyone else reads.
    assert set(ROLES["notifier"].writes) == {NOTIFICATIONS}


async def test_a_whole_desk_works_with_its_roles_alone(desk: Desk, tmp_path: Path) -> None:
    physical, gate = desk.topics.physical, desk.names.prefix + desk.names.app_id
    with ExitStack() as processes:
        log, steward_log, notifier_log = (tmp_path / f"{name}.log" for name in ("worker", "steward", "notifier"))
        worker = processes.enter_context(
            program(desk, log, "worker", "--data-dir", str(tmp_path / "data"), env=environment(desk, "worker"))
        )
        steward = processes.enter_context(program(desk, steward_log, "steward", env=environment(desk, "steward")))
        told, phone = processes.enter_context(a_phone())
        notifier = processes.enter_context(
            program(desk, notifier_log, "notify", env=environment(desk, "notifier", TIDEGATE_NOTIFY_DESK=phone))
        )
        worker.wait_for("serving partition", PARTITIONS)
        steward.wait_for("steward serving")
        notifier.wait_for("notifier serving")

        mark = {"account_id": "main", "sequence": 1, "equity": "10000", "as_of": now()}
        await send(as_role(desk, "portfolio"), physical(PNL), "main", mark)
        signal = {
            "signal_id": "s-1", "account_id": "main", "strategy_id": "trend", "instrument": "BTC-USD", "side": "buy",
            "quantity": "0.01", "price": "16500", "stop_loss": "16400", "created_at": now(),
        }  # fmt: skip
        await send(as_role(desk, "pipeline"), physical(SIGNALS), "main", signal)
        heard = await next_record(
            as_role(desk, "pipeline"), f"{gate}-pipeline-trend", physical(APPROVED), signal_id="s-1"
        )

        executor = as_role(desk, "executor")
        order = await next_record(executor, f"{gate}-executor-binance", physical(APPROVED), signal_id="s-1")
        assert order == heard
        fill = {
            "fill_id": "f-1", "order_id": order["order_id"], "account_id": "main", "instrument": "BTC-USD",
            "side": "buy", "quantity": "0.01", "price": "16500", "fee": "0", "status": "filled", "filled_at": now(),
        }  # fmt: skip
        await send(executor, physical(FILLS), "main", fill)

        def position() -> Any:
            told = tidegate(desk, "observer", "accounts", "main", "--json", "--config", config(desk))
            assert told.returncode == ExitStatus.DONE, told.stderr
            return json.loads(told.stdout)["positions"]

        (held,) = poll(position, _DEADLINE_S, "the position")
        assert (held["instrument"], held["quantity"]) == ("BTC-USD", "0.01")

        # A breach: locked, told to the executor, and answered by the steward, whose agents are Faust's own consumer.
        await send(as_role(desk, "portfolio"), physical(PNL), "main", mark | {"sequence": 2, "equity": "9000"})
        lock = await next_record(executor, f"{gate}-executor-locks", physical(LOCKED), reason="DAILY_DRAWDOWN")
        assert lock["account_id"] == "main"
        changed = await next_record(executor, f"{gate}-executor-events", physical(EVENTS), type="PROFILE_CHANGED")
        assert changed["command_id"] == f"downgrade-{lock['lock_id']}"

        locked = tidegate(desk, "operator", "lock", "second", "--reason", "odd fills", "--json")
        assert (locked.returncode, json.loads(locked.stdout)["result"]) == (ExitStatus.DONE, "done"), locked.stderr
        halted = tidegate(desk, "operator", "policy", "halt", "--reason", "testing", "--config", config(desk))
        assert halted.returncode == ExitStatus.DONE, halted.stderr
        explained = tidegate(desk, "observer", "explain", "s-1", "--json", "--config", config(desk))
        assert explained.returncode == ExitStatus.DONE, explained.stderr
        sent = desk.topics.physical(NOTIFICATIONS)

        async def is_remembered() -> bool:
            return len(told) > 0 and len(await read_topic(desk.cluster.bootstrap, sent)) > 0

        assert await wait_for(is_remembered, _DEADLINE_S, "the lock to be told")
        assert (worker.exit_status, steward.exit_status, notifier.exit_status) == (None, None, None)


@contextmanager
def a_phone() -> Iterator[tuple[list[str], str]]:
    """What it was told, and its address for notifications."""
    told: list[str] = []

    class Phone(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            told.append(self.rfile.read(int(self.headers["Content-Length"])).decode())
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Phone) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield told, f"json://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def config(desk: Desk) -> str:
    return str(desk.data_dir.with_name("tidegate.toml"))


# -- what each role must not do ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "topic"),
    [
        ("executor", CONTROLS),
        ("executor", POLICIES),
        ("executor", APPROVED),
        ("pipeline", APPROVED),
        ("pipeline", CONTROLS),
        ("pipeline", FILLS),
        ("portfolio", FILLS),
        ("operator", APPROVED),
        ("operator", SIGNALS),
        ("steward", SIGNALS),
        ("mirror", STATE),
        ("notifier", LOCKED),
        ("observer", CONTROLS),
        ("worker", POLICIES),
    ],
)
async def test_a_role_cannot_write_what_is_not_its_own(desk: Desk, role: str, topic: str) -> None:
    name = desk.topics.physical(topic)
    before = len(await read_topic(desk.cluster.bootstrap, name))
    with pytest.raises(_DENIALS):
        await send(as_role(desk, role), name, "main", {"account_id": "main"})
    assert len(await read_topic(desk.cluster.bootstrap, name)) == before


@pytest.mark.parametrize("role", [name for name in ROLES if name != "worker"])
async def test_nobody_but_the_worker_fences_its_partitions(desk: Desk, role: str) -> None:
    with pytest.raises(TransactionalIdAuthorizationFailed):
        await begin(desk, role)


async def test_the_worker_fences_its_partitions(desk: Desk) -> None:
    await begin(desk, "worker")


async def begin(desk: Desk, role: str) -> None:
    transactional_id = f"{desk.names.prefix}{desk.names.app_id}-9"
    producer = kafka.producer(as_role(desk, role), transactional_id=transactional_id)
    async with asyncio.timeout(_DEADLINE_S):
        try:
            await producer.start()
        finally:
            await producer.stop()


@pytest.mark.parametrize("role", ["executor", "steward", "operator", "observer"])
async def test_nobody_but_the_worker_takes_its_partitions(desk: Desk, role: str) -> None:
    group = desk.names.prefix + desk.names.app_id
    topic = desk.topics.physical(next(iter(ROLES[role].reads)))
    consumer = kafka.consumer(as_role(desk, role), group_id=group, auto_offset_reset="earliest")
    consumer.subscribe([topic])
    async with asyncio.timeout(_DEADLINE_S):
        try:
            with pytest.raises(GroupAuthorizationFailedError):
                await consumer.start()
        finally:
            await consumer.stop()


# -- how a denial is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("role", "arguments", "told"),
    [
        ("observer", ["lock", "main", "--reason", "x"], ["User:observer", "WRITE topic", CONTROLS]),
        ("observer", ["policy", "halt", "--reason", "x"], ["User:observer", "WRITE topic", POLICIES]),
        ("executor", ["accounts"], ["User:executor", "DESCRIBE topic", CONTROLS]),
        ("steward", ["explain", "s-1"], ["User:steward may not READ topic", JOURNAL]),
        ("operator", ["worker"], ["User:operator", "WRITE topic", SIGNALS]),
        ("operator", ["steward"], ["User:operator", "READ group"]),
        ("operator", ["drill", "lock", "--account", "second"], ["User:operator may not WRITE topic", SIGNALS]),
        (
            "operator",
            ["access", "acls", "--role", "worker", "--principal", "User:me", "--apply"],
            ["ALTER the cluster"],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_command_says_what_is_denied(
    desk: Desk, role: str, arguments: list[str], told: list[str], tmp_path: Path
) -> None:
    more = [] if arguments[0] in ("lock", "access") else ["--config", config(desk)]
    result = tidegate(desk, role, *arguments, *more, TIDEGATE_DATA_DIR=str(tmp_path))
    assert result.returncode in (ExitStatus.BROKER, ExitStatus.REFUSED), result.stderr
    assert [words for words in told if words not in result.stderr] == [], result.stderr
    assert "Traceback" not in result.stderr
    assert PASSWORDS[role] not in result.stdout + result.stderr


def test_check_lists_what_a_role_lacks(desk: Desk) -> None:
    whole = tidegate(desk, "worker", "access", "check", "--role", "worker")
    assert (whole.returncode, whole.stdout) == (ExitStatus.DONE, "User:worker may do what worker does\n"), whole.stderr
    lacking = tidegate(desk, "executor", "access", "check", "--role", "executor", "--role", "portfolio", "--json")
    assert lacking.returncode == ExitStatus.REFUSED
    assert json.loads(lacking.stdout)["missing"] == [
        {"resource": "topic", "name": desk.topics.physical(PNL), "pattern": "literal", "operation": "WRITE"}
    ]


async def test_acls_can_be_applied_by_an_administrator(desk: Desk) -> None:
    await desk.add_user("newcomer", "a-newcomers-password")
    settings = desk.settings(desk.scram("newcomer", "a-newcomers-password"))
    assert await access.missing(settings, "executor") != []
    applied = await asyncio.to_thread(apply_as_administrator, desk, "User:newcomer", "executor")
    assert applied.returncode == ExitStatus.DONE, applied.stderr

    async def is_whole() -> bool:
        return await access.missing(settings, "executor") == []

    assert await wait_for(is_whole, _DEADLINE_S, "the ACLs to reach the broker")


def apply_as_administrator(desk: Desk, principal: str, role: str) -> subprocess.CompletedProcess[str]:
    where = ["--broker", desk.admin.broker, "--prefix", desk.names.prefix, "--app-id", desk.names.app_id]
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "streams.ops.cli",
            "access",
            "acls",
            "--role",
            role,
            "--principal",
            principal,
            "--apply",
            *where,
        ],
        env=bare_environment(),
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )


def test_acls_need_an_authorizer(kafka: Broker) -> None:
    result = subprocess.run(
        [
            *(sys.executable, "-m", "streams.ops.cli", "access", "acls", "--role", "worker"),
            *("--principal", "User:me", "--apply", "--broker", kafka.url),
        ],
        env=bare_environment(),
        capture_output=True,
        text=True,
        timeout=_DEADLINE_S,
        check=False,
    )
    assert result.returncode == ExitStatus.REFUSED
    assert "no authorizer" in result.stderr


async def test_without_an_authorizer_nothing_is_missing(kafka: Broker, topics: Names, tmp_path: Path) -> None:
    from tests.integration.workers import settings_for

    settings = settings_for(kafka, topics, tmp_path)
    await create_topics(settings, partitions=1)
    assert [await access.missing(settings, role) for role in ROLES] == [[]] * len(ROLES)


def test_preflight_knows_who_it_is_to_the_brokers(desk: Desk) -> None:
    def access_of(role: str) -> dict[str, Any]:
        told = tidegate(desk, role, "preflight", "--group", "access", "--json", "--config", config(desk))
        return {check["name"]: check for check in json.loads(told.stdout)["checks"]}

    checks = access_of("operator")
    assert (checks["own-rights"]["status"], checks["own-rights"]["seen"]) == ("pass", "User:operator")
    assert checks["encrypted"]["status"] == "pass"
    # The test's authority signs for a day.
    assert (checks["certificates-valid"]["status"], checks["certificates-valid"]["seen"][-6:]) == ("fail", "in 0 d")
    assert {checks[name]["status"] for name in ("authorizer", "controls-owned", "brokers-proved")} == {"pass"}
    assert "WRITE topic" in access_of("observer")["own-rights"]["seen"]


# -- who one is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_a_user_logs_in_with_either_mechanism(desk: Desk, mechanism: Any) -> None:
    password = secrets.token_hex(8)
    await desk.add_user("newly", password, mechanism)
    settings = desk.settings(desk.scram("newly", password, mechanism))

    async def logs_in() -> bool:
        try:
            async with kafka.client(settings):
                return True
        except KafkaError:
            return False

    assert await wait_for(logs_in, _DEADLINE_S, "the credential to reach the broker")


def unreachable(desk: Desk, role: str = "observer", **variables: str) -> str:
    """What ``tidegate accounts`` says to settings that do not fit."""
    result = tidegate(desk, role, "accounts", **variables)
    assert result.returncode in (ExitStatus.BROKER, ExitStatus.USAGE), result.stderr
    assert "Traceback" not in result.stderr
    return result.stderr


def test_a_wrong_password_is_told_as_one(desk: Desk, tmp_path: Path) -> None:
    wrong = tmp_path / "password"
    wrong.write_text("not-the-password")
    told = unreachable(desk, TIDEGATE_KAFKA_SASL_PASSWORD_FILE=str(wrong))
    assert "refuses user 'observer' with SCRAM-SHA-512: user or password is wrong" in told
    assert "not-the-password" not in told


def test_a_broker_that_another_authority_vouches_for_is_refused(desk: Desk, tmp_path: Path) -> None:
    other = Authority(tmp_path, "somebody else")
    assert "is not trusted" in unreachable(desk, TIDEGATE_KAFKA_SSL_CAFILE=str(other.file))


def test_a_broker_of_another_name_is_refused(desk: Desk) -> None:
    broker = f"kafka://{desk.cluster.bootstrap_of(STRANGER)}"
    tls = {
        "TIDEGATE_BROKER": broker,
        "TIDEGATE_KAFKA_SECURITY_PROTOCOL": "SSL",
        "TIDEGATE_KAFKA_SASL_PASSWORD_FILE": "",
    }
    assert "not valid for '127.0.0.1'" in unreachable(desk, **tls)
    unchecked = tidegate(desk, "observer", "accounts", **tls, TIDEGATE_KAFKA_SSL_CHECK_HOSTNAME="0")
    assert unchecked.returncode == ExitStatus.DONE, unchecked.stderr


def test_a_listener_that_speaks_another_protocol_is_told_as_one(desk: Desk) -> None:
    plain = {
        "TIDEGATE_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT",
        "TIDEGATE_KAFKA_SASL_PASSWORD_FILE": "",
        "TIDEGATE_KAFKA_SSL_CAFILE": "",
    }
    assert "TIDEGATE_KAFKA_SECURITY_PROTOCOL than PLAINTEXT" in unreachable(desk, **plain)


@pytest.fixture(scope="module")
def gate_by_cert(desk: Desk) -> Security:
    """A worker whose certificate says who it is."""
    asyncio.run(desk.grant("gate-by-cert", "worker"))
    identity = desk.authority.issue("gate-by-cert", password="opens-the-key")
    return Security(
        protocol="SSL",
        ssl_cafile=str(desk.authority.file),
        ssl_certfile=str(identity.cert),
        ssl_keyfile=str(identity.key),
        ssl_key_password="opens-the-key",
    )


async def test_a_worker_is_known_by_its_certificate(desk: Desk, gate_by_cert: Security) -> None:
    await access.require(desk.settings(gate_by_cert, MTLS), "worker")
    with pytest.raises(access.AccessDenied, match=r"gate-by-cert\.pem may not DESCRIBE_CONFIGS"):
        await access.require(desk.settings(gate_by_cert, MTLS), "operator")


async def test_without_a_certificate_nobody_gets_in(desk: Desk) -> None:
    stranger = Security(protocol="SSL", ssl_cafile=str(desk.authority.file))
    settings = desk.settings(stranger, MTLS)
    with pytest.raises(KafkaError):
        await access.require(settings, "worker")
    assert "TIDEGATE_KAFKA_SSL_CERTFILE" in str(await kafka.refusal(settings)).replace("…_SSL", "TIDEGATE_KAFKA_SSL")


async def test_a_certificate_of_another_authority_is_refused(desk: Desk, tmp_path: Path) -> None:
    forged = Authority(tmp_path, "somebody else").issue("gate-by-cert")
    security = Security(
        protocol="SSL",
        ssl_cafile=str(desk.authority.file),
        ssl_certfile=str(forged.cert),
        ssl_keyfile=str(forged.key),
    )
    with pytest.raises(KafkaError):
        await access.require(desk.settings(security, MTLS), "worker")


async def test_a_worker_decides_by_its_certificate(desk: Desk, gate_by_cert: Security, tmp_path: Path) -> None:
    password = tmp_path / "key.password"
    password.write_text(str(gate_by_cert.ssl_key_password))
    env = {
        "TIDEGATE_BROKER": f"kafka://{desk.cluster.bootstrap_of(MTLS)}",
        "TIDEGATE_APP_ID": desk.names.app_id,
        "TIDEGATE_TOPIC_PREFIX": desk.names.prefix,
        "TIDEGATE_KAFKA_SECURITY_PROTOCOL": "SSL",
        "TIDEGATE_KAFKA_SSL_CAFILE": str(gate_by_cert.ssl_cafile),
        "TIDEGATE_KAFKA_SSL_CERTFILE": str(gate_by_cert.ssl_certfile),
        "TIDEGATE_KAFKA_SSL_KEYFILE": str(gate_by_cert.ssl_keyfile),
        "TIDEGATE_KAFKA_SSL_KEY_PASSWORD_FILE": str(password),
    }
    log = tmp_path / "worker.log"
    with program(desk, log, "worker", "--data-dir", str(tmp_path / "data"), env=env) as worker:
        await asyncio.to_thread(worker.wait_for, "serving partition", PARTITIONS)
        await decided(desk, "by-certificate")


async def test_a_worker_that_loses_an_acl_ends_and_says_which(desk: Desk, tmp_path: Path) -> None:
    password = secrets.token_hex(8)
    await desk.add_user("demoted", password)
    await desk.grant("demoted", "worker")
    (tmp_path / "password").write_text(password)
    rejected = Entry(Kind.TOPIC, desk.topics.physical(REJECTED), Operation.WRITE)
    env, log = desk.environment("demoted", tmp_path / "password"), tmp_path / "worker.log"
    with program(desk, log, "worker", "--data-dir", str(tmp_path / "data"), env=env) as worker:
        await asyncio.to_thread(worker.wait_for, "serving partition", PARTITIONS)
        await desk.revoke("demoted", rejected)
        await signal_without_order(desk, "after-the-loss")
        assert await asyncio.to_thread(worker.wait_exit) == 1
    assert "worker failed" in log.read_text()
    assert rejected.name in log.read_text()
    with program(desk, log, "worker", "--data-dir", str(tmp_path / "data"), env=env) as worker:
        assert await asyncio.to_thread(worker.wait_exit) == ExitStatus.BROKER
    assert f"User:demoted may not {rejected.words}" in log.read_text()


# -- rotation ------------------------------------------------------------------------------------------------------


async def test_a_password_is_rotated_while_the_gate_decides(desk: Desk, tmp_path: Path) -> None:
    """The second mechanism holds the new password while the first still holds the old: one user, one set of ACLs."""
    old, new = secrets.token_hex(8), secrets.token_hex(8)
    await desk.add_user("rotating", old, "SCRAM-SHA-256")
    await desk.grant("rotating", "worker")
    files = {password: tmp_path / f"{number}.password" for number, password in enumerate((old, new))}
    for password, file in files.items():
        file.write_text(password)

    async def starts(password: str, mechanism: Any, name: str, stack: ExitStack) -> Program:
        log = tmp_path / f"{name}.log"
        env = desk.environment("rotating", files[password], mechanism)
        data = ("--data-dir", str(tmp_path / name))
        process = stack.enter_context(program(desk, log, "worker", *data, env=env))
        await asyncio.to_thread(process.wait_for, "serving partition")
        return process

    with ExitStack() as stack:
        first = await starts(old, "SCRAM-SHA-256", "first", stack)
        await decided(desk, "r-1")
        await desk.add_user("rotating", new, "SCRAM-SHA-512")
        await decided(desk, "r-2")
        second = await starts(new, "SCRAM-SHA-512", "second", stack)
        assert await asyncio.to_thread(first.end, signal.SIGTERM) == 0
        await decided(desk, "r-3")
        await desk.drop_credential("rotating", "SCRAM-SHA-256")
        await decided(desk, "r-4")
        assert second.exit_status is None

    async def is_refused() -> bool:
        return "is wrong" in str(
            await kafka.refusal(desk.settings(desk.scram("rotating", old, "SCRAM-SHA-256"), SCRAM))
        )

    assert await wait_for(is_refused, _DEADLINE_S, "the old password to be refused")
    assert await kafka.refusal(desk.settings(desk.scram("rotating", new), SCRAM)) is None


async def test_a_brokers_certificate_is_rotated_under_its_clients(desk: Desk) -> None:
    """The same file with another content, then one command: new connections see it, and old ones go on."""
    settings = as_role(desk, "portfolio")
    topic = desk.topics.physical(PNL)

    async def serial() -> str:
        host, _, port = desk.cluster.bootstrap_of(SCRAM).rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port), ssl=kafka.tls(settings))
        writer.close()
        return str(writer.get_extra_info("peercert")["serialNumber"])

    before = await serial()
    renewed = desk.authority.issue("broker", hosts=("127.0.0.1", "localhost"))
    async with kafka.producer(settings) as producer:
        await producer.send_and_wait(topic, b"{}", b"main")
        await asyncio.to_thread(alter_broker, desk, f"listener.name.scram.ssl.keystore.location={renewed.both}")

        async def is_renewed() -> bool:
            return await serial() != before

        assert await wait_for(is_renewed, _DEADLINE_S, "the new certificate")
        await producer.send_and_wait(topic, b"{}", b"main")


def alter_broker(desk: Desk, setting: str) -> None:
    """``kafka-configs.sh --alter``, which is this class."""
    subprocess.run(
        [
            *(java(), "-cp", class_path(), "kafka.admin.ConfigCommand", "--bootstrap-server", desk.cluster.bootstrap),
            *("--entity-type", "brokers", "--entity-name", "0", "--alter", "--add-config", setting),
        ],
        check=True,
        timeout=_DEADLINE_S,
    )
