"""Many rounds on all cores, a watchdog for each, and a failure made small enough to read and to keep."""

import contextlib
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import count
from types import FrameType
from typing import Any, NamedTuple

from streams.core.fold import fold
from tests.fuzz.gate import Fold, Tally, play
from tests.fuzz.mutations import Sent
from tests.fuzz.sessions import Round, make_round
from tests.model.strategies import minimal

# A round takes a fraction of a second; one that takes this long on any machine does not end.
STALL_S = 120
_ROUNDS_AT_ONCE = 16


class Stalled(BaseException):
    """A round did not end. Not an ``Exception``: nothing on the way may take it for bad input."""


class Failure(NamedTuple):
    """The round that failed, and how."""

    number: int
    error: str


class Found(NamedTuple):
    """What a run came to; ``failure`` None: every input was accounted for."""

    tally: Tally
    rounds: int
    failure: Failure | None


def fuzz(seed: int, broken: int, *, jobs: int | None = None, told: Callable[[int], None] = lambda _: None) -> Found:
    """Play rounds of a seed until ``broken`` broken inputs were given, or one round fails."""
    total, rounds = Tally(0, 0, Counter(), 0.0), 0
    with ProcessPoolExecutor(jobs or os.cpu_count()) as pool:
        numbers = count()
        under_way = [pool.submit(_rounds, seed, next(numbers)) for _ in range(2 * (jobs or os.cpu_count() or 1))]
        while under_way:
            tally, played, failure = under_way.pop(0).result()
            total, rounds = _sum(total, tally), rounds + played
            told(total.broken)
            if failure is not None:
                pool.shutdown(cancel_futures=True)
                return Found(total, rounds, failure)
            if total.broken < broken:
                under_way.append(pool.submit(_rounds, seed, next(numbers)))
    return Found(total, rounds, None)


def _rounds(seed: int, block: int) -> Found:
    total = Tally(0, 0, Counter(), 0.0)
    for played in range(_ROUNDS_AT_ONCE):
        number = block * _ROUNDS_AT_ONCE + played
        one = make_round(seed, number)
        error = failure_of(one)
        if isinstance(error, str):
            return Found(total, played + 1, Failure(number, error))
        total = _sum(total, error)
    return Found(total, _ROUNDS_AT_ONCE, None)


def _sum(one: Tally, other: Tally) -> Tally:
    slowest_ms = max(one.slowest_ms, other.slowest_ms)
    return Tally(one.inputs + other.inputs, one.broken + other.broken, one.outputs + other.outputs, slowest_ms)


def failure_of(one: Round, *, fold: Fold = fold) -> Tally | str:
    """What a round came to, or the error in a line: whatever is raised is a failure, a stall too."""
    try:
        with _watchdog():
            return play(one, fold=fold)
    except (Exception, Stalled) as error:  # noqa: BLE001 - the gate promises to raise nothing at all
        return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _watchdog() -> Iterator[None]:
    def bark(_number: int, _frame: FrameType | None) -> None:
        raise Stalled(f"a round did not end in {STALL_S} s")

    before: Any = signal.signal(signal.SIGALRM, bark)
    signal.alarm(STALL_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def shortened(one: Round, error: str, *, fold: Fold = fold) -> Round:
    """The same failure with the fewest records: what matters is the kind of error, its figures may differ."""
    kind = error.partition(":")[0]

    def fails(sent: list[Any]) -> bool:
        found = failure_of(replace(one, sent=tuple(sent)), fold=fold)
        return isinstance(found, str) and found.partition(":")[0] == kind

    kept: tuple[Sent, ...] = tuple(minimal(one.sent, fails))  # type: ignore[arg-type]
    return replace(one, sent=kept, broken=0)
