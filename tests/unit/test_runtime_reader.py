"""The reader without a broker: how it takes partitions over, where it starts, how it sizes batches."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, cast

import pytest
from aiokafka.structs import ConsumerRecord

from streams.core.records import INPUTS, PNL, SIGNALS
from streams.core.rules import Rules
from streams.runtime import reader as reading
from streams.runtime.assignor import Holding, WorkerAssignor
from streams.runtime.bounds import Bounds, Looker
from streams.runtime.kafka import TopicPartition
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Partition
from streams.runtime.policies import Policies
from streams.runtime.reader import Reader, ReaderError, Work
from streams.runtime.settings import Settings
from streams.runtime.watchdog import Standing
from tests.integration.support import wait_for

PLACES = {number: [TopicPartition(topic, number) for topic in INPUTS] for number in range(2)}
HEADERS_MAX_BYTES = 64 * 1024


class FakeConsumer:
    """What the reader asks of aiokafka's consumer."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.positions: dict[TopicPartition, int] = {}
        self.highwaters: dict[TopicPartition, int] = {}
        self.stable: dict[TopicPartition, int] = {}
        self.answered_ms = 1
        self.partition_count = 2
        self.held: dict[TopicPartition, list[ConsumerRecord]] = {}
        """Fetched, and not yet polled."""

    async def getmany(self, timeout_ms: int) -> dict[TopicPartition, list[ConsumerRecord]]:
        if not self.held:
            await asyncio.sleep(timeout_ms / 1000)
        polled, self.held = self.held, {}
        self.positions |= {place: records[-1].offset + 1 for place, records in polled.items()}
        return polled

    def pause(self, *places: TopicPartition) -> None:
        self.calls.append(("pause", set(places)))

    def resume(self, *places: TopicPartition) -> None:
        self.calls.append(("resume", set(places)))

    def seek(self, place: TopicPartition, offset: int) -> None:
        self.calls.append(("seek", place))
        self.positions[place] = offset

    async def position(self, place: TopicPartition) -> int:
        return self.positions[place]

    def highwater(self, place: TopicPartition) -> int | None:
        return self.highwaters.get(place)

    def last_stable_offset(self, place: TopicPartition) -> int | None:
        return self.stable.get(place, self.highwaters.get(place))

    def last_poll_timestamp(self, place: TopicPartition) -> int | None:
        return self.answered_ms if place in self.highwaters else None

    def paused(self) -> set[TopicPartition]:
        paused: set[TopicPartition] = set()
        for call, places in self.calls:
            if call == "pause":
                paused |= places
            elif call == "resume":
                paused -= places
        return paused

    def partitions_for_topic(self, _topic: str) -> set[int]:
        return set(range(self.partition_count))


