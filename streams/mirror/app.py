"""The mirror's Faust app: sessions that read, and the ``mirror`` agent that writes several places at once.

The agent is fed through a private channel, as the gate's is, and not by a consumer group: the positions to go on from
are in Redis, which only a consumer of our own can be set to.
"""

import asyncio
import logging
from collections.abc import Iterator

from faust.types import StreamT
from mode import Service

from streams.core.rules import Rules
from streams.mirror.model import Model, Superseded
from streams.mirror.session import Session, Work
from streams.mirror.settings import MirrorSettings
from streams.observe.exposition import Sample, exposition
from streams.observe.mirror import MirrorMetrics
from streams.runtime.channel import PrivateChannel
from streams.runtime.committed import create_committed_app
from streams.runtime.process import crash_of
from streams.runtime.settings import Settings
from streams.runtime.topics import Layout, TopicNames, verify_topics
from streams.runtime.web import Report, web_for

log = logging.getLogger(__name__)

CONCURRENCY = 8
_REOPEN_S = 0.2
_STALE_AFTER_S = 5.0


class Mirror:
    """The parts of a mirror, started and stopped in order."""

    def __init__(self, settings: Settings, mirror: MirrorSettings, rules: Rules, *, rebuild: bool = False) -> None:
        """``rules``: the configuration's, before any policy. ``rebuild``: begin a new generation first."""
        self._settings = settings
        self._mirror = mirror
        self._rules = rules
        self._rebuild = rebuild
        self.metrics = MirrorMetrics()
        self.app = create_committed_app(settings, "mirror", with_consumer=False)
        self._channel: PrivateChannel[Work] = PrivateChannel(self.app)
        self._model: Model | None = None
        self.session: Session | None = None
        self._web = web_for(
            settings,
            health=self.health,
            ready=self.ready,
            metrics=exposition("mirror", self._samples),
        )

        @self.app.agent(self._channel, name="mirror", concurrency=CONCURRENCY)
        async def mirror_agent(batches: StreamT[Work]) -> None:
            async for work in batches:
                await work.run()

    def health(self) -> Report:
        """Whether it is alive. A Redis that is away is no fault of the mirror's: it waits for it."""
        return Report.unless_ending(self.app.crash_reason)

    def ready(self) -> Report:
        """Whether the model is whole and up to date."""
        reasons = []
        if self._model is not None and self._model.fault is not None:
            reasons.append(f"redis does not answer: {self._model.fault}")
        if not self.is_whole:
            reasons.append("the model is being built")
        elif self.session is not None and (seconds := self.session.behind_seconds) > _STALE_AFTER_S:
            reasons.append(f"the model is {seconds:.1f} s behind the topics, or brokers do not answer")
        return Report.of(tuple(reasons), behind_records=None if self.session is None else self.session.behind_records)

    def _samples(self) -> Iterator[Sample]:
        if self.session is not None:
            self.metrics.lag_records = self.session.behind_records
            self.metrics.lag_seconds = self.session.behind_seconds
        return self.metrics.samples()

    @property
    def is_whole(self) -> bool:
        """Whether a session has found the model whole, or made it so."""
        return self.session is not None and self.session.is_live

    async def start(self) -> None:
        """Check the topics, open the model, start the agent. Raises what stops the start."""
        if self._web is not None:
            await self._web.start()
        layout = await verify_topics(self._settings)
        self._model = Model(self._mirror, source=source_of(self._settings, layout))
        self._model.on_error = self._count_error
        if self._rebuild:
            await self._model.rebuild()
        await self.app.start()
        await self.app.add_runtime_dependency(_Sessions(self, layout, self._model))

    async def wait(self) -> BaseException | None:
        """Wait until the app stops or crashes; what crashed it."""
        return await crash_of(self.app)

    async def stop(self) -> None:
        """Let go. Whatever was not started is left out."""
        await self.app.stop()
        if self._model is not None:
            await self._model.close()
        if self._web is not None:
            await self._web.stop()

    def _count_error(self) -> None:
        self.metrics.errors += 1
        self.metrics.redis_up = False

    async def run_sessions(self, layout: Layout, model: Model) -> None:
        """One after the other, for ever. Raises ModelError, KafkaError, ValueError for state of a newer release."""
        while True:
            self.session = Session(
                self._settings, self._mirror, layout, self._rules, model, self._channel.put, self.metrics
            )
            try:
                await self.session.run()
            except Superseded as why:
                self.metrics.complete = False
                log.warning("the model is not as it was left (%s): going on from what is there", why)
                await asyncio.sleep(_REOPEN_S)


class _Sessions(Service):
    """Runs the sessions. A failure crashes the app that it belongs to."""

    def __init__(self, mirror: Mirror, layout: Layout, model: Model) -> None:
        super().__init__()
        self._mirror = mirror
        self._layout = layout
        self._model = model

    @Service.task
    async def _run(self) -> None:
        await self._mirror.run_sessions(self._layout, self._model)


def source_of(settings: Settings, layout: Layout) -> str:
    """Which gate a model is made from: a cluster, and the gate's names on it."""
    names = TopicNames.of(settings)
    return f"{layout.cluster_id}/{names.prefix}{names.app_id}"
