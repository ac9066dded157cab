"""One chaos run from the first broker's start to the verdict: the order of things, and what the JSON line says."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from infra.cluster import KafkaCluster, free_ports
from streams.runtime.settings import Settings
from streams.runtime.topics import create_topics
from tests.chaos import desk
from tests.chaos.dump import dump
from tests.chaos.faults import Happening, Injector
from tests.chaos.group import rebalances_of
from tests.chaos.live import Live, Standing
from tests.chaos.mix import approvals_of, mix_of
from tests.chaos.monitor import Monitor
from tests.chaos.oracle import judge
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import BROKERS, GAP_S, PARTITIONS, WORKERS, Schedule, to_json
from tests.chaos.workers import Worker

SESSION_TIMEOUT_S = 6.0
LEAST_APPROVED = 0.25
"""Of the sound entries: a gate that refuses them nearly all has shown little of what it does with approvals."""
EVENTS_PER_LOCK, EVENTS_PER_ENTRY = 1_000, 200
"""At most so many events for a lock, and for an approved sound entry."""
HARMS = ("lost", "duplicated", "contradicted", "approvals_after_lock", "state_mismatches", "dead_letters_wrong")

_START_S = 90.0
_DRAIN_S = 300.0
_FAULTS_OVER_S = 300.0
_STOP_S = 60.0
_FELT_AT_ONCE, _LET_RECOVER_S = 2, 30.0
# Above this lag the load waits: a gate that is far behind refuses everything as stale, and proves little.
_HOLD_AT, _GO_AT = 8_000, 3_000
_BROKER_CONFIG = {
    # Small segments, so that the changelog is compacted while it is written and restored.
    "log.segment.bytes": str(4 * 1024 * 1024),
    "log.cleaner.backoff.ms": "2000",
    "log.cleaner.threads": "1",
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": "2000",
}


class Stuck(RuntimeError):
    """The run did not come to its end. The message says what it waited for."""


class Outcome(NamedTuple):
    """What a run came to."""

    figures: Mapping[str, Any]
    """The JSON line."""
    findings: Sequence[Any]
    """What the oracle has to say, readable."""
    outputs: Mapping[str, Mapping[str, int]]
    """Records of each output topic by code, reason or type."""

    @property
    def is_good(self) -> bool:
        """No harm, every fault landed, and there was enough to do harm to."""
        figures = self.figures
        return (
            not any(figures[harm] for harm in HARMS)
            and figures["faults_landed"] >= figures["faults_asked"]
            and self.is_telling
        )

    @property
    def is_telling(self) -> bool:
        """Whether the gate approved and locked enough for its approvals and locks to have been tried."""
        figures = self.figures
        entries, events = figures["sound_entries_approved"], figures["events"]
        return bool(
            entries >= LEAST_APPROVED * figures["sound_entries"]
            and entries * EVENTS_PER_ENTRY >= events
            and figures["locks"] * EVENTS_PER_LOCK >= events
        )


async def run(schedule: Schedule, directory: Path, *, rate: float | None = None, quiet: bool = False) -> Outcome:
    """Run a schedule in ``directory``, which keeps logs, schedule and dump. Raises Stuck, BrokerFailed, OSError.

    ``rate``: input records a second; by default such that the events last as long as the faults.
    """
    return await _Run(schedule, directory, rate or planned_rate(schedule), quiet).run()


def planned_rate(schedule: Schedule) -> float:
    """Records a second that spread the events over the faults."""
    return schedule.events / max(schedule.ends_s + GAP_S[1], 30.0)


class _Run:
    def __init__(self, schedule: Schedule, directory: Path, rate: float, quiet: bool) -> None:
        self._schedule = schedule
        self._directory = directory
        self._rate = rate
        self._quiet = quiet
        self._happenings = [Happening(fault) for fault in schedule.faults]
        self._workers: list[Worker] = []
        self._published = 0
        self._mix: Mapping[str, int] = {}
        self._outputs: Mapping[str, Mapping[str, int]] = {}
        self._began_s = time.monotonic()
        self._load_s = 0.0
        self._phase = "starting brokers"
        self._monitor: Monitor | None = None

    async def run(self) -> Outcome:
        proxy_ports = [free_ports(BROKERS) for _ in range(WORKERS)]
        names = [f"WORKER{number}" for number in range(WORKERS)]
        cluster = KafkaCluster(
            BROKERS,
            _BROKER_CONFIG,
            listeners=dict.fromkeys(names, "PLAINTEXT"),
            advertised=dict(zip(names, proxy_ports, strict=True)),
        )
        self._write_schedule()
        # The clients of the harness complain of every broker that dies: that belongs into a file.
        logging.basicConfig(filename=self._directory / "harness.log", level=logging.WARNING, force=True)
        try:
            with Live(self._standing, quiet=self._quiet):
                await asyncio.to_thread(cluster.start)
                try:
                    rebalances = await self._with_brokers(cluster, names)
                finally:
                    for node in range(BROKERS):
                        with contextlib.suppress(OSError, IndexError):
                            (self._directory / f"broker-{node}.log").write_text(cluster.log_of(node))
                    await asyncio.to_thread(cluster.stop)
                self._phase = "judging"
                verdict = await asyncio.to_thread(partial(judge, self._directory / "dump", compacted=True))
                self._outputs = await asyncio.to_thread(mix_of, self._directory / "dump")
                approvals = await asyncio.to_thread(approvals_of, self._directory / "dump")
        finally:
            self._write_schedule()
        figures = {
            "seed": self._schedule.seed,
            "standby": self._schedule.with_standby,
            "faults": dict(Counter(one.fault.kind.value for one in self._happenings if one.landed)),
            "faults_asked": len(self._happenings),
            "faults_landed": sum(one.landed for one in self._happenings),
            "events": verdict.events,
            **{harm: getattr(verdict, harm) for harm in HARMS},
            "decisions": verdict.decisions,
            **approvals._asdict(),
            "locks": verdict.locks,
            "redeliveries": verdict.redeliveries,
            "rebalances": rebalances,
            **_percentiles([one.recovery_s for one in self._happenings if one.recovery_s is not None]),
            "faults_not_recovered": sum(one.recovery_s is None for one in self._happenings),
            "worker_ends": sum(len(worker.ended) for worker in self._workers),
            "wall_s": round(time.monotonic() - self._began_s, 1),
        }
        return Outcome(figures, verdict.findings, self._outputs)

    async def _with_brokers(self, cluster: KafkaCluster, names: Sequence[str]) -> int:
        own = Settings(
            broker=cluster.url, data_dir=self._directory / "none", session_timeout_ms=int(SESSION_TIMEOUT_S * 1000)
        )
        config = self._directory / "tidegate.toml"
        config.write_text(desk.toml_of(desk.configuration(time.time())))
        await create_topics(own, partitions=PARTITIONS, replication_factor=BROKERS)
        async with contextlib.AsyncExitStack() as stack:
            proxies = []
            for number, name in enumerate(names):
                advertised = [int(one.rpartition(":")[2]) for one in cluster.bootstrap_of(name).split(",")]
                proxy = await Proxy(dict(zip(advertised, cluster.ports_of(name), strict=True))).start()
                stack.push_async_callback(proxy.stop)
                proxies.append(proxy)
                settings = replace(
                    own,
                    broker=f"kafka://{cluster.bootstrap_of(name)}",
                    data_dir=self._directory / f"worker-{number}",
                    rebalance_timeout_ms=30_000,
                    lag_commit_interval_ms=2_000,
                    forget_slack_ms=30_000,
                    standby=self._schedule.with_standby,
                )
                worker = Worker(number, settings, config, self._directory / f"worker-{number}.log")
                self._workers.append(worker)
                stack.push_async_callback(worker.close)
            await self._start_workers()
            self._monitor = Monitor(own, desk.probes())
            stack.push_async_callback(self._monitor.stop)
            await self._monitor.start()
            injector = Injector(cluster, own, self._workers, proxies, self._monitor)
            await self._under_load(own, injector)
            await self._drain(own)
            await self._stop_workers()
            self._phase = "restarting once"
            # What is on disk must be what the changelog says, also after it was opened once more.
            await self._start_workers()
            await self._stop_workers()
            self._phase = "dumping"
            rebalances = await rebalances_of(own)
            await dump(
                own,
                self._directory / "dump",
                config=config,
                data_dirs={f"worker-{worker.number}": worker.data_dir for worker in self._workers},
            )
            return rebalances

    async def _start_workers(self) -> None:
        self._phase = "starting workers"
        for worker in self._workers:
            worker.start()
        if not await self._served(_START_S):
            raise Stuck(f"the workers do not serve all partitions {_START_S:.0f} s after their start")

    async def _served(self, deadline_s: float) -> bool:
        """Wait until every partition is served by one worker."""
        end_s = time.monotonic() + deadline_s
        while time.monotonic() < end_s:
            served = [number for worker in self._workers for number in worker.serving]
            if sorted(served) == list(range(PARTITIONS)) and all(worker.is_serving for worker in self._workers):
                return True
            await asyncio.sleep(0.1)
        return False

    async def _stop_workers(self) -> None:
        self._phase = "stopping workers"
        counts = [len(worker.ended) for worker in self._workers]
        for worker in self._workers:
            worker.hold()
            worker.send(signal.SIGTERM)
        for worker, count in zip(self._workers, counts, strict=True):
            if not await worker.until(lambda one=worker, seen=count: len(one.ended) > seen, _STOP_S):  # type: ignore[misc]
                raise Stuck(f"worker {worker.number} did not stop within {_STOP_S:.0f} s of SIGTERM")
            if worker.ended[-1].status != 0:
                raise Stuck(f"worker {worker.number} did not stop cleanly: {worker.ended[-1]}")

    async def _under_load(self, settings: Settings, injector: Injector) -> None:
        self._phase = "faults"
        assert self._monitor is not None
        async with self._load(settings) as load:
            self._load_s = time.monotonic()
            governor = asyncio.create_task(self._govern(load))
            try:
                await self._inject_all(injector)
                self._tell(load, "finish")
                self._phase = "publishing the rest"
                status = await load.wait()
            finally:
                governor.cancel()
            if status:
                raise Stuck(f"the load ended with {status}; see {self._directory / 'load.log'}")

    async def _inject_all(self, injector: Injector) -> None:
        injecting = []
        for happening in self._happenings:
            await asyncio.sleep(max(0.0, self._load_s + happening.fault.at_s - time.monotonic()))
            await self._let_recover()
            task = asyncio.create_task(injector.inject(happening), name=str(happening.fault))
            task.add_done_callback(lambda _: self._write_schedule())
            injecting.append(task)
        if injecting:
            done, pending = await asyncio.wait(injecting, timeout=_FAULTS_OVER_S)
            for task in pending:
                task.cancel()
            if pending:
                raise Stuck(f"faults are not over: {', '.join(task.get_name() for task in pending)}")
            for task in done:
                task.result()

    async def _let_recover(self) -> None:
        """Wait, but not for ever, while too many faults are not recovered from: on a slow machine they would pile up
        until nobody ever serves, and the rest of them would hit nothing that works."""
        assert self._monitor is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LET_RECOVER_S):
                while sum(one.is_felt for one in self._happenings) >= _FELT_AT_ONCE:
                    await self._monitor.next_recovery()

    @asynccontextmanager
    async def _load(self, settings: Settings) -> AsyncIterator[asyncio.subprocess.Process]:
        values = json.dumps({"broker": settings.broker, "data_dir": str(settings.data_dir)})
        arguments = (values, self._schedule.seed, self._schedule.events, self._rate, os.getpid())
        with (self._directory / "load.log").open("ab") as log:
            load = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.chaos.producing", *map(str, arguments)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
            )
        reading = asyncio.create_task(self._read_load(load))
        try:
            yield load
            await reading
        finally:
            reading.cancel()
            if load.returncode is None:
                load.kill()
                await load.wait()

    async def _read_load(self, load: asyncio.subprocess.Process) -> None:
        assert load.stdout is not None
        async for line in load.stdout:
            told = json.loads(line)
            self._published = told["acknowledged"]
            self._mix = told.get("mix", self._mix)

    async def _govern(self, load: asyncio.subprocess.Process) -> None:
        """Hold the load while the gate is far behind, or the load ahead of the faults that are to lie all over it."""
        held = False
        assert self._monitor is not None
        while True:
            lag = self._monitor.lag
            begun = sum(one.begun_s is not None for one in self._happenings)
            is_ahead = self._published > self._schedule.events * (begun + 1) / (len(self._happenings) + 1)
            if not held and (lag > _HOLD_AT or is_ahead):
                held = True
                self._tell(load, "hold")
            elif held and lag < _GO_AT and not is_ahead:
                held = False
                self._tell(load, "go")
            await asyncio.sleep(0.5)

    def _tell(self, load: asyncio.subprocess.Process, order: str) -> None:
        if load.stdin is not None and not load.stdin.is_closing():
            load.stdin.write(f"{order}\n".encode())

    async def _drain(self, settings: Settings) -> None:
        """Wait until the group serves everything, has recovered from every blow and applied every input record."""
        assert self._monitor is not None
        self._phase = "draining"
        end_s = time.monotonic() + _DRAIN_S
        if not await self._served(_DRAIN_S):
            raise Stuck(f"the partitions are not all served {_DRAIN_S:.0f} s after the last fault")
        await self._monitor.until_recovered(end_s - time.monotonic())
        self._monitor.stop_probing()
        while not await self._monitor.drained():
            if time.monotonic() > end_s:
                raise Stuck(f"the lag is still {self._monitor.lag} records {_DRAIN_S:.0f} s after the last fault")
            await asyncio.sleep(0.5)

    def _standing(self) -> Standing:
        monitor = self._monitor
        return Standing(
            phase=self._phase,
            elapsed_s=time.monotonic() - self._began_s,
            faults_begun=sum(one.injected_s is not None for one in self._happenings),
            faults_landed=sum(one.landed for one in self._happenings),
            faults_asked=len(self._happenings),
            current=", ".join(
                one.fault.kind.value for one in self._happenings if one.injected_s is not None and one.over_s is None
            ),
            events=self._published + (monitor.probed if monitor is not None else 0),
            applied=monitor.applied if monitor is not None else 0,
            lag=monitor.lag if monitor is not None else 0,
            workers_up=sum(worker.pid is not None for worker in self._workers),
            partitions_served=sum(len(worker.serving) for worker in self._workers),
            last_recovery_s=monitor.last_recovery_s if monitor is not None else None,
        )

    def _write_schedule(self) -> None:
        happened = [
            {
                "number": one.fault.number,
                "kind": one.fault.kind,
                "injected_s": _since(self._load_s, one.injected_s),
                "over_s": _since(self._load_s, one.over_s),
                "landed": one.landed,
                "recovery_s": None if one.recovery_s is None else round(one.recovery_s, 2),
                "evidence": one.evidence,
            }
            for one in self._happenings
        ]
        ends = [
            {
                "worker": worker.number,
                "at_s": _since(self._load_s, end.at_s),
                "status": end.status,
                "said": end.last_line,
            }
            for worker in self._workers
            for end in worker.ended
        ]
        kept = {
            "schedule": to_json(self._schedule),
            "rate_per_s": round(self._rate, 1),
            "happened": happened,
            "worker_ends": ends,
            "published": self._mix,
            "outputs": self._outputs,
        }
        (self._directory / "schedule.json").write_text(json.dumps(kept, indent=1, default=str) + "\n")


def _since(start_s: float, at_s: float | None) -> float | None:
    return None if at_s is None or not start_s else round(at_s - start_s, 2)


def _percentiles(seconds: Sequence[float]) -> dict[str, float | None]:
    ordered = sorted(seconds)

    def at(share: float) -> float | None:
        return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 2) if ordered else None

    return {"recovery_p50_s": at(0.5), "recovery_p99_s": at(0.99), "recovery_max_s": at(1.0)}
