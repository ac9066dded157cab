"""The reader: one consumer group over the four inputs, one runner per assigned partition.

A partition's life here: assigned and paused in the same breath → opened (fence, restore) in its own task, while
heartbeats go on → sought to where its state says → resumed → batches, one at a time → on revocation the batch under way
is finished and the partition closed, before this worker joins the group again.

Group offsets are committed for lag monitors only. Nothing here ever starts from them.
"""

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord
from mode import Service
from msgspec.structs import replace

from streams.core.records import INPUTS, SIGNALS, Record
from streams.runtime import kafka, partitioning
from streams.runtime.assignor import WorkerAssignor
from streams.runtime.bounds import Bounds, Looker
from streams.runtime.inbox import NON_SIGNALS, Inbox, size_of
from streams.runtime.kafka import TopicPartition
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Partition
from streams.runtime.policies import Policies, PolicyDeadLetter
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames
from streams.runtime.watchdog import Standing

log = logging.getLogger(__name__)

_POLL_MS = 100
# After a few records: asked at once again, brokers would answer with one or two each time, at the cost of a whole fetch
# on both sides. What they answer meanwhile lies in the client until the pause is over.
_POLL_PAUSE_S = 0.003
_FEW_RECORDS = 100
_FETCH_MAX_WAIT_MS = 250
# Some hundreds of records. What one fetch brings is unpacked in one go, and everything else waits; a larger batch of a
# producer still comes whole.
_FETCH_MAX_PARTITION_BYTES = 128 * 1024
# Waiting signals are looked at again this soon: what they wait for may turn out to be a mere transaction marker.
_RECHECK_S = 0.02
_LAST_COMMIT_TIMEOUT_S = 5.0
# The owner of this partition publishes the dead letters of policies, which belong to no account.
_POLICY_OWNER = 0
# A decision repeats its signal's headers; beyond this they would not fit into the output beside its checks.
_HEADERS_MAX_BYTES = 64 * 1024
_WAITING = "waiting for its turn to be taken over"


class ReaderError(RuntimeError):
    """Input cannot be read on without losing some. The message names topic, partition and remedy."""


