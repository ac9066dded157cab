"""A worker that stands by on real Kafka: level with its owner, silent, and quick to take over."""

import re
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaConsumer

from infra.brokers import Broker
from streams.core.records import APPROVED, SIGNALS
from streams.runtime import kafka as clients
from streams.runtime.bounds import Looker
from streams.runtime.kafka import TopicPartition
from streams.runtime.settings import Settings
from streams.runtime.standby import KafkaFeed, Standby
from streams.runtime.store import Identity, RocksEnvironment, RocksStore, changelog_key, peek
from streams.runtime.stores import Stores
from streams.runtime.topics import STATE, TopicNames, create_topics, verify_topics
from tests.integration import standin
from tests.integration.support import Names, produce, read_topic, wait_for
from tests.integration.workers import WorkerProcess, settings_for, workers

DEADLINE_S = 40.0
COUNT = 400


class Gate:
    """One partition, its owner and who stands by."""

    def __init__(self, kafka: Broker, topics: Names, directory: Path) -> None:
        self._kafka, self._topics, self._directory = kafka, topics, directory
        self.settings = self.settings_of("any")
        self.state = TopicPartition(TopicNames.of(self.settings).physical(STATE), 0)

    def settings_of(self, name: str) -> Settings:
        return settings_for(self._kafka, self._topics, self._directory / name, standby=True)

    def worker(self, name: str) -> WorkerProcess:
        return WorkerProcess(self.settings_of(name))

    async def put(self, first: int, count: int) -> None:
        topic = TopicNames.of(self.settings).physical(SIGNALS)
        records = [(b"account-%d" % (n % 9), orjson.dumps({"id": f"s-{n}"})) for n in range(first, first + count)]
        await produce(self._kafka.bootstrap, topic, records)

    async def decided(self) -> list[str]:
        topic = TopicNames.of(self.settings).physical(APPROVED)
        return [orjson.loads(one.value)["id"] for one in await read_topic(self._kafka.bootstrap, topic)]

    async def wait_decided(self, count: int) -> None:
        async def are_all() -> bool:
            return len(await self.decided()) == count

        await wait_for(are_all, DEADLINE_S, f"{count} decisions")

    async def changelog(self) -> list[Any]:
        return await read_topic(self._kafka.bootstrap, self.state.topic)

    async def identity(self, number: int = 0) -> Identity:
        layout = await verify_topics(self.settings)
        return Identity(layout.cluster_id, self.settings.app_id, self.state.topic, number)

    async def wait_level(self, name: str) -> int:
        """Wait until the files in a directory are up to where the changelog ends now; how many signals that took.

        A store is flushed by the first write after its interval, so a few more are published meanwhile.
        """
        path, identity = self.settings_of(name).data_dir / "state" / "0", await self.identity()
        async with clients.consumer(self.settings) as looker:
            assert isinstance(looker, AIOKafkaConsumer)
            end = (await looker.end_offsets([self.state]))[self.state]
        more = 0

        async def is_level() -> bool:
            nonlocal more
            await self.put(2 * COUNT + more, 1)
            more += 1
            await self.wait_decided(2 * COUNT + more)
            return bool(peek(path, identity) >= end)

        await wait_for(is_level, DEADLINE_S, f"offset {end} in {path}")
        return more


@pytest.fixture
async def gate(kafka: Broker, topics: Names, tmp_path: Path) -> Gate:
    one = Gate(kafka, topics, tmp_path)
    await create_topics(one.settings, partitions=1)
    return one


@pytest.mark.timeout(180)
async def test_a_standby_follows_and_takes_over_without_a_restore(gate: Gate) -> None:
    one, two = gate.worker("one"), gate.worker("two")
    with workers(one):
        one.wait_serving(1)
        await gate.put(0, COUNT)
        await gate.wait_decided(COUNT)
        with workers(two):
            await wait_for(lambda: "standing by for partitions [0]" in one.log + two.log, DEADLINE_S, "a standby")
            owner, standby = (one, two) if "standing by for partitions [0]" in two.log else (two, one)
            await gate.put(COUNT, COUNT)
            await gate.wait_decided(2 * COUNT)
            name = "two" if standby is two else "one"
            more = await gate.wait_level(name)
            count = 2 * COUNT + more
            owner.kill()
            await wait_for(lambda: "serving partition 0" in standby.log, DEADLINE_S, "the heir")
            await wait_for(lambda: standby.serving() == {0}, DEADLINE_S, "the heir")
            restored = re.findall(r"serving partition 0, (\d+) records restored", standby.log)
            # What the last signals changed may not have reached it: an id, an account and the offsets each.
            assert int(restored[-1]) <= 10
            await gate.put(count, 50)
            await gate.wait_decided(count + 50)
            assert sorted(await gate.decided()) == sorted(f"s-{n}" for n in range(count + 50))
            assert standby.terminate() == 0


