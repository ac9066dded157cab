"""What preflight reads for its checks of dashboards, alerts and Prometheus."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from infra import alerting
from streams.ops.preflight import observation
from streams.ops.preflight.context import NotRead, Scraping
from tests.observe import promql


def test_the_files_of_this_release_fit_it() -> None:
    files = observation.read_files()
    assert (files.dashboards_differing, files.alert_faults) == ([], [])
    assert files.alerts == [rule["alert"] for rule in promql.alerts()]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("(tidegate_lag_seconds)", "(tidegate_lagg_seconds)", "no process shows tidegate_lagg_seconds"),
        ("- alert: TidegateLag\n", "- alert: TidegateLate\n", "TidegateLate has no entry in the runbook"),
        ("infra/runbook.md#tidegatelag", "the wiki", "TidegateLag does not say where its entry is"),
        ("- alert:", "- record:", "has no alert"),
    ],
)
def test_alerts_that_do_not_fit_are_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    changed = tmp_path / "alerts.yml"
    changed.write_text(alerting.ALERTS.read_text().replace(old, new))
    assert any(told in fault for fault in alerting.alert_faults(changed))


def test_missing_files_are_told(tmp_path: Path) -> None:
    [fault] = alerting.alert_faults(tmp_path / "alerts.yml")
    assert "cannot be read" in fault


# -- Prometheus --------------------------------------------------------------------------------------------------------

ANSWERS: dict[str, object] = {
    'tidegate_build_info{process="worker"}': {
        "result": [{"metric": {"instance": "b:1"}}, {"metric": {"instance": "a:1"}}]
    },
    'up{job=~"tidegate.*"} == 0': {"result": [{"metric": {"instance": "c:1"}}]},
    "rules": {"groups": [{"rules": [{"name": "TidegateLag"}]}, {"rules": []}]},
    "alertmanagers": {"activeAlertmanagers": [{"url": "http://am:9093/api/v2/alerts"}]},
}


@pytest.fixture
async def prometheus() -> AsyncIterator[TestServer]:
    async def answer(request: web.Request) -> web.Response:
        wanted = request.query.get("query") or request.path.rpartition("/")[2]
        return web.json_response({"status": "success", "data": ANSWERS[wanted]})

    async def something_else(_request: web.Request) -> web.Response:
        return web.json_response({"data": []})

    app = web.Application()
    app.router.add_get("/sub/api/v1/{what}", answer)
    app.router.add_get("/other/api/v1/{what}", something_else)
    server = TestServer(app)
    async with server:
        yield server


async def test_what_prometheus_sees_is_read(prometheus: TestServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(observation.URL_VARIABLE, f"http://ann:secret@{prometheus.host}:{prometheus.port}/sub")
    assert await observation.read_scraping() == Scraping(
        f"http://{prometheus.host}:{prometheus.port}/sub",
        ["a:1", "b:1"],
        ["c:1"],
        ["TidegateLag"],
        ["http://am:9093/api/v2/alerts"],
    )


async def test_without_its_address_nothing_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(observation.URL_VARIABLE, raising=False)
    assert await observation.read_scraping() == Scraping()


@pytest.mark.parametrize("path", ["", "/other", "/nowhere"])
async def test_whoever_is_no_prometheus_is_told_without_the_password(
    prometheus: TestServer, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setenv(observation.URL_VARIABLE, f"http://ann:secret@{prometheus.host}:{prometheus.port}{path}")
    with pytest.raises(NotRead, match="does not answer as one") as told:
        await observation.read_scraping()
    assert "secret" not in f"{told.value} {told.value.remedy}"


async def test_an_address_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(observation.URL_VARIABLE, "metrics:9090")
    with pytest.raises(NotRead, match="no http:// or https:// address"):
        await observation.read_scraping()
