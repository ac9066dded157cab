"""A throw-away Apache Kafka cluster on loopback: one node, or three that can lose one."""

import asyncio
import contextlib
import json
import random
import shutil
import socket
import subprocess
import tempfile
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from infra.child import Child
from infra.jars import KAFKA_FILES, class_path, java

HOST = "127.0.0.1"

_READY_DEADLINE_S = 60.0
_STOP_DEADLINE_S = 15.0
_START_ATTEMPTS = 3
_POLL_INTERVAL_S = 0.02
_STARTED = "Kafka Server started"

# Below Linux's ephemeral ports (32768 up): no outgoing connection can take a node's port between its death and
# its restart.
_PORTS = range(20_000, 32_000)

# C1 only and a small heap: a node answers about 1.5 s after its start and takes about 200 MB.
_JVM_OPTIONS = (
    "-XX:TieredStopAtLevel=1",
    "-Xshare:auto",
    "-Xms128m",
    "-Xmx512m",
    "-XX:+ExitOnOutOfMemoryError",
    "-XX:-UsePerfData",
    "-Djava.awt.headless=true",
    f"-Dlog4j2.configurationFile={KAFKA_FILES / 'log4j2.properties'}",
)


class BrokerFailed(RuntimeError):
    """A broker did not start, or did not answer in time; the message ends with the tail of its log."""


class PortTaken(BrokerFailed):
    """Another process took a port between its choice and its use."""


