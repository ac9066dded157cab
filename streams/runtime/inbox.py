"""Records of one partition that were read and not yet handed out, and which of them may make the next batch.

The rule that everything else serves: no signal is in a batch unless everything known of the partition's controls, fills
and pnl is applied or in the same batch. A backlog therefore never approves an order past a lock that waits behind it.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence

from streams.core.records import INPUTS, SIGNALS, Record

_NEVER = (math.inf, 0)
NON_SIGNALS = tuple(topic for topic in INPUTS if topic != SIGNALS)


class Inbox:
    """Bounded queues of the four inputs of one partition."""

    def __init__(self, *, queue_max_records: int, queue_max_bytes: int) -> None:
        self._max_records = queue_max_records
        self._max_bytes = queue_max_bytes
        self._queues: Mapping[str, deque[Record]] = {topic: deque() for topic in INPUTS}
        self._sizes: Mapping[str, deque[int]] = {topic: deque() for topic in INPUTS}
        self._bytes = dict.fromkeys(INPUTS, 0)

    def put(self, topic: str, records: Sequence[Record]) -> None:
        """Append records, in offset order."""
        sizes = [size_of(record) for record in records]
        self._queues[topic].extend(records)
        self._sizes[topic].extend(sizes)
        self._bytes[topic] += sum(sizes)

    def count(self) -> int:
        """Records that wait."""
        return sum(map(len, self._queues.values()))

    @property
    def oldest_ms(self) -> int | None:
        """Timestamp of the record that waits longest; None if none does."""
        return min((queue[0].timestamp_ms for queue in self._queues.values() if queue), default=None)

    def is_full(self, topic: str) -> bool:
        """Whether reading of ``topic`` should pause."""
        return len(self._queues[topic]) >= self._max_records or self._bytes[topic] >= self._max_bytes

    def is_low(self, topic: str) -> bool:
        """Whether reading of ``topic`` may resume."""
        return len(self._queues[topic]) <= self._max_records // 2 and self._bytes[topic] <= self._max_bytes // 2

    def holds(self, topic: str) -> bool:
        return bool(self._queues[topic])

    def take(self, *, known_are_read: bool, max_records: int, max_bytes: int) -> dict[str, Sequence[Record]]:
        """The next batch, by topic; empty if there is nothing that may be decided yet.

        ``known_are_read``: all controls, fills and pnl that are known to exist have been put in here. They come first,
        oldest first; signals fill what is left. A record larger than ``max_bytes`` makes a batch of its own.
        """
        batch: dict[str, list[Record]] = {topic: [] for topic in INPUTS}
        left = _Budget(max_records, max_bytes)
        self._take(batch, NON_SIGNALS, left)
        if known_are_read and not any(self._queues[topic] for topic in NON_SIGNALS):
            self._take(batch, (SIGNALS,), left)
        return {topic: taken for topic, taken in batch.items() if taken}

    def _take(self, batch: dict[str, list[Record]], topics: Sequence[str], left: "_Budget") -> None:
        """Oldest first; at equal times in the order of ``topics``."""
        while True:
            heads = sorted(
                (self._queues[topic][0].timestamp_ms, number)
                for number, topic in enumerate(topics)
                if self._queues[topic]
            )
            if not heads:
                return
            number = heads[0][1]
            topic = topics[number]
            queue, sizes, taken = self._queues[topic], self._sizes[topic], batch[topic]
            # The oldest topic goes on until another one's next record is older.
            until = heads[1] if len(heads) > 1 else _NEVER
            while queue and (queue[0].timestamp_ms, number) < until:
                if not left.spend(sizes[0]):
                    return
                taken.append(queue.popleft())
                self._bytes[topic] -= sizes.popleft()


class _Budget:
    """What may still go into a batch. The first record always may, or it would wait for ever."""

    def __init__(self, records: int, size_bytes: int) -> None:
        self._records = records
        self._bytes = size_bytes
        self._spent = False

    def spend(self, size_bytes: int) -> bool:
        if self._spent and (self._records < 1 or self._bytes < size_bytes):
            return False
        self._spent = True
        self._records -= 1
        self._bytes -= size_bytes
        return True


def size_of(record: Record) -> int:
    """Bytes of a record's key, value and headers."""
    size_bytes = len(record.value or b"") + len(record.key or b"")
    if record.headers:
        size_bytes += sum(len(name) + len(value or b"") for name, value in record.headers)
    return size_bytes
