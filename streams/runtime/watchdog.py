"""Is this worker alive? What its event loop sees of itself, what that means, and a thread that ends a stuck worker.

Three parts, each testable without the others:

- A *sighting* is what the loop sees at one look, twice a second: what each partition is at, whether there is work that
  it could do, something that changes whenever work gets done, and when brokers last answered.
- ``observe`` folds sightings into *vitals*: for how long each partition has had work and done none, for how long no
  broker has answered. Pure. ``health``, ``readiness`` and ``stuck`` are questions about vitals.
- ``Watchdog`` looks, and keeps a thread beside the loop. The thread ends the process with status 1 where a partition
  has not advanced before the deadline (a restore counts too), or where the loop has not looked for as long. It does so
  at once, without a clean stop: what is stuck cannot be trusted to stop, and whoever takes over fences it anyway.

What it goes by: lag is what could be read (up to the last stable offset) and is not decided. A worker is not stuck
while it waits for others: for a broker that does not answer, for a pipeline's own open transaction, for its turn to
restore. Nor does the time count in which the whole process was paused: after it others own its partitions, and its
first transaction says so.

What could break it: a native call that holds the interpreter's lock for ever stops the thread as well. Then nothing
answers ``/health``, and whoever probes it has to end the process.
"""

import asyncio
import logging
import os
import sys
import threading
import traceback
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import NamedTuple

from mode import Service

from streams.runtime.process import EXIT_FAILED
from streams.runtime.web import Report

log = logging.getLogger("tidegate")

_LOOK_INTERVAL_S = 0.5
# Two looks further apart than this are one look after a pause: more must not be held against the worker.
_LOOK_GAP_MAX_S = 2.0
# Every half second at least a fetch is answered. Longer than this, and no broker can be reached.
_QUIET_S = 3.0
_NOTE_DEADLINE_S = 2.0


class Terms(NamedTuple):
    """When a state of affairs is worth a word, and when it is the end. Seconds."""

    unhealthy_after_s: float
    stall_deadline_s: float


class Standing(NamedTuple):
    """What one partition is at."""

    doing: str
    """In words that go after "partition 3 is"."""
    serving: bool
    behind: bool
    """There is work that it could do now."""
    progress: Hashable
    """Changes whenever work gets done."""
    fetches: Mapping[str, Hashable]
    """By topic that is being read: changes with every answer from its broker."""


class Sighting(NamedTuple):
    """What the event loop sees at one look."""

    at_s: float
    policies: Hashable
    """Changes with every answer to a fetch of the policies; None before the first."""
    partitions: Mapping[int, Standing] | None
    """Those assigned; None until the group has said which."""


class Vitals(NamedTuple):
    """What a row of sightings adds up to. Times are monotonic seconds."""

    seen: Sighting
    stalled_s: Mapping[int, float]
    """For how long a partition has been behind and has done nothing, while brokers answered."""
    policies_s: float
    """When the policies' broker last answered."""
    fetched_s: Mapping[tuple[int, str], float]
    """When the broker of a partition's topic last answered."""

    @property
    def silence_s(self) -> float:
        """How long no broker at all has answered."""
        return self.seen.at_s - max([self.policies_s, *self.fetched_s.values()])


def first_look(seen: Sighting) -> Vitals:
    """Vitals of a worker that has just begun: nothing is held against it yet."""
    return Vitals(seen, {}, seen.at_s, {})


def observe(before: Vitals, seen: Sighting) -> Vitals:
    """Add a sighting."""
    was, now_s = before.seen, seen.at_s
    old, new = was.partitions or {}, seen.partitions or {}
    fetched_s = {
        (number, topic): now_s
        if number not in old or topic not in old[number].fetches or old[number].fetches[topic] != answer
        else before.fetched_s[number, topic]
        for number, standing in new.items()
        for topic, answer in standing.fetches.items()
    }
    after = Vitals(seen, {}, before.policies_s if seen.policies == was.policies else now_s, fetched_s)
    if after.silence_s > _QUIET_S:
        return after
    passed_s = min(now_s - was.at_s, _LOOK_GAP_MAX_S)
    stalled_s = {
        number: before.stalled_s.get(number, 0.0) + passed_s
        for number, standing in new.items()
        if standing.behind and number in old and old[number].progress == standing.progress
    }
    return after._replace(stalled_s=stalled_s)


def stuck(vitals: Vitals, terms: Terms) -> str | None:
    """What has not advanced before the deadline, in words; None if all is well."""
    return next(iter(_stalled(vitals, terms.stall_deadline_s)), None)


