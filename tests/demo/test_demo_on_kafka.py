"""The demo as a user runs it, twice, on real Kafka: both runs print the same, and the report stands."""

import asyncio
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.brokers import Broker, broker
from streams.demo import wire, workers
from streams.demo.accounts import ACCOUNTS
from streams.demo.desk import Message
from streams.runtime.settings import Settings
from streams.runtime.topics import create_topics
from tests.demo.conftest import TWO_DAYS
from tests.demo.page import Page
from tests.integration.support import require_local_kafka

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(300)]

PARTITIONS = 2
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def kafka() -> Iterator[Broker]:
    if not os.environ.get("TIDEGATE_BROKER"):
        require_local_kafka()
    with broker() as running:
        yield running


def run_demo(kafka: Broker, report: Path, *, bars: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams.demo", "--bars", str(bars), "--report", str(report), "--no-live"],
        cwd=ROOT,
        env=os.environ | {"TIDEGATE_BROKER": kafka.url},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_two_runs_print_the_same_and_leave_a_report(kafka: Broker, tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    first = run_demo(kafka, report, bars=TWO_DAYS)
    assert first.returncode == 0, first.stdout + first.stderr
    page = Page(report.read_text(encoding="utf-8"))
    second = run_demo(kafka, report, bars=TWO_DAYS)
    assert second.returncode == 0, second.stdout + second.stderr
    assert first.stdout == second.stdout
    assert "lock    alpha_bybit: DAILY_DRAWDOWN" in first.stdout
    assert "unlock  alpha_bybit" in first.stdout
    assert "verified: every signal has exactly one decision" in first.stdout
    assert page.texts["Verified"] == 1
    assert len(page.of_class("card")) == len(ACCOUNTS)
    assert page.of_class("flag")


@pytest.fixture
async def settings(kafka: Broker) -> Settings:
    """Topics of this test alone, and no worker."""
    own = Settings(broker=kafka.url, topic_prefix=f"demo-test-{uuid.uuid4().hex[:8]}-")
    await create_topics(own, partitions=PARTITIONS)
    return own


async def test_a_gate_without_workers_is_reported(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "ANSWER_DEADLINE_S", 2.0)
    async with wire.connect(settings, PARTITIONS) as gate:
        with pytest.raises(wire.GateSilentError, match=r"no answer for 2 s: pnl-\d@0 is not applied"):
            await gate.submit([Message("pnl", "main_binance", b"{}", 0)])


async def test_a_worker_that_ends_is_reported_with_its_last_words(settings: Settings, tmp_path: Path) -> None:
    config = tmp_path / "tidegate.toml"
    config.write_text('[accounts.main]\nexchange = "binance"\nprofile = "tiny"\n', encoding="utf-8")
    async with workers.running(1, settings, config, tmp_path) as watch:
        with pytest.raises(workers.WorkerFailedError, match=r"(?s)worker 1 ended.*tiny"):
            await asyncio.wait_for(watch, timeout=60)


@pytest.mark.parametrize("url", ["not a url", "kafka://127.0.0.1:1"])
def test_a_demo_that_cannot_run_says_so(url: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streams.demo", "--bars", "1", "--report", str(tmp_path / "report.html")],
        cwd=ROOT,
        env=os.environ | {"TIDEGATE_BROKER": url},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "demo: " in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "report.html").exists()
