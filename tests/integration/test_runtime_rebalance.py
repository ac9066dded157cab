"""A rebalance of Faust's own consumer, with batches in the gate's channel: none may vanish."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import faust
import pytest

from infra.brokers import Broker
from streams.core.records import Record
from streams.core.rules import Rules, apply_policy
from streams.runtime.app import create_app
from streams.runtime.partition import Partition
from streams.runtime.policies import Policies
from streams.runtime.reader import Work
from streams.runtime.settings import Settings
from tests.integration.support import Names, create_topic, produce, wait_for
from tests.integration.workers import settings_for


class SlowPartition:
    """Processes nothing until it is let go."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.begun = asyncio.Event()
        self.let_go = asyncio.Event()

    async def process(self, _records: Mapping[str, Sequence[Record]], _rules: Rules, _unreported: object) -> None:
        self.begun.set()
        await self.let_go.wait()


def work_on(partition: SlowPartition) -> Work:
    return Work(cast("Partition", partition), {}, (), asyncio.get_running_loop().create_future())


class Mirror:
    """An app with a gate, and an agent that reads a topic with Faust's own consumer."""

    def __init__(self, settings: Settings, topic: str) -> None:
        self.app, self.channel = create_app(settings, Policies(settings, Rules(), apply_policy), with_consumer=True)
        self.seen: list[Any] = []

        @self.app.agent(self.app.topic(topic, value_serializer="raw"), name="mirror")
        async def mirror(stream: faust.Stream[bytes]) -> None:
            async for value in stream:
                self.seen.append(value)


@pytest.fixture
async def mirrors(kafka: Broker, topics: Names, tmp_path: Path) -> AsyncIterator[list[Mirror]]:
    await create_topic(kafka.bootstrap, topics.topic("mirrored"), partitions=2)
    both = [
        Mirror(settings_for(kafka, topics, tmp_path / name, concurrency=2), topics.topic("mirrored"))
        for name in ("one", "two")
    ]
    yield both
    for mirror in both:
        await mirror.app.stop()


async def test_a_faust_rebalance_loses_no_batch(kafka: Broker, topics: Names, mirrors: list[Mirror]) -> None:
    one, two = mirrors
    await one.app.start()
    await produce(kafka.bootstrap, topics.topic("mirrored"), [(b"k", b"before")])
    await wait_for(lambda: one.seen, 30, "the mirror's first record")

    partitions = [SlowPartition(number) for number in range(5)]
    batches = [work_on(partition) for partition in partitions]
    for batch in batches:
        await one.channel.put(batch)
    # Two actors work on one batch each, three batches wait in the channel.
    await asyncio.wait_for(asyncio.gather(*(partition.begun.wait() for partition in partitions[:2])), 10)

    rebalances = one.app.rebalancing_count
    await two.app.start()
    await wait_for(lambda: one.app.rebalancing_count > rebalances and not one.app.rebalancing, 40, "a rebalance")
    await wait_for(lambda: len(one.app.consumer.assignment()) <= 2, 20, "partitions that moved to the other app")

    for partition in partitions:
        partition.let_go.set()
    await asyncio.wait_for(asyncio.gather(*(batch.done for batch in batches)), 10)
    last = SlowPartition(9)
    last.let_go.set()
    after = work_on(last)
    await one.channel.put(after)
    await asyncio.wait_for(after.done, 10)


async def test_a_batch_that_fails_tells_who_waits_and_the_gate_goes_on(mirrors: list[Mirror]) -> None:
    class Failing(SlowPartition):
        async def process(self, *_: object) -> None:
            raise ValueError("no")

    [one, _] = mirrors
    await one.app.start()
    failing = work_on(Failing(0))
    await one.channel.put(failing)
    with pytest.raises(ValueError, match="no"):
        await asyncio.wait_for(failing.done, 10)
    fine = SlowPartition(1)
    fine.let_go.set()
    batch = work_on(fine)
    await one.channel.put(batch)
    await asyncio.wait_for(batch.done, 10)
