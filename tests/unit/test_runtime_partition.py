"""A partition's steps, on a log and a store in memory that crash where they are told to."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Sequence
from functools import partial as bound
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from streams.core.fold import Batch, Commit, View
from streams.core.records import APPROVED, DEAD_LETTERS, SIGNALS, Output, Record
from streams.core.rules import Rules
from streams.core.state import DECISIONS, OFFSETS_KEY, PARTITION, PARTITIONS_KEY, Change, decode_offsets
from streams.runtime.log import LogError
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Core, Limits, Partition
from streams.runtime.partitioning import PartitionsChanged
from streams.runtime.policies import DEAD_LETTERS_PER_BATCH, POLICIES_KEY, PolicyDeadLetter
from streams.runtime.store import MemoryStore
from streams.runtime.turns import Turns
from tests.integration import standin
from tests.unit.memory_log import Broker, Crash, MemoryLog

HOUR_MS = 3_600_000
NOW_MS = 1_000 * HOUR_MS
STEPS = ["begin", "send", "sent", "commit", "committed"]


def expires(value: bytes) -> int:
    return standin.CORE.decode_remembered(value).expires_ms


class CrashingStore(MemoryStore):
    """Dies before the next write."""

    crash = False

    def write(self, changes: Any, checkpoint: int) -> None:
        if self.crash:
            raise Crash("store")
        super().write(changes, checkpoint)


def partition(
    log: MemoryLog,
    store: MemoryStore,
    core: Core = standin.CORE,
    turns: Turns | None = None,
    partitions: int = 2,
    **limits: int,
) -> Partition:
    return Partition(
        0,
        log=log,
        store=store,
        core=core,
        limits=Limits(
            **{
                "cached_accounts": 10,
                "transaction_deadline_ms": 5_000,
                "forget_slack_ms": HOUR_MS,
                "forget_max_per_batch": 2,
            }
            | limits
        ),
        partitions=partitions,
        partition_of=lambda account_id: 1 if account_id == "elsewhere" else 0,
        wall_ms=lambda: NOW_MS,
        metrics=Metrics(),
        turns=turns,
    )


def signal(offset: int, name: str = "", key: bytes = b"a", **value: object) -> Record:
    body = orjson.dumps({"id": name or f"s-{offset}", **value})
    return Record(SIGNALS, 0, offset, NOW_MS, key, body, (("trace", b"t-%d" % offset),))


def decided(broker: Broker) -> list[str]:
    return [orjson.loads(one.value)["id"] for one in broker.outputs if one.topic == APPROVED]


async def opened(broker: Broker, store: MemoryStore, crash_at: str = "") -> Partition:
    one = partition(MemoryLog(broker, crash_at), store)
    await one.open()
    return one


async def test_opening_fences_before_it_looks_for_the_end_and_restores() -> None:
    steps: list[str] = []
    await partition(MemoryLog(Broker(), steps=steps), MemoryStore(expires)).open()
    assert steps == ["fence", "end", "restore"]


async def test_closing_releases_log_and_store_also_if_the_log_fails() -> None:
    class Unwilling(MemoryLog):
        async def close(self) -> None:
            raise OSError("no")

    class Closing(MemoryStore):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    for log in (MemoryLog(Broker()), Unwilling(Broker())):
        store = Closing(expires)
        released: list[bool] = []
        one = partition(log, store)
        with contextlib.suppress(OSError):
            await one.close()
        assert store.closed == 1
        one = Partition(
            0,
            log=log,
            store=store,
            core=standin.CORE,
            limits=Limits(1, 1, 1, 1),
            partitions=1,
            partition_of=lambda _account_id: 0,
            wall_ms=lambda: 0,
            metrics=Metrics(),
            release_store=bound(released.append, True),
        )
        with contextlib.suppress(OSError):
            await one.close()
        assert (store.closed, released) == (1, [True])


async def test_a_batch_is_sent_and_committed_before_the_store_sees_it() -> None:
    broker, store = Broker(), MemoryStore(expires)
    one = await opened(broker, store)
    await one.process({SIGNALS: [signal(0), signal(1)]}, Rules())
    assert decided(broker) == ["s-0", "s-1"]
    assert [dict(output.headers) for output in broker.outputs] == [{"trace": b"t-0"}, {"trace": b"t-1"}]
    assert len(broker.journal) == 1
    assert one.offsets == {SIGNALS: 1}
    # The next read would start at the transaction's marker, which no consumer is handed.
    assert store.checkpoint == len(broker.changelog) - 1


@pytest.mark.parametrize("step", [*STEPS, "store"])
async def test_a_crash_at_any_step_loses_and_repeats_nothing(step: str) -> None:
    broker, store = Broker(), CrashingStore(expires)
    one = await opened(broker, store)
    await one.process({SIGNALS: [signal(0)]}, Rules())
    doomed = await opened(broker, store, crash_at=step)
    store.crash = step == "store"
    before = dict(store.records())
    with pytest.raises(Crash):
        await doomed.process({SIGNALS: [signal(1)]}, Rules())
    assert store.records() == before
    store.crash = False

    heir = await opened(broker, store)
    committed = step in ("committed", "store")
    assert heir.offsets == {SIGNALS: 1 if committed else 0}
    resume = heir.offsets[SIGNALS] + 1
    await heir.process({SIGNALS: [signal(offset) for offset in range(resume, 3)]}, Rules())
    assert decided(broker) == ["s-0", "s-1", "s-2"]
    assert orjson.loads(store.get("accounts", b"a") or b"") == {SIGNALS: 3}


async def test_a_repeated_signal_is_known_after_a_restore_from_nothing() -> None:
    broker = Broker()
    await (await opened(broker, MemoryStore(expires))).process({SIGNALS: [signal(0, "same")]}, Rules())
    heir = await opened(broker, MemoryStore(expires))
    await heir.process({SIGNALS: [signal(1, "same")]}, Rules())
    assert [output.topic for output in broker.outputs] == [APPROVED, DEAD_LETTERS]


async def test_whoever_was_fenced_commits_nothing_and_leaves_his_store_behind() -> None:
    broker, old_store = Broker(), MemoryStore(expires)
    old = await opened(broker, old_store)
    await old.process({SIGNALS: [signal(0)]}, Rules())
    before = dict(old_store.records())
    heir = await opened(broker, MemoryStore(expires))
    with pytest.raises(LogError, match="fenced"):
        await old.process({SIGNALS: [signal(1)]}, Rules())
    assert old_store.records() == before
    assert old.offsets == {SIGNALS: 0}
    await heir.process({SIGNALS: [signal(1)]}, Rules())
    assert decided(broker) == ["s-0", "s-1"]


async def test_a_store_that_is_ahead_of_the_log_is_wiped() -> None:
    broker, store = Broker(), MemoryStore(expires)
    store.write([Change("accounts", b"a", b'{"signals":99}')], 1_000)
    one = await opened(broker, store)
    assert store.get("accounts", b"a") is None
    await one.process({SIGNALS: [signal(0)]}, Rules())
    assert orjson.loads(store.get("accounts", b"a") or b"") == {SIGNALS: 1}


async def test_a_restore_goes_on_from_the_checkpoint_and_takes_tombstones() -> None:
    broker, store = Broker(), MemoryStore(expires)
    broker.changelog = [
        Change("accounts", b"a", b"1"),
        None,
        Change("accounts", b"a", None),
        Change("accounts", b"b", b"2"),
    ]
    store.write([Change("accounts", b"a", b"1")], 2)
    one = await opened(broker, store)
    assert store.records() == {("accounts", b"b"): b"2"}
    assert store.checkpoint == 4
    assert one.offsets == {}


async def test_a_stuck_transaction_ends_at_its_deadline() -> None:
    class Stuck(MemoryLog):
        async def commit(self) -> None:
            await asyncio.Event().wait()

    broker, store = Broker(), MemoryStore(expires)
    one = partition(Stuck(broker), store, transaction_deadline_ms=20)
    await one.open()
    with pytest.raises(TimeoutError):
        await one.process({SIGNALS: [signal(0)]}, Rules())
    assert not store.records()


async def test_only_the_latest_accounts_stay_decoded() -> None:
    decodes: list[bytes] = []

    def decode(parts: Any) -> Any:
        decodes.append(parts["accounts"])
        return standin.decode_account(parts)

    one = partition(
        MemoryLog(Broker()), MemoryStore(expires), standin.CORE._replace(decode_account=decode), cached_accounts=2
    )
    await one.open()
    for offset, key in enumerate([b"a", b"b", b"a", b"c", b"a", b"b"]):
        await one.process({SIGNALS: [signal(offset, key=key)]}, Rules())
    # Only b had to make room, for c; a was used in between.
    assert decodes == [b'{"signals":1}']


async def test_a_record_of_another_partition_is_counted_as_forwarded() -> None:
    broker = Broker()
    one = await opened(broker, MemoryStore(expires))
    stray = signal(0, key=b"elsewhere")
    await one.process({SIGNALS: [stray]}, Rules())
    assert broker.outputs == [Output(SIGNALS, stray.key, stray.value or b"", stray.headers, stray.timestamp_ms)]


# -- forgetting


def remembered(broker: Broker) -> dict[bytes, bool]:
    """Ids on the changelog, and whether their last record is a tombstone."""
    return {one.key: one.value is None for one in broker.changelog if one is not None and one.table == DECISIONS}


async def test_ids_are_forgotten_a_slack_after_their_expiry_a_few_more_at_a_time_than_are_remembered() -> None:
    broker, store = Broker(), MemoryStore(expires)
    one = await opened(broker, store)
    gone = NOW_MS - HOUR_MS - 1
    await one.process(
        {SIGNALS: [signal(n, expires_ms=gone) for n in range(9)] + [signal(9, expires_ms=gone + 1)]}, Rules()
    )
    assert not any(remembered(broker).values())
    await one.process({SIGNALS: [signal(10)]}, Rules())
    assert sum(remembered(broker).values()) == 3
    await one.process({SIGNALS: [signal(11), signal(12)]}, Rules())
    assert sum(remembered(broker).values()) == 7
    for offset in (13, 14):
        await one.process({SIGNALS: [signal(offset)]}, Rules())
    assert {key for key, forgotten in remembered(broker).items() if forgotten} == {
        b"a\0signal\0s-%d" % n for n in range(9)
    }
    assert store.get(DECISIONS, b"a\0signal\0s-0") is None
    assert store.get(DECISIONS, b"a\0signal\0s-9") is not None


async def test_an_id_that_is_remembered_anew_is_kept() -> None:
    broker, store = Broker(), MemoryStore(expires)
    one = await opened(broker, store)
    store.write([Change(DECISIONS, b"a\0signal\0s-9", b'{"v":1,"first_id":"x","expires_ms":1}')], 1)
    forgetful = standin.CORE._replace(
        fold=standin.at_one_go(
            lambda batch, _view, rules, partition_of: standin.fold(batch, Amnesia(), rules, partition_of)
        )
    )
    one = partition(MemoryLog(broker), store, forgetful)
    await one.open()
    await one.process({SIGNALS: [signal(9)]}, Rules())
    assert remembered(broker) == {b"a\0signal\0s-9": False}


# -- the number of partitions


def counted(broker: Broker) -> list[bytes | None]:
    return [one.value for one in broker.changelog if one is not None and one.key == PARTITIONS_KEY]


async def test_the_number_of_partitions_is_written_with_the_first_transaction_and_never_again() -> None:
    broker = Broker()
    one = await opened(broker, MemoryStore(expires))
    for offset in range(2):
        await one.process({SIGNALS: [signal(offset)]}, Rules())
    heir = await opened(broker, MemoryStore(expires))
    await heir.process({SIGNALS: [signal(2)]}, Rules())
    assert counted(broker) == [b'{"v":1,"partitions":2}']
    assert broker.changelog[0] is not None
    assert broker.changelog[0].key == PARTITIONS_KEY


async def test_a_first_transaction_that_fails_leaves_the_number_to_the_next_owner() -> None:
    broker = Broker()
    one = await opened(broker, MemoryStore(expires), crash_at="commit")
    with pytest.raises(Crash):
        await one.process({SIGNALS: [signal(0)]}, Rules())
    heir = await opened(broker, MemoryStore(expires))
    await heir.process({SIGNALS: [signal(0)]}, Rules())
    assert counted(broker) == [b'{"v":1,"partitions":2}']


@pytest.mark.parametrize("on_disk", [True, False])
async def test_state_of_another_number_of_partitions_is_not_taken_over(on_disk: bool) -> None:
    broker, store = Broker(), MemoryStore(expires)
    one = await opened(broker, store)
    await one.process({SIGNALS: [signal(0)]}, Rules())
    grown = partition(MemoryLog(broker), store if on_disk else MemoryStore(expires), partitions=3)
    with pytest.raises(PartitionsChanged, match=r"partition 0: .* made with 2 partitions, and the inputs have 3: .*"):
        await grown.open()


async def test_state_without_a_number_takes_the_present_one() -> None:
    broker = Broker()
    one = await opened(broker, MemoryStore(expires))
    await one.process({SIGNALS: [signal(0)]}, Rules())
    # As releases before this record left it.
    broker.changelog = [None if change and change.key == PARTITIONS_KEY else change for change in broker.changelog]
    heir = partition(MemoryLog(broker), MemoryStore(expires), partitions=3)
    await heir.open()
    await heir.process({SIGNALS: [signal(1)]}, Rules())
    assert counted(broker) == [b'{"v":1,"partitions":3}']


async def test_a_closed_partition_holds_no_accounts() -> None:
    one = partition(MemoryLog(Broker()), MemoryStore(expires))
    await one.open()
    await one.process({SIGNALS: [signal(0)]}, Rules())
    one.changed = {"a": one.account("a")}  # type: ignore[dict-item]
    assert len(one._view._accounts) > 0
    await one.close()
    assert len(one._view._accounts) == 0
    assert one.changed is None


async def test_a_short_fold_gets_in_between_the_slices_of_a_long_one_and_another_long_one_waits() -> None:
    steps: list[str] = []
    turns = Turns()

    def noting(name: str) -> Core:
        def folding(
            batch: Batch, view: View, rules: Rules, partition_of: Callable[[str], int], slice_records: int
        ) -> Generator[None, None, Commit]:
            for number in range(-(-len(batch.records[SIGNALS]) // slice_records)):
                if number:
                    yield
                steps.append(f"{name}{number}")
            return standin.fold(batch, view, rules, partition_of)

        return standin.CORE._replace(fold=folding)

    async def process(name: str, count: int) -> None:
        one = partition(MemoryLog(Broker()), MemoryStore(expires), noting(name), turns)
        await one.open()
        await one.process({SIGNALS: [signal(offset) for offset in range(count)]}, Rules())

    await asyncio.gather(process("long", 100), process("longer", 110), process("short", 20))
    assert [step for step in steps if "short" not in step] == [
        *(f"long{number}" for number in range(34)),
        *(f"longer{number}" for number in range(37)),
    ]
    # While the short one is under way, the long one lets it have every other turn.
    assert steps.index("short6") < steps.index("long12")


async def test_it_settles_for_as_long_as_its_last_transaction_took_unless_a_whole_batch_waits() -> None:
    class Slow(MemoryLog):
        async def commit(self) -> None:
            await asyncio.sleep(0.2)
            await super().commit()

    one = partition(Slow(Broker()), MemoryStore(expires))
    await one.open()
    with pytest.raises(StopIteration):
        one.settle(batch_waits=False).send(None)
    await one.process({SIGNALS: [signal(0)]}, Rules())
    ended = time.perf_counter()
    gathering = asyncio.create_task(one.settle(batch_waits=False))
    await one.settle(batch_waits=True)
    assert not gathering.done()
    await gathering
    assert time.perf_counter() - ended > 0.05


class Amnesia:
    """A view that has forgotten everything."""

    def __init__(self) -> None:
        self.offsets: dict[str, int] = {}

    def account(self, account_id: str) -> None:
        return None

    def remembered(self, key: bytes) -> None:
        return None


async def test_on_the_record_clock_ids_are_kept() -> None:
    """There one record from far ahead would forget what others may still repeat."""
    broker = Broker()
    one = await opened(broker, MemoryStore(expires))
    rules = Rules(clock="record")
    past = 100 * HOUR_MS
    await one.process({SIGNALS: [replace(signal(0, expires_ms=past), timestamp_ms=past)]}, rules)
    await one.process({SIGNALS: [replace(signal(1), timestamp_ms=1_000 * past)]}, rules)
    await one.process({}, rules)
    assert not any(remembered(broker).values())


# -- unusable policies


def letters(offsets: Sequence[int]) -> list[PolicyDeadLetter]:
    return [PolicyDeadLetter(offset, Output(DEAD_LETTERS, b"p", b'{"id":"p"}')) for offset in offsets]


async def test_unusable_policies_are_dead_lettered_without_input_and_remembered_as_reported() -> None:
    broker, store = Broker(), MemoryStore(expires)
    one = await opened(broker, store)
    assert one.reported_policies == -1
    await one.process({}, Rules(), letters([3, 8]))
    assert len(broker.outputs) == 2
    assert one.reported_policies == 8
    assert (await opened(broker, MemoryStore(expires))).reported_policies == 8


async def test_many_unusable_policies_are_reported_over_several_transactions() -> None:
    broker, store = Broker(), MemoryStore(expires)
    one = await opened(broker, store)
    await one.process({}, Rules(), letters(range(DEAD_LETTERS_PER_BATCH + 5)))
    assert len(broker.outputs) == DEAD_LETTERS_PER_BATCH
    assert one.reported_policies == DEAD_LETTERS_PER_BATCH - 1


async def test_reports_that_did_not_commit_are_made_again() -> None:
    broker, store = Broker(), MemoryStore(expires)
    doomed = await opened(broker, store, crash_at="commit")
    with pytest.raises(Crash):
        await doomed.process({}, Rules(), letters([3]))
    assert (await opened(broker, store)).reported_policies == -1
    assert store.get(PARTITION, POLICIES_KEY) is None


def test_offsets_of_an_unknown_version_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown version"):
        decode_offsets(b'{"v":99,"offsets":{}}')


async def test_the_state_says_where_to_resume() -> None:
    broker, store = Broker(), MemoryStore(expires)
    await (await opened(broker, store)).process({SIGNALS: [signal(41)]}, Rules())
    assert decode_offsets(store.get(PARTITION, OFFSETS_KEY) or b"") == {SIGNALS: 41}
    assert (await opened(broker, MemoryStore(expires))).offsets == {SIGNALS: 41}
