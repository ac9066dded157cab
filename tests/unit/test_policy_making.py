"""`tidegate policy …` without a broker: what may be published from where, and what is listed."""

import json
import os
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from schemas.types import write_time
from streams.core.records import POLICIES, Record
from streams.core.rules import Rules
from streams.ops import broker, policies, policy_making
from streams.ops.cli import app
from streams.ops.exits import ExitStatus
from streams.ops.policies import OVERDUE
from streams.ops.snapshot import Snapshot
from streams.runtime import clock

HOUR_MS = 3_600_000
RESUME = ("resume", "-r", "prices are right")


class Topic:
    """The topic ``policies`` in memory."""

    def __init__(self) -> None:
        self.snapshot = Snapshot(Rules())
        self.published: list[Any] = []

    def append(self, name: str, rule: Any, **fields: Any) -> None:
        value = orjson.dumps({"name": name, "rule": rule, "operator": "ann", "reason": "x"} | fields)
        offset = len(self.snapshot.history)
        self.snapshot.take_policy(Record(POLICIES, 0, offset, clock.now_ms(), name.encode(), value))

    async def publish(self, _settings: Any, name: str, value: bytes) -> int:
        body = orjson.loads(value)
        self.published.append((name, body["rule"]))
        return len(self.snapshot.history)


@pytest.fixture
def topic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Topic:
    """Everything is halted; commands are given in an empty directory, with an environment that names nothing."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(("TIDEGATE_", "QT_ACCOUNT_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")
    one = Topic()
    one.append("state/global", {"state": "HALTED"})

    def run(coroutine: Coroutine[Any, Any, Any], _settings: Any) -> Any:
        try:
            coroutine.send(None)
        except StopIteration as done:
            return done.value
        raise AssertionError("the topic in memory waits for nothing")

    for module in (policies, policy_making):
        monkeypatch.setattr(module, "read_policies", lambda _settings, _rules: one.snapshot)
    monkeypatch.setattr(policy_making, "_append", one.publish)
    monkeypatch.setattr(broker, "run", run)
    return one


def policy(*arguments: str) -> Result:
    line = ["policy", *arguments, "--broker", "kafka://127.0.0.1:1"]
    return CliRunner().invoke(app, line)


# -- without a configuration ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--approved-by", "bob")], ids=["alone", "approved"])
def test_nothing_is_loosened_where_no_configuration_was_read(topic: Topic, more: tuple[str, ...]) -> None:
    refused = policy(*RESUME, *more)

    assert refused.exit_code == ExitStatus.USAGE
    assert "controls.two_person" in refused.stderr
    assert "--config" in refused.stderr
    assert topic.published == []


def test_what_only_restricts_needs_no_configuration(topic: Topic) -> None:
    assert policy("reduce", "--strategy", "trend", "-r", "x").exit_code == ExitStatus.DONE
    assert policy("venue", "binance", "down", "-r", "x").exit_code == ExitStatus.DONE
    assert topic.published == [("state/strategy/trend", {"state": "REDUCING"}), ("venue/binance", {"up": False})]


@pytest.mark.parametrize("place", ["here", "option", "environment"])
def test_any_configuration_says_who_must_agree(
    topic: Topic, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    option: tuple[str, ...] = ()
    if place == "environment":
        monkeypatch.setenv("QT_ACCOUNT_MAIN_EXCHANGE", "binance")
    else:
        path = tmp_path / ("tidegate.toml" if place == "here" else "other.toml")
        path.write_text("[controls]\ntwo_person = true\n")
        option = ("--config", str(path)) if place == "option" else ()

    alone = policy(*RESUME, *option)
    agreed = policy(*RESUME, "--approved-by", "bob", *option)

    # The environment cannot ask for two persons.
    assert alone.exit_code == (ExitStatus.DONE if place == "environment" else ExitStatus.REFUSED)
    assert agreed.exit_code == ExitStatus.DONE
    assert topic.published[-1] == ("state/global", None)


# -- list ----------------------------------------------------------------------------------------------------------


def ends(after_ms: int) -> dict[str, Any]:
    return {"expires_at": write_time(clock.now_ms() + after_ms), "then": None}


def test_a_rule_that_outlived_its_end_is_marked(topic: Topic) -> None:
    topic.append("state/global", {"state": "REDUCING"}, **ends(-1))
    topic.append("venue/binance", {"up": False}, **ends(HOUR_MS))
    topic.append("venue/kraken", {"up": False})

    listed = json.loads(policy("list", "--json").stdout)["policies"]
    lines = policy("list").stdout.splitlines()

    assert {one["name"]: one["overdue"] for one in listed} == {
        "state/global": True,
        "venue/binance": False,
        "venue/kraken": False,
    }
    (marked,) = (number for number, line in enumerate(lines) if OVERDUE in line)
    assert lines[marked - 1].startswith("state/global")
