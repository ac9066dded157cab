"""The faults: what each kind does to a process, a disk or a connection, and what proves that it did.

A fault lands only with its evidence: the process died of that signal, the group went on without the paused worker and
it ended or began anew when it woke up, so many connections were cut, the write failed for want of space. One without
evidence is reported as not landed, and fails the run.

Faults overlap, but one worker suffers one at a time, and one broker is down at a time: with two of three gone no topic
can be written, which says nothing about the gate.
"""

import asyncio
import contextlib
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aiokafka.errors import KafkaError

from infra.cluster import KafkaCluster
from streams.core.records import SIGNALS
from streams.runtime import kafka
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames
from tests.chaos.monitor import Blow, Monitor
from tests.chaos.proxy import Proxy
from tests.chaos.schedule import ON_BROKERS, WORKERS, Fault, Kind
from tests.chaos.workers import Ended, Worker

_SERVES_S = 60.0
_ENDS_S = 60.0
_IN_SYNC_S = 90.0
_TAKEN_OVER_S = 30.0
_RESTORE_ATTEMPTS = 6
_DELAY_S = 0.15
_FILE_LIMIT_BYTES = 4_096
_PATTERNS = {"sst": "*.sst", "manifest": "MANIFEST-*", "current": "CURRENT"}


@dataclass(slots=True)
class Happening:
    """What became of a planned fault."""

    fault: Fault
    begun_s: float | None = None
    """When its turn came, by ``time.monotonic``; its target may not have been ready for it."""
    injected_s: float | None = None
    """When it struck; None: it has not yet."""
    over_s: float | None = None
    landed: bool = False
    evidence: list[str] = field(default_factory=list)
    blows: list[Blow] = field(default_factory=list)

    @property
    def is_felt(self) -> bool:
        """Whether it has begun and is not recovered from, or not over."""
        return self.begun_s is not None and (self.over_s is None or (bool(self.blows) and self.recovery_s is None))

    @property
    def recovery_s(self) -> float | None:
        """The longest of its blows; None while one is not recovered from."""
        times = [blow.recovered_s for blow in self.blows]
        known = [seconds for seconds in times if seconds is not None]
        return max(known) if known and len(known) == len(times) else None