def free_ports(count: int) -> list[int]:
    """`count` different ports of loopback that nothing listened on a moment ago.

    Raises:
        BrokerFailed: there are not that many.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as sockets:
        for port in random.SystemRandom().sample(_PORTS, len(_PORTS)):
            if len(ports) == count:
                return ports
            candidate = sockets.enter_context(socket.socket())
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                candidate.bind((HOST, port))
                ports.append(port)
    raise BrokerFailed(f"no {count} free ports on {HOST} between {_PORTS.start} and {_PORTS.stop}")


def brokers_seen_by(bootstrap: str) -> set[int]:
    """Ids of the nodes that the broker at `bootstrap` ("host:port") names in its metadata; empty without an answer.

    A thread that runs an event loop may call it: the request runs on a loop of its own.
    """
    host, _, port = bootstrap.rpartition(":")
    try:
        # aiokafka logs an error for every refused connection, the ordinary state of a broker that starts.
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return set()
    with ThreadPoolExecutor(max_workers=1) as own_loop:
        return own_loop.submit(asyncio.run, _brokers_seen_by(bootstrap)).result()


async def _brokers_seen_by(bootstrap: str) -> set[int]:
    client = AIOKafkaClient(bootstrap_servers=bootstrap, request_timeout_ms=2_000)
    try:
        await client.bootstrap()
        return {node.nodeId for node in client.cluster.brokers()}
    except KafkaError:
        return set()
    finally:
        await client.close()


@dataclass
class _Node:
    node_id: int
    ports: dict[str, int]
    """Listener name → port; CONTROLLER among them."""
    directory: Path
    process: Child | None = None
    """None before the start and after `kill`."""


class KafkaCluster:
    """Apache Kafka in KRaft combined mode, on free ports of loopback, with data that is thrown away.

    Nodes are numbered from 0. A cluster that stops leaves neither processes nor files behind, nor does one whose
    owner is killed.

    Args:
        nodes: 1, or 3 to lose one and go on (topics are then replicated three times by default, two in sync).
        config: broker properties that override Tidegate's, for every node.
        listeners: further client listeners, name → security protocol, as {"SASL": "SASL_PLAINTEXT"}; their settings
            go into `config` ("listener.name.sasl.…"), their addresses are `bootstrap_of("SASL")`. The listener
            PLAINTEXT is always there.
        advertised: ports of loopback, one a node, at which clients of a further listener are told to find the nodes:
            those of a proxy before them. A listener that is not named here advertises its own.

    Raises:
        KafkaUnavailable: from `start`, when this machine has no Java or no way to get the jars.
        BrokerFailed: from `start` and `restart`, with the tail of the failing node's log.
    """

    def __init__(
        self,
        nodes: int = 1,
        config: Mapping[str, str] | None = None,
        listeners: Mapping[str, str] | None = None,
        advertised: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        if nodes not in (1, 3):
            raise ValueError(f"a cluster has 1 or 3 nodes, not {nodes}")
        self._size = nodes
        self._config = dict(config or {})
        self._protocols = {"PLAINTEXT": "PLAINTEXT", "CONTROLLER": "PLAINTEXT", **(listeners or {})}
        self._advertised = dict(advertised or {})
        self._nodes: list[_Node] = []
        self._directory: Path | None = None
        self._java = ""
        self._class_path = ""

    @property
    def bootstrap(self) -> str:
        """Addresses of all nodes for a client's `bootstrap_servers`."""
        return self.bootstrap_of("PLAINTEXT")

    @property
    def url(self) -> str:
        """The same in the form of `TIDEGATE_BROKER`."""
        return f"kafka://{self.bootstrap}"

    def bootstrap_of(self, listener: str) -> str:
        """Addresses of all nodes on a listener given to the constructor, as clients are told them."""
        if not self._nodes:
            raise RuntimeError("the cluster is not started")
        return ",".join(f"{HOST}:{self._advertised_port(node, listener)}" for node in self._nodes)

    def ports_of(self, listener: str) -> tuple[int, ...]:
        """The ports that the nodes themselves listen on, whatever they advertise."""
        if not self._nodes:
            raise RuntimeError("the cluster is not started")
        return tuple(node.ports[listener] for node in self._nodes)

    def controller(self) -> int | None:
        """The node that leads the metadata quorum, by what the nodes that run have on disk; none before an election."""
        states = [
            json.loads(file.read_text())
            for node in self._nodes
            if self.pid(node.node_id) is not None
            and (file := node.directory / "data" / "__cluster_metadata-0" / "quorum-state").exists()
        ]
        latest = max(states, key=lambda state: state["leaderEpoch"], default={"leaderId": -1})
        return int(latest["leaderId"]) if latest["leaderId"] >= 0 else None

    def log_of(self, node: int) -> str:
        """All that a node has logged."""
        log = self._nodes[node].directory / "server.log"
        return log.read_text(errors="replace") if log.exists() else ""

    def pid(self, node: int = 0) -> int | None:
        """Process id of a node; none while it is down."""
        process = self._nodes[node].process
        return process.pid if process is not None and process.running else None

    def start(self) -> None:
        """Start all nodes and return when each of them serves clients and sees all others."""
        if self._nodes:
            raise RuntimeError("the cluster is already started")
        self._java, self._class_path = java(), class_path()
        for attempts_left in reversed(range(_START_ATTEMPTS)):
            try:
                self._start_on_free_ports()
                return
            except PortTaken:
                self.stop()
                if not attempts_left:
                    raise
            except BaseException:
                self.stop()
                raise

    def stop(self) -> None:
        """Kill every node and remove all data. Safe to call twice."""
        for node in self._nodes:
            if node.process is not None:
                node.process.kill()
        self._nodes = []
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def kill(self, node: int = 0) -> None:
        """SIGKILL one node; its data stays for `restart`."""
        killed = self._nodes[node]
        if killed.process is not None:
            killed.process.kill()
            killed.process = None

    def restart(self, node: int = 0) -> None:
        """Start a node again on its data and ports, after a clean shutdown if it runs; returns when it serves."""
        restarted = self._nodes[node]
        if restarted.process is not None:
            restarted.process.terminate(_STOP_DEADLINE_S)
        self._launch(restarted)
        self._wait_ready()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _start_on_free_ports(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="tidegate-kafka-"))
        # A proxy that does not listen yet leaves its ports free.
        promised = {port for ports in self._advertised.values() for port in ports}
        drawn = free_ports(self._size * len(self._protocols) + len(promised))
        ports = iter(port for port in drawn if port not in promised)
        for node_id in range(self._size):
            directory = self._directory / str(node_id)
            directory.mkdir()
            self._nodes.append(_Node(node_id, {name: next(ports) for name in self._protocols}, directory))
        # An id that begins with a dash would be an option to the format tool.
        cluster_id = "t" + urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")[1:]
        with ThreadPoolExecutor(max_workers=self._size) as formatters:
            list(formatters.map(lambda node: self._format(node, cluster_id), self._nodes))
        for node in self._nodes:
            self._launch(node)
        self._wait_ready()

    def _format(self, node: _Node, cluster_id: str) -> None:
        properties = node.directory / "server.properties"
        own = "\n".join(f"{key}={value}" for key, value in {**self._own_properties(node), **self._config}.items())
        properties.write_text(f"{(KAFKA_FILES / 'server.properties').read_text()}\n{own}\n")
        result = subprocess.run(
            self._kafka("kafka.tools.StorageTool", "format", "-t", cluster_id, "-c", str(properties)),
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            raise BrokerFailed(f"Kafka refused its configuration:\n{result.stdout}{result.stderr}")

    def _own_properties(self, node: _Node) -> dict[str, str]:
        replicas, in_sync = str(self._size), str(max(1, self._size - 1))
        return {
            "node.id": str(node.node_id),
            "controller.quorum.voters": ",".join(
                f"{peer.node_id}@{HOST}:{peer.ports['CONTROLLER']}" for peer in self._nodes
            ),
            "listeners": ",".join(f"{name}://{HOST}:{port}" for name, port in node.ports.items()),
            "advertised.listeners": ",".join(
                f"{name}://{HOST}:{self._advertised_port(node, name)}" for name in node.ports if name != "CONTROLLER"
            ),
            "listener.security.protocol.map": ",".join(
                f"{name}:{protocol}" for name, protocol in self._protocols.items()
            ),
            "log.dirs": str(node.directory / "data"),
            "default.replication.factor": replicas,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": replicas,
            "transaction.state.log.replication.factor": replicas,
            "transaction.state.log.min.isr": in_sync,
        }

    def _advertised_port(self, node: _Node, listener: str) -> int:
        ports = self._advertised.get(listener)
        return node.ports[listener] if ports is None else ports[node.node_id]

    def _launch(self, node: _Node) -> None:
        assert self._directory is not None
        node.process = Child(
            self._kafka("kafka.Kafka", str(node.directory / "server.properties")),
            log=node.directory / "server.log",
            scratch=self._directory,
        )

    def _kafka(self, main_class: str, *arguments: str) -> list[str]:
        return [self._java, *_JVM_OPTIONS, "-cp", self._class_path, main_class, *arguments]

    def _wait_ready(self) -> None:
        """Wait until every node that was started, and not killed, serves clients and names all of them."""
        end_s = time.monotonic() + _READY_DEADLINE_S
        up = {node.node_id: node.process for node in self._nodes if node.process is not None}
        for node_id, process in up.items():
            address = f"{HOST}:{self._nodes[node_id].ports['PLAINTEXT']}"
            # The log line is this node's own; the port alone may be answered by whoever took it.
            while not (_STARTED in process.output() and up.keys() <= brokers_seen_by(address)):
                log = process.log_tail()
                if not process.running:
                    failure = PortTaken if "Address already in use" in log else BrokerFailed
                    raise failure(f"Kafka node {node_id} ended while it started; its log:\n{log}")
                if time.monotonic() > end_s:
                    raise BrokerFailed(f"Kafka node {node_id} was not ready in {_READY_DEADLINE_S} s; its log:\n{log}")
                time.sleep(_POLL_INTERVAL_S)
