"""The dashboards: as generated, sound as Grafana reads them, and asking only for what this release shows."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from infra.grafana import files
from infra.grafana.dashboards import DASHBOARDS
from infra.grafana.model import GRID_WIDTH
from streams.observe.families import FAMILIES, Family
from tests.observe import promql

# Of the scrape itself, and of the Prometheus client's process collector.
OTHERS = {"up", "process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"}
TARGET_LABELS = {"job", "instance"}
SERIES: dict[str, Family] = {name: one for one in FAMILIES.values() for name in one.series}
BOARDS = {path.stem: json.loads(path.read_text()) for path in promql.DASHBOARDS}
EACH = pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)


def labels_of(name: str) -> set[str]:
    own = set() if name in OTHERS else set(SERIES[name].labels)
    return own | TARGET_LABELS | ({"le"} if name.endswith("_bucket") else set())


def test_what_is_committed_is_what_is_generated() -> None:
    assert files.differing() == [], "run python -m infra.grafana"
    assert {path.name for path in promql.DASHBOARDS} == files.rendered().keys()


def test_a_file_that_was_edited_or_lost_is_seen(tmp_path: Path) -> None:
    for name, text in files.rendered().items():
        (tmp_path / name).write_text(text)
    assert files.differing(tmp_path) == []
    (tmp_path / "fleet.json").write_text(files.rendered()["fleet.json"] + " ")
    (tmp_path / "account.json").unlink()
    assert files.differing(tmp_path) == ["fleet.json", "account.json"]


def test_there_are_the_four() -> None:
    assert list(BOARDS) == ["account", "fleet", "profile", "runtime"]
    assert len({one.uid for one in DASHBOARDS}) == len({one.title for one in DASHBOARDS}) == 4


@EACH
def test_panels_have_ids_of_their_own_and_do_not_overlap(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [panel["gridPos"] for panel in panels]
    for place in places:
        assert place["x"] >= 0
        assert place["w"] > 0
        assert place["x"] + place["w"] <= GRID_WIDTH
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or apart, (one, other)


@EACH
def test_every_panel_has_a_title_a_unit_and_asks_the_chosen_data_source(board: dict[str, Any]) -> None:
    variables = {one["name"] for one in board["templating"]["list"]}
    assert {"datasource", "job"} <= variables
    for panel in board["panels"]:
        if panel["type"] == "row":
            continue
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        targets = panel["targets"]
        assert targets
        assert len({target["refId"] for target in targets}) == len(targets)
        for target in targets:
            assert target["datasource"] == panel["datasource"]
            assert 'job=~"$job"' in target["expr"], target["expr"]


@EACH
def test_steps_of_colours_ascend(board: dict[str, Any]) -> None:
    for panel in board["panels"]:
        steps = panel.get("fieldConfig", {}).get("defaults", {}).get("thresholds", {}).get("steps", [{"value": None}])
        assert steps[0]["value"] is None
        values = [step["value"] for step in steps[1:]]
        assert values == sorted(values)


@EACH
def test_variables_in_queries_are_the_dashboards_own(board: dict[str, Any]) -> None:
    names = {one["name"] for one in board["templating"]["list"]}
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            for word in target["expr"].split("$")[1:]:
                assert word.startswith(("__rate_interval", *names)), target["expr"]


@pytest.mark.parametrize("query", promql.everything())
def test_every_query_asks_for_metrics_and_labels_of_this_release(query: str) -> None:
    for selector in promql.selectors(query):
        assert selector.metric in OTHERS | SERIES.keys(), query
        assert selector.labels <= labels_of(selector.metric), query


def test_a_misspelt_metric_or_label_would_be_seen() -> None:
    [one] = promql.selectors("sum by (accuont) (tidegate_account_lock)")
    assert one.labels - labels_of(one.metric) == {"accuont"}
    with pytest.raises(AssertionError, match="profile"):
        promql.selectors("sum by (profile) (sum by (code) (tidegate_decisions_total))")
    with pytest.raises(ValueError, match="parenthesis"):
        promql.selectors("sum(tidegate_decisions_total")


def test_every_metric_is_on_a_dashboard_or_in_an_alert() -> None:
    asked = {selector.metric for query in promql.everything() for selector in promql.selectors(query)}
    unseen = {one.name for one in FAMILIES.values() if not asked & set(one.series)}
    assert unseen == {"tidegate_max_pnl_age_seconds", "tidegate_accounts_unsurveyed"}


def test_names_follow_the_conventions() -> None:
    for one in FAMILIES.values():
        assert one.name.startswith("tidegate_")
        assert (one.kind == "counter") == one.name.endswith("_total"), one.name
        assert not one.name.endswith(("_ms", "_milliseconds", "_percent", "_kb")), one.name
        assert one.help.endswith("."), one.name
        assert one.account == ("account" in one.labels), one.name
        assert not {"signal_id", "order_id", "fill_id", "strategy_id"} & set(one.labels), one.name