def stores_of(gate: Gate, identity: Identity) -> Stores:
    directory = gate.settings.data_dir / "state"
    environment = RocksEnvironment(8 * 1024 * 1024)
    return Stores(
        directory,
        lambda number: identity._replace(partition=number),
        lambda number: RocksStore(
            directory / str(number),
            identity._replace(partition=number),
            environment,
            lambda value: standin.CORE.decode_remembered(value).expires_ms,
        ),
    )


async def test_what_is_not_committed_is_not_followed(kafka: Broker, gate: Gate) -> None:
    stores, looker = stores_of(gate, await gate.identity()), Looker(gate.settings)
    standby = Standby(KafkaFeed(gate.settings, looker), stores)
    await standby.start()
    owner = clients.producer(gate.settings, transactional_id=gate.settings.app_id)
    await owner.start()
    try:
        standby.follow(frozenset({0}))
        await owner.begin_transaction()
        await owner.send_and_wait(gate.state.topic, b"1", changelog_key("accounts", b"a"), partition=0)
        await owner.abort_transaction()
        await owner.begin_transaction()
        await owner.send_and_wait(gate.state.topic, b"2", changelog_key("accounts", b"b"), partition=0)
        await owner.commit_transaction()
        await owner.begin_transaction()
        await owner.send_and_wait(gate.state.topic, b"3", changelog_key("accounts", b"b"), partition=0)
        await wait_for(lambda: standby.positions == {0: 4}, DEADLINE_S, "the last marker")
        standby.follow(frozenset())
        store = stores.lend(0)
        assert (store.get("accounts", b"a"), store.get("accounts", b"b")) == (None, b"2")
        await owner.commit_transaction()
        stores.hand_back(0)
        standby.follow(frozenset({0}))
        await wait_for(lambda: standby.positions == {0: 6}, DEADLINE_S, "the commit")
        assert store.get("accounts", b"b") == b"3"
    finally:
        await owner.stop()
        await standby.stop()
        await looker.close()
        stores.close_except(())


async def test_a_changelog_that_is_made_anew_under_it_is_followed_from_its_beginning(gate: Gate) -> None:
    stores, looker = stores_of(gate, await gate.identity()), Looker(gate.settings)
    standby = Standby(KafkaFeed(gate.settings, looker), stores)
    await standby.start()
    admin = clients.admin(gate.settings)
    await admin.start()
    try:
        old = [(changelog_key("accounts", b"%d" % n), b"old") for n in range(5)]
        await produce(gate.settings.bootstrap, gate.state.topic, old, partition=0)
        standby.follow(frozenset({0}))
        await wait_for(lambda: standby.positions == {0: 5}, DEADLINE_S, "the old changelog")
        await admin.delete_topics([gate.state.topic])

        async def is_made_anew() -> bool:
            return gate.state.topic in await create_topics(gate.settings, partitions=1)

        # The broker deletes it a moment after it said so.
        await wait_for(is_made_anew, DEADLINE_S, "the new topic")
        await produce(
            gate.settings.bootstrap, gate.state.topic, [(changelog_key("accounts", b"0"), b"new")], partition=0
        )
        await wait_for(lambda: standby.positions == {0: 1}, DEADLINE_S, "the new changelog")
        standby.follow(frozenset())
        store = stores.lend(0)
        assert (store.get("accounts", b"0"), store.get("accounts", b"1")) == (b"new", None)
    finally:
        await admin.close()
        await standby.stop()
        await looker.close()
        stores.close_except(())
