"""Worker processes on real Kafka: what they decide, what ends them, and how one takes over from another."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import orjson
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import RecordsToDelete
from aiokafka.producer import message_accumulator
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy

from infra.brokers import Broker
from streams.core.records import APPROVED, CONTROLS, DEAD_LETTERS, FILLS, INPUTS, PNL, POLICIES, REJECTED, SIGNALS
from streams.runtime import kafka as clients
from streams.runtime.settings import Settings
from streams.runtime.topics import JOURNAL, STATE, TopicNames, create_topics
from tests.integration.support import Names, create_topic, grow_topics, produce, read_topic, wait_for
from tests.integration.workers import WorkerProcess, settings_for, workers

DEADLINE_S = 30.0
ACCOUNTS = [f"account-{n}" for n in range(24)]


class Gate:
    """A test's topics, and workers on them."""

    def __init__(self, kafka: Broker, topics: Names, directory: Path) -> None:
        self.kafka = kafka
        self.topics = topics
        self.directory = directory
        self.names = TopicNames.of(self.settings("any"))

    def settings(self, name: str, **values: Any) -> Settings:
        return settings_for(self.kafka, self.topics, self.directory / name, **values)

    def worker(self, name: str = "one", *, core: str = "standin", rules: Any = None, **values: Any) -> WorkerProcess:
        return WorkerProcess(self.settings(name, **values), core=core, rules=rules)

    async def create(self, partitions: int) -> None:
        await create_topics(self.settings("any"), partitions=partitions)

    async def put(self, topic: str, records: Iterable[tuple[str | None, Any]], **options: Any) -> list[tuple[int, int]]:
        """Publish JSON values; returns partitions and offsets."""
        encoded = [(None if key is None else key.encode(), orjson.dumps(value)) for key, value in records]
        return await produce(self.kafka.bootstrap, self.names.physical(topic), encoded, **options)

    async def read(self, topic: str) -> list[Any]:
        return await read_topic(self.kafka.bootstrap, self.names.physical(topic))

    async def values(self, topic: str) -> list[dict[str, Any]]:
        return [orjson.loads(one.value) for one in await self.read(topic)]

    async def expect(self, topic: str, count: int) -> list[dict[str, Any]]:
        """Wait for so many committed records, and return them."""

        async def found() -> list[dict[str, Any]]:
            values = await self.values(topic)
            return values if len(values) >= count else []

        values = await wait_for(found, DEADLINE_S, f"{count} records in {topic}")
        assert len(values) == count
        return values


@pytest.fixture
def gate(kafka: Broker, topics: Names, tmp_path: Path) -> Gate:
    return Gate(kafka, topics, tmp_path)


def signals(first: int, count: int) -> list[tuple[str | None, Any]]:
    return [(ACCOUNTS[n % len(ACCOUNTS)], {"id": f"s-{n}"}) for n in range(first, first + count)]


async def test_every_signal_is_decided_once_with_its_headers(gate: Gate) -> None:
    await gate.create(3)
    with workers(one := gate.worker()):
        one.wait_serving(3)
        await gate.put(SIGNALS, signals(0, 50), headers=[("traceparent", b"00-1")])
        await gate.expect(APPROVED, 50)
        assert one.terminate() == 0
    decisions = await gate.read(APPROVED)
    assert Counter(orjson.loads(each.value)["id"] for each in decisions) == Counter(f"s-{n}" for n in range(50))
    assert {each.headers for each in decisions} == {(("traceparent", b"00-1"),)}
    assert one.log.rstrip().endswith("worker stopped")


async def test_a_failed_transaction_ends_the_worker_and_leaves_nothing_behind(gate: Gate) -> None:
    await gate.create(1)
    with workers(one := gate.worker()):
        one.wait_serving(1)
        await gate.put(SIGNALS, [("a", {"id": "fits"})])
        await gate.expect(APPROVED, 1)
        await gate.put(SIGNALS, [("a", {"id": "too-large", "blow_bytes": 9_000_000})])
        assert one.wait_exit() == 1
    last = one.log.rstrip().splitlines()[-1]
    assert "worker failed: LogError" in last
    assert gate.names.physical(APPROVED) in last
    assert [each["id"] for each in await gate.values(APPROVED)] == ["fits"]