class FakePartition:
    """A partition that notes its batches and believes in whatever offsets it was given."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.offsets: dict[str, int] = {}
        self.reported_policies = -1
        self.batches: list[dict[str, int]] = []
        self.opening = asyncio.Event()
        self.opening.set()
        self.settled = asyncio.Event()
        self.settled.set()
        self.settled_with_a_batch: list[bool] = []
        self.closed = False

    async def open(self) -> None:
        await self.opening.wait()

    async def settle(self, *, batch_waits: bool) -> None:
        self.settled_with_a_batch.append(batch_waits)
        await self.settled.wait()

    async def process(self, records: Any, _rules: Rules, _unreported: object) -> None:
        self.batches.append({topic: len(part) for topic, part in records.items()})
        self.offsets |= {topic: part[-1].offset for topic, part in records.items()}

    async def close(self) -> None:
        self.closed = True


def consumer_records(place: TopicPartition, offsets: Iterable[int]) -> list[ConsumerRecord]:
    return [ConsumerRecord(*place, offset, 0, 0, b"a", b"{}", None, 1, 2, ()) for offset in offsets]


class Bench:
    """A reader between a fake consumer and fake partitions."""

    def __init__(self, **settings: Any) -> None:
        self.settings = Settings(broker="kafka://nowhere:1", **settings)
        self.consumer = FakeConsumer()
        self.partitions = [FakePartition(number) for number in range(2)]
        self.first: dict[TopicPartition, int] = {}
        self.end: dict[TopicPartition, int] = {}
        self.later_end: dict[TopicPartition, int] = {}
        self.looked_up = 0
        self.assigned: list[frozenset[int]] = []
        self.policies = Policies(self.settings, Rules(), lambda rules, _record: (rules, None))
        self.reader = Reader(
            self.settings,
            policies=self.policies,
            assignor=WorkerAssignor(Holding),
            on_assigned=self.assigned.append,
            looker=cast("Looker", self),
            open_partition=lambda number: cast("Partition", self.partitions[number]),
            hand_out=self.hand_out,
            metrics=Metrics(),
            partitions=2,
        )
        self.reader._consumer = self.consumer

    async def hand_out(self, work: Work) -> None:
        await work.run(self.policies)

    async def bounds(self, places: list[TopicPartition]) -> dict[TopicPartition, Bounds]:
        """As the looker."""
        self.looked_up += 1
        if self.looked_up > 1:
            self.end |= self.later_end
        return {place: Bounds(self.first.get(place, 0), self.end.get(place, 100)) for place in places}

    async def serve(self, *numbers: int) -> None:
        self.reader.assign([place for number in numbers for place in PLACES[number]])
        await wait_for(lambda: self.reader.serving == set(numbers) or self.reader.crashed, 5, "serving")

    def hold(self, topic: str, offsets: Iterable[int]) -> None:
        """Answer a fetch of partition 0: the client has these, and knows of no more."""
        place = TopicPartition(topic, 0)
        self.consumer.held[place] = consumer_records(place, offsets)
        self.consumer.highwaters[place] = self.consumer.held[place][-1].offset + 1

    def put(self, topic: str, offsets: Iterable[int], number: int = 0) -> None:
        place = TopicPartition(topic, number)
        fetched = consumer_records(place, offsets)
        self.consumer.positions[place] = fetched[-1].offset + 1
        self.reader._put(place, [reading._record(topic, one) for one in fetched])

    def know_of(self, topic: str, number: int = 0) -> None:
        """As ``know``, for one topic."""
        place = TopicPartition(topic, number)
        self.consumer.highwaters[place] = self.consumer.positions[place]

    def know(self, number: int = 0) -> None:
        """Fetch responses have come for all topics, and say that there is no more than was put."""
        self.consumer.highwaters |= {place: self.consumer.positions[place] for place in PLACES[number]}


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    one = Bench(batch_max_records=64, queue_max_records=8)
    yield one
    await one.reader.release()


async def test_partitions_are_paused_first_and_resumed_only_when_open(bench: Bench) -> None:
    bench.partitions[0].opening.clear()
    bench.reader.assign(PLACES[0])
    assert bench.consumer.calls[0] == ("pause", set(PLACES[0]))
    assert {call for call, _ in bench.consumer.calls} == {"pause", "seek"}
    bench.partitions[0].opening.set()
    await wait_for(lambda: bench.reader.serving, 5, "serving")
    assert bench.consumer.calls[-1] == ("resume", set(PLACES[0]))


async def test_it_is_told_what_is_served_before_a_partition_is_made_and_remembers_it(bench: Bench) -> None:
    made: list[int] = []
    open_partition = bench.reader._open_partition

    def make(number: int) -> Partition:
        assert bench.assigned
        made.append(number)
        return open_partition(number)

    bench.reader._open_partition = make
    await bench.serve(0, 1)
    assert (bench.assigned, sorted(made)) == ([frozenset({0, 1})], [0, 1])
    await bench.reader.release()
    assert bench.reader.owned == {0, 1}
    bench.reader.assign([])
    assert bench.reader.owned == frozenset()


async def test_reading_starts_after_what_the_state_has_applied(bench: Bench) -> None:
    bench.partitions[0].offsets = {SIGNALS: 41}
    bench.first[TopicPartition(PNL, 0)] = 7
    await bench.serve(0)
    assert bench.consumer.positions[TopicPartition(SIGNALS, 0)] == 42
    assert bench.consumer.positions[TopicPartition(PNL, 0)] == 7


@pytest.mark.parametrize(
    ("applied", "accept", "message"), [(5, False, "begins at offset 8"), (100, True, "ends at offset 100")]
)
async def test_input_that_is_gone_crashes_the_reader(applied: int, accept: bool, message: str) -> None:
    bench = Bench(accept_gaps=accept)
    bench.partitions[0].offsets = {SIGNALS: applied}
    bench.first[TopicPartition(SIGNALS, 0)] = 8
    await bench.serve(0)
    assert message in str(bench.reader.crash_reason)
    assert bench.partitions[0].closed


async def test_what_a_former_owner_applied_meanwhile_is_no_loss(bench: Bench) -> None:
    bench.partitions[0].offsets = {SIGNALS: 105}
    bench.later_end[TopicPartition(SIGNALS, 0)] = 106
    await bench.serve(0)
    assert bench.consumer.positions[TopicPartition(SIGNALS, 0)] == 106
    assert not bench.reader.crashed


async def test_a_gap_may_be_accepted() -> None:
    bench = Bench(accept_gaps=True)
    bench.partitions[0].offsets = {SIGNALS: 5}
    bench.first[TopicPartition(SIGNALS, 0)] = 8
    await bench.serve(0)
    assert bench.consumer.positions[TopicPartition(SIGNALS, 0)] == 8
    await bench.reader.release()


async def test_a_partition_without_all_inputs_is_refused(bench: Bench) -> None:
    with pytest.raises(ReaderError, match="without all of its inputs"):
        bench.reader.assign(PLACES[0][:3])


async def test_a_topic_that_grew_is_refused(bench: Bench) -> None:
    bench.consumer.partition_count = 3
    with pytest.raises(ReaderError, match="has 3 partitions and had 2 at the start"):
        bench.reader.assign(PLACES[0])


async def test_signals_wait_until_every_other_input_was_fetched_and_read(bench: Bench) -> None:
    await bench.serve(0)
    bench.put(SIGNALS, range(2))
    bench.put(PNL, range(3))
    [partition, _] = bench.partitions
    await wait_for(lambda: partition.batches == [{PNL: 3}], 5, "the batch without signals")
    bench.know()
    bench.consumer.highwaters[TopicPartition(PNL, 0)] = 4
    bench.put(SIGNALS, range(2, 3))
    await asyncio.wait_for(bench.reader._known_are_read(bench.reader._runners[0]), 5)
    assert partition.batches == [{PNL: 3}]
    # The last one known turns out to be a transaction's marker: the position passes it without a record.
    bench.consumer.positions[TopicPartition(PNL, 0)] = 4
    await wait_for(lambda: partition.batches == [{PNL: 3}, {SIGNALS: 3}], 5, "the signals")


@pytest.fixture
def long_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that no test waits for."""
    monkeypatch.setattr(reading, "_POLL_PAUSE_S", 60.0)


