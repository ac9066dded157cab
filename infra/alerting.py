"""The alerts and the runbook as files: what is wrong with them beside the metrics that this release has.

Read as text: what runs in production should not need a YAML parser to know that its alerts ask for what it shows.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from streams.observe.families import FAMILIES

ALERTS = Path(__file__).parent / "prometheus" / "alerts.yml"
RUNBOOK = Path(__file__).parent / "runbook.md"


def alert_names(alerts: Path = ALERTS) -> list[str]:
    """The alerts, in the file's order. Raises OSError."""
    return re.findall(r"^ +- alert: (\w+)$", alerts.read_text(encoding="utf-8"), re.MULTILINE)


def alert_faults(alerts: Path = ALERTS, runbook: Path = RUNBOOK) -> list[str]:
    """What is wrong, in words; empty if nothing is."""
    try:
        rules, entries = alerts.read_text(encoding="utf-8"), runbook.read_text(encoding="utf-8")
        names = alert_names(alerts)
    except (OSError, UnicodeDecodeError) as error:
        return [f"cannot be read: {error}"]
    return [*_unknown_metrics(rules), *_unlinked(names, rules, entries)] if names else [f"{alerts} has no alert"]


def _unknown_metrics(rules: str) -> Iterator[str]:
    known = {name for family in FAMILIES.values() for name in family.series}
    for expr in re.findall(r"^ +expr: (.+)$", rules, re.MULTILINE):
        # What stands in quotes is a label's value.
        for name in re.findall(r"\btidegate_\w+", re.sub(r'"[^"]*"', "", expr)):
            if name not in known:
                yield f"no process shows {name}"


def _unlinked(names: list[str], rules: str, entries: str) -> Iterator[str]:
    headings = set(re.findall(r"^## (\w+)$", entries, re.MULTILINE))
    for name in names:
        if name not in headings:
            yield f"{name} has no entry in the runbook"
        if f"runbook.md#{name.lower()}" not in rules:
            yield f"{name} does not say where its entry is"
