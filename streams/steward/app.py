"""The steward's Faust app: agents over the gate's topics, read committed, and the end of temporary policies.

Agents may see a record twice, and start anew at every start: the consumer group is set back by as much as they
remember, so that they learn from the topics what a former process knew. Whatever fails ends the process; the next one
starts from the topics again.
"""

import asyncio
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any, TypeVar

import orjson
from faust.types import EventT, StreamT
from mode import Service
from pydantic import ValidationError

from schemas.config import ConfigFile, VenueWatchSection
from schemas.outputs import AccountLocked, ApprovedOrder
from streams.core.records import APPROVED, CONTROLS, FILLS, LOCKED, POLICIES, Record
from streams.core.rules import rules_of
from streams.observe import families
from streams.observe.exposition import Sample, exposition
from streams.runtime import clock, kafka
from streams.runtime.committed import create_committed_app, or_crash, raw_topic, take_over
from streams.runtime.policies import Policies
from streams.runtime.process import crash_of
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames, verify_topics
from streams.runtime.web import Report, web_for
from streams.steward.downgrade import downgrade
from streams.steward.rulebook import Rulebook
from streams.steward.venues import VenueWatch, down_policy

log = logging.getLogger(__name__)

# Longer than this after its approval an order is not expected to fail for its venue's sake.
_ORDER_LIFE_MS = 3_600_000
_PUBLISH_DEADLINE_S = 30.0
_ENDS_INTERVAL_S = 0.2

_Output = TypeVar("_Output", ApprovedOrder, AccountLocked)


