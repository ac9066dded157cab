"""Apache Kafka's own image under testcontainers, whose Kafka module knows other images only."""

from collections.abc import Iterator
from contextlib import contextmanager

import docker
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer

from infra.cluster import brokers_seen_by, free_ports
from infra.jars import KAFKA_FILES, kafka_version
from tests.integration.support import poll

_READY_DEADLINE_S = 90.0
_CLIENT_PORT = 9092


class NoDockerEngine(RuntimeError):
    """No Docker engine answers."""


@contextmanager
def kafka_container() -> Iterator[str]:
    """Run Apache Kafka in a container; yields its bootstrap address.

    Raises:
        NoDockerEngine: there is none to run it.
    """
    probe()
    host, port = "127.0.0.1", free_ports(1)[0]
    container = DockerContainer(f"apache/kafka:{kafka_version()}").with_bind_ports(_CLIENT_PORT, port)
    for name, value in environment(f"{host}:{port}").items():
        container.with_env(name, value)
    with container:
        poll(lambda: brokers_seen_by(f"{host}:{port}"), _READY_DEADLINE_S, "the container's broker to answer")
        yield f"{host}:{port}"


def environment(advertised: str) -> dict[str, str]:
    """The image's settings: those of a local node, with a listener for clients outside of the container."""
    own = {
        "node.id": "1",
        "controller.quorum.voters": "1@localhost:9094",
        "listeners": f"PLAINTEXT://:19092,CLIENT://:{_CLIENT_PORT},CONTROLLER://:9094",
        "advertised.listeners": f"PLAINTEXT://localhost:19092,CLIENT://{advertised}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CLIENT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
    }
    return {f"KAFKA_{key.upper().replace('.', '_')}": value for key, value in (_shared() | own).items()}


def _shared() -> dict[str, str]:
    lines = (KAFKA_FILES / "server.properties").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if "=" in line and not line.startswith("#"))
    return {key: value for key, _, value in pairs}


def probe() -> None:
    """Raises NoDockerEngine where no Docker engine answers."""
    # Asked directly, a missing engine is one type of error; from testcontainers' constructor it is whatever failed.
    try:
        client = docker.from_env(timeout=5)
    except DockerException as error:
        raise NoDockerEngine("no Docker engine answers") from error
    try:
        client.ping()
    except DockerException as error:
        raise NoDockerEngine("no Docker engine answers") from error
    finally:
        client.close()