@dataclass(eq=False, slots=True)
class Work:
    """One batch of one partition on its way through the ``gate`` channel. ``done`` tells its fate."""

    partition: Partition
    records: Mapping[str, Sequence[Record]]
    unreported: Sequence[PolicyDeadLetter]
    done: asyncio.Future[None]

    async def run(self, policies: Policies) -> None:
        """Process the batch. Its exception goes to whoever waits for ``done``: an agent that raises is restarted,
        and the batch would be forgotten."""
        try:
            await self.partition.process(self.records, policies.rules, self.unreported)
        except Exception as error:  # noqa: BLE001 - raised again by whoever waits for ``done``
            self._settle(error)
        except BaseException:
            self._settle(ReaderError(f"partition {self.partition.number}: the gate was stopped amid a transaction"))
            raise
        else:
            self._settle(None)

    def _settle(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


@dataclass(eq=False, slots=True)
class _Runner:
    """One assigned partition."""

    number: int
    inbox: Inbox
    places: Mapping[str, TopicPartition]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    doing: str = _WAITING
    serving: bool = False
    batches: int = 0
    handed_out: bool = False
    task: asyncio.Task[None] | None = None


class Reader(Service):
    """Reads, batches and hands out. Any failure crashes the service, and with it the worker."""

    def __init__(
        self,
        settings: Settings,
        *,
        policies: Policies,
        assignor: WorkerAssignor,
        on_assigned: Callable[[frozenset[int]], None],
        looker: Looker,
        open_partition: Callable[[int], Partition],
        hand_out: Callable[[Work], Awaitable[None]],
        metrics: Metrics,
        partitions: int,
    ) -> None:
        """``hand_out`` puts work into the gate's channel; ``open_partition`` makes a partition, not yet opened.

        ``on_assigned`` is told which partitions this worker serves from now on, before any of them is made.
        """
        super().__init__()
        self._settings = settings
        self._names = TopicNames.of(settings)
        self._logical = {self._names.physical(topic): topic for topic in INPUTS}
        self._policies = policies
        self._assignor = assignor
        self._on_assigned = on_assigned
        self._looker = looker
        self._open_partition = open_partition
        self._hand_out = hand_out
        self._metrics = metrics
        self._partitions = partitions
        self._runners: dict[int, _Runner] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._assigned = False
        self.owned: frozenset[int] = frozenset()
        """Partitions of the last assignment, also while it is being changed."""
        self._consumer: AIOKafkaConsumer | None = None
        self._bounds: asyncio.Task[Mapping[TopicPartition, Bounds]] | None = None
        self._applied: dict[TopicPartition, int] = {}
        self._background: list[asyncio.Future[None]] = []
        self._wanted = asyncio.Event()
        """Somebody waits for what the client holds."""
        self._restoring = asyncio.Semaphore(settings.restore_concurrency)

    @property
    def consumer(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            raise ReaderError("the reader is not started")
        return self._consumer

    @property
    def serving(self) -> frozenset[int]:
        """Partitions that are restored and deciding."""
        return frozenset(number for number, runner in self._runners.items() if runner.serving)

    async def on_start(self) -> None:
        """Join the group."""
        settings = self._settings
        self._consumer = kafka.consumer(
            settings,
            group_id=settings.topic_prefix + settings.app_id,
            group_instance_id=settings.instance_id or None,
            partition_assignment_strategy=[self._assignor],
            session_timeout_ms=settings.session_timeout_ms,
            heartbeat_interval_ms=settings.session_timeout_ms // 4,
            rebalance_timeout_ms=settings.rebalance_timeout_ms,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            max_partition_fetch_bytes=_FETCH_MAX_PARTITION_BYTES,
        )
        self._policies.on_unusable = self._wake_policy_owner
        self._consumer.subscribe(list(self._logical), listener=_Listener(self))
        await self._consumer.start()
        self._background = [
            self.add_future(work) for work in (self._poll(), self._policies.follow(), self._report_lag())
        ]

    async def on_stop(self) -> None:
        """Finish what is under way and leave the group, so that others need not wait for a timeout."""
        if self._consumer is None:
            return
        await self.release()
        with contextlib.suppress(KafkaError, asyncio.TimeoutError):
            await asyncio.wait_for(self._commit_lag(), _LAST_COMMIT_TIMEOUT_S)
        for task in self._background:
            task.cancel()
        await self._consumer.stop()
        await self._policies.stop()

    # -- assignment

    def assign(self, assigned: Iterable[TopicPartition]) -> None:
        """Take partitions over. Called by the consumer, which swallows exceptions and fetches as soon as it may."""
        places = list(assigned)
        self.consumer.pause(*places)
        for place in places:
            # Any position will do while paused: without one the consumer would look for committed offsets.
            self.consumer.seek(place, 0)
        if self.should_stop:
            # A consumer that is stopped first ends the join that is under way; whoever joins next gets this share.
            return
        self._applied.clear()
        self._check_partitions()
        self._assigned = True
        numbers = sorted({place.partition for place in places})
        self.owned = frozenset(numbers)
        self._metrics.rebalances += 1
        log.info("assigned partitions %s", numbers or "none")
        self._on_assigned(self.owned)
        self._bounds = asyncio.create_task(self._looker.bounds(places))
        for number in numbers:
            by_topic = {self._logical[place.topic]: place for place in places if place.partition == number}
            if set(by_topic) != set(INPUTS):
                raise ReaderError(f"partition {number} was assigned without all of its inputs: {sorted(by_topic)}")
            runner = _Runner(number, self._new_inbox(), by_topic)
            runner.task = asyncio.create_task(self._run(runner), name=f"partition {number}")
            self._runners[number] = runner

    def _check_partitions(self) -> None:
        for topic in self._logical:
            count = len(self.consumer.partitions_for_topic(topic) or ())
            if count != self._partitions:
                raise ReaderError(
                    f"topic {topic} has {count} partitions and had {self._partitions} at the start: "
                    f"{partitioning.REMEDY}"
                )

    async def release(self) -> None:
        """Give all partitions up: the batch under way is finished, and no other begun."""
        runners, self._runners = list(self._runners.values()), {}
        self._assigned = False
        for runner in runners:
            runner.stopping = True
            runner.wake.set()
            if not runner.serving and runner.task is not None:
                runner.task.cancel()
        # A stop and a revocation may meet: whichever comes second waits for what the first has not yet let go.
        self._leaving.update(runner.task for runner in runners if runner.task is not None)
        if self._bounds is not None:
            self._bounds.cancel()
        if self._leaving:
            done, pending = await asyncio.wait(self._leaving, timeout=self._settings.batch_deadline_ms / 1000)
            self._leaving -= done
            if pending:
                names = ", ".join(sorted(task.get_name() for task in pending))
                await self.fail(ReaderError(f"{names}: not released before the deadline; what is under way is unknown"))
        if runners:
            for runner in runners:
                self._metrics.partitions.pop(runner.number, None)
            log.info("released partitions %s", sorted(runner.number for runner in runners))

    async def _run(self, runner: _Runner) -> None:
        try:
            partition = self._open_partition(runner.number)
            try:
                async with self._restoring:
                    runner.doing = "being taken over"
                    await partition.open()
                await self._resume(runner, partition)
                await self._serve(runner, partition)
            finally:
                runner.serving = False
                await partition.close()
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker
            await self.fail(error)

    async def fail(self, error: Exception) -> None:
        """Crash the worker. The first failure is the reason; those that follow from it would only hide it."""
        if not self.crashed:
            await self.crash(error)

    async def _resume(self, runner: _Runner, partition: Partition) -> None:
        if self._bounds is None:
            raise ReaderError("partitions are resumed only after an assignment")
        bounds = await asyncio.shield(self._bounds)
        if any(partition.offsets.get(topic, -1) >= bounds[place].end for topic, place in runner.places.items()):
            # A former owner that was cut off went on after that look-up, until he was fenced.
            bounds = await self._looker.bounds(list(runner.places.values()))
        starts = {
            place: self._start_of(place, partition.offsets.get(topic), bounds[place])
            for topic, place in runner.places.items()
        }
        for place, start in starts.items():
            self.consumer.seek(place, start)
        self.consumer.resume(*starts)
        runner.doing, runner.serving = "serving", True
        progress = self._metrics.of(runner.number)
        log.info("serving partition %d, %d records restored", runner.number, progress.restored_records)

    def _start_of(self, place: TopicPartition, applied: int | None, bounds: Bounds) -> int:
        first, end = bounds
        if applied is None:
            return first
        start = applied + 1
        where = f"topic {place.topic}, partition {place.partition}"
        if start > end:
            raise ReaderError(
                f"{where} ends at offset {end}, but {applied} was applied: it lost records or was recreated. "
                "Restore the topic, or start anew with another TIDEGATE_APP_ID"
            )
        if start >= first:
            return start
        if not self._settings.accept_gaps:
            raise ReaderError(
                f"{where} begins at offset {first}, but {start} is next to be applied: retention deleted what was "
                "never decided. Set TIDEGATE_ACCEPT_GAPS=1 to go on without it"
            )
        log.error("%s: offsets %d to %d were deleted before they were applied", where, start, first - 1)
        return first

    def _new_inbox(self) -> Inbox:
        settings = self._settings
        return Inbox(queue_max_records=settings.queue_max_records, queue_max_bytes=settings.queue_max_bytes)

    # -- reading

    async def _poll(self) -> None:
        """Drain everything at once: a partition that is left unread holds up all others of its broker."""
        while not self.should_stop:
            try:
                batches = await self.consumer.getmany(timeout_ms=_POLL_MS)
            except UnicodeDecodeError as error:
                place = _failing_place(error)
                offset = await self._read_up_to_bad_header(place)
                raise ReaderError(
                    f"topic {place.topic}, partition {place.partition}: the record at offset {offset} has a header "
                    "whose name is not UTF-8, and cannot be read past. Delete it (kafka-delete-records, before offset "
                    f"{offset + 1}) and set TIDEGATE_ACCEPT_GAPS=1"
                ) from error
            for place, fetched in batches.items():
                self._put(place, [_record(self._logical[place.topic], one) for one in fetched])
            if 0 < sum(map(len, batches.values())) < _FEW_RECORDS:
                await self._pause()

    async def _pause(self) -> None:
        self._wanted.clear()
        await _wait_for(self._wanted, _POLL_PAUSE_S)

    async def _read_up_to_bad_header(self, place: TopicPartition) -> int:
        """Decide what comes before a record that aiokafka cannot read; the offset of that record.

        Brokers take any bytes as a header's name; aiokafka reads none that is not UTF-8, nor what follows it in its
        batch. To skip that could be to skip a lock: only an operator may.
        """
        runner = self._runners.get(place.partition)
        while runner is not None and runner.serving:
            try:
                batches = await self.consumer.getmany(place, timeout_ms=_POLL_MS, max_records=1)
            except UnicodeDecodeError:
                break
            for fetched in batches.values():
                self._put(place, [_record(self._logical[place.topic], one) for one in fetched])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.transaction_deadline_ms / 1000):
                while runner is not None and runner.serving and runner.inbox.holds(self._logical[place.topic]):  # noqa: ASYNC110
                    await asyncio.sleep(_RECHECK_S)
        return int(await self.consumer.position(place))

    def _put(self, place: TopicPartition, records: Sequence[Record]) -> None:
        runner = self._runners.get(place.partition)
        if runner is None or not runner.serving:
            # Between revocation and assignment records may still come in; their next owner reads them again.
            return
        topic = self._logical[place.topic]
        runner.inbox.put(topic, records)
        if runner.inbox.is_full(topic):
            self.consumer.pause(place)
        runner.wake.set()

    # -- serving

    async def _serve(self, runner: _Runner, partition: Partition) -> None:
        while True:
            runner.wake.clear()
            records = await self._take(runner)
            if runner.stopping:
                # What was taken meanwhile is the next owner's.
                return
            unreported = self._unreported(partition)
            if records or unreported:
                runner.handed_out = True
                await self._decide(partition, records, unreported)
                runner.handed_out = False
                runner.batches += 1
                self._note(runner, partition)
                # Before the next look at ``stopping``: who stops the runner meanwhile wakes nobody.
                await partition.settle(batch_waits=runner.inbox.count() >= self._settings.batch_max_records)
            else:
                await self._wait(runner)

    async def _take(self, runner: _Runner) -> Mapping[str, Sequence[Record]]:
        records = runner.inbox.take(
            known_are_read=await self._read_known(runner),
            max_records=self._settings.batch_max_records,
            max_bytes=self._settings.batch_max_bytes,
        )
        for topic in records:
            place = runner.places[topic]
            if runner.inbox.is_low(topic) and not runner.stopping:
                self.consumer.resume(place)
        return records

    async def _read_known(self, runner: _Runner) -> bool:
        """Whether waiting signals may be decided now. What they wait for mostly lies in the client until the next poll,
        and they would miss this batch: so that is called for, unless the batch is full without them."""
        if not runner.inbox.holds(SIGNALS):
            return False
        if await self._known_are_read(runner):
            return True
        if runner.inbox.count() >= self._settings.batch_max_records:
            return False
        self._wanted.set()
        await _wait_for(runner.wake, _POLL_PAUSE_S)
        return await self._known_are_read(runner)

    async def _known_are_read(self, runner: _Runner) -> bool:
        """Whether the inbox has got all controls, fills and pnl up to the high watermarks of the last fetches."""
        for topic in NON_SIGNALS:
            place = runner.places[topic]
            known = self.consumer.highwater(place)
            # None: not fetched since it was assigned, so nothing is known yet. Fail closed.
            if known is None or await self.consumer.position(place) < known:
                return False
        return True

    def _unreported(self, partition: Partition) -> Sequence[PolicyDeadLetter]:
        if partition.number != _POLICY_OWNER:
            return ()
        return self._policies.unusable_after(partition.reported_policies)

    async def _decide(
        self, partition: Partition, records: Mapping[str, Sequence[Record]], unreported: Sequence[PolicyDeadLetter]
    ) -> None:
        work = Work(partition, records, unreported, asyncio.get_running_loop().create_future())
        try:
            async with asyncio.timeout(self._settings.batch_deadline_ms / 1000):
                await self._hand_out(work)
                await work.done
        except TimeoutError as error:
            raise ReaderError(
                f"partition {partition.number}: a transaction did not end before its deadline; its outcome is unknown"
            ) from error

    def _note(self, runner: _Runner, partition: Partition) -> None:
        for topic, place in runner.places.items():
            if applied := partition.offsets.get(topic, -1) + 1:
                self._applied[place] = applied

    async def _wait(self, runner: _Runner) -> None:
        await _wait_for(runner.wake, _RECHECK_S if runner.inbox.holds(SIGNALS) else None)

    def _wake_policy_owner(self) -> None:
        if owner := self._runners.get(_POLICY_OWNER):
            owner.wake.set()

    # -- what it looks like from outside

    async def standings(self) -> Mapping[int, Standing] | None:
        """What each assigned partition is at; None until the group has said which those are."""
        if not self._assigned:
            return None
        paused = self.consumer.paused()
        return {
            number: await self._standing_of(runner, paused) if runner.serving else self._opening(runner)
            for number, runner in list(self._runners.items())
        }

    def _opening(self, runner: _Runner) -> Standing:
        progress = self._metrics.of(runner.number)
        doing = runner.doing
        if 0 < progress.restore_position < progress.restore_target:
            doing = f"being restored, at {progress.restore_position} of {progress.restore_target}"
        taken_over = doing != _WAITING
        return Standing(doing, False, taken_over, (doing, progress.restore_position), {})

    async def _standing_of(self, runner: _Runner, paused: Set[TopicPartition]) -> Standing:
        """A position is at hand at once: every place was sought before it was served."""
        inbox, consumer = runner.inbox, self.consumer
        positions = {topic: await consumer.position(place) for topic, place in runner.places.items()}
        stable = {topic: consumer.last_stable_offset(place) for topic, place in runner.places.items()}
        unread = any(positions[topic] < (stable[topic] or 0) for topic in positions)
        # A pipeline's open transaction holds back what is known but cannot be read: nobody here can end it.
        held_back = any(
            positions[topic] >= (stable[topic] or 0) and (consumer.highwater(place) or 0) > (stable[topic] or 0)
            for topic, place in runner.places.items()
            if topic in NON_SIGNALS
        )
        progress = self._metrics.of(runner.number)
        progress.lag_records = inbox.count() + sum(
            max(0, (consumer.highwater(place) or 0) - positions[topic]) for topic, place in runner.places.items()
        )
        progress.waiting_since_ms = inbox.oldest_ms
        waiting = any(inbox.holds(topic) for topic in NON_SIGNALS) or (inbox.holds(SIGNALS) and not held_back)
        return Standing(
            runner.doing,
            True,
            unread or waiting or runner.handed_out,
            # While a batch waits for a free actor of the gate, whatever the others get done is progress.
            (runner.batches, sum(positions.values()), self._metrics.batches if runner.handed_out else 0),
            {
                topic: consumer.last_poll_timestamp(place)
                for topic, place in runner.places.items()
                if place not in paused
            },
        )

    # -- lag monitors

    async def _report_lag(self) -> None:
        while not self.should_stop:
            await self.sleep(self._settings.lag_commit_interval_ms / 1000)
            with contextlib.suppress(KafkaError):
                await self._commit_lag()

    async def _commit_lag(self) -> None:
        if self._applied:
            await self.consumer.commit(dict(self._applied))


class _Listener(ConsumerRebalanceListener):
    """Hands assignments on. aiokafka logs and swallows what is raised in here, so failures crash the reader."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def on_partitions_revoked(self, _revoked: Iterable[TopicPartition]) -> None:
        await self._reader.release()

    def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        try:
            self._reader.assign(assigned)
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the worker
            self._reader.add_future(self._reader.fail(error))


async def _wait_for(event: asyncio.Event, at_most_s: float | None) -> None:
    """``None``: for as long as it takes."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(at_most_s):
            await event.wait()


def _failing_place(error: UnicodeDecodeError) -> TopicPartition:
    """The partition that aiokafka's fetcher was unpacking. Its exception does not say, its frames do."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        place = frame.f_locals.get("tp")
        if isinstance(place, TopicPartition):
            return place
    raise error


def _record(topic: str, one: ConsumerRecord) -> Record:
    record = Record(topic, one.partition, one.offset, one.timestamp, one.key, one.value, one.headers)
    if one.headers and size_of(replace(record, key=None, value=None)) > _HEADERS_MAX_BYTES:
        log.warning(
            "%s %d@%d: headers above %d bytes are dropped", one.topic, one.partition, one.offset, _HEADERS_MAX_BYTES
        )
        return replace(record, headers=())
    return record