class Steward:
    """The parts of a steward, started and stopped in order."""

    def __init__(self, settings: Settings, config: ConfigFile) -> None:
        self._settings = settings
        self._names = TopicNames.of(settings)
        rules = rules_of(config)
        self._rulebook = Rulebook()
        self._policies = Policies(settings, rules, self._rulebook.apply)
        self._producer = kafka.producer(settings)
        self._producing = False
        self._published = dict.fromkeys((POLICIES, CONTROLS), 0)
        self._serving = False
        self._web = web_for(
            settings, health=self.health, ready=self.ready, metrics=exposition("steward", self._samples)
        )
        self._remembered_ms: dict[str, int] = {}
        if config.venue_watch is not None:
            remembered_ms = config.venue_watch.window + max(config.venue_watch.cool_down, _ORDER_LIFE_MS)
            self._remembered_ms |= {FILLS: remembered_ms, APPROVED: remembered_ms}
        if config.controls.auto_downgrade:
            self._remembered_ms[LOCKED] = rules.limits.dedup_horizon_ms // 2
        self.app = create_committed_app(settings, "steward", with_consumer=bool(self._remembered_ms))
        if config.venue_watch is not None:
            self._watch_venues(config.venue_watch, VenueWatch(config.venue_watch, rules))
        if config.controls.auto_downgrade:
            self._downgrade_after_breaches()

    # -- its life

    async def start(self) -> None:
        """Check the topics, take over, read the policies, start the agents. Raises what stops the start."""
        if self._web is not None:
            await self._web.start()
        layout = await verify_topics(self._settings)
        await self._producer.start()
        self._producing = True
        if self._remembered_ms:
            await take_over(self._settings, self.app.conf.id, "steward", layout, self._remembered_ms)
        await self._policies.start()
        await self.app.start()
        await self.app.add_runtime_dependency(_Policies(self))
        self._serving = True
        log.info("steward serving: %s", ", ".join(("policies", *self._remembered_ms)))

    async def wait(self) -> BaseException | None:
        """Wait until the app stops or crashes; what crashed it."""
        return await crash_of(self.app)

    async def stop(self) -> None:
        """Leave the group. Whatever was not started is left out."""
        self._serving = False
        await self.app.stop()
        await self._policies.stop()
        if self._producing:
            await self._producer.stop()
        if self._web is not None:
            await self._web.stop()

    def health(self) -> Report:
        """Whether it is alive."""
        return Report.unless_ending(self.app.crash_reason)

    def ready(self) -> Report:
        """Whether it does what it is there for. One that waits for another to go does not."""
        reason = self.health().reasons
        return Report.of(reason or (() if self._serving else ("it is starting, or waits for another to go",)))

    def _samples(self) -> Iterator[Sample]:
        yield Sample(families.STEWARD_SERVING, self.ready().ok)
        for topic, count in self._published.items():
            yield Sample(families.STEWARD_PUBLISHED, count, (topic,))

    def _topic(self, logical: str) -> Any:
        return raw_topic(self.app, self._names.physical(logical))

    # -- venue watch

    def _watch_venues(self, terms: VenueWatchSection, watch: VenueWatch) -> None:
        deciding = asyncio.Lock()

        async def decide(venue: str | None) -> None:
            if venue is None:
                return
            name = f"venue/{venue}"
            async with deciding:
                if self._policies.rules.venues_up.get(venue, True) is False:
                    return
                trip = watch.trip(venue, self._rulebook.changed_ms(name))
                policy = None if trip is None else down_policy(trip, terms, clock.now_ms())
                if policy is None:
                    return
                log.warning("%s down until %s: %s", name, policy["expires_at"], policy["reason"])
                await self.publish_policy(policy)

        @self.app.agent(self._topic(FILLS), name="venue-watch")
        async def watch_fills(fills: StreamT[bytes]) -> None:
            async for event in fills.events():
                await or_crash(self.app, decide(watch.take_fill(_record(FILLS, event), clock.now_ms())))

        @self.app.agent(self._topic(APPROVED), name="venues-of-orders")
        async def watch_approvals(approvals: StreamT[bytes]) -> None:
            async for event in approvals.events():
                if (approval := _read(ApprovedOrder, event)) is not None:
                    await or_crash(self.app, decide(watch.take_approval(approval.order_id, approval.venue)))

    # -- automatic downgrade

    def _downgrade_after_breaches(self) -> None:
        async def answer(lock: AccountLocked, at_ms: int) -> None:
            # The gate knows the command's id for as long again, so that an old lock never counts twice.
            if clock.now_ms() - at_ms > self._remembered_ms[LOCKED]:
                return
            command = downgrade(lock, clock.now_ms())
            if command is not None:
                log.warning("%(account_id)s down to profile %(profile)s: %(reason)s", command)
                await self._publish(CONTROLS, command["account_id"], command)

        @self.app.agent(self._topic(LOCKED), name="downgrade")
        async def watch_locks(locks: StreamT[bytes]) -> None:
            async for event in locks.events():
                if (lock := _read(AccountLocked, event)) is not None:
                    await or_crash(self.app, answer(lock, _record(LOCKED, event).timestamp_ms))

    # -- policies

    async def follow_policies(self) -> None:
        """Apply new policies for ever."""
        await self._policies.follow()

    async def end_changes(self) -> None:
        """Publish the end of every change that has expired."""
        for policy in self._rulebook.ends(clock.now_ms()):
            log.warning("%s ends: %s", policy["name"], policy["reason"])
            await self.publish_policy(policy)

    async def publish_policy(self, policy: dict[str, Any]) -> None:
        """Publish a record of ``policies``; returns when the rulebook holds it."""
        async with asyncio.timeout(_PUBLISH_DEADLINE_S):
            offset = await self._publish(POLICIES, policy["name"], policy)
            await self._rulebook.reach(offset + 1)

    async def _publish(self, topic: str, key: str, value: dict[str, Any]) -> int:
        async with asyncio.timeout(_PUBLISH_DEADLINE_S):
            sent = await self._producer.send_and_wait(self._names.physical(topic), orjson.dumps(value), key.encode())
        self._published[topic] += 1
        return int(sent.offset)


class _Policies(Service):
    """Follows the policies, and ends those whose time has come. A failure crashes the app that it belongs to."""

    def __init__(self, steward: Steward) -> None:
        super().__init__()
        self._steward = steward

    @Service.task
    async def _follow(self) -> None:
        await self._steward.follow_policies()

    @Service.timer(timedelta(seconds=_ENDS_INTERVAL_S))
    async def _end(self) -> None:
        await self._steward.end_changes()


def _record(topic: str, event: EventT) -> Record:
    message = event.message
    timestamp_ms = round(message.timestamp * 1000)
    return Record(topic, message.partition, message.offset, timestamp_ms, message.key, message.value)


def _read(model: type[_Output], event: EventT) -> _Output | None:
    """An output of the gate; None for what this release cannot read, which would end every process anew."""
    message = event.message
    try:
        return model.model_validate_json(message.value or b"")
    except ValidationError:
        log.warning(
            "%s %d@%d is not a record that this release knows", message.topic, message.partition, message.offset
        )
        return None