class Injector:
    """Injects faults into a running cluster with its workers."""

    def __init__(
        self,
        cluster: KafkaCluster,
        settings: Settings,
        workers: Sequence[Worker],
        proxies: Sequence[Proxy],
        monitor: Monitor,
    ) -> None:
        self._cluster = cluster
        self._settings = settings
        self._workers = workers
        self._proxies = proxies
        self._monitor = monitor
        self._broker_lock = asyncio.Lock()
        self._kinds: Mapping[Kind, Callable[[Happening, Worker], Awaitable[None]]] = {
            Kind.WORKER_KILL: self._kill,
            Kind.WORKER_PAUSE: self._pause,
            Kind.KILL_IN_RESTORE: self._kill_in_restore,
            Kind.DATA_WIPED: self._wipe,
            Kind.DATA_TRUNCATED: self._truncate,
            Kind.CONNECTIONS_CUT: self._cut,
            Kind.CONNECTIONS_SLOWED: self._slow,
            Kind.DISK_FULL: self._fill_disk,
        }

    async def inject(self, happening: Happening) -> None:
        """Let it happen, gather the evidence, and return when its target is left to itself again."""
        fault = happening.fault
        happening.begun_s = time.monotonic()
        try:
            if fault.kind in ON_BROKERS:
                async with self._broker_lock:
                    await self._kill_broker(happening)
            elif fault.kind is Kind.ROLLING_RESTART:
                await self._roll(happening)
            else:
                worker = self._workers[fault.worker]
                async with worker.lock:
                    if not await worker.until(lambda: bool(worker.serving), _SERVES_S):
                        happening.evidence.append(f"worker {worker.number} served nothing for {_SERVES_S:.0f} s")
                        return
                    await self._kinds[fault.kind](happening, worker)
        finally:
            happening.over_s = time.monotonic()

    def _blow(self, happening: Happening) -> None:
        blow = self._monitor.blow()
        happening.blows.append(blow)
        happening.injected_s = happening.injected_s or blow.at_s

    # -- processes

    async def _killed(self, happening: Happening, worker: Worker) -> Ended | None:
        """SIGKILL, and how the process ended; None if it did not end of that."""
        count, held = len(worker.ended), sorted(worker.assigned)
        pid = worker.send(signal.SIGKILL)
        self._blow(happening)
        ended = await self._end_of(worker, count)
        if ended is None or ended.pid != pid or ended.status != -signal.SIGKILL:
            happening.evidence.append(f"process {pid} did not die of SIGKILL: {ended}")
            return None
        happening.evidence.append(f"process {pid}, assigned {held}, died of SIGKILL")
        return ended

    async def _end_of(self, worker: Worker, count: int) -> Ended | None:
        """The first end of a process after ``count`` of them."""
        await worker.until(lambda: len(worker.ended) > count, _ENDS_S)
        return worker.ended[count] if len(worker.ended) > count else None

    async def _kill(self, happening: Happening, worker: Worker) -> None:
        happening.landed = await self._killed(happening, worker) is not None

    async def _pause(self, happening: Happening, worker: Worker) -> None:
        count, assignments, line = len(worker.ended), worker.assignments, len(worker.lines)
        pid, held = worker.pid, worker.assigned
        worker.send(signal.SIGSTOP)
        self._blow(happening)
        try:
            await asyncio.sleep(happening.fault.lasts_s)
            stopped = pid is not None and _state_of(pid) == "T"
            others = [one for one in self._workers if one is not worker]

            lost = await _within(_TAKEN_OVER_S, lambda: held <= frozenset().union(*(one.assigned for one in others)))
        finally:
            worker.send(signal.SIGCONT)
        happening.evidence.append(
            f"process {pid} was {'stopped' if stopped else 'not stopped'}; its partitions {sorted(held)} were "
            f"{'assigned to others' if lost else 'not taken over'}"
        )
        woke_up = await worker.until(lambda: len(worker.ended) > count or worker.assignments > assignments, _ENDS_S)
        if len(worker.ended) > count:
            happening.evidence.append(
                f"woken it ended with {worker.ended[count].status}: {worker.ended[count].last_line}"
            )
        elif woke_up:
            told = next((text for text in worker.lines[line:] if "released" in text or "assigned" in text), "")
            happening.evidence.append(f"woken it gave up what it had and joined anew: {told}")
        happening.landed = stopped and lost and woke_up

    async def _roll(self, happening: Happening) -> None:
        ends: list[str] = []
        for step in range(WORKERS):
            worker = self._workers[(happening.fault.worker + step) % WORKERS]
            async with worker.lock:
                await worker.until(lambda one=worker: bool(one.serving), _SERVES_S)  # type: ignore[misc]
                count = len(worker.ended)
                pid = worker.send(signal.SIGTERM)
                self._blow(happening)
                ended = await self._end_of(worker, count)
                if ended is not None and ended.pid == pid:
                    ends.append(f"process {pid} ended with {ended.status}: {ended.last_line}")
                    happening.evidence.append(ends[-1])
                await worker.until(lambda one=worker: bool(one.serving), _SERVES_S)  # type: ignore[misc]
        happening.landed = len(ends) == WORKERS

    async def _kill_in_restore(self, happening: Happening, worker: Worker) -> None:
        for _ in range(_RESTORE_ATTEMPTS):
            # Without its disk it has everything to restore.
            worker.hold()
            try:
                if await self._killed(happening, worker) is None:
                    return
                worker.wipe()
            finally:
                worker.release()
            count = len(worker.ended)
            await worker.until(
                lambda seen=count: len(worker.ended) > seen or worker.serving < worker.assigned,  # type: ignore[misc]
                _SERVES_S,
            )
            ended = await self._killed(happening, worker)
            if ended is not None and ended.serving < ended.assigned:
                happening.evidence.append(
                    f"it was restoring: assigned {sorted(ended.assigned)}, served {sorted(ended.serving)}"
                )
                happening.landed = True
                return
            await worker.until(lambda: bool(worker.serving), _SERVES_S)

    # -- disks

    async def _wipe(self, happening: Happening, worker: Worker) -> None:
        worker.hold()
        try:
            if await self._killed(happening, worker) is None:
                return
            databases = len(_databases(worker))
            worker.wipe()
        finally:
            line = len(worker.lines)
            worker.release()
        happening.evidence.append(f"{databases} databases were removed")
        served = await worker.until(lambda: worker.is_serving, _SERVES_S)
        restored = [text.partition("serving ")[2] for text in worker.lines[line:] if "records restored" in text]
        happening.evidence.append(f"then: {'; '.join(restored)}")
        happening.landed = databases > 0 and served

    async def _truncate(self, happening: Happening, worker: Worker) -> None:
        worker.hold()
        try:
            if await self._killed(happening, worker) is None:
                return
            cut = {int(path.name): _cut_a_file(path, happening.fault.file) for path in _databases(worker)}
        finally:
            line = len(worker.lines)
            worker.release()
        cut = {number: what for number, what in cut.items() if what}
        happening.evidence.append(f"cut: {', '.join(f'{number}/{what}' for number, what in cut.items())}")
        opened = await worker.until(lambda: bool(worker.serving & cut.keys()), _SERVES_S)
        told = [text for text in worker.lines[line:] if "damaged" in text]
        happening.evidence.append(
            f"served {sorted(worker.serving & cut.keys())} of them again, {len(told)} found damaged and wiped"
        )
        happening.landed = bool(cut) and opened

    async def _fill_disk(self, happening: Happening, worker: Worker) -> None:
        count, line = len(worker.ended), len(worker.lines)
        worker.limit_files(_FILE_LIMIT_BYTES)
        self._blow(happening)
        ended = await self._end_of(worker, count)
        failed = next((text for text in worker.lines[line:] if "File too large" in text), None)
        happening.evidence.append(f"ended with {ended.status if ended else None}: {failed}")
        happening.landed = ended is not None and ended.status > 0 and failed is not None

    # -- connections

    async def _cut(self, happening: Happening, worker: Worker) -> None:
        proxy, lasts_s = self._proxies[worker.number], happening.fault.lasts_s
        refused = proxy.refused_count
        count = proxy.refuse() if lasts_s else proxy.cut()
        self._blow(happening)
        try:
            await asyncio.sleep(lasts_s)
        finally:
            proxy.restore()
        happening.evidence.append(
            f"{count} connections were cut, {proxy.refused_count - refused} refused in {lasts_s} s"
        )
        happening.landed = count > 0

    async def _slow(self, happening: Happening, worker: Worker) -> None:
        proxy = self._proxies[worker.number]
        held_back = proxy.delayed_bytes
        proxy.slow(_DELAY_S)
        self._blow(happening)
        try:
            await asyncio.sleep(happening.fault.lasts_s)
        finally:
            proxy.restore()
        count = proxy.delayed_bytes - held_back
        happening.evidence.append(
            f"{count} bytes were held back by {_DELAY_S} s a chunk, {happening.fault.lasts_s} s long"
        )
        happening.landed = count > 0

    # -- brokers

    async def _kill_broker(self, happening: Happening) -> None:
        fault = happening.fault
        node, role = await self._broker_of(fault)
        if node is None:
            happening.evidence.append(f"no {role} to be found")
            return
        pid = self._cluster.pid(node)
        self._blow(happening)
        await asyncio.to_thread(self._cluster.kill, node)
        died = pid is not None and not _state_of(pid)
        try:
            await asyncio.sleep(fault.lasts_s)
        finally:
            await asyncio.to_thread(self._cluster.restart, node)
        restarted_s = time.monotonic()
        in_sync = await self._all_in_sync()
        happening.evidence.append(
            f"broker {node} ({role}), process {pid}, {'died' if died else 'lives on'}; back as "
            f"{self._cluster.pid(node)}, {'in sync' if in_sync else 'not in sync'} after "
            f"{time.monotonic() - restarted_s:.1f} s"
        )
        happening.landed = died and in_sync

    async def _broker_of(self, fault: Fault) -> tuple[int | None, str]:
        if fault.kind is Kind.CONTROLLER_KILL:
            return await asyncio.to_thread(self._cluster.controller), "active controller"
        if fault.kind is Kind.LEADER_KILL:
            topic = TopicNames.of(self._settings).physical(SIGNALS)
            role = f"leader of {topic}-{fault.partition}"
            for described in await self._describe([topic]):
                for partition in described["partitions"]:
                    if partition["partition"] == fault.partition and partition["leader"] >= 0:
                        return int(partition["leader"]), role
            return None, role
        return fault.broker, "any"

    async def _all_in_sync(self) -> bool:
        """Wait until every replica of every partition is in sync again."""
        end_s = time.monotonic() + _IN_SYNC_S
        while time.monotonic() < end_s:
            with contextlib.suppress(KafkaError, OSError):
                described = await self._describe(None)
                if all(
                    len(partition["isr"]) == len(partition["replicas"])
                    for topic in described
                    for partition in topic["partitions"]
                ):
                    return True
            await asyncio.sleep(0.25)
        return False

    async def _describe(self, topics: list[str] | None) -> list[dict]:  # type: ignore[type-arg]
        admin = kafka.admin(self._settings)
        await admin.start()
        try:
            return list(await admin.describe_topics(topics))
        finally:
            await admin.close()


async def _within(deadline_s: float, condition: Callable[[], bool]) -> bool:
    """Wait for a condition on several workers; whether it held in time."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(deadline_s):
            while not condition():  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    return condition()


def _state_of(pid: int) -> str:
    """The process's state as the kernel says it: T is stopped."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def _databases(worker: Worker) -> list[Path]:
    return sorted(path for path in (worker.data_dir / "state").glob("*") if path.is_dir() and path.name.isdigit())


def _cut_a_file(database: Path, kind: str) -> str:
    """Cut a file of that kind (else of the next that there is) to half its size; what was done, or nothing."""
    for pattern in (_PATTERNS[kind], *_PATTERNS.values()):
        files = [path for path in database.glob(pattern) if path.stat().st_size > 1]
        if files:
            largest = max(files, key=lambda path: path.stat().st_size)
            size = largest.stat().st_size
            with largest.open("r+b") as file:
                file.truncate(size // 2)
            return f"{largest.name} {size} → {size // 2}"
    return ""
