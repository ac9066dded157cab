"""The arithmetic of the benchmarks: what decides whether a goal counts as met."""

import json

import pytest

from tests.benchmarks.figures import Figure, median_of, percentile
from tests.benchmarks.stream import encoded
from tests.benchmarks.workload import SHARE, Workload


@pytest.mark.parametrize(
    ("goal", "ratio", "met"),
    [(">= 8", 8.0, True), (">= 8", 7.99, False), ("<= 1.3", 1.3, True), ("<= 1.3", 1.31, False), (None, 1.0, None)],
)
def test_a_goal_is_met_at_its_limit(goal: str | None, ratio: float, met: bool | None) -> None:
    assert Figure("f", 1, "s", "other", ratio, goal).met is met


def test_a_figure_is_one_line_of_json_with_all_its_fields() -> None:
    fields = json.loads(Figure("f", 12.3456, "µs", "other", 1.23456, "<= 1.3").line())
    assert fields == {
        "figure": "f",
        "value": 12.35,
        "unit": "µs",
        "against": "other",
        "ratio": 1.235,
        "goal": "<= 1.3",
        "met": True,
    }


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 0.999, 1.0)] == [1, 50, 99, 100, 100]


def test_a_median_shows_its_spread() -> None:
    assert str(median_of([3.0, 1.0, 2.0])) == "2 (1–3)"


@pytest.mark.parametrize("zipf", [False, True])
def test_the_workload_has_the_shares_that_it_claims_and_no_fill_before_its_order(zipf: bool) -> None:
    workload = Workload(1_000, fill_delay=1_000, zipf=zipf)
    events = list(workload.events(40_000))[10_000:]
    for topic, share in SHARE.items():
        assert sum(event.topic == topic for event in events) / len(events) == pytest.approx(share, abs=0.01)
    ordered = {event.value["signal_id"]: number for number, event in enumerate(events) if event.topic == "signals"}
    filled = {event.value["fill_id"][2:]: number for number, event in enumerate(events) if event.topic == "fills"}
    delays = [number - ordered[signal_id] for signal_id, number in filled.items() if signal_id in ordered]
    assert delays
    assert min(delays) >= 1_000


def test_the_same_seed_makes_the_same_records() -> None:
    one, other = (encoded(Workload(50, seed=7, fill_delay=100).events(500), 4, first_ms=0) for _ in range(2))
    assert one == other
