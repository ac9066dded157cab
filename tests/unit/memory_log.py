"""A log in memory that keeps Kafka's promises: transactions, fences, and crashes at any chosen step."""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass, field

from streams.core.records import Output
from streams.core.state import Change
from streams.runtime.log import LogError, Restored
from streams.runtime.store import state_record


class Crash(Exception):
    """The process died here."""


@dataclass
class Broker:
    """One partition's changelog and outputs, shared by all who ever own it."""

    epoch: int = 0
    changelog: list[Change | None] = field(default_factory=list)
    """Committed changes; None stands for a transaction marker or an aborted record."""
    outputs: list[Output] = field(default_factory=list)
    journal: list[bytes] = field(default_factory=list)
    open_changes: list[Change] = field(default_factory=list)

    def abort(self) -> None:
        self.changelog += [None] * (len(self.open_changes) + bool(self.open_changes))
        self.open_changes = []


class MemoryLog:
    """``Log`` on a ``Broker``. ``crash_at`` names the step that raises: begin, send, sent, commit or committed."""

    def __init__(self, broker: Broker, crash_at: str = "", steps: list[str] | None = None) -> None:
        self._broker = broker
        self._crash_at = crash_at
        self.steps = [] if steps is None else steps
        self._epoch = -1
        self._outputs: list[Output] = []
        self._journal = b""
        self.closed = False

    async def fence(self) -> None:
        self._step("fence")
        self._broker.epoch += 1
        self._epoch = self._broker.epoch
        self._broker.abort()

    async def changelog_end(self) -> int:
        self._step("end")
        return len(self._broker.changelog) + len(self._broker.open_changes)

    async def changelog(self, start: int, end: int) -> AsyncGenerator[Restored, None]:
        self._step("restore")
        position = start
        while position < end:
            upto = min(position + 2, len(self._broker.changelog))
            yield Restored([*map(state_record, filter(None, self._broker.changelog[position:upto]))], upto)
            position = upto

    async def begin(self) -> None:
        self._step("begin")
        self._check_epoch()

    async def send(self, outputs: Iterable[Output], changes: Iterable[Change], journal: bytes) -> int:
        self._step("send")
        self._check_epoch()
        self._outputs, self._journal = list(outputs), journal
        self._broker.open_changes = list(changes)
        self._step("sent")
        return len(self._broker.changelog) + len(self._broker.open_changes)

    async def commit(self) -> None:
        self._step("commit")
        self._check_epoch()
        self._broker.changelog += [*self._broker.open_changes, None]
        self._broker.open_changes = []
        self._broker.outputs += self._outputs
        self._broker.journal.append(self._journal)
        self._step("committed")

    async def close(self) -> None:
        self.closed = True

    def _check_epoch(self) -> None:
        if self._epoch != self._broker.epoch:
            raise LogError("fenced")

    def _step(self, name: str) -> None:
        self.steps.append(name)
        if name == self._crash_at:
            raise Crash(name)
