"""A burst of another pipeline, from a process of its own.

It shares a core with the broker, and runs when that leaves some: on a machine of its own it would take nothing of it.
"""

import multiprocessing
import os
from collections.abc import Sequence
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

from confluent_kafka import Producer

from tests.benchmarks.peers.setup import Setup
from tests.benchmarks.stream import Encoded

_JOIN_S = 10.0
_FLUSH_S = 60.0
_POLLED_EVERY = 50

_Sent = tuple[str, bytes, bytes, int]
"""Topic, value, key and partition."""


class Bulk:
    """Publishes bursts as fast as the broker's core allows, with the client's own batching."""

    def __init__(self, setup: Setup) -> None:
        spawning = multiprocessing.get_context("spawn")
        self._setup = setup
        self._orders, orders = spawning.Pipe()
        self._process = spawning.Process(target=_publish, args=(setup.bootstrap, orders), daemon=True)

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def load(self, events: Sequence[Encoded]) -> None:
        """Hand a burst over, without publishing it yet. Raises EOFError or OSError if the process has ended."""
        self._orders.send([(self._setup.topic(one.topic), one.value, one.key, one.partition) for one in events])
        self._orders.recv()

    def go(self) -> None:
        """Publish what was loaded, from now on; this returns at once."""
        self._orders.send(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._orders.close()
        self._process.join(_JOIN_S)
        self._process.kill()


def _publish(bootstrap: str, orders: Connection) -> None:
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    producer = Producer({"bootstrap.servers": bootstrap, "acks": 1})
    producer.list_topics(timeout=_FLUSH_S)
    try:
        while True:
            burst: list[_Sent] = orders.recv()
            orders.send(None)
            orders.recv()
            for number, (topic, value, key, partition) in enumerate(burst):
                producer.produce(topic, value, key, partition)
                if number % _POLLED_EVERY == 0:
                    producer.poll(0)
            producer.flush(_FLUSH_S)
    except EOFError:
        return
