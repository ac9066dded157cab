"""The events of a measurement, encoded once and published to every engine in the same order.

What decides may lag behind by ``AHEAD`` events at most, counted from the oldest event of any topic and partition that
it has not processed. So a fill (``FILL_DELAY`` events after its order) never comes before the order is decided, in
whichever order an engine reads the topics; and every engine always has a backlog.
"""

import time
from array import array
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import orjson
from confluent_kafka import Producer

from streams.core.fold import Batch
from streams.core.records import Record
from streams.runtime.kafka import partition_of_key
from tests.benchmarks.workload import Event

SLICE = 500
AHEAD = 8_000
FILL_DELAY = AHEAD + 4 * SLICE

Positions = Mapping[tuple[str, int], int]
"""Next offset to process, by topic and partition."""


class Encoded(NamedTuple):
    """One record, ready to be published."""

    topic: str
    partition: int
    key: bytes
    value: bytes


def encoded(events: Iterable[Event], partitions: int, first_ms: int | None = None) -> list[Encoded]:
    """The events with times a millisecond apart, the last of them now at the latest."""
    listed = list(events)
    at_ms = time.time_ns() // 1_000_000 - len(listed) if first_ms is None else first_ms
    records = []
    for number, event in enumerate(listed):
        key = event.account_id.encode()
        value = orjson.dumps(event.at(at_ms + number))
        records.append(Encoded(event.topic, partition_of_key(key, partitions), key, value))
    return records


def batches(stream: Iterable[Encoded], size: int, partition: int = 0) -> Iterator[Batch]:
    """The events as batches of one partition, for a fold without a broker."""
    offsets: dict[str, int] = {}
    records: dict[str, list[Record]] = {}
    count = 0
    now_ms = time.time_ns() // 1_000_000
    for one in stream:
        offset = offsets[one.topic] = offsets.get(one.topic, -1) + 1
        records.setdefault(one.topic, []).append(Record(one.topic, partition, offset, now_ms, one.key, one.value))
        count += 1
        if count == size:
            yield Batch(partition, records, now_ms)
            records, count = {}, 0
    if count:
        yield Batch(partition, records, now_ms)


class Feed:
    """Publishes a stream in order, slice by slice, as far ahead of an engine as the engine's positions allow."""

    def __init__(
        self,
        bootstrap: str,
        prefix: str,
        stream: list[Encoded],
        first: int,
        begun_at: Positions = MappingProxyType({}),
    ) -> None:
        """``first``: so many events have to be processed before any other is published. ``begun_at``: offsets that the
        topics have reached already."""
        self._begun_at = begun_at
        self._first = first
        self._stream = stream
        self._prefix = prefix
        self._producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 2, "acks": 1, "queue.buffering.max.messages": 1_000_000}
        )
        self._indexes: dict[tuple[str, int], array[int]] = {}
        self._published = 0

    @property
    def published(self) -> int:
        return self._published

    @property
    def exhausted(self) -> bool:
        return self._published == len(self._stream)

    def publish(self, positions: Positions) -> bool:
        """Publish a slice if the engine is near enough; whether it was."""
        unprocessed = self._published - self._oldest(positions)
        if self.exhausted or unprocessed > AHEAD - SLICE or (self._published == self._first and unprocessed):
            self._producer.poll(0)
            return False
        end = min(self._published + SLICE, self._first if self._published < self._first else len(self._stream))
        for number in range(self._published, end):
            one = self._stream[number]
            self._producer.produce(self._prefix + one.topic, one.value, one.key, one.partition)
            self._indexes.setdefault((one.topic, one.partition), array("q")).append(number)
        self._published = end
        self._producer.poll(0)
        return True

    def flush(self) -> None:
        self._producer.flush()

    def _oldest(self, positions: Positions) -> int:
        """The number in the stream of the oldest event that is published and not processed."""
        return min(
            (
                indexes[position]
                for place, indexes in self._indexes.items()
                if (position := positions.get(place, 0) - self._begun_at.get(place, 0)) < len(indexes)
            ),
            default=self._published,
        )
