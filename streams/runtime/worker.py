"""One worker process: checks, policies, app, reader; and an exit status that tells a clean stop from a failure."""

import asyncio
import gc
import resource
import time
from functools import partial

from streams.core.fold import fold_in_slices
from streams.core.rules import Rules, apply_policy
from streams.core.state import TABLES, decode_account, decode_remembered
from streams.observe.ends import STUCK, Ends, reason_of
from streams.observe.worker import Observer
from streams.runtime import clock, kafka, partitioning
from streams.runtime.app import create_app
from streams.runtime.assignor import Holding, WorkerAssignor
from streams.runtime.bounds import Looker
from streams.runtime.log import KafkaLog
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Core, Limits, Partition
from streams.runtime.policies import Policies
from streams.runtime.process import crash_of, failed, run_until_stopped
from streams.runtime.reader import Reader
from streams.runtime.settings import Settings, SettingsError
from streams.runtime.standby import KafkaFeed, Standby
from streams.runtime.store import Identity, RocksEnvironment, RocksStore
from streams.runtime.stores import Stores
from streams.runtime.topics import STATE, Layout, TopicNames, verify_topics
from streams.runtime.turns import Turns
from streams.runtime.watchdog import Sighting, Terms, Watchdog
from streams.runtime.web import Report, web_for


