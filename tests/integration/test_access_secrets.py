"""Canaries in every secret setting: none of them reaches a terminal, a log, a topic or the disk, whatever fails."""

import asyncio
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from infra.brokers import free_ports
from schemas.roles import EVERY_TOPIC
from streams.ops.exits import ExitStatus
from streams.runtime.logs import BLANK
from streams.runtime.topics import create_topics
from tests.integration.processes import Program, tidegate_command
from tests.integration.secured import SCRAM, Authority, Desk, secured_cluster
from tests.integration.support import Names, poll, produce, read_topic, require_local_kafka

_DEADLINE_S = 40.0
CANARY = "canary-"
"""Every secret begins so."""
CONFIG = """
[accounts.main]
exchange = "binance"
profile = "normal"
[notify.routes.desk]
"""


def canary(name: str) -> str:
    return f"{CANARY}{name}-{secrets.token_hex(8)}"


class Told:
    """The commands' setting, and everything that they have said."""

    def __init__(self, desk: Desk, directory: Path) -> None:
        self.desk = desk
        self.directory = directory
        self.said: list[str] = []
        self.password = canary("password")
        sealed = desk.authority.issue("worker", password=(key_password := canary("key")))
        (directory / "sasl.password").write_text(self.password)
        (directory / "tidegate.toml").write_text(CONFIG)
        self.environment = (
            {name: value for name, value in os.environ.items() if not name.startswith(("TIDEGATE_", "QT_"))}
            | desk.environment("gate", directory / "sasl.password")
            | {
                "TIDEGATE_KAFKA_SSL_CERTFILE": str(sealed.cert),
                "TIDEGATE_KAFKA_SSL_KEYFILE": str(sealed.key),
                "TIDEGATE_KAFKA_SSL_KEY_PASSWORD": key_password,
                "TIDEGATE_REDIS_URL": f"rediss://ann:{canary('redis')}@127.0.0.1:1/0",
                "TIDEGATE_NOTIFY_DESK": f"json://ann:{canary('notify')}@127.0.0.1:1/",
                # The executors' own, in the environment that a desk has today.
                "QT_ACCOUNT_MAIN_EXCHANGE": "binance",
                "QT_ACCOUNT_MAIN_API_KEY": canary("api-key"),
                "QT_ACCOUNT_MAIN_API_SECRET": canary("api-secret"),
                "QT_ACCOUNT_MAIN_CLIENT_ID": canary("client-id"),
                "TIDEGATE_OPERATOR": "ann",
                "TIDEGATE_LOG_LEVEL": "debug",
                "COLUMNS": "200",
            }
        )

    @property
    def data_dir(self) -> Path:
        return self.directory / "data"

    def start(self, *arguments: str, log: str) -> Program:
        command = [sys.executable, "-X", "dev", "-m", "streams.ops.cli", *arguments]
        return Program(command, self.directory / log, self.environment).start()

    def run(self, *arguments: str, **wrong: str) -> tuple[int, str]:
        """A command to its end; its status and all that it said."""
        result = subprocess.run(
            tidegate_command(*arguments, "--config", str(self.directory / "tidegate.toml")),
            env=self.environment | wrong,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
            check=False,
        )
        self.said.append(result.stdout + result.stderr)
        return result.returncode, result.stdout + result.stderr

    def file(self, name: str, content: bytes) -> str:
        path = self.directory / name
        path.write_bytes(content)
        return str(path)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    require_local_kafka()
    directory = tmp_path_factory.mktemp("secrets")
    authority = Authority(directory / "tls")
    with secured_cluster(authority) as cluster:
        one = Told(Desk(cluster, authority, Names(f"secrets-{secrets.token_hex(4)}"), directory / "data"), directory)
        asyncio.run(_prepare(one))
        yield one


async def _prepare(told: Told) -> None:
    await create_topics(told.desk.admin, partitions=1)
    await told.desk.add_user("gate", told.password)
    for role in ("worker", "steward", "drill", "mirror", "notifier"):
        await told.desk.grant("gate", role)


