"""One partition on real Kafka and RocksDB: all or nothing, fenced, restored, and the store never ahead."""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka.errors import KafkaError

from infra.brokers import Broker
from streams.core.records import APPROVED, SIGNALS, Record
from streams.core.rules import Rules
from streams.core.state import Change
from streams.runtime import kafka as clients
from streams.runtime.bounds import Looker
from streams.runtime.log import KafkaLog, LogError
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Limits, Partition
from streams.runtime.settings import Settings
from streams.runtime.store import Identity, RocksEnvironment, RocksStore
from streams.runtime.topics import JOURNAL, STATE, TopicNames, create_topics, verify_topics
from tests.integration import standin
from tests.integration.support import Names, read_topic, wait_for
from tests.integration.workers import settings_for

ENVIRONMENT = RocksEnvironment(16 * 1024 * 1024)
LIMITS = Limits(cached_accounts=100, transaction_deadline_ms=20_000, forget_slack_ms=0, forget_max_per_batch=10)
TOO_LARGE_BYTES = 9_000_000  # above the outputs' max.message.bytes


def expires(value: bytes) -> int:
    return standin.CORE.decode_remembered(value).expires_ms


class Store(RocksStore):
    """RocksDB that can be told to die before a write."""

    dead = False

    def write(self, changes: Any, checkpoint: int) -> None:
        if self.dead:
            raise RuntimeError("killed between commit and store write")
        super().write(changes, checkpoint)


class Gate:
    """Makes owners of partition 0 and reads what became visible."""

    def __init__(self, settings: Settings, bootstrap: str) -> None:
        self.settings = settings
        self.names = TopicNames.of(settings)
        self.bootstrap = bootstrap
        self.looker = Looker(settings)
        self.owners: list[Partition] = []

    def store(self, name: str = "0") -> Store:
        return Store(self.settings.data_dir / name, Identity("cluster", "app", "topic", 0), ENVIRONMENT, expires)

    async def owner(self, store: RocksStore) -> Partition:
        layout = await verify_topics(self.settings)
        one = Partition(
            0,
            log=KafkaLog(self.settings, 0, layout.counts, clients.partition_of_key, self.looker),
            store=store,
            core=standin.CORE,
            limits=LIMITS,
            partitions=1,
            partition_of=lambda _account_id: 0,
            wall_ms=lambda: 1_000_000,
            metrics=Metrics(),
        )
        self.owners.append(one)
        await one.open()
        return one

    async def expect_decided(self, *ids: str) -> None:
        """Wait until exactly these are visible: brokers write a transaction's markers shortly after its commit."""

        async def are_visible() -> bool:
            return [orjson.loads(one.value)["id"] for one in await self.read(APPROVED)] == list(ids)

        await wait_for(are_visible, 10, f"decisions {ids}")

    async def read(self, topic: str) -> list[Any]:
        return await read_topic(self.bootstrap, self.names.physical(topic))

    async def settle(self) -> None:
        """Fence all owners; afterwards what they wrote is committed or aborted, once and for all."""
        await self.owner(self.store("settling"))


@pytest.fixture
async def gate(kafka: Broker, topics: Names, tmp_path: Path) -> AsyncIterator[Gate]:
    settings = settings_for(kafka, topics, tmp_path / "data")
    await create_topics(settings, partitions=1)
    one = Gate(settings, kafka.bootstrap)
    yield one
    for owner in one.owners:
        await owner.close()
    await one.looker.close()


def signals(*offsets: int, **value: object) -> dict[str, list[Record]]:
    return {
        SIGNALS: [
            Record(SIGNALS, 0, offset, 1, b"a", orjson.dumps({"id": f"s-{offset}", **value}), (("trace", b"t"),))
            for offset in offsets
        ]
    }


async def test_outputs_state_and_journal_become_visible_together(gate: Gate) -> None:
    owner = await gate.owner(gate.store())
    await owner.process(signals(0, 1), Rules())
    await gate.settle()
    decisions = await gate.read(APPROVED)
    assert [(one.key, one.headers) for one in decisions] == [(b"a", (("trace", b"t"),))] * 2
    assert {one.key for one in await gate.read(STATE)} == {
        b"accounts\0a",
        b"decisions\0a\0signal\0s-0",
        b"decisions\0a\0signal\0s-1",
        b"partition\0offsets",
        b"partition\0partitions",
    }
    assert len(await gate.read(JOURNAL)) == 1


async def test_a_send_that_is_too_large_takes_everything_with_it(gate: Gate) -> None:
    store = gate.store()
    owner = await gate.owner(store)
    await owner.process(signals(0), Rules())
    held = store.checkpoint
    with pytest.raises(LogError, match=r"approved-orders, partition 0: .*MessageSizeTooLarge"):
        await owner.process(signals(1) | signals(2, blow_bytes=TOO_LARGE_BYTES), Rules())
    assert store.checkpoint == held
    await owner.close()
    heir = await gate.owner(gate.store())
    assert [one.offset for one in await gate.read(APPROVED)] == [0]
    await heir.process(signals(1), Rules())
    await gate.expect_decided("s-0", "s-1")
    assert heir.offsets == {SIGNALS: 1}


