"""Apache Kafka from its jars: it starts, does transactions, loses a node, and leaves nothing behind."""

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import KafkaError

from infra.brokers import BrokerFailed, KafkaCluster, brokers_seen_by, free_ports
from tests.integration.support import create_topic, poll, produce, read_topic, require_local_kafka, wait_for

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _needs_kafka() -> None:
    require_local_kafka()


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where clusters keep their data in this test."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def cluster() -> Iterator[KafkaCluster]:
    require_local_kafka()
    with KafkaCluster() as cluster:
        yield cluster


def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_committed_transaction_is_read_and_an_aborted_one_is_not(cluster: KafkaCluster) -> None:
    await create_topic(cluster.bootstrap, "transactions", partitions=2)
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id="writer")
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send_and_wait("transactions", b"committed", partition=0)
        await producer.begin_transaction()
        await producer.send_and_wait("transactions", b"aborted", partition=1)
        await producer.abort_transaction()
    finally:
        await producer.stop()
    committed = await read_topic(cluster.bootstrap, "transactions")
    assert [record.value for record in committed] == [b"committed"]
    everything = await read_topic(cluster.bootstrap, "transactions", isolation_level="read_uncommitted")
    assert {record.value for record in everything} == {b"committed", b"aborted"}


async def test_what_an_open_transaction_wrote_is_beyond_the_end(cluster: KafkaCluster) -> None:
    await create_topic(cluster.bootstrap, "open")
    await produce(cluster.bootstrap, "open", [(None, b"before")])
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, transactional_id="slow-writer")
    await producer.start()
    try:
        await producer.begin_transaction()
        await producer.send_and_wait("open", b"pending")
        assert [record.value for record in await read_topic(cluster.bootstrap, "open")] == [b"before"]
        await producer.commit_transaction()
    finally:
        await producer.stop()
    assert [record.value for record in await read_topic(cluster.bootstrap, "open")] == [b"before", b"pending"]


async def test_keys_are_partitioned_by_murmur2(cluster: KafkaCluster) -> None:
    await create_topic(cluster.bootstrap, "keyed", partitions=8)
    # The vectors of Kafka's own test of murmur2 (org.apache.kafka.common.utils.UtilsTest).
    hashes = {b"21": -973932308, b"foobar": -790332482, b"a-little-bit-long-string": -985981536, b"abc": 479470107}
    placed = await produce(cluster.bootstrap, "keyed", [(key, b"{}") for key in hashes])
    assert [partition for partition, _ in placed] == [(value & 0x7FFFFFFF) % 8 for value in hashes.values()]


async def test_a_topic_does_not_exist_by_being_asked_for(cluster: KafkaCluster) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=cluster.bootstrap, request_timeout_ms=1_000)
    await producer.start()
    try:
        with pytest.raises(KafkaError):
            await producer.send_and_wait("never-created", b"value")
    finally:
        await producer.stop()


async def test_sasl_listener_beside_the_plain_one() -> None:
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    config = {
        "sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": f'{login} user_desk="secret";',
    }
    with KafkaCluster(config=config, listeners={"SASL": "SASL_PLAINTEXT"}) as cluster:
        await create_topic(cluster.bootstrap, "guarded")

        def producer(password: str) -> AIOKafkaProducer:
            return AIOKafkaProducer(
                bootstrap_servers=cluster.bootstrap_of("SASL"),
                security_protocol="SASL_PLAINTEXT",
                sasl_mechanism="PLAIN",
                sasl_plain_username="desk",
                sasl_plain_password=password,
            )

        desk = producer("secret")
        await desk.start()
        await desk.send_and_wait("guarded", b"order")
        await desk.stop()
        assert [record.value for record in await read_topic(cluster.bootstrap, "guarded")] == [b"order"]
        stranger = producer("guess")
        with pytest.raises(KafkaError):
            await stranger.start()
        await stranger.stop()


def test_nothing_is_left_after_stop(scratch: Path) -> None:
    cluster = KafkaCluster()
    cluster.start()
    pid, bootstrap = cluster.pid(), cluster.bootstrap
    assert pid is not None
    assert list(scratch.iterdir())
    cluster.stop()
    cluster.stop()
    assert _gone(pid)
    assert not brokers_seen_by(bootstrap)
    assert not list(scratch.iterdir())