async def test_a_core_that_raises_ends_the_worker(gate: Gate) -> None:
    await gate.create(1)
    with workers(one := gate.worker()):
        one.wait_serving(1)
        await gate.put(SIGNALS, [("a", {"id": "bad", "crash": True})])
        assert one.wait_exit() == 1
    assert "worker failed: RuntimeError: told to crash" in one.log.rstrip().splitlines()[-1]
    assert await gate.values(APPROVED) == []


async def test_missing_and_mismatched_topics_stop_the_start_and_are_named(gate: Gate) -> None:
    with workers(one := gate.worker()):
        assert one.wait_exit() == 1
    assert gate.names.physical(SIGNALS) in one.log
    assert "tidegate topics create" in one.log
    await create_topic(gate.kafka.bootstrap, gate.names.physical(CONTROLS), partitions=2)
    await gate.create(3)
    with workers(two := gate.worker("two")):
        assert two.wait_exit() == 1
    assert f"topic {gate.names.physical(CONTROLS)} has 2 partitions" in two.log.rstrip().splitlines()[-1]


async def test_an_unreachable_broker_stops_the_start(gate: Gate) -> None:
    with workers(one := gate.worker(broker="kafka://127.0.0.1:1")):
        assert one.wait_exit() == 1
    assert "worker failed: KafkaConnectionError" in one.log.rstrip().splitlines()[-1]


async def test_a_stop_during_the_start_is_clean(gate: Gate) -> None:
    await gate.create(2)
    with workers(one := gate.worker()):
        await wait_for(lambda: "policies read" in one.log, DEADLINE_S, "the start")
        assert one.terminate() == 0
    assert one.log.rstrip().endswith("worker stopped")


# -- one after the other


async def test_a_restart_resumes_from_the_state_although_group_offsets_were_reset(gate: Gate) -> None:
    await gate.create(2)
    with workers(one := gate.worker()):
        one.wait_serving(2)
        await gate.put(SIGNALS, signals(0, 30))
        await gate.expect(APPROVED, 30)
        assert one.terminate() == 0
    committed = await group_offsets(gate)
    assert sum(committed[place] for place in committed if place.topic == gate.names.physical(SIGNALS)) == 30
    await reset_group_offsets(gate)
    await gate.put(SIGNALS, signals(30, 10))
    with workers(two := gate.worker("another-disk")):
        two.wait_serving(2)
        await gate.expect(APPROVED, 40)
        assert two.terminate() == 0
    assert await gate.values(DEAD_LETTERS) == []


async def group_offsets(gate: Gate) -> dict[TopicPartition, int]:
    admin = clients.admin(gate.settings("any"))
    await admin.start()
    try:
        held = await admin.list_consumer_group_offsets(gate.topics.prefix + gate.topics.app_id)
        return {place: one.offset for place, one in held.items()}
    finally:
        await admin.close()


async def reset_group_offsets(gate: Gate) -> None:
    settings = gate.settings("any")
    places = [TopicPartition(gate.names.physical(topic), number) for topic in INPUTS for number in range(2)]
    consumer = clients.consumer(settings, group_id=settings.topic_prefix + settings.app_id)
    await consumer.start()
    try:
        consumer.assign(places)
        await consumer.commit(dict.fromkeys(places, 0))
    finally:
        await consumer.stop()
    assert set((await group_offsets(gate)).values()) == {0}


