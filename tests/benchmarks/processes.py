"""Processes under measurement: pinned to a core, their CPU time and memory read from /proc, ended by process id."""

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from infra.child import Child

BROKER_CORE, ENGINE_CORE = 0, min(1, (os.cpu_count() or 1) - 1)
"""Broker and load share one core, the engine has the other (where there are two)."""

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_STOP_DEADLINE_S = 30.0


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
    """A process on the engine's core, which its owner does not leave behind; its output goes to ``log``, beside which
    all of its files are."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> None:
        with pinned_to(ENGINE_CORE):
            self._child = Child(command, log=log, scratch=log.parent, env=os.environ | (environment or {}))

    @property
    def log(self) -> str:
        """What it has said."""
        return self._child.output()

    def check(self) -> None:
        """Raises RuntimeError, with the end of its log, if it has ended."""
        if not self._child.running:
            raise RuntimeError(f"it ended:\n{self._child.log_tail()}")

    def cpu_s(self) -> float:
        """User and system time so far, of the process and its children."""
        return sum(map(_cpu_s, _family(self._child.pid)))

    def resident_bytes(self) -> int:
        """Memory in use now."""
        return int(Path(f"/proc/{self._child.pid}/statm").read_text().split()[1]) * _PAGE_BYTES

    def terminate(self) -> None:
        """SIGTERM, and SIGKILL if that does not end it. Safe to call twice."""
        self._child.terminate(_STOP_DEADLINE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
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
    """Size of all files below a directory; its owner may be writing and deleting some."""
    size = 0
    for file in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            size += file.stat().st_size if file.is_file() else 0
    return size
