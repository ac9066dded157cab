"""Processes under measurement: pinned to a core, their CPU time and memory read from /proc, ended by process id."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

BROKER_CORE, ENGINE_CORE = 0, min(1, (os.cpu_count() or 1) - 1)
"""Broker and load share one core, the engine has the other (where there are two)."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STOP_DEADLINE_S = 30.0


def pin_to(core: int) -> None:
    """Keep this process, and those that it starts from now on, on one core."""
    os.sched_setaffinity(0, {core})


@contextlib.contextmanager
def pinned_to(core: int) -> Iterator[None]:
    """Pin for a while: what is started meanwhile stays there."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


class Measured:
    """A process on the engine's core; its output is in ``log``."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: dict[str, str] | None = None,
        core: int = ENGINE_CORE,
    ) -> None:
        self._log = log
        with log.open("ab") as file, pinned_to(core):
            self._process = subprocess.Popen(command, stdout=file, stderr=file, env=os.environ | (environment or {}))

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def check(self) -> None:
        """Raises RuntimeError, with the end of its log, if it has ended."""
        if self._process.poll() is not None:
            raise RuntimeError(f"ended with status {self._process.returncode}:\n{self.log[-3_000:]}")

    def cpu_s(self) -> float:
        """User and system time so far, of the process and its children."""
        return sum(map(_cpu_s, _family(self.pid)))

    def resident_bytes(self) -> int:
        """Memory in use now."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def terminate(self) -> int:
        """SIGTERM, and SIGKILL if that does not end it; its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(_STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self.terminate()


def _family(pid: int) -> Iterator[int]:
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            yield from _family(int(child))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def directory_bytes(path: Path) -> int:
    """Size of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
