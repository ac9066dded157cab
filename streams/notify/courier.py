"""One route's courier: every message once, in order, however long its service is away.

What comes while the route is quiet is told at once; what comes within the digest's window after it waits for the
window's end, and from ``digest_at`` messages on becomes one. A message that fails is tried again, ever more slowly,
together with what has come meanwhile. One that is older than ``give_up``, or beyond the longest queue, is given up and
noted as such: nobody wants yesterday's lock at the end of an outage.

A message is noted as sent *after* the service said that it took it. Where that answer does not come in time, or the
process dies (or is paused until another takes over) before the note, it is told again: a service that can tell repeats
apart is the only cure, and apprise knows of none.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.config import NotifySection
from streams.notify.messages import Message, digest
from streams.notify.sender import Send
from streams.runtime import clock

log = logging.getLogger(__name__)

Fate = Literal["sent", "given_up"]
Note = Callable[[str, Sequence[Message], Fate], Awaitable[None]]
"""Remember for good what became of messages on a route."""

QUEUE_MAX = 10_000
_RETRY_MIN_S = 1.0
_RETRY_MAX_S = 60.0


@dataclass(slots=True)
class CourierMetrics:
    """Of one route since the start."""

    sent: int = 0
    given_up: int = 0
    failures: int = 0
    digests: int = 0
    waiting: int = 0


class Courier:
    """The messages of one route that were not told yet, and their way out."""

    def __init__(
        self,
        route: str,
        send: Send,
        note: Note,
        terms: NotifySection,
        *,
        check_alone: Callable[[], None] = lambda: None,
        retry_min_s: float = _RETRY_MIN_S,
    ) -> None:
        """``check_alone`` raises where another notifier may have told by now what waits here."""
        self.route = route
        self.metrics = CourierMetrics()
        self._send = send
        self._note = note
        self._check_alone = check_alone
        self._digest_at = terms.digest_at
        self._window_s = terms.digest_window / 1000
        self._give_up_ms = terms.give_up
        self._retry_min_s = retry_min_s
        self._waiting: list[Message] = []
        self._arrived = asyncio.Event()

    def offer(self, message: Message) -> None:
        """Take a message over."""
        self._waiting.append(message)
        self.metrics.waiting = len(self._waiting)
        self._arrived.set()

    async def run(self) -> None:
        """Tell what is offered, for ever. Raises what noting raises: who cannot remember must not go on telling."""
        retry_s = self._retry_min_s
        while True:
            await self._arrived.wait()
            if await self._tell_all():
                retry_s = self._retry_min_s
                await asyncio.sleep(self._window_s)
            else:
                self.metrics.failures += 1
                log.warning(
                    "route %s: not told, %d messages wait; again in %.0f s", self.route, len(self._waiting), retry_s
                )
                await asyncio.sleep(retry_s)
                retry_s = min(_RETRY_MAX_S, 2 * retry_s)

    async def _tell_all(self) -> bool:
        """Tell what waits now: each on its own, or all as one. False if the service did not take all of it."""
        await self._give_up_on_old()
        taken = True
        if len(self._waiting) >= self._digest_at:
            together = tuple(self._waiting)
            taken = await self._tell(digest(together), together)
            self.metrics.digests += taken
        else:
            # One that a service never takes does not hold up those behind it.
            for message in tuple(self._waiting):
                taken &= await self._tell(message, (message,))
        if not self._waiting:
            self._arrived.clear()
        return taken

    async def _tell(self, message: Message, told: Sequence[Message]) -> bool:
        self._check_alone()
        if not await self._send(message):
            return False
        await self._settle(told, "sent")
        self.metrics.sent += len(told)
        return True

    async def _give_up_on_old(self) -> None:
        since_ms = clock.now_ms() - self._give_up_ms
        beyond = len(self._waiting) - QUEUE_MAX
        old = [one for number, one in enumerate(self._waiting) if one.at_ms < since_ms or number < beyond]
        if old:
            log.error("route %s: %d messages are given up, the first: %s", self.route, len(old), old[0].title)
            await self._settle(old, "given_up")
            self.metrics.given_up += len(old)

    async def _settle(self, messages: Sequence[Message], fate: Fate) -> None:
        await self._note(self.route, messages, fate)
        settled = {one.fact_id for one in messages}
        self._waiting = [one for one in self._waiting if one.fact_id not in settled]
        self.metrics.waiting = len(self._waiting)
