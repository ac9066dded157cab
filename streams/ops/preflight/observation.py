"""Would anybody see it? Dashboards and alerts that fit this release, and a Prometheus that scrapes every worker."""

import os
from typing import Any

import aiohttp
from yarl import URL

from infra.alerting import alert_faults, alert_names
from infra.grafana.files import differing
from streams.ops.preflight.check import Check, Finding, check, failed, passed, some, warned
from streams.ops.preflight.context import Context, Files, NotRead, Scraping

OBSERVATION = "observation"
URL_VARIABLE = "TIDEGATE_PROMETHEUS_URL"

_TIMEOUT_S = 10.0
_UNNAMED = f"{URL_VARIABLE} is not set"


@check(OBSERVATION, "dashboards")
def dashboards_fit(context: Context) -> Finding:
    """The dashboards are those of this release."""
    wrong = context.files.get().dashboards_differing
    if wrong:
        return failed(f"edited, missing or of another release: {some(wrong)}", "python -m infra.grafana")
    return passed("fleet, profile, account, runtime")


@check(OBSERVATION, "alert-rules")
def alerts_fit(context: Context) -> Finding:
    """The alerts ask for what this release shows, and each has its entry in the runbook."""
    files = context.files.get()
    if files.alert_faults:
        return failed(
            some(files.alert_faults, 3), "take infra/prometheus/alerts.yml and infra/runbook.md of this release"
        )
    return passed(f"{len(files.alerts)} alerts")


@check(OBSERVATION, "workers-scraped")
def workers_are_scraped(context: Context) -> Finding:
    """Prometheus scrapes every worker."""
    seen = context.scraping.get()
    if not seen.address:
        return warned(
            _UNNAMED, "set it (http://host:9090) and run this again: nobody is alarmed by what is not scraped"
        )
    if seen.down:
        return failed(
            f"without an answer: {some(seen.down)}", "see its TIDEGATE_HTTP, and TidegateWorkerDown in infra/runbook.md"
        )
    members = context.groups.get().workers.members
    if len(seen.workers) < len(members):
        return failed(
            f"{len(seen.workers)} of {len(members)} workers are scraped",
            "give each TIDEGATE_HTTP=host:9464, and list it in infra/prometheus/targets/",
        )
    return passed(f"{len(seen.workers)} workers by {seen.address}")


@check(OBSERVATION, "alerts-loaded")
def alerts_are_loaded(context: Context) -> Finding:
    """Prometheus has the alerts, and somebody to tell."""
    seen, names = context.scraping.get(), context.files.get().alerts
    if not seen.address:
        return warned(_UNNAMED, "set it and run this again: an alert that is not loaded does not fire")
    if missing := set(names) - set(seen.alerts):
        return failed(
            f"{len(missing)} of {len(names)} are not loaded: {some(missing)}",
            "name infra/prometheus/alerts.yml in its rule_files, and reload it",
        )
    if not seen.receivers:
        return warned(
            "Prometheus knows no Alertmanager: alerts are seen only by those who look",
            "name one in prometheus.yml (alerting); `tidegate notify` tells of locks, not of workers",
        )
    return passed(f"{len(names)} alerts, told to {some(seen.receivers)}")


def read_files() -> Files:
    """The dashboards and alerts that this release came with, as they are on this machine."""
    faults = alert_faults()
    return Files(differing(), faults, [] if faults else alert_names())


async def read_scraping() -> Scraping:
    """What the Prometheus of ``TIDEGATE_PROMETHEUS_URL`` scrapes and knows. Raises NotRead if it does not answer."""
    given = os.environ.get(URL_VARIABLE)
    if not given:
        return Scraping()
    url = URL(given)
    shown = str(url.with_user(None)) if url.host else given
    if url.scheme not in ("http", "https") or not url.host:
        raise NotRead(f"{URL_VARIABLE} is no http:// or https:// address")
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
            workers = await _ask(session, url, "query", query='tidegate_build_info{process="worker"}')
            down = await _ask(session, url, "query", query='up{job=~"tidegate.*"} == 0')
            rules = await _ask(session, url, "rules", type="alert")
            managers = await _ask(session, url, "alertmanagers")
        return Scraping(
            shown,
            sorted({one["metric"]["instance"] for one in workers["result"]}),
            sorted({one["metric"]["instance"] for one in down["result"]}),
            sorted({rule["name"] for group in rules["groups"] for rule in group["rules"]}),
            sorted(one["url"] for one in managers["activeAlertmanagers"]),
        )
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
        raise NotRead(
            f"Prometheus at {shown} does not answer as one: {type(error).__name__}",
            f"is it there? {URL_VARIABLE} names it",
        ) from None


async def _ask(session: aiohttp.ClientSession, url: URL, path: str, **parameters: str) -> Any:
    async with session.get(url / "api/v1" / path, params=parameters) as answer:
        answer.raise_for_status()
        return (await answer.json())["data"]


CHECKS: tuple[Check, ...] = (dashboards_fit, alerts_fit, workers_are_scraped, alerts_are_loaded)
