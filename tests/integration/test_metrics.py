"""What a real worker on real Kafka shows at ``/metrics``: each family of the list with its labels, and true figures."""

import asyncio
import json
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from infra.brokers import Broker
from streams.observe.families import FAMILIES
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames, create_topics
from tests.integration.support import Names, poll, produce, skip_or_fail
from tests.integration.workers import WorkerProcess, settings_for
from tests.observe import promql
from tests.observe.scrape import listed, scraped, shown

PARTITIONS = 2
DEADLINE_S = 40.0
RULES: dict[str, Any] = {
    "accounts": {
        "main": {"exchange": "binance", "profile": "normal"},
        "spare": {"exchange": "kraken"},
        "late": {"exchange": "kraken"},
        "unfed": {"exchange": "kraken"},
    },
    # Longer than a slow machine takes for all of these tests.
    "limits": {"max_pnl_age": "10m", "order_valid": "10m"},
    "strategies": {"routes": {"routed": {"account": "main"}}},
}
ORDER = {"instrument": "BTC-USD", "side": "buy", "quantity": "0.01", "price": "16500", "stop_loss": "16400"}


class Desk:
    """Whoever writes the inputs."""

    def __init__(self, settings: Settings) -> None:
        self._bootstrap = settings.bootstrap
        self._names = TopicNames.of(settings)
        self._sequence = 0

    def send(self, topic: str, account: str | None, partition: int | None = None, **body: Any) -> None:
        """One record, keyed by its account; ``partition`` puts it where a broken producer might."""
        value = json.dumps(body if account is None else {"account_id": account, **body}).encode()
        options = {} if partition is None else {"partition": partition}
        key = None if account is None else account.encode()
        asyncio.run(produce(self._bootstrap, self._names.physical(topic), [(key, value)], **options))

    def equity(self, account: str, equity: str, age: timedelta = timedelta(0)) -> None:
        self._sequence += 1
        as_of = (datetime.now(UTC) - age).isoformat()
        self.send("pnl", account, sequence=self._sequence, equity=equity, as_of=as_of, marks={"BTC-USD": "16500"})

    def signal(self, account: str | None, signal_id: str, partition: int | None = None, **fields: Any) -> None:
        now = datetime.now(UTC).isoformat()
        order = {"signal_id": signal_id, "strategy_id": "routed", "created_at": now, **ORDER, **fields}
        self.send("signals", account, partition, **order)

    def policy(self, name: str, rule: dict[str, Any]) -> None:
        body = {"name": name, "rule": rule, "operator": "ann", "reason": "test", "issued_at": "2026-01-01T00:00:00Z"}
        value = json.dumps(body).encode()
        asyncio.run(produce(self._bootstrap, self._names.physical("policies"), [(name.encode(), value)]))


class Scrape:
    """One answer of ``/metrics``."""

    def __init__(self, text: str) -> None:
        self.samples: list[Sample] = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        return sum(one.value for one in self.samples if one.name == name and labels.items() <= one.labels.items())


