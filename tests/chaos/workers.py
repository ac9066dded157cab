"""The three workers as their supervisor sees them: processes that are started again whenever they end.

A worker's log is read as it is written: its lines tell which partitions it was assigned and serves, and why it ended.
"""

import asyncio
import contextlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from streams.runtime.settings import Settings

_RESTART_AFTER_S = 0.5
_ASSIGNED = re.compile(r"assigned partitions (?:\[([0-9, ]*)\]|none)")
_RELEASED = re.compile(r"released partitions")
_SERVING = re.compile(r"serving partition (\d+),")
_LINE_MAX_BYTES = 4 * 1024 * 1024


class Ended(NamedTuple):
    """How a process of a worker ended."""

    at_s: float
    pid: int
    status: int
    """Exit status, or the negative number of the signal."""
    last_line: str
    assigned: frozenset[int]
    """What it was assigned at the end."""
    serving: frozenset[int]
    """What of that it served."""


class Worker:
    """One worker: its directory, its settings, and whichever process runs now.

    Whatever ends the process, a new one is started half a second later, unless it is ``held`` down.
    """

    def __init__(self, number: int, settings: Settings, config: Path, log: Path) -> None:
        self.number = number
        self.settings = settings
        self.lock = asyncio.Lock()
        """Held by the fault that works on this worker."""
        self.ended: list[Ended] = []
        self.assignments = 0
        """How often it was assigned partitions (or none)."""
        self.assigned: frozenset[int] = frozenset()
        self.serving: frozenset[int] = frozenset()
        self.lines: list[str] = []
        """Its log, of all its processes."""
        self._config = config
        self._log = log
        self._process: asyncio.subprocess.Process | None = None
        self._held = False
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id while one runs."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def data_dir(self) -> Path:
        """Where its databases are."""
        return self.settings.data_dir

    @property
    def is_serving(self) -> bool:
        """Whether it has been assigned partitions and serves all of them."""
        return bool(self.assigned) and self.serving == self.assigned

    def start(self) -> None:
        """Begin to supervise."""
        self.release()
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._supervise(), name=f"worker {self.number}")

    async def close(self) -> None:
        """Kill what runs, and supervise no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    def hold(self) -> None:
        """Start no further process until ``release``."""
        self._held = True

    def release(self) -> None:
        """Be supervised again."""
        self._held = False
        self._tell()

    def send(self, number: signal.Signals) -> int | None:
        """Send a signal to the running process; its id, or None if there was none."""
        pid = self.pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        return pid

    def limit_files(self, size_bytes: int) -> None:
        """No file of the running process can grow beyond this any more: writes fail (EFBIG). Python ignores SIGXFSZ."""
        if self.pid is not None:
            _, hard = resource.prlimit(self.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size_bytes, hard))

    def wipe(self) -> None:
        """Remove its data directory. Only while nothing runs."""
        shutil.rmtree(self.data_dir, ignore_errors=True)

    async def until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        """Wait until a condition on this worker holds; whether it did in time. Looked at whenever the log grows."""
        end_s = time.monotonic() + deadline_s
        while not condition():
            left_s = end_s - time.monotonic()
            if left_s <= 0:
                return False
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left_s, 0.25))
        return True

    async def _supervise(self) -> None:
        while True:
            if self._held:
                self._changed.clear()
                await self._changed.wait()
                continue
            await self._run_once()
            await asyncio.sleep(_RESTART_AFTER_S)

    async def _run_once(self) -> None:
        values = {name: value for name, value in asdict(self.settings).items() if name != "security"}
        values["data_dir"] = str(self.data_dir)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.chaos.worker_process"),
            *(json.dumps(values), str(self._config), str(os.getpid())),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            limit=_LINE_MAX_BYTES,
        )
        self._process = process
        assert process.stdout is not None
        with self._log.open("a", buffering=1) as file:
            file.write(f"--- started as process {process.pid}\n")
            try:
                async for line in process.stdout:
                    self._read(line.decode(errors="replace").rstrip("\n"))
                    file.write(f"{self.lines[-1]}\n")
                status = await process.wait()
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            last_line = self.lines[-1] if self.lines else ""
            self.ended.append(Ended(time.monotonic(), process.pid, status, last_line, self.assigned, self.serving))
            self.assigned = self.serving = frozenset()
            file.write(f"--- process {process.pid} ended with {status}\n")
        self._tell()

    def _read(self, line: str) -> None:
        self.lines.append(line)
        if found := _ASSIGNED.search(line):
            self.assignments += 1
            self.assigned = frozenset(int(number) for number in (found[1] or "").split(",") if number.strip())
            self.serving = frozenset()
        elif _RELEASED.search(line):
            self.assigned = self.serving = frozenset()
        elif found := _SERVING.search(line):
            self.serving |= {int(found[1])}
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