async def test_a_batch_larger_than_a_produce_request_is_still_one_transaction(gate: Gate) -> None:
    owner = await gate.owner(gate.store())
    await owner.process(signals(*range(12), blow_bytes=400_000), Rules())
    await gate.expect_decided(*(f"s-{n}" for n in range(12)))
    assert len(await gate.read(JOURNAL)) == 1


async def test_the_older_of_two_owners_commits_nothing_more(gate: Gate) -> None:
    old_store = gate.store("old")
    old = await gate.owner(old_store)
    await old.process(signals(0), Rules())
    heir = await gate.owner(gate.store("new"))
    held = old_store.checkpoint, old_store.get("accounts", b"a")
    with pytest.raises((KafkaError, LogError, AssertionError)):
        await old.process(signals(1), Rules())
    assert (old_store.checkpoint, old_store.get("accounts", b"a")) == held
    await gate.expect_decided("s-0")
    await heir.process(signals(1), Rules())
    await gate.expect_decided("s-0", "s-1")


async def test_a_transaction_left_open_is_aborted_by_the_next_owner(gate: Gate) -> None:
    old = await gate.owner(gate.store("old"))
    await old.process(signals(0), Rules())
    abandoned = KafkaLog(gate.settings, 0, {APPROVED: 1}, clients.partition_of_key, gate.looker)
    await abandoned.fence()
    await abandoned.begin()
    await abandoned.send([], [Change("accounts", b"a", b'{"signals":99}')], b"{}")
    # The changelog now ends in records that never commit: a restore that waits for them would wait for ever.
    store = gate.store("new")
    heir = await gate.owner(store)
    await abandoned.close()
    assert orjson.loads(store.get("accounts", b"a") or b"") == {SIGNALS: 1}
    await heir.process(signals(1), Rules())
    await gate.expect_decided("s-0", "s-1")


def lose(database: Path) -> None:
    shutil.rmtree(database)


def truncate(database: Path) -> None:
    for file in database.iterdir():
        if file.suffix == ".log":
            with file.open("r+b") as opened:
                opened.truncate(file.stat().st_size // 2)


@pytest.mark.parametrize("harm", [lose, truncate])
async def test_a_lost_or_truncated_store_only_costs_a_longer_restore(gate: Gate, harm: Callable[[Path], None]) -> None:
    store = gate.store()
    owner = await gate.owner(store)
    for offset in range(20):
        await owner.process(signals(offset), Rules())
    await owner.close()
    harm(gate.settings.data_dir / "0")
    store = gate.store()
    heir = await gate.owner(store)
    assert orjson.loads(store.get("accounts", b"a") or b"") == {SIGNALS: 20}
    assert heir.offsets == {SIGNALS: 19}
    await heir.process(signals(20), Rules())
    await gate.expect_decided(*(f"s-{n}" for n in range(21)))


async def test_the_store_is_never_ahead_and_catches_up_after_a_kill_between_commit_and_write(gate: Gate) -> None:
    store = gate.store()
    owner = await gate.owner(store)
    await owner.process(signals(0), Rules())
    store.dead = True
    with pytest.raises(RuntimeError, match="killed"):
        await owner.process(signals(1), Rules())
    await owner.close()
    await gate.expect_decided("s-0", "s-1")
    store = gate.store()
    assert orjson.loads(store.get("accounts", b"a") or b"") == {SIGNALS: 1}
    heir = await gate.owner(store)
    assert orjson.loads(store.get("accounts", b"a") or b"") == {SIGNALS: 2}
    assert heir.offsets == {SIGNALS: 1}


async def test_a_store_ahead_of_the_changelog_is_wiped(gate: Gate) -> None:
    store = gate.store()
    store.write([Change("accounts", b"a", b'{"signals":99}')], 5_000)
    heir = await gate.owner(store)
    assert store.get("accounts", b"a") is None
    assert heir.offsets == {}


async def test_forgotten_ids_are_tombstones_on_the_changelog_and_gone_from_the_store(gate: Gate) -> None:
    store = gate.store()
    owner = await gate.owner(store)
    await owner.process(signals(0, expires_ms=5), Rules())
    await owner.process(signals(1), Rules())
    await owner.close()
    restored = gate.store("elsewhere")
    await gate.owner(restored)
    last = {one.key: one.value for one in await gate.read(STATE)}
    assert last[b"decisions\0a\0signal\0s-0"] is None
    assert last[b"decisions\0a\0signal\0s-1"] is not None
    assert restored.get("decisions", b"a\0signal\0s-0") is None
    assert restored.due(1_000_000, 10) == []