FAILURES = {
    "a wrong password": ({"TIDEGATE_KAFKA_SASL_PASSWORD_FILE": "wrong"}, ExitStatus.BROKER),
    "another mechanism": ({"TIDEGATE_KAFKA_SASL_MECHANISM": "SCRAM-SHA-256"}, ExitStatus.BROKER),
    "a mechanism that the broker does not have": ({"TIDEGATE_KAFKA_SASL_MECHANISM": "PLAIN"}, ExitStatus.BROKER),
    "no broker": ({"TIDEGATE_BROKER": "nowhere"}, ExitStatus.BROKER),
    "a password in the broker's address": ({"TIDEGATE_BROKER": "with password"}, ExitStatus.USAGE),
    "both password and file": ({"TIDEGATE_KAFKA_SASL_PASSWORD": "twice"}, ExitStatus.USAGE),
    "a file that is no text": ({"TIDEGATE_KAFKA_SASL_PASSWORD_FILE": "binary"}, ExitStatus.USAGE),
    "a protocol without login": ({"TIDEGATE_KAFKA_SECURITY_PROTOCOL": "PLAINTEXT"}, ExitStatus.USAGE),
    "a key password that does not open the key": ({"TIDEGATE_KAFKA_SSL_KEY_PASSWORD": "twice"}, ExitStatus.USAGE),
    "an authority that is no certificate": ({"TIDEGATE_KAFKA_SSL_CAFILE": "binary"}, ExitStatus.USAGE),
    "Redis is away": ({}, ExitStatus.BROKER),
    "an address of Redis that is none": ({"TIDEGATE_REDIS_URL": "twice"}, ExitStatus.USAGE),
    "a service that is away": ({}, ExitStatus.REFUSED),
    "an address of a service that is none": ({"TIDEGATE_NOTIFY_DESK": "twice"}, ExitStatus.USAGE),
}
COMMANDS = {
    "a wrong password": (["accounts"], ["worker", "--data-dir", "never"]),
    "Redis is away": (["mirror", "status"],),
    "an address of Redis that is none": (["mirror", "status"], ["mirror"]),
    "a service that is away": (["notify", "test"],),
    "an address of a service that is none": (["notify", "test"], ["notify"]),
}
"""Those that meet a failure, where it is not any of them."""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_secret_is_told_whatever_goes_well_or_wrong(told: Told) -> None:
    config = ("--config", str(told.directory / "tidegate.toml"))
    worker = told.start("worker", *config, "--data-dir", str(told.data_dir), log="worker.log")
    # Neither Redis nor the service that is to be notified is there.
    mirror = told.start("mirror", *config, log="mirror.log")
    notifier = told.start("notify", *config, log="notifier.log")
    try:
        worker.wait_for("serving partition")
        notifier.wait_for("notifier serving")
        _everything_goes_well(told)
        mirror.wait_for("127.0.0.1:1")
        notifier.wait_for("route desk")
        for name, (wrong, expected) in FAILURES.items():
            values = {variable: _wrong(told, kind) for variable, kind in wrong.items()}
            for arguments in COMMANDS.get(name, (["accounts"],)):
                status, said = told.run(*arguments, **values)
                assert status == expected, f"{name}: {arguments}: {said}"
                assert "Traceback" not in said, f"{name}: {arguments}"
        records = asyncio.run(_records(told))
        told.desk.cluster.kill()
        status, said = told.run("accounts")
        assert (status, "error: " in said) == (ExitStatus.BROKER, True), said
        assert "decided" in worker.log, "the log was not that of a worker at debug"
    finally:
        for process in (worker, mirror, notifier):
            process.send(signal.SIGTERM)
        for process in (worker, mirror, notifier):
            process.wait_exit()
    files = {path: path.read_bytes() for path in told.directory.rglob("*") if path.is_file() and _is_written(path)}
    assert any(path.is_relative_to(told.data_dir) for path in files)
    assert [record for record in records if CANARY.encode() in record] == []
    assert [path for path, content in files.items() if CANARY.encode() in content] == []
    assert [said for said in told.said if CANARY in said] == []
    # Nothing had to be blanked either: the log's last line of defence was not needed.
    logs = [process.log for process in (worker, mirror, notifier)]
    assert [said for said in (*told.said, *logs) if BLANK in said] == []


def _everything_goes_well(told: Told) -> None:
    physical, bootstrap = told.desk.topics.physical, told.desk.cluster.bootstrap
    now = datetime.now(UTC).isoformat()
    mark = {"account_id": "main", "sequence": 1, "equity": "10000", "as_of": now}
    signal = {"signal_id": "s-1", "account_id": "main", "strategy_id": "trend", "created_at": now}
    asyncio.run(produce(bootstrap, physical("pnl"), [(b"main", json.dumps(mark).encode())]))
    asyncio.run(produce(bootstrap, physical("signals"), [(b"main", json.dumps(signal).encode()), (b"main", b"{")]))

    def decided() -> int:
        return len(asyncio.run(read_topic(bootstrap, physical("rejected-signals"))))

    poll(decided, _DEADLINE_S, "a decision")
    for arguments in (
        ["accounts"],
        ["accounts", "--json"],
        ["explain", "s-1"],
        ["access", "check", "--role", "worker"],
        ["policy", "list"],
        ["lock", "main", "--reason", "odd fills"],
    ):
        status, said = told.run(*arguments)
        assert status == ExitStatus.DONE, said
    # What it finds of a throw-away broker is not in question here, only that it looks at everything.
    _, said = told.run("preflight", "--json")
    assert len(json.loads(said)["checks"]) > 20


def _wrong(told: Told, kind: str) -> str:
    match kind:
        case "wrong":
            return told.file("wrong.password", canary("wrong").encode())
        case "binary":
            return told.file("binary.password", b"\xff" + canary("binary").encode())
        case "nowhere":
            return f"kafka://127.0.0.1:{free_ports(1)[0]}"
        case "with password":
            return f"kafka://ann:{canary('address')}@{told.desk.cluster.bootstrap_of(SCRAM)}"
        case "twice":
            return canary("twice")
        case as_it_is:
            return as_it_is


async def _records(told: Told) -> list[bytes]:
    """Keys, values and headers of every topic."""
    found: list[bytes] = []
    for topic in EVERY_TOPIC:
        for record in await read_topic(told.desk.cluster.bootstrap, told.desk.topics.physical(topic)):
            headers = b"".join(name.encode() + value for name, value in record.headers)
            found.append((record.key or b"") + (record.value or b"") + headers)
    return found


def _is_written(path: Path) -> bool:
    """Whether a process of ours wrote it: the secrets' own files are the test's."""
    return path.suffix != ".password" and path.parent.name != "tls"
