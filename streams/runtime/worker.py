"""One worker process: checks, policies, app, reader; and an exit status that tells a clean stop from a failure."""

import asyncio
import gc
import logging
import os
import resource
import signal
import threading
import time
from collections.abc import Coroutine
from functools import partial
from typing import Any

from streams.core.fold import fold
from streams.core.rules import Rules, apply_policy
from streams.core.state import TABLES, decode_account, decode_remembered
from streams.runtime import kafka
from streams.runtime.app import create_app
from streams.runtime.log import KafkaLog
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Core, Limits, Partition
from streams.runtime.policies import Policies
from streams.runtime.reader import Reader
from streams.runtime.settings import Settings, SettingsError
from streams.runtime.store import Identity, RocksEnvironment, RocksStore
from streams.runtime.topics import STATE, Layout, TopicNames, verify_topics

log = logging.getLogger("tidegate.worker")

EXIT_STOPPED = 0
EXIT_FAILED = 1


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
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop.set)
    try:
        worker = Worker(settings, rules, core=core)
    except SettingsError as error:
        return _failed(error)
    try:
        reason = await _first_of(_serve(worker), stop.wait())
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported below
        reason = error
    _exit_anyway_after(settings.stop_deadline_ms / 1000)
    try:
        async with asyncio.timeout(settings.stop_deadline_ms / 1000):
            await worker.stop()
    except Exception as error:  # noqa: BLE001 - as above; the first failure is the reason
        reason = reason or error
    if reason is not None:
        return _failed(reason)
    log.info("worker stopped")
    return EXIT_STOPPED


def _raise_file_limit() -> None:
    """A partition holds about nine descriptors; the usual soft limit of 1,024 would end a worker with a hundred."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _failed(reason: BaseException) -> int:
    log.critical("worker failed: %s: %s", type(reason).__name__, reason)
    return EXIT_FAILED


def quieten_gc() -> None:
    """Frozen values hold no cycles: looking for some after every 700 of them took a tenth of the CPU."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


async def _serve(worker: Worker) -> BaseException | None:
    await worker.start()
    quieten_gc()
    return await worker.wait()


async def _first_of(
    serving: Coroutine[Any, Any, BaseException | None], stop: Coroutine[Any, Any, object]
) -> BaseException | None:
    """Serve until the stop; the failure that came first, if one did."""
    server, stopper = asyncio.create_task(serving), asyncio.create_task(stop)
    try:
        await asyncio.wait({server, stopper}, return_when=asyncio.FIRST_COMPLETED)
        if server.done():
            return server.result() or RuntimeError("the app stopped by itself")
        return None
    finally:
        for task in (server, stopper):
            task.cancel()
        await asyncio.wait({server, stopper})


def _exit_anyway_after(seconds: float) -> None:
    """A client that hangs while it is closed must not keep a failed worker from being replaced."""

    def give_up() -> None:
        log.critical("worker failed: it did not stop within %.0f s", seconds)
        os._exit(EXIT_FAILED)

    timer = threading.Timer(seconds * 1.5, give_up)
    timer.daemon = True
    timer.start()