@pytest.mark.usefixtures("long_pause")
async def test_signals_do_not_miss_a_batch_for_what_the_client_has_already(bench: Bench) -> None:
    await bench.serve(0)
    bench.know()
    partition = bench.partitions[0]
    polling = asyncio.create_task(bench.reader._poll())
    bench.hold(PNL, [0])
    await is_applied(partition, 0)  # and now the poll pauses
    bench.hold(PNL, [1])
    bench.put(SIGNALS, [0])
    await is_applied(partition, 1)
    assert partition.batches == [{PNL: 1}, {PNL: 1, SIGNALS: 1}]
    polling.cancel()


@pytest.mark.usefixtures("long_pause")
async def test_a_full_batch_does_not_wait_for_what_signals_wait_for(bench: Bench) -> None:
    await bench.serve(0)
    bench.put(SIGNALS, [0])
    bench.put(PNL, range(64))
    await is_applied(bench.partitions[0], 63)
    assert bench.partitions[0].batches == [{PNL: 64}]


@pytest.mark.usefixtures("long_pause")
async def test_a_partition_whose_signals_wait_for_a_poll_is_released_at_once_and_decides_nothing_more(
    bench: Bench,
) -> None:
    await bench.serve(0)
    bench.put(SIGNALS, [0])
    bench.put(PNL, [0])
    await wait_for(bench.reader._wanted.is_set, 5, "the wait")
    await asyncio.wait_for(bench.reader.release(), 5)
    assert bench.partitions[0].closed
    assert bench.partitions[0].batches == []