class Gate:
    """A worker and its metrics."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.process = WorkerProcess(settings, core="real", rules=RULES)
        self.desk = Desk(settings)

    @property
    def address(self) -> str:
        """Where it said last that it listens."""
        return str(re.findall(r"http on (\S+)", self.process.log)[-1])

    def scrape(self) -> Scrape:
        with urllib.request.urlopen(f"http://{self.address}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=")
            return Scrape(answer.read().decode())

    def wait(self, name: str, value: float, **labels: str) -> Scrape:
        """The first scrape with that figure."""

        def has() -> Scrape | None:
            try:
                scrape = self.scrape()
            except URLError:  # a former life's address
                return None
            return scrape if scrape.value(name, **labels) == value else None

        found = poll(has, DEADLINE_S, f"{name}{labels} == {value}")
        assert found is not None
        return found


@pytest.fixture(scope="module")
def gate(kafka: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gate]:
    """A worker that has seen a little of everything."""
    names = Names(f"metrics-{tmp_path_factory.getbasetemp().name}-{datetime.now(UTC):%H%M%S%f}")
    settings = settings_for(kafka, names, tmp_path_factory.mktemp("gate") / "data", http="127.0.0.1:0")
    asyncio.run(create_topics(settings, partitions=PARTITIONS))
    gate = Gate(settings)
    desk = gate.desk
    with gate.process:
        gate.process.wait_serving(PARTITIONS)
        for account in ("main", "spare"):
            desk.equity(account, "10000")
        desk.equity("late", "10000", age=timedelta(minutes=20))
        gate.wait("tidegate_pnl_feeds", 2, condition="fresh")
        desk.signal("main", "s-1")
        gate.wait("tidegate_decisions_total", 1, code="APPROVED", profile="normal")
        desk.signal("main", "s-1")
        desk.signal("late", "s-2")
        desk.signal("stranger", "s-3")
        for partition in range(PARTITIONS):
            desk.signal(None, f"s-routed-{partition}", partition)
            desk.signal("unfed", f"s-miskeyed-{partition}", partition)
        desk.policy("state/strategy/other", {"state": "HALTED"})
        desk.equity("spare", "9960")
        gate.wait("tidegate_warnings_total", 2, limit="DAILY_DRAWDOWN")
        desk.equity("spare", "9000")
        gate.wait("tidegate_locks_total", 2)
        gate.wait("tidegate_account_lock", 2, account="spare")
        yield gate


def test_every_family_is_there_with_its_labels_and_no_other(gate: Gate) -> None:
    gate.wait("tidegate_accounts_unsurveyed", 0)
    poll(lambda: gate.scrape().value("tidegate_state_bytes"), DEADLINE_S, "the size of the state")
    text = scraped(gate.address)
    assert shown(text) == listed("worker")
    assert {"process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"} <= shown(text, "").keys()


def test_the_figures_are_those_of_what_happened(gate: Gate) -> None:
    scrape = gate.scrape()
    value = scrape.value
    # Each partition got one of each pair, and forwarded what was not its own.
    assert value("tidegate_wrong_partition_records_total", topic="signals", cause="routed") == 1
    assert value("tidegate_wrong_partition_records_total", topic="signals", cause="miskeyed") == 1
    assert value("tidegate_dead_letters_total", reason="DUPLICATE_SIGNAL", topic="signals") == 1
    assert value("tidegate_decisions_total", code="UNKNOWN_ACCOUNT", profile="none") == 1
    assert value("tidegate_decisions_total", code="RISK_DATA_STALE", profile="micro") == 1
    assert value("tidegate_decisions_total", code="RISK_DATA_MISSING", profile="micro") == 2
    assert value("tidegate_locks_total", reason="DAILY_DRAWDOWN", profile="micro") == 1
    assert value("tidegate_warnings_total", limit="DAILY_DRAWDOWN", tier="0.8") == 1
    assert value("tidegate_records_total", topic="pnl") == 5
    assert value("tidegate_end_to_end_seconds_count", topic="pnl") == 5
    assert value("tidegate_lock_latency_seconds_count") == value("tidegate_locks_total")
    assert value("tidegate_partition_serving") == value("tidegate_partitions") == PARTITIONS
    assert value("tidegate_worker_healthy") == value("tidegate_worker_ready") == 1
    assert value("tidegate_policy_state", policy="state/strategy/other", state="HALTED") == 1
    assert value("tidegate_lag_records") == value("tidegate_lag_seconds") == 0


def test_accounts_are_shown_as_they_stand(gate: Gate) -> None:
    scrape = gate.scrape()
    value = scrape.value
    assert value("tidegate_account_info", account="spare", profile="micro", state="REDUCING", currency="none") == 1
    assert value("tidegate_account_drawdown_limit_ratio", account="spare", limit="DAILY_DRAWDOWN") == pytest.approx(20)
    assert value("tidegate_accounts_locked", reason="DAILY_DRAWDOWN") == 1
    assert value("tidegate_accounts") == len(RULES["accounts"])
    assert value("tidegate_account_equity", account="main") == 10_000
    # Room to the daily floor (2 %), less what the approved orders risk: one by name, two by their route.
    assert value("tidegate_account_headroom", account="main") == pytest.approx(200 - 3 * 0.01 * 100)
    assert value("tidegate_account_open_positions", account="main") == 1
    assert value("tidegate_account_open_orders", account="main") == 3
    assert value("tidegate_pnl_feeds", condition="stale") == value("tidegate_pnl_feeds", condition="never") == 1
    age_s = datetime.now(UTC).timestamp() - value("tidegate_account_pnl_timestamp_seconds", account="late")
    assert 1_200 <= age_s < 1_800


def test_every_query_of_dashboards_and_alerts_asks_for_what_a_worker_shows(gate: Gate) -> None:
    there = shown(scraped(gate.address), "")
    elsewhere = {name for one in FAMILIES.values() if one.process not in ("every", "worker") for name in one.series}
    asked = [selector for query in promql.everything() for selector in promql.selectors(query)]
    assert len(asked) > 50
    for selector in asked:
        if selector.metric in elsewhere or selector.metric == "up":
            continue
        assert selector.metric in there, selector
        assert selector.labels <= there[selector.metric] | {"job", "instance"}, selector


def test_no_account_is_named_where_that_is_not_wanted(kafka: Broker, topics: Names, tmp_path: Path) -> None:
    settings = settings_for(kafka, topics, tmp_path / "data", http="127.0.0.1:0", metrics_accounts=0)
    asyncio.run(create_topics(settings, partitions=PARTITIONS))
    gate = Gate(settings)
    with gate.process:
        gate.process.wait_serving(PARTITIONS)
        gate.desk.equity("main", "10000")
        scrape = gate.wait("tidegate_pnl_feeds", 1, condition="fresh")
        assert [one for one in scrape.samples if "account" in one.labels] == []
        assert scrape.value("tidegate_accounts_unlabelled") == len(RULES["accounts"])
        assert scrape.value("tidegate_process_starts_total") == 1
    with gate.process:
        killed = gate.wait("tidegate_process_ends_total", 1, reason="killed")
        assert killed.value("tidegate_process_starts_total") == 2


# -- a real Prometheus -------------------------------------------------------------------------------------------------

# What a healthy desk of one worker without mirror has nothing of.
NOTHING_TO_SHOW = re.compile(r"tidegate_mirror|tidegate_notify|tidegate_steward|absent|topk\(50")


@pytest.fixture
def prometheus(gate: Gate, tmp_path: Path) -> Iterator[str]:
    """The project's own configuration, at the worker's address and in a hurry; its URL."""
    binary = shutil.which("prometheus")
    if binary is None:
        skip_or_fail("no prometheus (Debian: prometheus)")
    configuration = yaml.safe_load((promql.INFRA / "prometheus" / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"}
    configuration["scrape_configs"][0].pop("dns_sd_configs")
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    shutil.copy(promql.ALERTS, tmp_path)
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "gate.yml").write_text(yaml.safe_dump([{"targets": [gate.address]}]))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (tmp_path / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [binary, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
             f"--web.listen-address={address}"],
            stdout=log, stderr=log,
        )  # fmt: skip
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def ask(url: str, path: str, **parameters: str) -> Any:
    """What Prometheus answers; None while it is not ready yet."""
    query = urllib.parse.urlencode(parameters)
    try:
        with urllib.request.urlopen(f"{url}/api/v1/{path}?{query}", timeout=10) as answer:
            return json.load(answer)["data"]
    except HTTPError as error:
        if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
            return None
        raise AssertionError(f"{parameters}: {error.read().decode()}") from None
    except URLError:
        return None


def test_prometheus_scrapes_it_answers_every_query_and_fires_what_holds(gate: Gate, prometheus: str) -> None:
    def has_history() -> bool:
        found = ask(prometheus, "query", query="count_over_time(tidegate_build_info[1m])")
        return bool(found and found["result"]) and float(found["result"][0]["value"][1]) >= 3

    poll(has_history, DEADLINE_S, "three scrapes")
    # What is shown as a rate has to happen between two scrapes.
    gate.desk.signal("late", "s-4")
    gate.desk.signal("main", "s-1")
    gate.desk.equity("main", "9850")

    queries = [query for path in promql.DASHBOARDS for query in promql.dashboard_queries(path)]
    unanswered = [query for query in queries if not NOTHING_TO_SHOW.search(query)]

    def all_answered() -> bool:
        unanswered[:] = [query for query in unanswered if not ask(prometheus, "query", query=query)["result"]]
        return not unanswered

    try:
        poll(all_answered, DEADLINE_S, "an answer to every query")
    except TimeoutError:
        assert unanswered == []

    def firing() -> set[tuple[str, str | None]]:
        found = ask(prometheus, "alerts")["alerts"]
        return {(one["labels"]["alertname"], one["labels"].get("account")) for one in found if one["state"] == "firing"}

    wanted = {("TidegateAccountLocked", "spare"), ("TidegateWarningTier", None)}
    poll(lambda: wanted <= firing(), DEADLINE_S, "the alerts of the locked account and of the tier")
    # That one has been stale since the beginning; the alert takes a minute to believe it.
    assert firing() - wanted <= {("TidegatePnlStale", None)}
    rules = [rule for group in ask(prometheus, "rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == {rule["alert"] for rule in promql.alerts()}
    assert {rule["name"]: rule["lastError"] for rule in rules if rule.get("lastError")} == {}
