"""A worker on a broker that asks for user and password: every client of it must have them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError

from infra.brokers import Broker, KafkaCluster
from streams.core.records import APPROVED, SIGNALS
from streams.core.rules import Rules
from streams.runtime import kafka as clients
from streams.runtime.settings import Security, Settings
from streams.runtime.topics import TopicNames, create_topics
from streams.runtime.worker import Worker
from tests.integration import standin
from tests.integration.support import Names, produce, read_topic, require_local_kafka, wait_for
from tests.integration.workers import settings_for

USER, PASSWORD = "ann", "correct-horse"


@pytest.fixture(scope="module")
def guarded() -> Iterator[KafkaCluster]:
    require_local_kafka()
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    config = {
        "listener.name.sasl.sasl.enabled.mechanisms": "PLAIN",
        "listener.name.sasl.plain.sasl.jaas.config": f'{login} required user_{USER}="{PASSWORD}";',
    }
    with KafkaCluster(config=config, listeners={"SASL": "SASL_PLAINTEXT"}) as cluster:
        yield cluster


def settings_with(password: str, cluster: KafkaCluster, topics: Names, data_dir: Path) -> Settings:
    broker = Broker(cluster.bootstrap_of("SASL"), "kafka", "with passwords")
    security = Security(protocol="SASL_PLAINTEXT", sasl_username=USER, sasl_password=password)
    return settings_for(broker, topics, data_dir, security=security)


async def test_all_clients_of_a_worker_log_in(guarded: KafkaCluster, topics: Names, tmp_path: Path) -> None:
    settings = settings_with(PASSWORD, guarded, topics, tmp_path / "data")
    names = TopicNames.of(settings)
    await create_topics(settings, partitions=1)
    worker = Worker(settings, Rules(), core=standin.CORE, with_consumer=True)
    await worker.start()
    try:
        await produce(guarded.bootstrap, names.physical(SIGNALS), [(b"a", b'{"id": "s"}')])

        async def is_decided() -> bool:
            return len(await read_topic(guarded.bootstrap, names.physical(APPROVED))) == 1

        await wait_for(is_decided, 30, "a decision")
        assert worker.app.crash_reason is None
    finally:
        await worker.stop()


async def test_a_wrong_password_is_refused_and_not_repeated(
    guarded: KafkaCluster, topics: Names, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_with("wrong-horse", guarded, topics, tmp_path / "data")
    admin = clients.admin(settings)
    with pytest.raises(KafkaError) as raised:
        await admin.start()
    await admin.close()
    assert "wrong-horse" not in f"{raised.value!r}{caplog.text}"
