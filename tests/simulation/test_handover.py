"""Hundreds of seeded lives of a consumer group, and proof that broken readers are seen."""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import pytest

from streams.core.records import INPUTS, SIGNALS, Record
from streams.runtime.inbox import NON_SIGNALS
from streams.runtime.kafka import TopicPartition
from streams.runtime.partition import Partition
from streams.runtime.reader import Reader, _Runner
from tests.simulation.handover import MakeReader, simulate
from tests.simulation.run import Harm

FIRST_SEED = int(os.environ.get("TIDEGATE_SIMULATION_SEED", "0"))
SEEDS = int(os.environ.get("TIDEGATE_SIMULATION_SEEDS", "100"))
EVENTS = {"rebalance", "burst", "kill", "freeze", "cut off", "stop", "fenced"}
MOMENTS = {"being taken over", "waiting", "deciding", "settling"}
"""What partitions were at when they were revoked."""


@pytest.fixture(autouse=True)
def _silence() -> Iterator[None]:
    """Readers that crash tell so at length, and here they are meant to."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(60 + SEEDS)
def test_every_partition_is_let_go_and_taken_over_whole_whatever_happens_whenever() -> None:
    struck: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + SEEDS):
        try:
            struck.update(simulate(seed).struck)
        except Exception as error:
            again = f"TIDEGATE_SIMULATION_SEED={seed} TIDEGATE_SIMULATION_SEEDS=1 python -m pytest {__file__}"
            raise AssertionError(f"seed {seed}: {error}\nagain: {again}") from error
    if SEEDS >= 50:
        assert set(struck) >= EVENTS | MOMENTS


def test_a_seed_decides_everything() -> None:
    assert simulate(FIRST_SEED).story == simulate(FIRST_SEED).story


class LooksTooEarly(Reader):
    """Awaits something between its look at ``stopping`` and the clearing of the event that would wake it."""

    async def _wait(self, runner: _Runner) -> None:
        await asyncio.sleep(0.005)
        runner.wake.clear()
        await super()._wait(runner)


class ReadsBeforeItSeeks(Reader):
    """Has partitions fetched from the moment on at which they are assigned."""

    def assign(self, assigned: Iterable[TopicPartition]) -> None:
        places = list(assigned)
        super().assign(places)
        self.consumer.resume(*places)


class SeeksLate(Reader):
    """Serves from wherever the consumer is, and seeks when it has looked where to."""

    async def _resume(self, runner: _Runner, partition: Partition) -> None:
        self.consumer.resume(*runner.places.values())
        runner.serving = True
        await super()._resume(runner, partition)


class LeavesBatchesBehind(Reader):
    """Does not wait for the batch that the gate is at."""

    async def release(self) -> None:
        for runner in self._runners.values():
            if runner.task is not None:
                runner.task.cancel()
        await super().release()


class ReadsOnWhileItStops(Reader):
    """Does not look at ``stopping`` where it has queues filled again."""

    async def _take(self, runner: _Runner) -> Mapping[str, Sequence[Record]]:
        records = await super()._take(runner)
        for topic in records:
            if runner.inbox.is_low(topic):
                self.consumer.resume(runner.places[topic])
        return records


class NeverResumesWhatItEmptied(Reader):
    """Judges by how full a queue was before it took from it."""

    async def _take(self, runner: _Runner) -> Mapping[str, Sequence[Record]]:
        full = [topic for topic in INPUTS if not runner.inbox.is_low(topic)]
        records = await super()._take(runner)
        self.consumer.pause(*(runner.places[topic] for topic in full))
        return records


class TakesTheUnknownForNothing(Reader):
    """Fails open: what was not fetched yet does not hold signals back."""

    async def _known_are_read(self, runner: _Runner) -> bool:
        if not runner.inbox.holds(SIGNALS):
            return False
        for topic in NON_SIGNALS:
            place = runner.places[topic]
            known = self.consumer.highwater(place)
            if known is not None and await self.consumer.position(place) < known:
                return False
        return True


class DecidesPastWhatItKnows(Reader):
    """A signal goes with whatever has come before it."""

    async def _known_are_read(self, runner: _Runner) -> bool:
        return runner.inbox.holds(SIGNALS)


@pytest.mark.parametrize(
    ("broken", "harm"),
    [
        (LooksTooEarly, "let go only after 20.0 s"),
        (ReadsBeforeItSeeks, "is fetched from 0"),
        (SeeksLate, "is fetched from 0"),
        (LeavesBatchesBehind, "has let go, and decides on"),
        (ReadsOnWhileItStops, "was resumed while it was revoked"),
        (NeverResumesWhatItEmptied, "does not heal"),
        (TakesTheUnknownForNothing, "decides signals before it knows"),
        (DecidesPastWhatItKnows, "decides signals of partition"),
    ],
)
def test_a_broken_reader_is_caught(broken: MakeReader, harm: str) -> None:
    def caught() -> Iterator[bool]:
        for seed in range(200):
            try:
                simulate(seed, broken)
            except Harm as error:
                yield harm in str(error).splitlines()[0]

    assert any(caught())
