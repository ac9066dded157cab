"""Load at a fixed rate, and the time that each probe takes from the call that sends it to its read-committed output.

Probes are signals (until their decision) and breaching pnl updates (until ``account-locked``; an echo repeats both).
Sent and received by one process, so one clock tells both times.
"""

import contextlib
import heapq
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import orjson
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition

from streams.core.records import OUTPUTS, PNL
from streams.runtime.kafka import partition_of_key
from tests.benchmarks.engines import reading_all
from tests.benchmarks.peers.setup import Setup
from tests.benchmarks.stream import Encoded, encoded
from tests.benchmarks.workload import Event, account_name

_TICK_S = 0.0005
_BREACHING = "50000"
# Above any sequence of the workload.
_SEQUENCE = 1_000_000_000
# Python hands the interpreter from thread to thread this often: five milliseconds, its default, would be measured too.
_SWITCH_INTERVAL_S = 0.0002
_LEADER_TRIES = 100


class Breaches:
    """Accounts that trade nothing and breach once each; after their first marks are in."""

    def __init__(self, first: int, count: int, partitions: int) -> None:
        """``count`` accounts from number ``first`` on."""
        self.names = [account_name(number) for number in range(first, first + count)]
        self._partitions = partitions
        self._left = list(reversed(self.names))

    def marks(self) -> Iterator[Event]:
        """Their first equity."""
        return (Event(PNL, name, {"account_id": name, "sequence": 1, "equity": "100000"}) for name in self.names)

    def next(self, partition: int | None = None) -> Encoded:
        """A breaching update of an account that has not breached. Raises LookupError when there is none left."""
        for number in range(len(self._left) - 1, -1, -1):
            name = self._left[number]
            if partition is None or partition_of_key(name.encode(), self._partitions) == partition:
                del self._left[number]
                value = {"account_id": name, "sequence": _SEQUENCE, "equity": _BREACHING}
                return encoded([Event(PNL, name, value)], self._partitions, time.time_ns() // 1_000_000)[0]
        raise LookupError("more breaches than accounts to breach")


def _end_of(consumer: Consumer, place: TopicPartition) -> int:
    """Where the next record goes. A topic that was just made has no leader for a moment; raises KafkaException."""
    for _ in range(_LEADER_TRIES):
        with contextlib.suppress(KafkaException):
            return int(consumer.get_watermark_offsets(place, timeout=10)[1])
        time.sleep(0.1)
    return int(consumer.get_watermark_offsets(place, timeout=10)[1])


class Probe:
    """Sends records and notes when their outputs come out."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._producer = Producer({"bootstrap.servers": setup.bootstrap, "linger.ms": 0, "acks": 1})
        self._consumer = Consumer(reading_all(setup.bootstrap))
        places = [TopicPartition(setup.topic(topic), number) for topic in OUTPUTS for number in range(setup.partitions)]
        for place in places:
            # From here on: whoever reads what came before first receives what is measured late.
            place.offset = _end_of(self._consumer, place)
        self._consumer.assign(places)
        self._sent: dict[str, float] = {}
        self._received: dict[str, float] = {}
        self._stopping = False
        self._thread = threading.Thread(target=self._receive, daemon=True)

    def __enter__(self) -> Self:
        sys.setswitchinterval(_SWITCH_INTERVAL_S)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join()
        self._consumer.close()
        self._producer.flush(10)

    def send(self, one: Encoded, probe: str | None = None) -> None:
        """Publish now; ``probe`` is what its output will be known by."""
        if probe is not None:
            self._sent[probe] = time.perf_counter()
        self._producer.produce(self._setup.topic(one.topic), one.value, one.key, one.partition)
        self._producer.poll(0)

    def flush(self) -> None:
        self._producer.flush()

    def latencies_ms(self, probes: Iterable[str], deadline_s: float, check: Callable[[], None]) -> list[float]:
        """Wait for the outputs of these probes. Raises TimeoutError if some do not come."""
        wanted = list(probes)
        end = time.monotonic() + deadline_s
        while missing := sum(probe not in self._received for probe in wanted):
            check()
            if time.monotonic() > end:
                raise TimeoutError(f"{missing} of {len(wanted)} outputs did not come in {deadline_s:.0f} s")
            time.sleep(0.01)
        return [(self._received[probe] - self._sent[probe]) * 1_000 for probe in wanted]

    def _receive(self) -> None:
        while not self._stopping:
            message = self._consumer.poll(0.05)
            if message is None or message.error():
                continue
            now = time.perf_counter()
            value: dict[str, Any] = orjson.loads(message.value())
            probe = value.get("signal_id")
            if probe is None and (value.get("lock_id") or value.get("equity") == _BREACHING):
                probe = value["account_id"]
            if probe is not None:
                self._received.setdefault(probe, now)


def paced(
    probe: Probe, stream: Sequence[Encoded], rate: int, breaches: Breaches, breaches_per_s: int
) -> tuple[list[str], list[str]]:
    """Publish the stream at ``rate`` events/s with breaches in between; signals and accounts that breach."""
    signals, locked = [], []
    began = time.perf_counter()
    due = heapq.merge(
        ((number / rate, 0, number) for number in range(len(stream))),
        ((number / max(1, breaches_per_s), 1, number) for number in range(int(len(stream) / rate * breaches_per_s))),
    )
    for at_s, is_breach, number in due:
        while (left := began + at_s - time.perf_counter()) > 0:
            time.sleep(min(left, _TICK_S))
        if is_breach:
            one = breaches.next()
            locked.append(one.key.decode())
            probe.send(one, locked[-1])
        elif stream[number].topic == "signals":
            signals.append(orjson.loads(stream[number].value)["signal_id"])
            probe.send(stream[number], signals[-1])
        else:
            probe.send(stream[number])
    probe.flush()
    return signals, locked
