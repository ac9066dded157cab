"""A broker that is killed amid transactions and comes back: whoever decides then, decides everything once."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from infra.brokers import Broker, KafkaCluster
from streams.core.records import APPROVED, DEAD_LETTERS, SIGNALS
from streams.runtime import kafka as clients
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames, create_topics
from tests.integration.support import Names, read_topic, require_local_kafka, wait_for
from tests.integration.workers import WorkerProcess, settings_for

COUNT = 3_000


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    require_local_kafka()
    with KafkaCluster() as one:
        yield one


@pytest.mark.timeout(180)
async def test_a_killed_broker_costs_time_and_no_decision(cluster: KafkaCluster, topics: Names, tmp_path: Path) -> None:
    settings = settings_for(Broker(cluster.bootstrap, "kafka", ""), topics, tmp_path / "data")
    await create_topics(settings, partitions=3)
    approved, dead = (TopicNames.of(settings).physical(topic) for topic in (APPROVED, DEAD_LETTERS))

    async def decided() -> list[str]:
        return [orjson.loads(record.value)["id"] for record in await read_topic(cluster.bootstrap, approved)]

    async def some_are_decided() -> bool:
        return len(await decided()) > 50

    async def all_are_decided() -> bool:
        # It may survive, or end because an outcome was unknown: then its supervisor starts the next.
        if worker.exit_status is not None:
            assert worker.exit_status == 1
            worker.start()
        return len(await decided()) >= COUNT

    with WorkerProcess(settings) as worker:
        worker.wait_serving(3)
        feeding = asyncio.create_task(feed(settings))
        await wait_for(some_are_decided, 30, "decisions under way")
        cluster.kill()
        await asyncio.to_thread(cluster.restart)
        await feeding
        await wait_for(all_are_decided, 90, "all decisions")
    assert Counter(await decided()) == Counter(f"s-{number}" for number in range(COUNT))
    assert await read_topic(cluster.bootstrap, dead) == []


async def feed(settings: Settings) -> None:
    """An idempotent producer: what it sends again after the broker's death is not written twice."""
    producer = clients.producer(settings)
    await producer.start()
    try:
        topic = TopicNames.of(settings).physical(SIGNALS)
        for number in range(COUNT):
            await producer.send_and_wait(topic, b'{"id": "s-%d"}' % number, key=b"account-%d" % (number % 50))
    finally:
        await producer.stop()
