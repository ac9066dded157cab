"""How the processes of one data directory ended, counted over restarts.

A worker that was fenced or stuck is gone before anyone scrapes what it says of itself. So its end is written down
beside its state, and its successor shows it. One that was killed writes nothing, which the next start notices.
"""

import contextlib
import json
import logging
from pathlib import Path

from streams.runtime.log import FencedError

log = logging.getLogger(__name__)

STOPPED, FAILED, FENCED, STUCK, KILLED = "stopped", "failed", "fenced", "stuck", "killed"
REASONS = (STOPPED, FAILED, FENCED, STUCK, KILLED)
_FILE = "ends.json"


class Ends:
    """The counts, in a small file that is read and written at the start and at the end. Losing it loses counts only."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / _FILE
        self.starts = 0
        self._running = False
        self.counts = dict.fromkeys(REASONS, 0)

    def start(self) -> None:
        """Read what former processes left, and note that this one runs."""
        held: dict[str, object] = {}
        with contextlib.suppress(OSError, ValueError):
            read = json.loads(self._path.read_text(encoding="utf-8"))
            held = read if isinstance(read, dict) else {}
        self.starts = _count(held.get("starts")) + 1
        ends = held.get("ends")
        if isinstance(ends, dict):
            self.counts |= {reason: _count(ends.get(reason)) for reason in REASONS}
        if held.get("running") is True:
            self.counts[KILLED] += 1
        self._running = True
        self._write()

    def end(self, reason: str) -> None:
        """Note why this one ends, if it was started. The first reason is the one."""
        if self._running:
            self._running = False
            self.counts[reason] += 1
            self._write()

    def _write(self) -> None:
        text = json.dumps({"running": self._running, "starts": self.starts, "ends": self.counts})
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            beside = self._path.with_suffix(".new")
            beside.write_text(text, encoding="utf-8")
            beside.replace(self._path)
        except OSError as error:
            log.warning("%s cannot be written: %s", self._path, error)


def reason_of(error: BaseException | None) -> str:
    """What ended a process, from what it raised."""
    if error is None:
        return STOPPED
    return FENCED if isinstance(error, FencedError) else FAILED


def _count(value: object) -> int:
    return value if isinstance(value, int) and value >= 0 else 0
