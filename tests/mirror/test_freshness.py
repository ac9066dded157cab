"""How fresh the model may be called: never fresher than a broker has confirmed, whatever is slow, idle or away."""

from hypothesis import given
from hypothesis import strategies as st

from streams.mirror.freshness import Answers, Freshness, RemoteClock


def test_nothing_is_known_before_every_place_was_complete_once() -> None:
    freshness = Freshness(["a", "b"])
    assert (freshness.fresh_ms, freshness.behind_records) == (None, None)
    freshness.observe("a", end=0, seen_ms=5, written=0)
    assert (freshness.fresh_ms, freshness.behind_records) == (None, None)
    freshness.observe("b", end=7, seen_ms=6, written=3)
    assert (freshness.fresh_ms, freshness.behind_records) == (None, 4)
    freshness.observe("b", end=7, seen_ms=9, written=7)
    assert (freshness.fresh_ms, freshness.behind_records) == (5, 0)


def test_the_stalest_place_decides() -> None:
    freshness = Freshness(["a", "b"])
    freshness.observe("a", end=1, seen_ms=10, written=1)
    freshness.observe("b", end=1, seen_ms=4, written=1)
    assert freshness.fresh_ms == 4


def test_an_answer_of_which_not_all_is_written_confirms_nothing() -> None:
    freshness = Freshness(["a"])
    freshness.observe("a", end=10, seen_ms=1, written=10)
    freshness.observe("a", end=20, seen_ms=2, written=19)
    assert freshness.fresh_ms == 1
    assert freshness.behind_records == 1


def test_a_place_that_always_grows_is_as_fresh_as_the_answer_that_it_has_caught_up_with() -> None:
    freshness = Freshness(["a"])
    for moment in range(1, 100):
        freshness.observe("a", end=10 * moment, seen_ms=moment, written=10 * (moment - 1))
    # Written up to 980: what was there at 98 is complete.
    assert freshness.fresh_ms is not None
    assert freshness.fresh_ms >= 97


def test_while_no_broker_answers_the_moment_stands_still() -> None:
    freshness = Freshness(["a"])
    for _ in range(5):
        freshness.observe("a", end=3, seen_ms=7, written=3)
    assert freshness.fresh_ms == 7


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=50))
def test_it_is_never_called_fresher_than_it_is(steps: list[tuple[int, int]]) -> None:
    """Against the whole history: every answer up to that moment was written when it was told."""
    freshness = Freshness(["a"])
    answers: list[tuple[int, int]] = []
    end = written = 0
    for moment, (grown, done) in enumerate(steps):
        end += grown
        written = min(end, written + done)
        answers.append((moment, end))
        freshness.observe("a", end=end, seen_ms=moment, written=written)
        fresh_ms = freshness.fresh_ms
        if fresh_ms is not None:
            assert all(at_end <= written for at, at_end in answers if at <= fresh_ms)


def test_an_answer_that_lay_unread_is_dated_by_the_one_before() -> None:
    answers: Answers[str] = Answers()
    assert answers.dated("a", stamp=1, handled_ms=100) is None
    assert answers.dated("a", stamp=2, handled_ms=200) == 100
    # The process slept: the next answer was given soon after it was asked for, and handled long after.
    assert answers.dated("a", stamp=3, handled_ms=30_000) == 200
    assert answers.dated("a", stamp=3, handled_ms=30_050) == 200
    assert answers.dated("b", stamp=3, handled_ms=30_050) is None
    assert answers.dated("a", stamp=4, handled_ms=30_100) == 30_000


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=30))
def test_no_delay_of_an_answer_makes_it_younger(delays: list[tuple[int, int]]) -> None:
    answers: Answers[str] = Answers()
    now = 0
    for number, (going, coming) in enumerate(delays):
        given_ms = now + going
        now = given_ms + coming
        dated_ms = answers.dated("a", stamp=number, handled_ms=now)
        assert dated_ms is None if number == 0 else dated_ms is not None and dated_ms <= given_ms


def test_another_clock_is_told_no_later_than_it_was() -> None:
    clock = RemoteClock()
    assert clock.tell(0) is None
    clock.sample(1_000_005, 100)
    assert clock.tell(100) == 1_000_005
    # A reply that took long says less; the better one stands.
    clock.sample(1_000_006, 500)
    assert clock.tell(100) == 1_000_005
    for _ in range(20):
        clock.sample(1_000_006, 500)
    assert clock.tell(500) == 1_000_006


@given(
    st.integers(-(10**6), 10**6),
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 1000)), min_size=1, max_size=30),
)
def test_no_delay_of_a_reply_makes_a_moment_later(offset: int, delays: list[tuple[int, int]]) -> None:
    clock, now = RemoteClock(), 0
    for going, coming in delays:
        now += going
        server_ms = now + offset
        now += coming
        clock.sample(server_ms, now)
        told = clock.tell(now)
        assert told is not None
        assert told <= now + offset
