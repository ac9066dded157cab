"""Policies: rules for everyone, read whole by every worker before its first decision and followed ever after."""

import asyncio
import logging
from collections.abc import Callable
from typing import NamedTuple

import orjson
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord

from streams.core.records import POLICIES, Output, Record
from streams.core.rules import Rules
from streams.core.state import FORMAT
from streams.runtime import kafka
from streams.runtime.kafka import TopicPartition
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames

log = logging.getLogger(__name__)

ApplyPolicy = Callable[[Rules, Record], tuple[Rules, Output | None]]

POLICIES_KEY = b"policies"
"""Key of the state record (table ``partition``) that remembers which policies were dead-lettered."""
DEAD_LETTERS_PER_BATCH = 100
_POLL_MS = 500


class PolicyDeadLetter(NamedTuple):
    """An unusable policy at ``offset``, to be published once by the owner of partition 0."""

    offset: int
    output: Output


def reported_offset(held: bytes | None) -> int:
    """The last dead-lettered policy offset out of its state record; -1 for none.

    The first release wrote the bare number, without a version: that is read too. Raises ValueError for a version that
    is not known.
    """
    if held is None:
        return -1
    if held.isdigit():
        return int(held)
    return int(FORMAT.decode_plain("policies", held)["reported"])


def reported_record(offset: int) -> bytes:
    """The state record that remembers ``offset``."""
    return orjson.dumps({"v": FORMAT.version, "reported": offset})


class Policies:
    """The rules in force. ``rules`` is replaced as a whole, so a transaction keeps the version that it began with."""

    def __init__(self, settings: Settings, rules: Rules, apply_policy: ApplyPolicy) -> None:
        """``rules``: the configuration's, before any policy."""
        self.rules = rules
        self._settings = settings
        self._apply = apply_policy
        self._place = TopicPartition(TopicNames.of(settings).physical(POLICIES), 0)
        self._consumer: AIOKafkaConsumer | None = None
        self._unusable: list[PolicyDeadLetter] = []
        self.on_unusable: Callable[[], None] = lambda: None

    def unusable_after(self, offset: int) -> list[PolicyDeadLetter]:
        """Unusable policies past ``offset``, in order."""
        if not self._unusable or self._unusable[-1].offset <= offset:
            return []
        return [letter for letter in self._unusable if letter.offset > offset]

    @property
    def answered_ms(self) -> int | None:
        """When the broker last answered a fetch, also one that brought nothing; None before the first."""
        if self._consumer is None or self._place not in self._consumer.assignment():
            return None
        answered_ms: int | None = self._consumer.last_poll_timestamp(self._place)
        return answered_ms

    async def start(self) -> None:
        """Read all that is there. Returns when ``rules`` are those of the topic's end."""
        consumer = kafka.consumer(self._settings)
        self._consumer = consumer
        await kafka.started(consumer)
        consumer.assign([self._place])
        await consumer.seek_to_beginning(self._place)
        end = (await consumer.end_offsets([self._place]))[self._place]
        while await consumer.position(self._place) < end:
            await self._poll(consumer)
        log.info("policies read to version %d, %d unusable", self.rules.version, len(self._unusable))

    async def follow(self) -> None:
        """Apply new policies for ever. Raises what the consumer raises: a worker must not go on with old rules."""
        if self._consumer is None:
            raise RuntimeError("policies are followed only after they were read")
        while True:
            await self._poll(self._consumer)

    async def stop(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()

    async def _poll(self, consumer: AIOKafkaConsumer) -> None:
        for records in (await consumer.getmany(self._place, timeout_ms=_POLL_MS)).values():
            for record in records:
                self._take(record)
                await asyncio.sleep(0)

    def _take(self, record: ConsumerRecord) -> None:
        policy = Record(
            POLICIES, record.partition, record.offset, record.timestamp, record.key, record.value, record.headers
        )
        self.rules, dead_letter = self._apply(self.rules, policy)
        if dead_letter is not None:
            log.warning("policy at offset %d cannot be used", record.offset)
            self._unusable.append(PolicyDeadLetter(record.offset, dead_letter))
            self.on_unusable()