async def test_input_that_retention_deleted_undecided_stops_the_start_unless_accepted(gate: Gate) -> None:
    await gate.create(1)
    with workers(one := gate.worker()):
        one.wait_serving(1)
        await gate.put(SIGNALS, signals(0, 5))
        await gate.expect(APPROVED, 5)
        assert one.terminate() == 0
    await gate.put(SIGNALS, signals(5, 5))
    admin = clients.admin(gate.settings("any"))
    await admin.start()
    place = TopicPartition(gate.names.physical(SIGNALS), 0)
    await admin.delete_records({place: RecordsToDelete(before_offset=8)})
    await admin.close()
    with workers(two := gate.worker()):
        assert two.wait_exit() == 1
    assert "begins at offset 8, but 5 is next" in two.log.rstrip().splitlines()[-1]
    with workers(three := gate.worker(accept_gaps=True)):
        three.wait_serving(1)
        decisions = await gate.expect(APPROVED, 7)
        assert [each["id"] for each in decisions[5:]] == ["s-8", "s-9"]


# -- what waits behind a backlog


async def test_no_signal_is_decided_before_a_backlog_of_everything_else(gate: Gate) -> None:
    await gate.create(1)
    # Signals are the oldest by timestamp: only the rule keeps them from going first.
    await gate.put(SIGNALS, [("a", {"id": f"s-{n}"}) for n in range(3)], timestamp_ms=1_000)
    for topic, count in ((PNL, 2_600), (FILLS, 700), (CONTROLS, 1)):
        await gate.put(topic, [("a", {}) for _ in range(count)], timestamp_ms=2_000)
    with workers(gate.worker(batch_max_records=500, queue_max_records=600)):
        decisions = await gate.expect(APPROVED, 3)
    # 3,301 records make seven batches; all but the last must have gone before the first decision.
    assert all(sum(each["counts"].get(topic, 0) for topic in (PNL, FILLS, CONTROLS)) >= 3_000 for each in decisions)


async def test_signals_wait_for_controls_that_are_known_and_not_yet_readable(gate: Gate) -> None:
    await gate.create(1)
    producer = AIOKafkaProducer(bootstrap_servers=gate.kafka.bootstrap, transactional_id=gate.topics.topic("desk"))
    await producer.start()
    try:
        with workers(one := gate.worker()):
            one.wait_serving(1)
            await gate.put(SIGNALS, [("a", {"id": "before"})])
            await gate.expect(APPROVED, 1)
            await producer.begin_transaction()
            await producer.send_and_wait(gate.names.physical(CONTROLS), b"{}", key=b"a")
            # The worker has seen the high watermark of the open transaction once it has applied this.
            await gate.put(PNL, [("a", {})])
            await gate.expect(JOURNAL, 2)
            await gate.put(SIGNALS, [("a", {"id": "behind"})])
            await gate.put(PNL, [("a", {})])
            await gate.expect(JOURNAL, 3)
            assert [each["id"] for each in await gate.values(APPROVED)] == ["before"]
            await producer.commit_transaction()
            decisions = await gate.expect(APPROVED, 2)
            assert decisions[1]["id"] == "behind"
            assert decisions[1]["counts"][CONTROLS] == 1
    finally:
        await producer.stop()


# -- wrong partition


async def test_a_record_on_the_wrong_partition_is_forwarded_once_and_decided_once(gate: Gate) -> None:
    await gate.create(3)
    right = clients.partition_of_key(b"account-0", 3)
    with workers(one := gate.worker()):
        one.wait_serving(3)
        await gate.put(
            SIGNALS,
            [("account-0", {"id": "stray"})],
            partition=(right + 1) % 3,
            headers=[("traceparent", b"00-7")],
            timestamp_ms=1_234,
        )
        [decision] = await gate.expect(APPROVED, 1)
        assert one.terminate() == 0
    assert decision["partition"] == right
    records = await gate.read(SIGNALS)
    assert [(each.partition, each.timestamp) for each in records if each.partition == right] == [(right, 1_234)]
    assert len(records) == 2
    assert [each.headers for each in await gate.read(APPROVED)] == [(("traceparent", b"00-7"),)]


