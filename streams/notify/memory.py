"""What was told already, over restarts and machines: the topic ``<app>-notifications``, one record a route and fact.

At a start the notifier reads it whole (retention bounds it to seven days) and sets its consumer group back by
``give_up``: whatever happened since then and is not noted here is told. So nothing is lost while no notifier runs, and
nothing is told twice but what a service took in the moment in which the process died.
"""

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaProducer

from schemas.types import read_time, write_time
from streams.notify.courier import Fate
from streams.notify.messages import Message
from streams.runtime import clock, kafka
from streams.runtime.kafka import TopicPartition
from streams.runtime.settings import Settings
from streams.runtime.topics import NOTIFICATIONS, NOTIFICATIONS_RETENTION_MS, TopicNames

SCHEMA_VERSION = 1
_DEADLINE_S = 30.0


class Told(NamedTuple):
    """One record. ``at_ms``: when the fate was noted."""

    route: str
    fact_id: str
    account_id: str
    title: str
    fate: Fate
    at_ms: int


def told_of(value: bytes | None) -> Told | None:
    """A record of the topic; None for one that is not ours to read."""
    try:
        body = orjson.loads(value or b"")
        if body["schema_version"] != SCHEMA_VERSION:
            return None
        at_ms = read_time(body["at"])
        return Told(body["route"], body["fact_id"], body["account_id"], body["title"], body["fate"], at_ms)
    except (ValueError, KeyError, TypeError):
        return None


async def read_told(settings: Settings) -> list[Told]:
    """All records, in order. Raises KafkaError, and TimeoutError without progress."""
    place = TopicPartition(TopicNames.of(settings).physical(NOTIFICATIONS), 0)
    told: list[Told] = []
    async with kafka.consumer(settings, auto_offset_reset="earliest") as reader:
        reader.assign([place])
        await reader.seek_to_beginning(place)
        end = (await reader.end_offsets([place]))[place]
        while await reader.position(place) < end:
            async with asyncio.timeout(_DEADLINE_S):
                batches = await reader.getmany(place, timeout_ms=200)
            told += [one for record in batches.get(place, ()) if (one := told_of(record.value)) is not None]
    return told


class Memory:
    """Writes what was told; knows what was told before."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._topic = TopicNames.of(settings).physical(NOTIFICATIONS)
        self._producer: AIOKafkaProducer | None = None
        self._known: dict[tuple[str, str], int] = {}
        """By route and fact: since when, oldest first."""

    async def open(self) -> None:
        """Read what is known. Raises KafkaError."""
        self._producer = kafka.producer(self._settings)
        await self._producer.start()
        self._known = {(one.route, one.fact_id): one.at_ms for one in await read_told(self._settings)}

    def knows(self, route: str, message: Message) -> bool:
        """Whether its fate on the route is settled, by this process or a former one, or under way."""
        return (route, message.fact_id) in self._known

    def take(self, route: str, message: Message, now_ms: int) -> None:
        """Remember, for this process only, that it is on its way: a record may be read twice, but not after so long."""
        self._known[route, message.fact_id] = now_ms
        while self._known[oldest := next(iter(self._known))] < now_ms - NOTIFICATIONS_RETENTION_MS:
            del self._known[oldest]

    async def note(self, route: str, messages: Sequence[Message], fate: Fate) -> None:
        """Remember for good. Raises KafkaError or TimeoutError: the process must end, or it would forget."""
        if self._producer is None:
            raise RuntimeError("the notifier's memory is not open")
        now = write_time(clock.now_ms())
        async with asyncio.timeout(_DEADLINE_S):
            sent = [
                await self._producer.send(
                    self._topic, _record(route, one, fate, now), f"{route}/{one.fact_id}".encode()
                )
                for one in messages
            ]
            await asyncio.gather(*sent)

    async def close(self) -> None:
        """Release the producer."""
        producer, self._producer = self._producer, None
        if producer is not None:
            await producer.stop()


def _record(route: str, message: Message, fate: Fate, at: str) -> bytes:
    return orjson.dumps(
        {
            "route": route,
            "fact_id": message.fact_id,
            "account_id": message.account_id,
            "title": message.title,
            "fate": fate,
            "at": at,
            "schema_version": SCHEMA_VERSION,
        }
    )