async def test_full_queues_pause_their_topic_and_low_ones_resume_it(bench: Bench) -> None:
    await bench.serve(0)
    bench.consumer.calls.clear()
    bench.put(PNL, range(8))
    assert bench.consumer.calls == [("pause", {TopicPartition(PNL, 0)})]
    await wait_for(lambda: ("resume", {TopicPartition(PNL, 0)}) in bench.consumer.calls, 5, "the resume")


async def is_applied(partition: FakePartition, offset: int) -> None:
    await wait_for(lambda: partition.offsets.get(PNL) == offset, 5, f"offset {offset}")


async def test_a_partition_that_settles_is_released_as_soon_as_it_has(bench: Bench) -> None:
    await bench.serve(0)
    partition = bench.partitions[0]
    partition.settled.clear()
    bench.put(PNL, [0])
    await is_applied(partition, 0)
    releasing = asyncio.create_task(bench.reader.release())
    await asyncio.sleep(0)
    partition.settled.set()
    await asyncio.wait_for(releasing, 5)
    assert partition.closed


async def test_a_partition_is_told_whether_a_whole_batch_waits_while_it_settles(bench: Bench) -> None:
    await bench.serve(0)
    bench.put(PNL, range(200))
    partition = bench.partitions[0]
    await wait_for(lambda: len(partition.settled_with_a_batch) == 4, 5, "four batches")
    assert [batch[PNL] for batch in partition.batches] == [64, 64, 64, 8]
    assert partition.settled_with_a_batch == [True, True, False, False]


async def test_a_partition_that_is_not_released_in_time_ends_the_worker() -> None:
    bench = Bench(batch_deadline_ms=100)
    await bench.serve(0)
    partition = bench.partitions[0]
    partition.settled.clear()
    bench.put(PNL, [0])
    await is_applied(partition, 0)
    await asyncio.wait_for(bench.reader.release(), 5)
    assert str(bench.reader.crash_reason) == (
        "partition 0: not released before the deadline; what is under way is unknown"
    )
    partition.settled.set()


async def test_releasing_closes_all_also_those_that_are_still_opening(bench: Bench) -> None:
    bench.partitions[1].opening.clear()
    bench.reader.assign(PLACES[0] + PLACES[1])
    await wait_for(lambda: bench.reader.serving == {0}, 5, "serving")
    await asyncio.wait_for(bench.reader.release(), 5)
    assert [partition.closed for partition in bench.partitions] == [True, True]
    assert not bench.reader.serving
    assert not bench.reader.crashed


async def test_releasing_finishes_the_batch_under_way(bench: Bench) -> None:
    let_go = asyncio.Event()

    async def slow(work: Work) -> None:
        await let_go.wait()
        await work.run(bench.policies)

    bench.reader._hand_out = slow
    await bench.serve(0)
    bench.put(PNL, [0])
    runner = bench.reader._runners[0]
    await wait_for(lambda: not runner.inbox.holds(PNL), 5, "the batch to be under way")
    release = asyncio.create_task(bench.reader.release())
    done, _ = await asyncio.wait({release}, timeout=0.05)
    assert not done
    let_go.set()
    await asyncio.wait_for(release, 5)
    assert bench.partitions[0].offsets == {PNL: 0}


async def test_a_batch_that_never_ends_crashes_the_reader() -> None:
    bench = Bench(batch_deadline_ms=50)

    async def swallow(_work: Work) -> None:
        """As an agent would that lost the batch."""

    bench.reader._hand_out = swallow
    await bench.serve(0)
    bench.put(PNL, [0])
    await wait_for(lambda: bench.reader.crashed, 5, "the crash")
    assert "did not end before its deadline" in str(bench.reader.crash_reason)


async def test_the_first_failure_is_the_reason(bench: Bench) -> None:
    await bench.reader.fail(ValueError("first"))
    await bench.reader.fail(ValueError("second"))
    assert str(bench.reader.crash_reason) == "first"


# -- what the watchdog is shown