# -- policies


async def test_unusable_policies_are_dead_lettered_once_also_without_any_input(gate: Gate) -> None:
    await gate.create(2)
    await gate.put(POLICIES, [("venue/x", {"name": "venue/x", "rule": {"up": True}}), ("?", {"name": "?", "rule": {}})])
    with workers(one := gate.worker()):
        one.wait_serving(2)
        [letter] = await gate.expect(DEAD_LETTERS, 1)
        assert (letter["reason"], letter["offset"]) == ("POLICY_UNUSABLE", 1)
        await gate.put(POLICIES, [("??", {"name": "??", "rule": {}})])
        await gate.expect(DEAD_LETTERS, 2)
        await gate.put(SIGNALS, [("a", {"id": "s"})])
        [decision] = await gate.expect(APPROVED, 1)
        assert decision["policy_version"] == 3
        one.kill()
    with workers(two := gate.worker("two")):
        two.wait_serving(2)
        await gate.put(SIGNALS, [("a", {"id": "t"})])
        await gate.expect(APPROVED, 2)
        assert [each["offset"] for each in await gate.values(DEAD_LETTERS)] == [1, 2]


# -- several workers, the real core

RULES = {
    "clock": "wall",
    "accounts": {name: {"exchange": "binance", "profile": "aggressive"} for name in ACCOUNTS},
    "limits": {"max_signal_age": "1h", "max_pnl_age": "1h"},
}


def real_signal(number: int) -> tuple[str | None, Any]:
    account = ACCOUNTS[number % len(ACCOUNTS)]
    return account, {
        "signal_id": f"s-{number}",
        "account_id": account,
        "strategy_id": "trend",
        "instrument": f"COIN{number % 3}-USD",
        "side": "buy",
        "quantity": "50",
        "price": "100",
        "stop_loss": "99",
        "created_at": now(),
    }


def equity(account: str, sequence: int) -> tuple[str | None, Any]:
    return account, {"account_id": account, "sequence": sequence, "equity": "10000", "as_of": now()}


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


class Feed:
    """Publishes equity once and then some 200 signals a second, until told to stop."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._stop = asyncio.Event()
        self.sent = 0

    async def run(self) -> None:
        await self._gate.put(PNL, [equity(account, 1) for account in ACCOUNTS])
        while not self._stop.is_set():
            await self._gate.put(SIGNALS, [real_signal(self.sent + n) for n in range(20)])
            self.sent += 20
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 0.1)

    def stop(self) -> None:
        self._stop.set()


NEAR_LIMIT = "x" * 1_047_000
BAD_VALUES = [None, b"", b"not json", b"\xff\xfe", b"[" * 50_000, b"[]", b"{}", b'{"account_id": 7}', b"NaN"]


async def test_bad_input_never_stops_a_worker(gate: Gate) -> None:
    await gate.create(2)
    fields = {"padding": NEAR_LIMIT}
    _, large = real_signal(0)
    wrong = 1 - clients.partition_of_key(ACCOUNTS[0].encode(), 2)
    with workers(one := gate.worker(core="real", rules=RULES)):
        one.wait_serving(2)
        for topic in INPUTS:
            name = gate.names.physical(topic)
            await produce(gate.kafka.bootstrap, name, [(b"?", value) for value in BAD_VALUES])
            await produce(gate.kafka.bootstrap, name, [(None, value) for value in BAD_VALUES if value is not None])
            await produce(gate.kafka.bootstrap, name, [(b"\xff" * 1_000_000, b"{}")])
            await gate.put(topic, [("nobody", {"account_id": "nobody"} | fields)])
        # As large as clients send, and then forwarded with a key and one more header.
        await gate.put(SIGNALS, [(None, large | fields)], headers=[("blob", b"x" * 1_000)], partition=wrong)
        letters = await gate.expect(DEAD_LETTERS, (2 * len(BAD_VALUES) - 1 + 2) * len(INPUTS))
        assert {each["topic"] for each in letters} == set(INPUTS)
        assert await all_decisions(gate, 1) == ["s-0"]
        assert one.terminate() == 0


class NotUtf8(str):
    """A header's name that goes onto the wire as bytes that are no UTF-8, as a client written in C may send it."""

    def encode(self, *_: object) -> bytes:
        return b"\xff\xfe"


