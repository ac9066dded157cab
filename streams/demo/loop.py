"""The closed loop: a phase is published, answered in full and told to the desk before the next begins."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from streams.demo.chronicle import Heard
from streams.demo.desk import Desk, Message
from streams.demo.market import Tick


class Gate(Protocol):
    """Where messages go and answers come from."""

    async def submit(self, messages: Sequence[Message]) -> list[Heard]:
        """Publish the messages; once all are applied, return what the gate published, in a fixed order."""


async def run(desk: Desk, gate: Gate, market: Iterable[Tick], watch: Callable[[Tick], Awaitable[None]]) -> None:
    """Play the market through the gate; `watch` is awaited after every tick."""
    phases = (desk.controls, desk.touches, desk.marks, desk.signals, desk.oddities, desk.reports)
    for tick in market:
        for phase in phases:
            messages = phase(tick)
            if messages:
                desk.hear(await gate.submit(messages))
        await watch(tick)