def test_nothing_is_left_after_the_owner_is_killed(scratch: Path) -> None:
    owner_code = """
import time
from infra.brokers import KafkaCluster
with KafkaCluster() as cluster:
    print(cluster.pid(), flush=True)
    time.sleep(600)
"""
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with subprocess.Popen(
        [sys.executable, "-c", owner_code], stdout=subprocess.PIPE, text=True, env=environment
    ) as owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert list(scratch.iterdir())
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    poll(lambda: _gone(pid), 10, "the broker's end")
    poll(lambda: not list(scratch.iterdir()), 10, "the broker's data to go")


def test_a_configuration_that_kafka_refuses_is_quoted(scratch: Path) -> None:
    with pytest.raises(BrokerFailed, match=r"log\.segment\.bytes"):
        KafkaCluster(config={"log.segment.bytes": "many"}).start()
    assert not list(scratch.iterdir())


def test_a_broker_that_dies_while_it_starts_is_quoted(scratch: Path) -> None:
    # The format step does not open the key store; the broker does.
    config = {"listener.name.tls.ssl.keystore.location": "no-such.jks", "listener.name.tls.ssl.keystore.password": "x"}
    with pytest.raises(BrokerFailed, match=r"no-such\.jks"):
        KafkaCluster(config=config, listeners={"TLS": "SSL"}).start()
    assert not list(scratch.iterdir())


def test_a_port_that_is_taken_meanwhile_costs_one_more_try(monkeypatch: pytest.MonkeyPatch) -> None:
    with KafkaCluster() as first:
        taken = int(first.bootstrap.rpartition(":")[2])
        answers = [[taken, *free_ports(1)], free_ports(2)]
        monkeypatch.setattr("infra.cluster.free_ports", lambda count: answers.pop(0))
        with KafkaCluster() as second:
            assert second.bootstrap != first.bootstrap
            assert brokers_seen_by(second.bootstrap)
        assert not answers


@pytest.mark.slow
async def test_three_nodes_lose_one_and_take_it_back() -> None:
    cluster = KafkaCluster(nodes=3)
    await asyncio.to_thread(cluster.start)
    try:
        await create_topic(cluster.bootstrap, "survives", replication_factor=3)
        await produce(cluster.bootstrap, "survives", [(None, b"three up")])
        pid = cluster.pid(1)
        assert pid is not None
        assert cluster.controller() in (0, 1, 2)
        cluster.kill(1)
        assert _gone(pid)
        assert cluster.pid(1) is None
        await wait_for(lambda: cluster.controller() in (0, 2), 30, "a controller among those that live")
        await produce(cluster.bootstrap, "survives", [(None, b"two up")])
        await asyncio.to_thread(cluster.restart, 1)
        assert cluster.pid(1) not in (None, pid)
        await produce(cluster.bootstrap, "survives", [(None, b"three again")])
        records = await read_topic(cluster.bootstrap, "survives")
        assert [record.value for record in records] == [b"three up", b"two up", b"three again"]
        # A clean restart of the node that is asked next keeps its data, too.
        await asyncio.to_thread(cluster.restart, 0)
        assert len(await read_topic(cluster.bootstrap, "survives")) == 3
    finally:
        cluster.stop()


async def test_a_listener_can_advertise_the_ports_of_a_proxy() -> None:
    (promised,) = free_ports(1)
    with KafkaCluster(listeners={"BEHIND": "PLAINTEXT"}, advertised={"BEHIND": [promised]}) as cluster:
        (own,) = cluster.ports_of("BEHIND")
        assert own != promised
        assert cluster.bootstrap_of("BEHIND") == f"127.0.0.1:{promised}"
        # Whoever asks the node itself is sent to the promised port; there is nobody yet.
        client = AIOKafkaClient(bootstrap_servers=f"127.0.0.1:{own}")
        await client.bootstrap()
        try:
            assert {node.port for node in client.cluster.brokers()} == {promised}
        finally:
            await client.close()


def test_the_only_node_leads_the_quorum_and_has_a_log(cluster: KafkaCluster) -> None:
    assert cluster.controller() == 0
    assert "Kafka Server started" in cluster.log_of(0)


@pytest.mark.parametrize("nodes", [0, 2, 4])
def test_only_one_node_or_three(nodes: int) -> None:
    with pytest.raises(ValueError, match="1 or 3 nodes"):
        KafkaCluster(nodes)