async def test_a_header_that_cannot_be_read_stops_the_worker_at_its_record(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the builder in plain Python takes such a name.
    monkeypatch.setattr(message_accumulator, "DefaultRecordBatchBuilder", _DefaultRecordBatchBuilderPy)
    await gate.create(1)
    await gate.put(SIGNALS, [("a", {"id": "before"})])
    producer = AIOKafkaProducer(bootstrap_servers=gate.kafka.bootstrap, enable_idempotence=True)
    await producer.start()
    batch = producer.create_batch()
    batch.append(timestamp=None, key=b"a", value=b"{}", headers=[(NotUtf8("x"), b"v")])
    await (await producer.send_batch(batch, gate.names.physical(SIGNALS), partition=0))
    await producer.stop()
    await gate.put(SIGNALS, [("a", {"id": "after"})])
    with workers(one := gate.worker()):
        assert one.wait_exit() == 1
    place = f"topic {gate.names.physical(SIGNALS)}, partition 0"
    assert f"{place}: the record at offset 1 has a header" in one.log.splitlines()[-1]
    assert [each["id"] for each in await gate.expect(APPROVED, 1)] == ["before"]
    admin = clients.admin(gate.settings("any"))
    await admin.start()
    await admin.delete_records({TopicPartition(gate.names.physical(SIGNALS), 0): RecordsToDelete(before_offset=2)})
    await admin.close()
    with workers(gate.worker(accept_gaps=True)):
        assert [each["id"] for each in await gate.expect(APPROVED, 2)] == ["before", "after"]


@pytest.mark.parametrize("clean", [True, False], ids=["sigterm", "sigkill"])
@pytest.mark.timeout(180)
async def test_two_workers_split_the_partitions_and_one_takes_over(gate: Gate, clean: bool) -> None:
    await gate.create(6)
    one, two = (gate.worker(name, core="real", rules=RULES) for name in ("one", "two"))
    feed = Feed(gate)
    with workers(one):
        one.wait_serving(6)
        feeding = asyncio.create_task(feed.run())
        with workers(two):
            await wait_for(lambda: len(one.serving()) == len(two.serving()) == 3, 40, "an even split")
            assert not one.serving() & two.serving()
            await more_decisions(gate)
            if clean:
                assert one.terminate() == 0
            else:
                one.kill()
            await asyncio.to_thread(two.wait_serving, 6)
            await more_decisions(gate)
            feed.stop()
            await feeding
            decided = await all_decisions(gate, feed.sent)
            assert two.terminate() == 0
    assert Counter(decided) == Counter(f"s-{n}" for n in range(feed.sent))
    assert await gate.values(DEAD_LETTERS) == []
    await assert_journal_tiles_the_inputs(gate)


async def test_a_paused_worker_that_wakes_up_changes_nothing(gate: Gate) -> None:
    await gate.create(2)
    feed = Feed(gate)
    one, two = (gate.worker(name, core="real", rules=RULES) for name in ("one", "two"))
    with workers(one):
        one.wait_serving(2)
        feeding = asyncio.create_task(feed.run())
        await more_decisions(gate)
        one.pause()
        with workers(two):
            await asyncio.to_thread(two.wait_serving, 2)
            await more_decisions(gate)
            one.wake()
            # It was amid a transaction and ends, fenced; or it was not, and joins the group again.
            await wait_for(lambda: one.exit_status == 1 or one.log.count("assigned partitions") > 1, 40, "the sleeper")
            await more_decisions(gate)
            feed.stop()
            await feeding
            decided = await all_decisions(gate, feed.sent)
    assert Counter(decided) == Counter(f"s-{n}" for n in range(feed.sent))
    assert await gate.values(DEAD_LETTERS) == []
    await assert_journal_tiles_the_inputs(gate)


async def test_a_worker_that_is_killed_again_and_again_decides_everything_once(gate: Gate) -> None:
    await gate.create(2)
    feed = Feed(gate)
    feeding = asyncio.create_task(feed.run())
    for _ in range(3):
        with workers(one := gate.worker(core="real", rules=RULES)):
            one.wait_serving(2)
            await more_decisions(gate)
            one.kill()
    feed.stop()
    await feeding
    with workers(gate.worker(core="real", rules=RULES)):
        decided = await all_decisions(gate, feed.sent)
    assert Counter(decided) == Counter(f"s-{n}" for n in range(feed.sent))
    assert await gate.values(DEAD_LETTERS) == []
    await assert_journal_tiles_the_inputs(gate)


async def more_decisions(gate: Gate) -> None:
    before = len(await decisions_so_far(gate))

    async def grew() -> bool:
        return len(await decisions_so_far(gate)) > before + 40

    await wait_for(grew, DEADLINE_S, "further decisions")


async def decisions_so_far(gate: Gate) -> list[str]:
    return [each["signal_id"] for topic in (APPROVED, REJECTED) for each in await gate.values(topic)]


async def all_decisions(gate: Gate, count: int) -> list[str]:
    async def found() -> list[str]:
        decided = await decisions_so_far(gate)
        return decided if len(decided) >= count else []

    return await wait_for(found, 60, f"{count} decisions")


async def assert_journal_tiles_the_inputs(gate: Gate) -> None:
    """Each input record is in exactly one transaction: their first and last offsets join without gap or overlap."""
    ends: Counter[tuple[str, int]] = Counter()
    for record in await gate.read(JOURNAL):
        for topic, (first, last) in orjson.loads(record.value)["offsets"].items():
            assert first == ends[topic, record.partition], f"{topic} of partition {record.partition}"
            ends[topic, record.partition] = last + 1
    read = Counter((SIGNALS, each.partition) for each in await gate.read(SIGNALS))
    assert {place: end for place, end in ends.items() if place[0] == SIGNALS} == read


async def test_the_state_changelog_holds_one_live_record_per_account_and_table(gate: Gate) -> None:
    await gate.create(1)
    with workers(one := gate.worker(core="real", rules=RULES)):
        one.wait_serving(1)
        await gate.put(PNL, [equity(account, 1) for account in ACCOUNTS])
        await gate.put(SIGNALS, [real_signal(n) for n in range(24)])
        await gate.expect(APPROVED, 24)
        assert one.terminate() == 0
    tables = Counter(key.split(b"\0")[0].decode() for key in {each.key for each in await gate.read(STATE)})
    assert tables["drawdown"] == len(ACCOUNTS)
    assert tables["orders"] == len(ACCOUNTS)
    assert tables["decisions"] == 24


async def test_topics_that_grew_while_no_worker_ran_stop_the_next_one(gate: Gate) -> None:
    await gate.create(1)
    with gate.worker() as worker:
        await gate.put(SIGNALS, [("a", {"id": "1"})])
        await gate.expect(APPROVED, 1)
        assert worker.terminate() == 0
    inputs_and_state = [gate.names.physical(topic) for topic in (*INPUTS, STATE, JOURNAL)]
    await grow_topics(gate.kafka.bootstrap, inputs_and_state, 2)
    with gate.worker("anew") as heir:
        assert heir.wait_exit() == 1
    assert "partition 0: its state was made with 1 partitions, and the inputs have 2" in heir.log.splitlines()[-1]
    assert "another TIDEGATE_APP_ID" in heir.log.splitlines()[-1]
    assert "assigned partitions" not in heir.log
