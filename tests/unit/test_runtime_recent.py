"""The cache of live accounts: bounded, never wrong about a value, and it keeps what is used."""

from hypothesis import given
from hypothesis import strategies as st

from streams.runtime.recent import Recent

KEYS = st.integers(0, 12)
STEPS = st.lists(st.one_of(KEYS, st.dictionaries(KEYS, st.integers(), max_size=5)), max_size=60)


@given(STEPS, st.integers(0, 8))
def test_it_holds_the_last_value_of_a_key_or_nothing_and_stays_within_its_limit(
    steps: list[int | dict[int, int]], limit: int
) -> None:
    cache = Recent[int, int](limit)
    written: dict[int, int] = {}
    for step in steps:
        if isinstance(step, int):
            assert cache.get(step) in (None, written.get(step))
        else:
            cache.update(step)
            written |= step
            assert len(cache) <= max(limit, len(step))
            assert all(cache.get(key) == value for key, value in step.items())


@given(st.lists(st.dictionaries(KEYS, st.integers(), max_size=5), max_size=30))
def test_nothing_is_dropped_while_all_fit(updates: list[dict[int, int]]) -> None:
    cache = Recent[int, int](13)
    written: dict[int, int] = {}
    for update in updates:
        cache.update(update)
        written |= update
    assert {key: cache.get(key) for key in written} == written


def test_an_entry_that_is_used_again_and_again_outlives_many_that_are_used_once() -> None:
    cache = Recent[str, int](10)
    cache.update({"hot": 1})
    for number in range(1_000):
        cache.update({f"once {number}": number})
        assert cache.get("hot") == 1


def test_entries_that_are_not_used_are_dropped_in_the_end() -> None:
    cache = Recent[int, int](10)
    cache.update({0: 0})
    for number in range(1, 40):
        cache.update({number: number})
    assert cache.get(0) is None


def test_a_cleared_cache_is_empty() -> None:
    cache = Recent[int, int](2)
    for number in range(5):
        cache.update({number: number})
    cache.clear()
    assert len(cache) == 0
    assert all(cache.get(number) is None for number in range(5))
