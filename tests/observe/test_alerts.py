"""The alerts: each fires and does not fire where it should (promtool), and each has its place in the runbook."""

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.support import skip_or_fail
from tests.observe import promql

DIRECTORY = promql.ALERTS.parent
CASES = DIRECTORY / "alerts_test.yml"
RULES: list[dict[str, Any]] = promql.alerts()
NAMES = [rule["alert"] for rule in RULES]


def promtool(*arguments: str | Path, cwd: Path = DIRECTORY) -> subprocess.CompletedProcess[str]:
    """Run it. Skips (or fails, where everything is asked for) where there is none."""
    found = shutil.which("promtool")
    if found is None:
        skip_or_fail("no promtool (Debian: prometheus)")
    return subprocess.run([found, *arguments], cwd=cwd, capture_output=True, text=True, timeout=100, check=False)


def test_prometheus_takes_rules_and_configuration() -> None:
    for arguments in (("rules", "alerts.yml"), ("config", "prometheus.yml")):
        checked = promtool("check", *arguments)
        assert checked.returncode == 0, checked.stdout + checked.stderr


def test_each_fires_and_does_not_fire_where_it_should() -> None:
    tested = promtool("test", "rules", str(CASES))
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_alert_has_cases_of_both_kinds() -> None:
    cases = [case for test in yaml.safe_load(CASES.read_text())["tests"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == set(NAMES)
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == set(NAMES)


@pytest.mark.parametrize("expr", ["vector(1)", "vector(1) < 0"], ids=["always", "never"])
def test_the_cases_notice_an_alert_that_is_wrong(tmp_path: Path, expr: str) -> None:
    """Each rule in turn is made to fire always, or never: its own cases must fail."""
    rules, cases = yaml.safe_load(promql.ALERTS.read_text()), yaml.safe_load(CASES.read_text())
    unnoticed = []
    for name in NAMES:
        broken = copy.deepcopy(rules)
        for rule in (one for group in broken["groups"] for one in group["rules"] if one["alert"] == name):
            rule["expr"] = expr
        own = [one for one in cases["tests"] if any(case["alertname"] == name for case in one["alert_rule_test"])]
        (tmp_path / promql.ALERTS.name).write_text(yaml.safe_dump(broken))
        (tmp_path / CASES.name).write_text(yaml.safe_dump(cases | {"tests": own}))
        if promtool("test", "rules", CASES.name, cwd=tmp_path).returncode == 0:
            unnoticed.append(name)
    assert unnoticed == []


def test_names_are_unique_and_say_whose_they_are() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert all(re.fullmatch(r"Tidegate[A-Z]\w+", name) for name in NAMES)
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}


def test_each_says_in_words_what_happened() -> None:
    for rule in RULES:
        assert set(rule["annotations"]) == {"summary", "runbook_url"}, rule["alert"]
        assert rule["annotations"]["runbook_url"] == f"infra/runbook.md#{rule['alert'].lower()}"
