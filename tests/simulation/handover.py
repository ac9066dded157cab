"""One simulated life of a consumer group: readers take partitions over and let them go, at the worst of times.

Everything is real from the reader down to the partition's logic (``Reader``, ``Inbox``, ``Stores``, ``Partition``);
consumers, group, log and disks are in memory, and time is simulated.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import patch

import orjson

from streams.core.fold import fold_in_slices
from streams.core.records import INPUTS, SIGNALS
from streams.core.state import TABLES, decode_account, decode_remembered
from streams.runtime import kafka
from streams.runtime import partition as partition_module
from streams.runtime.assignor import Holding, WorkerAssignor
from streams.runtime.bounds import Looker
from streams.runtime.inbox import NON_SIGNALS
from streams.runtime.kafka import TopicPartition
from streams.runtime.log import LogError
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Core, Limits, Partition
from streams.runtime.policies import Policies
from streams.runtime.reader import Reader, Work
from streams.runtime.settings import Settings
from streams.runtime.store import Identity, MemoryStore
from streams.runtime.stores import Stores
from tests.simulation.group import Group, Input, InputBounds, SimulatedConsumer
from tests.simulation.loop import Process, SimulatedLoop
from tests.simulation.run import RULES, Harm, check
from tests.simulation.world import START_MS, Crash, Faults, SimulatedLog, SimulatedStore, Topic, desk, new_disk

RECORDS = 40
"""Of each partition."""
# The desk's half minute takes some seconds of simulated time.
_WALL_SPEED = 10
_PUBLISH_PAUSE_MAX_S = 0.25
_EVENT_PAUSE_MAX_S = 0.3
_DEADLINE_MS = 20_000
# A batch under way, the one of another partition that the gate's actors do first, and the rest that follows.
_RELEASE_MAX_S = 2.0
_HEALED_WITHIN_S = 40.0
_STORY_LINES = 40
SETTINGS = Settings(
    broker="kafka://nowhere:1",
    batch_max_records=5,
    queue_max_records=6,
    restore_concurrency=2,
    transaction_deadline_ms=_DEADLINE_MS // 2,
    batch_deadline_ms=_DEADLINE_MS,
    lag_commit_interval_ms=200,
)
_ACTORS = 2

MakeReader = Callable[..., Reader]


def simulate(seed: int, make: MakeReader = Reader) -> "Life":
    """Live one life, and check it. Raises Harm, with the end of its story."""
    with asyncio.Runner(loop_factory=SimulatedLoop) as runner:
        return runner.run(_live(seed, make))


async def _live(seed: int, make: MakeReader) -> "Life":
    life = Life(Random(seed), make)
    loop = asyncio.get_running_loop()
    # What a dead process' tasks end with is nobody's business.
    loop.set_exception_handler(lambda _loop, _context: None)
    consumers = patch.object(kafka, "consumer", lambda settings, **_: life.consumers[settings.instance_id])
    clock = patch.object(partition_module, "time", SimpleNamespace(perf_counter=loop.time))
    with consumers, clock:
        try:
            await life.run()
        finally:
            await life.end()
    return life


class _Delays(Faults):
    """Everything takes its time, and nothing of a dead process reaches the world."""

    def __init__(self, random: Random, process: Process) -> None:
        super().__init__(at=0)
        self._random = random
        self._process = process

    async def boundary(self, _name: str = "") -> None:
        self.dying_boundary()
        chance = self._random.random()
        if chance > 0.98:
            await asyncio.sleep(self._random.uniform(0, 0.15))
        elif chance > 0.75:
            await asyncio.sleep(self._random.uniform(0, 0.008))
        elif chance > 0.5:
            for _ in range(self._random.randint(1, 4)):
                await asyncio.sleep(0)
        self.dying_boundary()

    def dying_boundary(self, name: str = "") -> None:
        if self._process.is_dead:
            raise Crash(name)


class Life:
    """The cluster, the machines with a worker each, and what befalls them."""

    def __init__(self, random: Random, make: MakeReader) -> None:
        self.random = random
        self.make = make
        self.partitions = random.randint(2, 4)
        self.group = Group(random, self.partitions)
        self.topics = [Topic() for _ in range(self.partitions)]
        self.inputs = {TopicPartition(topic, number): Input() for number in range(self.partitions) for topic in INPUTS}
        self.consumers: dict[str, SimulatedConsumer] = {}
        self.fencers: dict[int, _Worker] = {}
        self.struck: Counter[str] = Counter()
        self.story: list[str] = []
        self._harm: Harm | None = None
        self._applied: dict[TopicPartition, int] = {}
        self._journalled = [0] * self.partitions
        self._workers: list[_Worker] = []
        self._count = 0
        self._is_over = False
        self._background: list[asyncio.Task[None]] = []
        self._publishers: list[asyncio.Task[None]] = []
        self._machines: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """From the first worker to the last, and the check."""
        self._background = [asyncio.create_task(self.group.watch())]
        self._publishers = [asyncio.create_task(self._publish(number)) for number in range(self.partitions)]
        self._machines = [asyncio.create_task(self._machine()) for _ in range(self.random.randint(2, 3))]
        while not all(publisher.done() for publisher in self._publishers):
            await asyncio.sleep(self.random.uniform(0.01, _EVENT_PAUSE_MAX_S))
            self._judge()
            await self._befall()
        await asyncio.gather(*self._publishers)
        for worker in self._workers:
            worker.process.thaw()
        self.tell("healed")
        await self._healed()
        # Once more, with nothing to do.
        self.group.rebalance()
        await self._healed()
        holders = dict(self.fencers)
        await self._stopped()
        for number, topic in enumerate(self.topics):
            inputs = {name: self.inputs[TopicPartition(name, number)].records for name in INPUTS}
            try:
                check(topic, inputs, holders[number].disks[number], number)
            except Harm as harm:
                self.harm(f"partition {number}: {harm}")
        self._judge()

    async def end(self) -> None:
        """Nothing of it goes on, whatever came of it."""
        for worker in self._workers:
            await worker.process.kill()
        for task in [*self._background, *self._publishers, *self._machines]:
            task.cancel()

    def tell(self, what: str) -> None:
        self.story.append(f"{asyncio.get_running_loop().time():8.4f} {what}")

    def harm(self, what: str) -> None:
        """Note that a promise was broken, and what led to it. The first is the reason of those that follow."""
        self.tell(what)
        self._harm = self._harm or Harm("\n".join([what, *self.story[-_STORY_LINES:]]))

    def wall_ms(self) -> int:
        return START_MS + int(asyncio.get_running_loop().time() * 1000 * _WALL_SPEED)

    def applied(self, place: TopicPartition) -> int:
        """The last offset that a commit includes; -1: none."""
        journal = self.topics[place.partition].journal
        for entry in journal[self._journalled[place.partition] :]:
            for topic, (_, last) in orjson.loads(entry)["offsets"].items():
                self._applied[TopicPartition(topic, place.partition)] = last
        self._journalled[place.partition] = len(journal)
        return self._applied.get(place, -1)

    # -- what happens

    async def _publish(self, number: int) -> None:
        """A pipeline a topic, now and then in a transaction that stays open for a while."""
        left = {topic: deque(records) for topic, records in desk(self.random, RECORDS, number).items()}
        while any(left.values()):
            await asyncio.sleep(self.random.uniform(0, _PUBLISH_PAUSE_MAX_S))
            for topic, records in left.items():
                log = self.inputs[TopicPartition(topic, number)]
                log.end_transaction()
                while records and records[0].timestamp_ms <= self.wall_ms():
                    log.append(records.popleft())
                if self.random.random() > 0.3:
                    log.stable = len(log.entries)
        for topic in left:
            self.inputs[TopicPartition(topic, number)].end_transaction()

    async def _machine(self) -> None:
        """One worker after the other, mostly with the disks of the last."""
        disks: dict[int, MemoryStore] = {}
        while not self._is_over:
            self._count += 1
            worker = _Worker(self, f"w{self._count}", disks)
            self._workers.append(worker)
            await worker.live()
            self._workers.remove(worker)
            if self.random.random() < 0.3:
                disks = {}
            await asyncio.sleep(self.random.uniform(0, 0.2))

    async def _befall(self) -> None:
        what = self.random.choices(("rebalance", "burst", "kill", "freeze", "cut off", "stop"), (6, 3, 1, 2, 1, 2))[0]
        if not self._workers:
            return
        worker = self.random.choice(self._workers)
        self.struck[what] += 1
        self.tell(what if what in ("rebalance", "burst") else f"{what} {worker.process.name}")
        match what:
            case "rebalance":
                self.group.rebalance()
            case "burst":
                for _ in range(3):
                    self.group.rebalance()
                    await asyncio.sleep(self.random.uniform(0, 0.12))
            case "kill":
                await worker.process.kill()
            case "freeze":
                worker.process.freeze()
                asyncio.get_running_loop().call_later(self.random.uniform(0.01, 1.0), worker.process.thaw)
            case "cut off":
                worker.consumer.was_cut_off = True
                self.group.remove(worker.consumer)
            case "stop":
                worker.told_to_stop.set()

    # -- what must hold

    async def _healed(self) -> None:
        """Until everything is applied, and everybody serves what he was given. Raises Harm."""
        try:
            async with asyncio.timeout(_HEALED_WITHIN_S):
                while not self._is_whole():
                    self._judge()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            self.harm(f"it does not heal: {self._standing()}")
        for worker in self._workers:
            if paused := worker.consumer.paused():
                self.harm(f"{worker.process.name} keeps {sorted(paused)} paused")
        self._judge()

    def _is_whole(self) -> bool:
        served = [number for worker in self._workers if worker.is_settled() for number in worker.consumer.numbers]
        return (
            sorted(served) == list(range(self.partitions))
            and all(worker.is_settled() for worker in self._workers)
            and not any(
                log.record_between(self.applied(place) + 1, len(log.entries)) for place, log in self.inputs.items()
            )
        )

    def _standing(self) -> Mapping[str, Any]:
        return {worker.process.name: worker.standing() for worker in self._workers} | {
            "unapplied": [
                place
                for place, log in self.inputs.items()
                if log.record_between(self.applied(place) + 1, len(log.entries))
            ]
        }

    async def _stopped(self) -> None:
        """Everybody, one shortly after the other."""
        self._is_over = True
        for worker in list(self._workers):
            worker.told_to_stop.set()
            await asyncio.sleep(self.random.uniform(0, 0.1))
        ended, pending = await asyncio.wait(self._machines, timeout=_HEALED_WITHIN_S)
        if pending:
            self.harm(f"it does not stop: {self._standing()}")
        for machine in ended:
            machine.result()
        self._judge()

    def _judge(self) -> None:
        if self._harm is not None:
            raise self._harm


class _Worker:
    """One process: a reader, its gate and its stores."""

    def __init__(self, life: Life, name: str, disks: dict[int, MemoryStore]) -> None:
        self._life = life
        self.process = Process(name)
        self.told_to_stop = asyncio.Event()
        self.disks = disks
        self._delays = _Delays(life.random, self.process)
        self._settings = replace(SETTINGS, instance_id=name)
        self._policies = _Unchanging(self._settings, RULES, lambda rules, _record: (rules, None))
        self._stores = Stores(Path(name), lambda number: Identity("", "", "", number), self._store)
        self._metrics = Metrics()
        self._channel: asyncio.Queue[Work] = asyncio.Queue()
        self._under_way: set[int] = set()
        self._partitions: dict[int, _Watched] = {}
        self._began_s: float | None = None
        """When it began to let go what it has not let go yet."""
        self.consumer = life.consumers[name] = SimulatedConsumer(
            life.random,
            life.group,
            life.inputs,
            pause=self._delays.boundary,
            applied=life.applied,
            harm=self._harm,
            on_revoke=self._revoking,
            on_released=self._released,
        )
        self._reader = life.make(
            self._settings,
            policies=self._policies,
            assignor=WorkerAssignor(Holding),
            on_assigned=self._assigned,
            looker=cast("Looker", InputBounds(life.inputs, self._delays.boundary)),
            open_partition=self._open,
            hand_out=self._hand_out,
            metrics=self._metrics,
            partitions=life.partitions,
        )

    async def live(self) -> None:
        """Until it stops, crashes or is killed."""
        living = self.process.spawn(self._run())
        await asyncio.wait({living})
        if not self.process.is_dead:
            living.result()
            await self.process.kill()

    async def _run(self) -> None:
        gate = [asyncio.create_task(self._act(), name="gate") for _ in range(_ACTORS)]
        await self._reader.start()
        ends = [asyncio.create_task(self._reader._crashed.wait()), asyncio.create_task(self.told_to_stop.wait())]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for one in ends:
            one.cancel()
        if self._reader.crashed:
            self._judge_crash(self._reader.crash_reason)
            return
        self._tell("stops")
        if self._began_s is None:
            self._began()
        await self._reader.stop()
        self._tell("stopped")
        for one in gate:
            one.cancel()
        await asyncio.wait([*gate, *ends])
        if self._reader.crashed:
            self._judge_crash(self._reader.crash_reason)
        if left := self.process.running():
            self._harm(f"stopped, and left behind: {left}")
        if lent := sorted(self._stores._lent):
            self._harm(f"stopped, and did not hand back the stores {lent}")

    def is_settled(self) -> bool:
        """Whether it serves what it was given."""
        consumer = self.consumer
        return (
            consumer.is_assigned.is_set()
            and consumer in self._life.group.members
            and not self._life.group.is_rebalancing
            and self._reader.serving == consumer.numbers
        )

    def standing(self) -> Mapping[str, Any]:
        """For whoever has to find out why nothing advances."""
        runners = self._reader._runners
        return {
            "assigned": sorted(self.consumer.numbers) if self.consumer.is_assigned.is_set() else None,
            "partitions": {number: self._moment(number) for number in runners},
            "paused": sorted(self.consumer.paused()),
        }

    # -- as the rest of the worker

    def _assigned(self, owned: frozenset[int]) -> None:
        self._tell(f"is assigned {sorted(owned)}")
        self._stores.close_except(owned)

    def _store(self, number: int) -> SimulatedStore:
        return SimulatedStore(self.disks.setdefault(number, new_disk()), self._delays)

    def _open(self, number: int) -> Partition:
        self._partitions[number] = _Watched(
            number,
            log=_OwnedLog(self._life.topics[number], self._delays, lambda: self._fenced(number)),
            store=self._stores.lend(number),
            release_store=lambda: self._stores.hand_back(number),
            core=Core(fold_in_slices, decode_account, decode_remembered, TABLES),
            limits=Limits(2, self._settings.transaction_deadline_ms, 0, 5),
            partitions=self._life.partitions,
            partition_of=lambda _account_id: number,
            wall_ms=self._life.wall_ms,
            metrics=self._metrics,
        )
        return self._partitions[number]

    def _fenced(self, number: int) -> None:
        self._life.fencers[number] = self

    async def _hand_out(self, work: Work) -> None:
        self._check_batch(work)
        number = work.partition.number
        self._under_way.add(number)
        try:
            await self._delays.boundary()
            self._channel.put_nowait(work)
        except BaseException:
            self._under_way.discard(number)
            raise

    async def _act(self) -> None:
        """One of the gate's actors."""
        while True:
            work = await self._channel.get()
            try:
                await work.run(self._policies)
            finally:
                self._under_way.discard(work.partition.number)

    # -- what must hold

    def _check_batch(self, work: Work) -> None:
        number = work.partition.number
        if self.consumer.is_released:
            self._harm(f"begins a batch of partition {number} after its release")
        if number in self._under_way:
            self._harm(f"begins a batch of partition {number} while another is under way")
        if SIGNALS not in work.records:
            return
        for topic in NON_SIGNALS:
            place = TopicPartition(topic, number)
            known = self.consumer.highwater(place)
            applied = work.records[topic][-1].offset if topic in work.records else work.partition.offsets.get(topic, -1)
            if known is None:
                self._harm(f"decides signals before it knows of any {topic} of partition {number}")
            elif self._life.inputs[place].record_between(applied + 1, known):
                self._harm(f"decides signals of partition {number} with {topic} applied to {applied}, known to {known}")

    def _revoking(self) -> None:
        moments = {number: self._moment(number) for number in self._reader._runners}
        self._life.struck.update(moments.values())
        self._tell(f"lets go: {moments}")
        self._began()

    def _released(self) -> None:
        self._tell("has let go")
        if self._began_s is not None:
            took_s = self._awake_s() - self._began_s
            if took_s > _RELEASE_MAX_S:
                self._harm(f"let go only after {took_s:.1f} s")
            self._began_s = None
        if self._under_way:
            self._harm(f"has let go, and decides on: partitions {sorted(self._under_way)}")
        if left := [name for name in self.process.running() if name.startswith("partition ")]:
            self._harm(f"has let go, and left behind: {left}")

    def _moment(self, number: int) -> str:
        runner = self._reader._runners[number]
        if not runner.serving:
            return runner.doing
        if runner.handed_out:
            return "deciding"
        return "settling" if self._partitions[number].is_settling else "waiting"

    def _began(self) -> None:
        self._began_s = self._awake_s()

    def _awake_s(self) -> float:
        return asyncio.get_running_loop().time() - self.process.frozen_s

    def _judge_crash(self, reason: BaseException | None) -> None:
        """Whoever was cut off may be fenced, and so may whoever followed him: he learns of it late."""
        involved = [self, *(self._life.fencers[number] for number in self._partitions if number in self._life.fencers)]
        if isinstance(reason, LogError) and any(worker.consumer.was_cut_off for worker in involved):
            self._life.struck["fenced"] += 1
            self._tell("is fenced")
        else:
            self._harm(f"crashed: {reason!r}")

    def _tell(self, what: str) -> None:
        self._life.tell(f"{self.process.name} {what}")

    def _harm(self, what: str) -> None:
        self._life.harm(f"{self.process.name} {what}")


class _Watched(Partition):
    """A partition that shows when it settles."""

    is_settling = False

    async def settle(self, *, batch_waits: bool) -> None:
        self.is_settling = True
        try:
            await super().settle(batch_waits=batch_waits)
        finally:
            self.is_settling = False


class _OwnedLog(SimulatedLog):
    """A log that tells who has fenced last."""

    def __init__(self, topic: Topic, faults: Faults, on_fence: Callable[[], None]) -> None:
        super().__init__(topic, faults)
        self._on_fence = on_fence

    def _shut_out(self) -> None:
        super()._shut_out()
        self._on_fence()


class _Unchanging(Policies):
    """Rules that no policy changes."""

    async def follow(self) -> None:
        await asyncio.Event().wait()
