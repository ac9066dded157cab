"""What a worker's vitals mean, and the thread that ends a stuck one."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from streams.runtime.watchdog import (
    Sighting,
    Standing,
    Terms,
    Vitals,
    Watchdog,
    first_look,
    health,
    observe,
    readiness,
    stuck,
)
from tests.integration.support import wait_for

TERMS = Terms(unhealthy_after_s=10, stall_deadline_s=60)
IDLE = Standing("serving", True, False, 0, {})


def standing(progress: int = 0, *, behind: bool = True, **fetches: int) -> Standing:
    return Standing("serving", True, behind, progress, fetches)


def restoring(position: int) -> Standing:
    return Standing(f"being restored, at {position} of 900", False, True, position, {})


class Life:
    """A worker that is looked at once a second. Every second its fetches are answered, unless they are told not to."""

    def __init__(self) -> None:
        self.at_s = 1_000.0
        self.policies = self.inputs = 0
        self.vitals: Vitals = first_look(Sighting(self.at_s, 0, {}))

    def pass_s(
        self, seconds: int, partitions: Mapping[int, Standing] | None, *, policies: bool = True, inputs: bool = True
    ) -> None:
        for _ in range(seconds):
            self.at_s += 1
            self.policies += policies
            self.inputs += inputs
            seen = partitions and {
                number: one._replace(fetches=dict.fromkeys(one.fetches, self.inputs))
                for number, one in partitions.items()
            }
            self.vitals = observe(self.vitals, Sighting(self.at_s, self.policies, seen))

    def health(self) -> tuple[str, ...]:
        return health(self.vitals, TERMS)

    def stuck(self) -> str | None:
        return stuck(self.vitals, TERMS)


@pytest.fixture
def life() -> Life:
    return Life()


def test_a_partition_with_work_that_does_none_is_unhealthy_and_then_stuck(life: Life) -> None:
    life.pass_s(1, {3: standing(5)})
    life.pass_s(9, {3: standing(5)})
    assert (life.health(), life.stuck()) == ((), None)
    life.pass_s(1, {3: standing(5)})
    assert life.health() == ("partition 3 is serving and has not advanced for 10 s",)
    life.pass_s(49, {3: standing(5)})
    assert life.stuck() is None
    life.pass_s(1, {3: standing(5)})
    assert life.stuck() == "partition 3 is serving and has not advanced for 60 s"


def test_any_progress_starts_the_clock_anew(life: Life) -> None:
    for progress in range(5):
        life.pass_s(30, {0: restoring(progress)})
    assert life.stuck() is None
    assert life.vitals.stalled_s == {0: 29}


def test_a_partition_without_work_may_rest_for_ever(life: Life) -> None:
    life.pass_s(500, {0: IDLE})
    assert (life.health(), life.stuck()) == ((), None)
    life.pass_s(5, {0: standing(0)})
    assert life.vitals.stalled_s == {0: 5}


def test_a_restore_that_does_not_advance_is_stuck_while_others_get_on(life: Life) -> None:
    for second in range(62):
        life.pass_s(1, {0: restoring(7), 1: standing(second)})
    assert life.stuck() == "partition 0 is being restored, at 7 of 900 and has not advanced for 61 s"


def test_a_partition_that_was_given_back_is_judged_anew(life: Life) -> None:
    life.pass_s(40, {0: standing(0)})
    life.pass_s(1, None)
    life.pass_s(40, {0: standing(0)})
    assert life.vitals.stalled_s == {0: 39}


def test_without_a_broker_it_is_unhealthy_but_nobody_is_stuck(life: Life) -> None:
    life.pass_s(5, {0: standing(signals=0)})
    life.pass_s(120, {0: standing(signals=0)}, policies=False, inputs=False)
    assert life.health() == ("no broker has answered for 120 s",)
    assert life.stuck() is None
    life.pass_s(1, {0: standing(signals=0)})
    assert life.health() == ()
    life.pass_s(60, {0: standing(signals=0)})
    assert life.stuck() is not None


def test_policies_that_cannot_be_read_are_told_while_other_brokers_answer(life: Life) -> None:
    life.pass_s(12, {0: standing(behind=False, signals=0)}, policies=False)
    assert life.health() == ("policies cannot be read for 12 s: the rules may be old",)


def test_a_topic_that_cannot_be_read_is_named_unless_it_is_paused(life: Life) -> None:
    life.pass_s(1, {2: standing(behind=False, pnl=0)})
    life.pass_s(11, {2: standing(behind=False, pnl=0)}, inputs=False)
    assert life.health() == ("partition 2: pnl cannot be read for 11 s",)
    life.pass_s(1, {2: standing(behind=False)}, inputs=False)
    assert life.health() == ()


def test_a_pause_of_the_whole_process_is_not_held_against_it(life: Life) -> None:
    life.pass_s(1, {0: standing(signals=0)})
    life.at_s += 3_600
    life.pass_s(3, {0: standing(signals=0)})
    assert (life.health(), life.stuck()) == ((), None)


def test_it_is_ready_when_all_that_it_was_given_is_served() -> None:
    def ready(partitions: Mapping[int, Standing] | None) -> tuple[str, ...]:
        return readiness(first_look(Sighting(0, 0, partitions)))

    assert ready(None) == ("it waits for the group to say which partitions are its own",)
    assert ready({}) == ()
    assert ready({0: IDLE, 1: restoring(3)}) == ("partition 1 is being restored, at 3 of 900",)
    assert ready({0: IDLE}) == ()


# -- the service and its thread


class Watched:
    """A watchdog over whatever it is given to see, with deadlines of a moment."""

    def __init__(self, terms: Terms) -> None:
        self.partitions: Mapping[int, Standing] | None = {}
        self.answer = 0
        self.fault: Exception | None = None
        self.ended = threading.Event()
        self.reasons: list[str] = []
        self.dog = Watchdog("worker", self._look, terms, note=lambda: None, end=self._end)

    async def _look(self) -> Sighting:
        self.answer += 1
        if self.fault is not None:
            raise self.fault
        return Sighting(time.monotonic(), self.answer, self.partitions)

    def _end(self, reason: str) -> None:
        self.reasons.append(reason)
        self.ended.set()


@pytest.fixture
async def watched() -> AsyncIterator[Watched]:
    one = Watched(Terms(unhealthy_after_s=0.4, stall_deadline_s=1.0))
    await one.dog.start()
    yield one
    await one.dog.stop()


async def test_a_stuck_partition_ends_the_process(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate")
    watched.partitions = {4: restoring(1)}
    await wait_for(watched.ended.is_set, 10, "the end")
    assert watched.reasons[0].startswith("partition 4 is being restored, at 1 of 900 and has not advanced for ")
    assert not watched.dog.health().ok
    assert caplog.messages[0].startswith("worker is unhealthy: partition 4 is being restored")


async def test_a_blocked_loop_ends_the_process(watched: Watched, caplog: pytest.LogCaptureFixture) -> None:
    # Blocks the loop on purpose, until the thread has seen it.
    assert watched.ended.wait(10)
    assert watched.reasons[0].startswith("the event loop has been blocked for ")
    assert "assert watched.ended.wait(10)" in caplog.text


async def test_a_look_that_fails_ends_the_process(watched: Watched) -> None:
    watched.fault = LookupError("gone")
    await wait_for(watched.ended.is_set, 10, "the end")
    assert watched.reasons == ["it cannot be looked at: LookupError('gone')"]


async def test_what_gets_well_again_is_told_and_not_ended(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "tidegate")
    watched = Watched(Terms(unhealthy_after_s=0.4, stall_deadline_s=600))
    await watched.dog.start()
    watched.partitions = {0: standing(0)}
    await wait_for(lambda: "is unhealthy" in caplog.text, 10, "the complaint")
    watched.partitions = {0: IDLE}
    await wait_for(lambda: "worker is healthy again" in caplog.text, 10, "the relief")
    assert watched.reasons == []
    assert watched.dog.readiness() == (True, (), {"serving": [0], "restoring": []})
    await watched.dog.stop()


async def test_before_its_first_look_it_is_healthy_and_not_ready() -> None:
    dog = Watched(TERMS).dog
    assert dog.health().ok
    assert dog.readiness().reasons == ("it is starting",)


async def test_a_watchdog_that_was_stopped_ends_nobody(watched: Watched) -> None:
    await watched.dog.stop()
    threads: Any = [one for one in threading.enumerate() if one.name == "watchdog"]
    await asyncio.to_thread(lambda: [one.join(10) for one in threads])
    assert not any(one.is_alive() for one in threads)
    assert watched.reasons == []
