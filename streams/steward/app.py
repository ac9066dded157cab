"""The steward's Faust app: agents over the gate's topics, read committed, and the end of temporary policies.

Agents may see a record twice, and start anew at every start: the consumer group is set back by as much as they
remember, so that they learn from the topics what a former process knew. Whatever fails ends the process; the next one
starts from the topics again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable
from datetime import timedelta
from typing import Any, TypeVar

import faust
import orjson
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import CommitFailedError
from faust.app.base import BootStrategy
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport
from faust.types import EventT, StreamT
from mode import Service
from pydantic import ValidationError

from schemas.config import ConfigFile, VenueWatchSection
from schemas.outputs import AccountLocked, ApprovedOrder
from streams.core.records import APPROVED, CONTROLS, FILLS, LOCKED, POLICIES, Record
from streams.core.rules import rules_of
from streams.runtime import kafka
from streams.runtime.kafka import TopicPartition
from streams.runtime.policies import Policies
from streams.runtime.settings import Settings
from streams.runtime.topics import Layout, TopicNames, verify_topics
from streams.steward.downgrade import downgrade
from streams.steward.rulebook import Rulebook
from streams.steward.venues import VenueWatch, down_policy

log = logging.getLogger(__name__)

# Longer than this after its approval an order is not expected to fail for its venue's sake.
_ORDER_LIFE_MS = 3_600_000
_PUBLISH_DEADLINE_S = 30.0
_ENDS_INTERVAL_S = 0.2
_TAKE_OVER_INTERVAL_S = 1.0

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
        self._remembered_ms: dict[str, int] = {}
        if config.venue_watch is not None:
            remembered_ms = config.venue_watch.window + max(config.venue_watch.cool_down, _ORDER_LIFE_MS)
            self._remembered_ms |= {FILLS: remembered_ms, APPROVED: remembered_ms}
        if config.controls.auto_downgrade:
            self._remembered_ms[LOCKED] = rules.limits.dedup_horizon_ms // 2
        self.app = self._create_app()
        if config.venue_watch is not None:
            self._watch_venues(config.venue_watch, VenueWatch(config.venue_watch, rules))
        if config.controls.auto_downgrade:
            self._downgrade_after_breaches()

    # -- its life

    async def start(self) -> None:
        """Check the topics, take over, read the policies, start the agents. Raises what stops the start."""
        layout = await verify_topics(self._settings)
        await self._producer.start()
        self._producing = True
        if self._remembered_ms:
            await self._take_over(layout)
        await self._policies.start()
        await self.app.start()
        await self.app.add_runtime_dependency(_Policies(self))
        log.info("steward serving: %s", ", ".join(("policies", *self._remembered_ms)))

    async def wait(self) -> BaseException | None:
        """Wait until the app stops or crashes; what crashed it."""
        await self.app.wait()
        reason: BaseException | None = self.app.crash_reason
        return reason

    async def stop(self) -> None:
        """Leave the group. Whatever was not started is left out."""
        await self.app.stop()
        await self._policies.stop()
        if self._producing:
            await self._producer.stop()

    async def _take_over(self, layout: Layout) -> None:
        """Set the group back by what the agents remember. Waits while another steward of this gate is a member."""
        places = {
            TopicPartition(self._names.physical(topic), number): remembered_ms
            for topic, remembered_ms in self._remembered_ms.items()
            for number in range(layout.counts[topic])
        }
        async with kafka.consumer(self._settings, group_id=self.app.conf.id) as consumer:
            consumer.assign(list(places))
            waiting = False
            while True:
                now_ms = _now_ms()
                found = await consumer.offsets_for_times({at: max(0, now_ms - ms) for at, ms in places.items()})
                ends = await consumer.end_offsets(list(places))
                try:
                    await consumer.commit({at: one.offset if one else ends[at] for at, one in found.items()})
                    return
                except CommitFailedError:
                    if not waiting:
                        log.warning("another steward of this gate is running, or was until now; waiting for it to end")
                        waiting = True
                await asyncio.sleep(_TAKE_OVER_INTERVAL_S)

    def _create_app(self) -> Any:
        settings, with_agents = self._settings, bool(self._remembered_ms)

        class Boot(BootStrategy):
            enable_kafka = with_agents
            enable_web = False

        class CommittedThread(AIOKafkaConsumerThread):
            def _create_worker_consumer(self, _transport: Any) -> AIOKafkaConsumer:
                """Faust's own reads uncommitted records: orders and locks of transactions that never happened."""
                return kafka.consumer(
                    settings,
                    group_id=self.app.conf.id,
                    partition_assignment_strategy=[RoundRobinPartitionAssignor],
                    auto_offset_reset="earliest",
                    session_timeout_ms=settings.session_timeout_ms,
                    heartbeat_interval_ms=settings.session_timeout_ms // 3,
                    rebalance_timeout_ms=settings.rebalance_timeout_ms,
                )

        class CommittedConsumer(Consumer):
            def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
                return CommittedThread(self, loop=self.loop, beacon=self.beacon)

        class CommittedTransport(Transport):
            Consumer = CommittedConsumer

        class App(faust.App):
            BootStrategy = Boot

            def _new_transport(self) -> CommittedTransport:
                return CommittedTransport(self.conf.broker_consumer, self)

            def _create_directories(self) -> None:
                """None: nothing is kept on disk."""

        return App(
            f"{settings.topic_prefix}{settings.app_id}-steward",
            broker=settings.broker,
            broker_credentials=kafka.faust_credentials(settings),
            autodiscover=False,
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
        )

    def _topic(self, logical: str) -> Any:
        return self.app.topic(
            self._names.physical(logical),
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
        )

    async def _or_crash(self, work: Awaitable[None]) -> None:
        """Faust restarts an agent that raises and skips what it was at; the next process does not."""
        try:
            await work
        except Exception as error:
            await self.app.crash(error)
            raise

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
                policy = None if trip is None else down_policy(trip, terms, _now_ms())
                if policy is None:
                    return
                log.warning("%s down until %s: %s", name, policy["expires_at"], policy["reason"])
                await self.publish_policy(policy)

        @self.app.agent(self._topic(FILLS), name="venue-watch")
        async def watch_fills(fills: StreamT[bytes]) -> None:
            async for event in fills.events():
                await self._or_crash(decide(watch.take_fill(_record(FILLS, event), _now_ms())))

        @self.app.agent(self._topic(APPROVED), name="venues-of-orders")
        async def watch_approvals(approvals: StreamT[bytes]) -> None:
            async for event in approvals.events():
                if (approval := _read(ApprovedOrder, event)) is not None:
                    await self._or_crash(decide(watch.take_approval(approval.order_id, approval.venue)))

    # -- automatic downgrade

    def _downgrade_after_breaches(self) -> None:
        async def answer(lock: AccountLocked, at_ms: int) -> None:
            # The gate knows the command's id for as long again, so that an old lock never counts twice.
            if _now_ms() - at_ms > self._remembered_ms[LOCKED]:
                return
            command = downgrade(lock, _now_ms())
            if command is not None:
                log.warning("%(account_id)s down to profile %(profile)s: %(reason)s", command)
                await self._publish(CONTROLS, command["account_id"], command)

        @self.app.agent(self._topic(LOCKED), name="downgrade")
        async def watch_locks(locks: StreamT[bytes]) -> None:
            async for event in locks.events():
                if (lock := _read(AccountLocked, event)) is not None:
                    await self._or_crash(answer(lock, _record(LOCKED, event).timestamp_ms))

    # -- policies

    async def follow_policies(self) -> None:
        """Apply new policies for ever."""
        await self._policies.follow()

    async def end_changes(self) -> None:
        """Publish the end of every change that has expired."""
        for policy in self._rulebook.ends(_now_ms()):
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


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
