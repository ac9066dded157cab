"""The notifier's Faust app: an agent over locks, one over events, and a courier a route.

Agents only sort: a record becomes a message and is handed to the couriers that want it, so that one dead service holds
up neither the others nor the reading. Nothing here is on the gate's path.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping

from faust.types import StreamT
from mode import Service

from schemas.config import NotifySection
from streams.core.records import EVENTS, LOCKED
from streams.notify.courier import Courier
from streams.notify.memory import Memory
from streams.notify.messages import message_of
from streams.notify.routes import Route
from streams.notify.sender import Send, sender_of
from streams.observe import families
from streams.observe.exposition import Sample, exposition
from streams.runtime import clock
from streams.runtime.committed import create_committed_app, or_crash, raw_topic, take_over
from streams.runtime.process import crash_of
from streams.runtime.settings import Settings
from streams.runtime.topics import NOTIFICATIONS, TopicNames, TopicsError, verify_topics
from streams.runtime.web import Report, web_for

log = logging.getLogger(__name__)

_PULSE_S = 0.5


class NotAlone(RuntimeError):
    """The group has or may have another member, which tells what waits here. Only a new start knows what was told."""


class Pulse:
    """Notices that the process was paused for longer than its membership lasts: another may have begun meanwhile."""

    def __init__(self, session_timeout_ms: int) -> None:
        self._session_s = session_timeout_ms / 1000
        self._beat_s = time.monotonic()

    def begin(self) -> None:
        """From now on it counts: taking over may have waited for long."""
        self._beat_s = time.monotonic()

    async def run(self) -> None:
        """Beat. Raises NotAlone."""
        while True:
            self.check()
            self._beat_s = time.monotonic()
            await asyncio.sleep(_PULSE_S)

    def check(self) -> None:
        """Raises NotAlone if the last beat is too long ago."""
        if time.monotonic() - self._beat_s > self._session_s:
            raise NotAlone("the process was paused, and another notifier may have begun meanwhile")


class Notifier:
    """The parts of a notifier, started and stopped in order."""

    def __init__(
        self,
        settings: Settings,
        section: NotifySection,
        routes: Mapping[str, Route],
        *,
        sender: Callable[[Route], Send] = sender_of,
    ) -> None:
        """Raises SettingsError if an address cannot be read."""
        self._settings = settings
        self._names = TopicNames.of(settings)
        self._terms = section
        self._routes = routes
        self._memory = Memory(settings)
        self._pulse = Pulse(settings.session_timeout_ms)
        self._couriers = {
            name: Courier(name, sender(route), self._memory.note, section, check_alone=self._pulse.check)
            for name, route in routes.items()
        }
        self._serving = False
        self.app = create_committed_app(settings, "notify")
        self._web = web_for(
            settings, health=self.health, ready=self.ready, metrics=exposition("notifier", self.samples)
        )

        @self.app.agent(raw_topic(self.app, self._names.physical(LOCKED)), name="notify-locks")
        async def locks(records: StreamT[bytes]) -> None:
            async for value in records:
                await or_crash(self.app, self._sort(LOCKED, value))

        @self.app.agent(raw_topic(self.app, self._names.physical(EVENTS)), name="notify-events")
        async def events(records: StreamT[bytes]) -> None:
            async for value in records:
                await or_crash(self.app, self._sort(EVENTS, value))

    # -- its life

    async def start(self) -> None:
        """Check the topics, take over, read what was told, start the agents. Raises what stops the start."""
        if self._web is not None:
            await self._web.start()
        layout = await verify_topics(self._settings)
        if NOTIFICATIONS not in layout.counts:
            name = self._names.physical(NOTIFICATIONS)
            raise TopicsError(f"topic {name} is missing: what was told is kept there; run `tidegate topics create`")
        remembered_ms = dict.fromkeys((LOCKED, EVENTS), self._terms.give_up)
        await take_over(self._settings, self.app.conf.id, "notifier", layout, remembered_ms)
        await self._memory.open()
        await self.app.start()
        await self.app.add_runtime_dependency(_Couriers(self._couriers, self._pulse))
        self._serving = True
        log.info("notifier serving: %s", ", ".join(self._couriers) or "no route")

    async def wait(self) -> BaseException | None:
        """Wait until the app stops or crashes; what crashed it."""
        return await crash_of(self.app)

    async def stop(self) -> None:
        """Leave the group. What was not told yet is told by the next one."""
        await self.app.stop()
        await self._memory.close()
        if self._web is not None:
            await self._web.stop()

    # -- what it does

    async def _sort(self, topic: str, value: bytes | None) -> None:
        message = message_of(topic, value)
        if message is None:
            return
        for name, route in self._routes.items():
            if route.wants(message) and not self._memory.knows(name, message):
                self._memory.take(name, message, clock.now_ms())
                self._couriers[name].offer(message)

    # -- what it says of itself

    def health(self) -> Report:
        """Whether it is alive. A service that does not answer is no fault of the notifier's."""
        return Report.unless_ending(self.app.crash_reason)

    def ready(self) -> Report:
        """Whether it follows the topics."""
        waiting = {name: courier.metrics.waiting for name, courier in self._couriers.items()}
        return Report.of(() if self._serving else ("it has not taken over yet",), waiting=waiting)

    def samples(self) -> Iterator[Sample]:
        """Its metrics."""
        for name, courier in self._couriers.items():
            metrics = courier.metrics
            yield Sample(families.NOTIFY_MESSAGES, metrics.sent, (name, "sent"))
            yield Sample(families.NOTIFY_MESSAGES, metrics.given_up, (name, "given_up"))
            yield Sample(families.NOTIFY_FAILURES, metrics.failures, (name,))
            yield Sample(families.NOTIFY_WAITING, metrics.waiting, (name,))


class _Couriers(Service):
    """Runs the couriers. One that fails crashes the app: it could not remember what it told."""

    def __init__(self, couriers: Mapping[str, Courier], pulse: Pulse) -> None:
        super().__init__()
        self._couriers = couriers
        self._pulse = pulse

    async def on_start(self) -> None:
        self._pulse.begin()
        self.add_future(self._run(self._pulse.run()))
        for courier in self._couriers.values():
            self.add_future(self._run(courier.run()))

    async def _run(self, work: Awaitable[None]) -> None:
        try:
            await work
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it ends the process
            await self.crash(error)