async def shown(bench: Bench, number: int = 0) -> Standing:
    standings = await bench.reader.standings()
    assert standings is not None
    return standings[number]


async def test_until_an_assignment_there_is_nothing_to_show(bench: Bench) -> None:
    assert await bench.reader.standings() is None
    bench.reader.assign([])
    assert await bench.reader.standings() == {}
    await bench.reader.release()
    assert await bench.reader.standings() is None


async def test_a_partition_that_is_opened_is_behind_and_its_restore_is_progress(bench: Bench) -> None:
    bench.partitions[0].opening.clear()
    bench.reader.assign(PLACES[0])
    await wait_for(lambda: bench.reader._runners[0].doing == "being taken over", 5, "the open")
    before = await shown(bench)
    assert before[:3] == ("being taken over", False, True)
    progress = bench.reader._metrics.of(0)
    progress.restore_position, progress.restore_target = 70, 900
    after = await shown(bench)
    assert after.doing == "being restored, at 70 of 900"
    assert after.progress != before.progress


async def test_a_partition_that_waits_for_its_turn_is_not_behind() -> None:
    bench = Bench(restore_concurrency=1)
    bench.partitions[0].opening.clear()
    bench.reader.assign(PLACES[0] + PLACES[1])
    await wait_for(lambda: bench.reader._runners[0].doing == "being taken over", 5, "the open")
    assert not (await shown(bench, 1)).behind
    await bench.reader.release()


async def test_a_partition_without_lag_is_not_behind_and_shows_who_answers(bench: Bench) -> None:
    await bench.serve(0)
    for topic in INPUTS:
        bench.put(topic, [0])
    bench.know()
    await wait_for(lambda: len(bench.partitions[0].offsets) == len(INPUTS), 5, "all decided")
    bench.consumer.answered_ms = 7
    standing = await shown(bench)
    assert (standing.serving, standing.behind) == (True, False)
    assert standing.fetches == dict.fromkeys(INPUTS, 7)
    bench.consumer.pause(TopicPartition(PNL, 0))
    assert PNL not in (await shown(bench)).fetches
    bench.consumer.highwaters[TopicPartition(PNL, 0)] += 1
    assert (await shown(bench)).behind


async def test_a_batch_that_never_ends_is_behind_and_progress_elsewhere_counts_until_it_begins(bench: Bench) -> None:
    async def swallow(_work: Work) -> None:
        """As an agent would that lost the batch."""

    bench.reader._hand_out = swallow
    await bench.serve(0)
    bench.put(PNL, [0])
    bench.know_of(PNL)
    await wait_for(lambda: bench.reader._runners[0].handed_out, 5, "the batch")
    standing = await shown(bench)
    assert standing.behind
    assert standing == await shown(bench)
    bench.reader._metrics.batches += 1
    assert standing.progress != (await shown(bench)).progress
    bench.reader._runners[0].task.cancel()  # type: ignore[union-attr]


async def test_signals_that_wait_for_a_pipelines_open_transaction_are_no_fault_of_the_worker(bench: Bench) -> None:
    await bench.serve(0)
    for topic in INPUTS:
        bench.put(topic, [0])
    bench.know()
    await wait_for(lambda: len(bench.partitions[0].offsets) == len(INPUTS), 5, "all decided")
    place = TopicPartition(PNL, 0)
    bench.consumer.stable[place] = bench.consumer.highwaters[place]
    bench.consumer.highwaters[place] += 5
    bench.put(SIGNALS, [1])
    bench.consumer.highwaters[TopicPartition(SIGNALS, 0)] = 2
    assert not (await shown(bench)).behind
    bench.consumer.stable[place] += 5
    assert (await shown(bench)).behind


@pytest.mark.parametrize(("size_bytes", "kept"), [(HEADERS_MAX_BYTES - 1, True), (HEADERS_MAX_BYTES, False)])
def test_headers_too_large_to_repeat_are_dropped(size_bytes: int, kept: bool) -> None:
    headers = (("h", b"x" * size_bytes),)
    record = reading._record(SIGNALS, ConsumerRecord(SIGNALS, 0, 0, 0, 0, b"a", b"{}", None, 1, 2, headers))
    assert record.headers == (headers if kept else ())
