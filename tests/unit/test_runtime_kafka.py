"""Questions that any broker can answer, while one is away; and consumers that do not get to their end."""

import asyncio
from typing import cast

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaConnectionError, KafkaError, NodeNotReadyError

from streams.runtime import kafka


class Brokers:
    """Asked in turn: each answers, or raises what it is."""

    def __init__(self, *brokers: str | KafkaError) -> None:
        self._brokers = list(brokers)
        self.asked = 0

    async def ask(self) -> str:
        self.asked += 1
        answer = self._brokers[(self.asked - 1) % len(self._brokers)]
        if isinstance(answer, KafkaError):
            raise answer
        return answer


async def test_a_broker_that_is_away_is_not_the_only_one_asked() -> None:
    brokers = Brokers(NodeNotReadyError(), NodeNotReadyError(), "topics")
    assert await kafka.ask_any_broker(brokers.ask) == "topics"
    assert brokers.asked == 3


async def test_a_cluster_that_is_away_is_given_up() -> None:
    brokers = Brokers(NodeNotReadyError())
    with pytest.raises(NodeNotReadyError):
        await kafka.ask_any_broker(brokers.ask)
    assert brokers.asked == 8


async def test_what_may_have_been_done_is_not_asked_again() -> None:
    brokers = Brokers(KafkaConnectionError(), "created")
    with pytest.raises(KafkaConnectionError):
        await kafka.ask_any_broker(brokers.ask)
    assert brokers.asked == 1


class Starting:
    """A consumer that fails to connect, or never does."""

    def __init__(self, failure: KafkaError | None) -> None:
        self._failure = failure
        self.is_asked = asyncio.Event()
        self.is_stopped = False

    async def start(self) -> None:
        self.is_asked.set()
        if self._failure is not None:
            raise self._failure
        await asyncio.Event().wait()

    async def stop(self) -> None:
        self.is_stopped = True


async def test_a_consumer_that_cannot_connect_is_closed() -> None:
    consumer = Starting(KafkaConnectionError())
    with pytest.raises(KafkaConnectionError):
        await kafka.started(cast("AIOKafkaConsumer", consumer))
    assert consumer.is_stopped


async def test_a_consumer_whose_start_is_cancelled_is_closed() -> None:
    consumer = Starting(None)
    starting = asyncio.create_task(kafka.started(cast("AIOKafkaConsumer", consumer)))
    await consumer.is_asked.wait()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert consumer.is_stopped