def health(vitals: Vitals, terms: Terms) -> tuple[str, ...]:
    """Why the worker is unhealthy; empty if it is not."""
    seen, limit_s = vitals.seen, terms.unhealthy_after_s
    if vitals.silence_s > limit_s:
        return (f"no broker has answered for {vitals.silence_s:.0f} s",)
    reasons = list(_stalled(vitals, limit_s))
    if (silent_s := seen.at_s - vitals.policies_s) > limit_s:
        reasons.append(f"policies cannot be read for {silent_s:.0f} s: the rules may be old")
    for (number, topic), answered_s in sorted(vitals.fetched_s.items()):
        if (silent_s := seen.at_s - answered_s) > limit_s:
            reasons.append(f"partition {number}: {topic} cannot be read for {silent_s:.0f} s")
    return tuple(reasons)


def readiness(vitals: Vitals) -> tuple[str, ...]:
    """What is still to do before the worker serves all that it was given; empty if nothing is."""
    partitions = vitals.seen.partitions
    if partitions is None:
        return ("it waits for the group to say which partitions are its own",)
    return tuple(
        f"partition {number} is {standing.doing}"
        for number, standing in sorted(partitions.items())
        if not standing.serving
    )


def _stalled(vitals: Vitals, limit_s: float) -> Iterable[str]:
    partitions = vitals.seen.partitions or {}
    for number, stalled_s in sorted(vitals.stalled_s.items()):
        if stalled_s >= limit_s:
            yield f"partition {number} is {partitions[number].doing} and has not advanced for {stalled_s:.0f} s"


class Watchdog(Service):
    """Looks at the worker from inside its event loop, and at the loop from a thread of its own."""

    def __init__(
        self,
        name: str,
        look: Callable[[], Awaitable[Sighting]],
        terms: Terms,
        *,
        note: Callable[[], None],
        end: Callable[[str], None] | None = None,
    ) -> None:
        """``look`` waits for nothing but the loop; ``note`` may write down that it ends stuck, before it does.

        ``end`` ends the process; tests put another in its place.
        """
        super().__init__()
        self._name = name
        self._look = look
        self._terms = terms
        self._note = note
        self._end = end or self._exit
        self._vitals: Vitals | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._loop_thread = threading.get_ident()

    def health(self) -> Report:
        """Whether the worker is alive and can reach what it needs."""
        vitals = self._vitals
        return Report.of(() if vitals is None else health(vitals, self._terms))

    def readiness(self) -> Report:
        """Whether it serves all that it was given: healthy, and nothing left to restore."""
        vitals = self._vitals
        if vitals is None:
            return Report.of(("it is starting",))
        partitions = vitals.seen.partitions or {}
        return Report.of(
            health(vitals, self._terms) + readiness(vitals),
            serving=sorted(number for number, standing in partitions.items() if standing.serving),
            restoring=sorted(number for number, standing in partitions.items() if not standing.serving),
        )

    async def on_start(self) -> None:
        """Look for the first time."""
        self._loop_thread = threading.get_ident()
        self._vitals = first_look(await self._look())
        self._thread.start()

    @Service.task
    async def _keep_looking(self) -> None:
        while not self.should_stop:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            try:
                seen = await self._look()
            except Exception as error:  # noqa: BLE001 - a watchdog that sees nothing must not look as if all were well
                return self._end(f"it cannot be looked at: {error!r}")
            self._vitals = first_look(seen) if self._vitals is None else observe(self._vitals, seen)
        return None

    async def on_stop(self) -> None:
        """From now on the deadline of the stop counts."""
        self._over.set()

    # -- the thread

    def _watch(self) -> None:
        """Counts its own ticks and not the clock: a process that was paused has not been blocked."""
        ticks, last = 0, self._vitals
        said: tuple[str, ...] = ()
        while not self._over.wait(_LOOK_INTERVAL_S):
            vitals = self._vitals
            ticks, last = (ticks + 1, last) if vitals is last else (0, vitals)
            if vitals is None:
                continue
            blocked_s = ticks * _LOOK_INTERVAL_S
            said = self._tell(said, health(vitals, self._terms))
            if blocked_s >= self._terms.stall_deadline_s:
                log.error("the event loop is at:\n%s", self._stack())
                return self._end(f"the event loop has been blocked for {blocked_s:.0f} s")
            if reason := stuck(vitals, self._terms):
                return self._end(reason)
        return None

    def _tell(self, said: tuple[str, ...], reasons: tuple[str, ...]) -> tuple[str, ...]:
        if reasons and not said:
            log.error("%s is unhealthy: %s", self._name, "; ".join(reasons))
        elif said and not reasons:
            log.info("%s is healthy again", self._name)
        return reasons

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the one way to another thread's stack
        return "".join(traceback.format_stack(frame)) if frame is not None else "an unknown place"

    def _exit(self, reason: str) -> None:
        # A disk that hangs may be why it is stuck: a note that cannot be written holds up nothing.
        noting = threading.Thread(target=self._note, daemon=True)
        noting.start()
        noting.join(_NOTE_DEADLINE_S)
        log.critical("%s failed: stuck: %s", self._name, reason)
        os._exit(EXIT_FAILED)
