"""One worker process: checks, policies, app, reader; and an exit status that tells a clean stop from a failure."""

import asyncio
import gc
import resource
import time
from functools import partial

from streams.core.fold import fold
from streams.core.rules import Rules, apply_policy
from streams.core.state import TABLES, decode_account, decode_remembered
from streams.runtime import kafka
from streams.runtime.app import create_app
from streams.runtime.log import KafkaLog
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Core, Limits, Partition
from streams.runtime.policies import Policies
from streams.runtime.process import failed, run_until_stopped
from streams.runtime.reader import Reader
from streams.runtime.settings import Settings, SettingsError
from streams.runtime.store import Identity, RocksEnvironment, RocksStore
from streams.runtime.topics import STATE, Layout, TopicNames, verify_topics


class Worker:
    """The parts of a worker, started and stopped in order. One per process: RocksDB memory and signals are shared."""

    def __init__(self, settings: Settings, rules: Rules, *, core: Core, with_consumer: bool = False) -> None:
        self._settings = settings
        self._core = core
        self.metrics = Metrics()
        self.policies = Policies(settings, rules, apply_policy)
        self.app, self._channel = create_app(settings, self.policies, with_consumer=with_consumer)
        self.reader: Reader | None = None

    async def start(self) -> None:
        """Check the topics, read the policies, join the group. Raises what stops the start."""
        layout = await verify_topics(self._settings)
        await self.policies.start()
        self.reader = Reader(
            self._settings,
            policies=self.policies,
            open_partition=partial(self._open_partition, layout, RocksEnvironment(self._settings.store_cache_bytes)),
            hand_out=self._channel.put,
            metrics=self.metrics,
            partitions=layout.partitions,
        )
        await self.app.start()
        await self.app.add_runtime_dependency(self.reader)
        quieten_gc()

    async def wait(self) -> BaseException | None:
        """Wait until the app stops or crashes; what crashed it."""
        await self.app.wait()
        reason: BaseException | None = self.app.crash_reason
        return reason

    async def stop(self) -> None:
        """Finish the transactions under way and leave the group. Whatever was not started is left out."""
        await self.app.stop()
        await self.policies.stop()

    def _open_partition(self, layout: Layout, environment: RocksEnvironment, number: int) -> Partition:
        settings = self._settings
        topic = TopicNames.of(settings).physical(STATE)
        store = RocksStore(
            settings.data_dir / "state" / str(number),
            Identity(layout.cluster_id, settings.app_id, topic, number),
            environment,
            expires=lambda value: self._core.decode_remembered(value).expires_ms,
        )
        return Partition(
            number,
            log=KafkaLog(settings, number, layout.counts, kafka.partition_of_key),
            store=store,
            core=self._core,
            limits=Limits(
                settings.cached_accounts,
                settings.transaction_deadline_ms,
                settings.forget_slack_ms,
                settings.forget_max_per_batch,
            ),
            partition_of=lambda account_id: kafka.partition_of_key(account_id.encode(), layout.partitions),
            wall_ms=lambda: time.time_ns() // 1_000_000,
            metrics=self.metrics,
        )


def run_worker(settings: Settings, rules: Rules, *, core: Core | None = None) -> int:
    """Run a worker until SIGTERM or SIGINT (0), or until anything fails (1). The last line of the log says which."""
    return asyncio.run(_run(settings, rules, core or real_core()))


def real_core() -> Core:
    """The core as it is; tests put stand-ins in its place."""
    return Core(fold, decode_account, decode_remembered, TABLES)


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
