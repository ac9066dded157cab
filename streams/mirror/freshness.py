"""How fresh the model is, as a moment: all that was committed to the topics by then is in Redis (pure).

A place is one partition of one topic. Each answer of a broker says where a place's committed records end (its last
stable offset); once the model is written up to there, it was complete at the moment of that answer. The model is as
fresh as its stalest place. Nothing is claimed that a broker did not confirm: while Kafka is away the moment stands
still.

Moments are told in Redis' own time, so that whoever reads them there compares them with the same clock.
"""

from collections import deque
from collections.abc import Iterable
from typing import Generic, NamedTuple, TypeVar

Place = TypeVar("Place")

_SAMPLES_MAX = 20


class _Target(NamedTuple):
    end: int
    seen_ms: float


class _Answer(NamedTuple):
    stamp: int
    handled_ms: float
    given_ms: float | None


class Freshness(Generic[Place]):
    """Follows all places; moments are ms of any one steady clock."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._targets: dict[Place, _Target | None] = dict.fromkeys(places)
        self._fresh_ms: dict[Place, float | None] = dict.fromkeys(self._targets)
        self._behind: dict[Place, int | None] = dict.fromkeys(self._targets)

    def observe(self, place: Place, *, end: int, seen_ms: float, written: int) -> None:
        """A broker said, not before ``seen_ms``: the place ends at ``end``; the model holds it up to ``written``."""
        self._behind[place] = max(0, end - written)
        target = self._targets[place]
        if target is not None and written >= target.end:
            self._fresh_ms[place] = target.seen_ms
            target = None
        # A target is kept until it is met: a place that always grows would otherwise never be found complete.
        if target is None:
            if written >= end:
                self._fresh_ms[place] = seen_ms
            else:
                target = _Target(end, seen_ms)
        self._targets[place] = target

    @property
    def fresh_ms(self) -> float | None:
        """The moment; None until every place has been complete once."""
        moments = [moment for moment in self._fresh_ms.values() if moment is not None]
        return min(moments) if len(moments) == len(self._fresh_ms) else None

    @property
    def behind_records(self) -> int | None:
        """Offsets that are not in Redis yet, transaction markers included; None until brokers have told of all."""
        counts = [count for count in self._behind.values() if count is not None]
        return sum(counts) if len(counts) == len(self._behind) else None


class Answers(Generic[Place]):
    """Dates the answers of brokers, never too late, however long one lay unread.

    A client notes when it *handled* an answer: that may be any time after it was given, if the process slept or the
    network held it up. But a place is asked again only when its last answer has been handled, so an answer is younger
    than the handling of the one before.
    """

    def __init__(self) -> None:
        self._last: dict[Place, _Answer] = {}

    def dated(self, place: Place, *, stamp: int, handled_ms: float) -> float | None:
        """When at the earliest the answer was given; None for the first. ``stamp``: tells answers of a place apart."""
        last = self._last.get(place)
        if last is None or last.stamp != stamp:
            last = self._last[place] = _Answer(stamp, handled_ms, last and last.handled_ms)
        return last.given_ms


class RemoteClock:
    """Tells a moment of the own steady clock in the time of a server, never too late a one.

    A reply gives the server's time at some moment before the reply was there: the difference is a lower bound. The
    best of the last ones is used: one slow reply does not make the model look stale, no delay makes it look fresh.
    """

    def __init__(self) -> None:
        self._offsets: deque[float] = deque(maxlen=_SAMPLES_MAX)

    def sample(self, server_ms: float, received_ms: float) -> None:
        """A reply with the server's time, received at ``received_ms``."""
        self._offsets.append(server_ms - received_ms)

    def tell(self, own_ms: float) -> float | None:
        """The moment in the server's time; None before the first sample."""
        return own_ms + max(self._offsets) if self._offsets else None