class Worker:
    """The parts of a worker, started and stopped in order. One per process: RocksDB memory and signals are shared."""

    def __init__(self, settings: Settings, rules: Rules, *, core: Core, with_consumer: bool = False) -> None:
        self._settings = settings
        self._core = core
        self.metrics = Metrics()
        self._turns = Turns()
        self._cached_accounts = 0
        self.policies = Policies(settings, rules, apply_policy)
        self.app, self._channel = create_app(settings, self.policies, with_consumer=with_consumer)
        self.reader: Reader | None = None
        self._looker = Looker(settings)
        self._stores: Stores | None = None
        self._standby: Standby | None = None
        self._ends = Ends(settings.data_dir)
        self._watchdog = Watchdog(
            "worker",
            self._look,
            Terms(settings.unhealthy_after_ms / 1000, settings.stall_deadline_ms / 1000),
            note=partial(self._ends.end, STUCK),
        )
        self._observer = Observer(
            settings,
            self.metrics,
            rules=lambda: self.policies.rules,
            health=self.health,
            ready=self.ready,
            ends=self._ends,
        )
        self._web = web_for(settings, health=self.health, ready=self.ready, metrics=self._observer.exposition)
        self._stopping = False

    def health(self) -> Report:
        """Whether it is alive: it advances or has nothing to do, brokers answer, nobody has fenced it."""
        return self._ending() or self._watchdog.health()

    def ready(self) -> Report:
        """Whether it has read the policies and serves all partitions that it was given."""
        if self._stopping:
            return self._ending() or Report.of(("it is being stopped",))
        return self._ending() or self._watchdog.readiness()

    def _ending(self) -> Report | None:
        reason = None if self.reader is None else self.reader.crash_reason
        return None if reason is None else Report.unless_ending(reason)

    async def _look(self) -> Sighting:
        standings = None if self.reader is None else await self.reader.standings()
        return Sighting(time.monotonic(), self.policies.answered_ms, standings)

    async def start(self) -> None:
        """Check the topics, read the policies, join the group. Raises what stops the start."""
        if self._web is not None:
            await self._web.start()
        await self._watchdog.start()
        layout = await verify_topics(self._settings)
        await partitioning.refuse_changed(self._settings, layout)
        await self.policies.start()
        stores = self._stores = self._make_stores(layout, RocksEnvironment(self._settings.store_cache_bytes))
        await asyncio.to_thread(stores.survey)
        assignor = WorkerAssignor(self._holding)
        self._ends.start()
        self.reader = Reader(
            self._settings,
            policies=self.policies,
            assignor=assignor,
            on_assigned=partial(self._assigned, stores, assignor),
            looker=self._looker,
            open_partition=partial(self._open_partition, layout, stores),
            hand_out=self._channel.put,
            metrics=self.metrics,
            partitions=layout.partitions,
        )
        await self.app.start()
        if self._settings.standby:
            self._standby = Standby(KafkaFeed(self._settings, self._looker), stores)
            await self.app.add_runtime_dependency(self._standby)
        await self.app.add_runtime_dependency(self.reader)
        if self._web is not None:
            await self._observer.start(self.reader, layout.partitions, layout.partition_of)
        quieten_gc()

    async def wait(self) -> BaseException | None:
        """Wait until the app stops or crashes; what crashed it."""
        return await crash_of(self.app)

    async def stop(self) -> None:
        """Finish the transactions under way and leave the group. Whatever was not started is left out."""
        self._stopping = True
        # Until then it may still wait for others; from then on the deadline of the stop counts.
        await self._watchdog.stop()
        await self._observer.stop()
        self._ends.end(reason_of(self.app.crash_reason))
        await self.app.stop()
        await self.policies.stop()
        await self._looker.close()
        if self._stores is not None:
            self._stores.close_except(())
        if self._web is not None:
            await self._web.stop()

    def _assigned(self, stores: Stores, assignor: WorkerAssignor, owned: frozenset[int]) -> None:
        """Before any partition is made: the stores of those that it followed until now are handed back."""
        follows = frozenset[int]()
        if self._standby is not None:
            follows = assignor.standing_by - owned
            self._standby.follow(follows)
        stores.close_except(owned | follows)
        self._cached_accounts = self._settings.cached_accounts // max(1, len(owned))

    def _holding(self) -> Holding:
        if self.reader is None or self._stores is None:
            return Holding()
        return Holding(self.reader.owned, self._stores.warm(), self._settings.standby)

    def _make_stores(self, layout: Layout, environment: RocksEnvironment) -> Stores:
        settings = self._settings
        topic = TopicNames.of(settings).physical(STATE)
        directory = settings.data_dir / "state"

        def identity(number: int) -> Identity:
            return Identity(layout.cluster_id, settings.app_id, topic, number)

        def make(number: int) -> RocksStore:
            return RocksStore(
                directory / str(number),
                identity(number),
                environment,
                expires=lambda value: self._core.decode_remembered(value).expires_ms,
            )

        return Stores(directory, identity, make)

    def _open_partition(self, layout: Layout, stores: Stores, number: int) -> Partition:
        settings = self._settings
        partition = Partition(
            number,
            log=KafkaLog(settings, number, layout.counts, kafka.partition_of_key, self._looker),
            store=stores.lend(number),
            release_store=partial(stores.hand_back, number),
            core=self._core,
            limits=Limits(
                self._cached_accounts,
                settings.transaction_deadline_ms,
                settings.forget_slack_ms,
                settings.forget_max_per_batch,
            ),
            partitions=layout.partitions,
            partition_of=layout.partition_of,
            wall_ms=clock.now_ms,
            metrics=self.metrics,
            turns=self._turns,
        )
        self._observer.opened(number, partition)
        return partition


def run_worker(settings: Settings, rules: Rules, *, core: Core | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT (0), or until anything fails (1). The last line of the log says which."""
    return asyncio.run(_run(settings, rules, core or real_core()))


def real_core() -> Core:
    """The core as it is; tests put stand-ins in its place."""
    return Core(fold_in_slices, decode_account, decode_remembered, TABLES)


async def _run(settings: Settings, rules: Rules, core: Core) -> int:
    _raise_file_limit()
    try:
        worker = Worker(settings, rules, core=core)
    except SettingsError as error:
        return failed("worker", error)
    return await run_until_stopped("worker", worker, settings.stop_deadline_ms)


def _raise_file_limit() -> None:
    """A partition holds about nine descriptors; the usual soft limit of 1,024 would end a worker with a hundred."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def quieten_gc() -> None:
    """Frozen values hold no cycles: looking for some after every 700 of them took a tenth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
