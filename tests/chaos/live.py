"""The line that says how a run is getting on: redrawn on a terminal, once in ten seconds in a log."""

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

from rich.console import Console
from rich.live import Live as RichLive
from rich.text import Text

_LOG_EVERY_S = 10.0


class Standing(NamedTuple):
    """What is known at one moment."""

    phase: str
    elapsed_s: float
    faults_begun: int
    faults_landed: int
    faults_asked: int
    current: str
    events: int
    applied: int
    lag: int
    workers_up: int
    partitions_served: int
    last_recovery_s: float | None

    def __str__(self) -> str:
        recovery = "–" if self.last_recovery_s is None else f"{self.last_recovery_s:.1f} s"
        return (
            f"{self.elapsed_s:4.0f} s  {self.phase}"
            f" · faults {self.faults_landed}/{self.faults_asked}{f' ({self.current})' if self.current else ''}"
            f" · events {self.events:,} · applied {self.applied:,} · lag {self.lag:,}"
            f" · workers {self.workers_up} up, {self.partitions_served} partitions · last recovery {recovery}"
        )


class Live:
    """Shows ``standing()`` on standard error while it is open, from a thread of its own."""

    def __init__(self, standing: Callable[[], Standing], *, quiet: bool = False) -> None:
        self._standing = standing
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._rich: RichLive | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._quiet:
            return self
        if self._console.is_terminal:
            self._rich = RichLive(
                get_renderable=lambda: Text(str(self._standing())), console=self._console, refresh_per_second=4
            )
            self._rich.start()
        else:
            self._thread = threading.Thread(target=self._log, daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self._rich is not None:
            self._rich.stop()

    def _log(self) -> None:
        while not self._over.wait(_LOG_EVERY_S):
            sys.stderr.write(f"{self._standing()}\n")
