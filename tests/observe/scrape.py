"""What a process shows at ``/metrics``, and what it should."""

import urllib.request

from prometheus_client.parser import text_string_to_metric_families

from streams.observe.families import FAMILIES, Process


def scraped(address: str) -> str:
    """One answer of a process that listens at ``host:port``."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text


def shown(text: str, begins: str = "tidegate_") -> dict[str, set[str]]:
    """The labels of each series in an answer whose name begins so."""
    found: dict[str, set[str]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith(begins):
                found.setdefault(sample.name, set()).update(sample.labels)
    return found


def listed(process: Process) -> dict[str, set[str]]:
    """The labels of each series that the list of metrics promises of a process."""
    return {
        name: set(family.labels) | ({"le"} if name.endswith("_bucket") else set())
        for family in FAMILIES.values()
        if family.process in ("every", process)
        for name in family.series
    }
