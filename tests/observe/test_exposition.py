"""From samples to the text that Prometheus reads."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from streams.observe import families
from streams.observe.exposition import Distribution, Sample, exposition
from streams.observe.mirror import MirrorMetrics
from streams.runtime.metrics import Buckets

Shown = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def shown(body: bytes) -> Shown:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
    }


def test_a_process_says_what_it_is_and_uses() -> None:
    body, content_type = exposition("mirror")()
    figures = shown(body)
    assert content_type.startswith("text/plain")
    [labels] = [dict(labels) for name, labels in figures if name == "tidegate_build_info"]
    assert labels["process"] == "mirror"
    assert labels.keys() == {"process", "version", "python"}
    assert figures["process_resident_memory_bytes", ()] > 0


def test_sources_are_asked_at_every_scrape_and_what_they_drop_is_gone() -> None:
    samples = [Sample(families.LAG_RECORDS, 3, ("0",)), Sample(families.LAG_RECORDS, 4, ("1",))]
    expose = exposition("worker", lambda: samples)
    assert shown(expose()[0])["tidegate_lag_records", (("partition", "1"),)] == 4
    samples.pop()
    left = shown(expose()[0])
    assert left["tidegate_lag_records", (("partition", "0"),)] == 3
    assert ("tidegate_lag_records", (("partition", "1"),)) not in left


def test_a_family_of_two_sources_is_written_once() -> None:
    body, _ = exposition(
        "worker",
        lambda: [Sample(families.LAG_RECORDS, 1, ("0",))],
        lambda: [Sample(families.LAG_RECORDS, 2, ("1",))],
    )()
    assert body.decode().count("# TYPE tidegate_lag_records gauge") == 1


def test_a_histogram_is_cumulative_and_in_base_units() -> None:
    buckets = Buckets((1, 10, 100))
    for value_ms in (0.5, 1, 5, 10, 50, 500):
        buckets.observe(value_ms)
    figures = shown(exposition("worker", lambda: [Sample(families.FOLD, Distribution(buckets, 1_000))])()[0])
    name = "tidegate_fold_duration_seconds"
    counts = {labels[0][1]: value for (one, labels), value in figures.items() if one == f"{name}_bucket"}
    assert counts == {"0.001": 2, "0.01": 4, "0.1": 5, "+Inf": 6}
    assert figures[f"{name}_count", ()] == 6
    assert figures[f"{name}_sum", ()] == pytest.approx(0.5665)


def test_ages_are_counted_together_and_the_future_is_now() -> None:
    one, other = Buckets((1, 10)), Buckets((1, 10))
    one.observe_ages(100, [95, 95, 100, 50, 120])
    for age_ms in (5, 5, 0, 50, 0):
        other.observe(age_ms)
    assert (one.counts, one.total) == (other.counts, other.total) == ([2, 2, 1], 60)


def test_label_values_are_escaped() -> None:
    strange = 'a"b\\c\nd'
    body, _ = exposition("worker", lambda: [Sample(families.ACCOUNT_POSITIONS, 1, (strange,))])()
    assert shown(body)["tidegate_account_open_positions", (("account", strange),)] == 1


def test_a_number_is_no_histogram() -> None:
    with pytest.raises(TypeError, match="tidegate_fold_duration_seconds is a histogram"):
        exposition("worker", lambda: [Sample(families.FOLD, 1)])()
    with pytest.raises(TypeError, match="tidegate_lag_records is no histogram"):
        exposition("worker", lambda: [Sample(families.LAG_RECORDS, Distribution(Buckets((1,))), ("0",))])()


def test_the_mirror_shows_every_family_of_its_own() -> None:
    metrics = MirrorMetrics(
        lag_records=7, lag_seconds=1.5, complete=True, redis_up=True, records=9, errors=2, rebuilds=1
    )
    figures = {name: value for (name, _), value in shown(exposition("mirror", metrics.samples)()[0]).items()}
    listed = {one.name for one in families.FAMILIES.values() if one.process == "mirror"}
    assert listed <= figures.keys()
    assert (figures["tidegate_mirror_lag_records"], figures["tidegate_mirror_lag_seconds"]) == (7, 1.5)
    assert figures["tidegate_mirror_complete"] == figures["tidegate_mirror_redis_up"] == 1
