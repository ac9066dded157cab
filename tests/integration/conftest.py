"""One real broker for all integration tests, and names that keep them apart on it."""

import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from infra.brokers import Broker, KafkaCluster, external_broker
from infra.jars import KafkaUnavailable, kafka_version
from tests.integration.container import NoDockerEngine, kafka_container
from tests.integration.support import REQUIRE_KAFKA, Names, skip_or_fail


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/integration/" in item.nodeid:
            item.add_marker(pytest.mark.integration)


@pytest.fixture(scope="session")
def kafka() -> Iterator[Broker]:
    """A real broker: the one that `TIDEGATE_BROKER` names, else Apache Kafka from its jars, else in a container."""
    with ExitStack() as running:
        yield external_broker() or _apache_kafka(running)


def _apache_kafka(running: ExitStack) -> Broker:
    missing = []
    try:
        cluster = running.enter_context(KafkaCluster())
        return Broker(cluster.bootstrap, "kafka", f"Apache Kafka {kafka_version()} from its jars")
    except KafkaUnavailable as error:
        missing.append(str(error))
    try:
        bootstrap = running.enter_context(kafka_container())
        return Broker(bootstrap, "kafka", f"Apache Kafka {kafka_version()} in a container")
    except NoDockerEngine as error:
        missing.append(str(error))
    return skip_or_fail(f"no Apache Kafka: {'; '.join(missing)}", REQUIRE_KAFKA)


@pytest.fixture
def topics(request: pytest.FixtureRequest) -> Names:
    """Names that no other test uses, on a broker that all of them share."""
    readable = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower()).strip("-")
    return Names(f"{readable[:60]}-{secrets.token_hex(4)}")
