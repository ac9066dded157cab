"""Faust apps whose agents read committed records, for processes beside the gate (steward, notifier).

Faust's own consumer reads uncommitted records too, unless its tables and producers run ``exactly_once``: an agent
would see decisions and locks of transactions that never happened. Here Faust's transport makes the same consumer as
the rest of Tidegate does, with its TLS, SASL and ``read_committed``. Agents commit by Faust's timer, at least once:
whatever they do must bear repeating. Nothing is kept on disk, no topic is declared, no web server runs. The mirror's
app is made here too, without a consumer: its agent is fed by a reader of its own.

What could break it: another line of Faust releases that makes its consumer elsewhere than in
``_create_worker_consumer``; ``tests/integration/test_committed.py`` would then see the uncommitted records.
"""

import asyncio
import logging
from collections.abc import Awaitable, Mapping
from typing import Any

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.errors import CommitFailedError
from faust.app.base import BootStrategy
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport

from streams.runtime import clock, kafka
from streams.runtime.settings import Settings
from streams.runtime.topics import Layout, TopicNames

log = logging.getLogger(__name__)

_TAKE_OVER_INTERVAL_S = 1.0


def create_committed_app(settings: Settings, name: str, *, with_consumer: bool = True) -> Any:
    """A Faust app; its id, and that of its consumer group, is the application's id with ``-name``.

    ``with_consumer``: whether any agent reads a topic; without one Faust does not start a consumer of its own.
    """

    class Boot(BootStrategy):
        enable_kafka = with_consumer
        enable_web = False

    class CommittedThread(AIOKafkaConsumerThread):
        def _create_worker_consumer(self, _transport: Any) -> AIOKafkaConsumer:
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

        async def _commit(self, offsets: Any) -> bool:
            """Not after a crash: Faust counts the record that an agent failed on as done."""
            return False if self.app.crashed else await super()._commit(offsets)

    class CommittedTransport(Transport):
        Consumer = CommittedConsumer

    class App(faust.App):
        BootStrategy = Boot

        def _new_transport(self) -> CommittedTransport:
            return CommittedTransport(self.conf.broker_consumer, self)

        def _create_directories(self) -> None:
            """None: nothing is kept on disk."""

    return App(
        f"{settings.topic_prefix}{settings.app_id}-{name}",
        broker=settings.broker,
        broker_credentials=kafka.faust_credentials(settings),
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
    )


def raw_topic(app: Any, physical: str) -> Any:
    """A topic whose keys and values reach the agents as bytes: what they make of them is theirs."""
    return app.topic(physical, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")


async def or_crash(app: Any, work: Awaitable[None]) -> None:
    """Await an agent's work on one record; a failure crashes the app, which commits nothing any more.

    Faust would restart the agent and skip the record; the next process reads it again.
    """
    try:
        await work
    except Exception as error:
        await app.crash(error)
        raise


async def take_over(settings: Settings, group: str, who: str, layout: Layout, remembered_ms: Mapping[str, int]) -> None:
    """Set a group back by what its agents remember (ms, by topic), so that they learn again what a former process knew.

    Waits while another process of its kind (``who``: for the log) is a member.
    """
    names = TopicNames.of(settings)
    places = {place: back_ms for topic, back_ms in remembered_ms.items() for place in layout.places(names, topic)}
    async with kafka.consumer(settings, group_id=group) as consumer:
        consumer.assign(list(places))
        waiting = False
        while True:
            now_ms = clock.now_ms()
            found = await consumer.offsets_for_times({at: max(0, now_ms - ms) for at, ms in places.items()})
            ends = await consumer.end_offsets(list(places))
            try:
                await consumer.commit({at: one.offset if one else ends[at] for at, one in found.items()})
                return
            except CommitFailedError:
                if not waiting:
                    log.warning("another %s of this gate is running, or was until now; waiting for it to end", who)
                    waiting = True
            await asyncio.sleep(_TAKE_OVER_INTERVAL_S)
