"""``RESULTS.md`` from the measured items, and the machine that they were measured on."""

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from infra.jars import java, kafka_version

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE / "RESULTS.md"
_PACKAGES = (
    "aiokafka",
    "faust-streaming",
    "quixstreams",
    "confluent-kafka",
    "rocksdict",
    "pydantic",
    "orjson",
    "msgspec",
)
# Above this many running processes on two cores something else was at work too.
_QUIET_LOAD = 2.5


def conditions() -> dict[str, Any]:
    """Machine, versions and commit: what a figure is worth depends on them."""
    versions = {name: _version(name) for name in _PACKAGES}
    commit = _output("git", "describe", "--always", "--dirty", "--abbrev=10", "--exclude=*")
    return {
        "commit": commit,
        "measured_at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "java": _output(java(), "--version").split("\n", 1)[0],
        "kafka": kafka_version(),
        "packages": {name: version for name, version in versions.items() if version},
        "load": round(os.getloadavg()[0], 1),
    }


def save(item: str, results: dict[str, Any], before: dict[str, Any]) -> None:
    """Keep an item's results, so that the others need not be measured again for the page."""
    RESULTS.mkdir(exist_ok=True)
    kept = {"conditions": before | {"load_after": round(os.getloadavg()[0], 1)}, "results": results}
    (RESULTS / f"{item}.json").write_text(json.dumps(kept, indent=1) + "\n")


def load(item: str) -> dict[str, Any] | None:
    """An item's last results with their conditions; None if it was never measured."""
    path = RESULTS / f"{item}.json"
    return json.loads(path.read_text()) if path.exists() else None


def conditions_line(kept: dict[str, Any]) -> str:
    """Under which conditions an item was measured, in a sentence or two."""
    found = kept["conditions"]
    packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
    line = (
        f"Measured {found['measured_at']} at commit {found['commit']} on {found['cores']} cores ({found['cpu']}), "
        f"{found['memory_gb']} GB, {found['system']}; Apache Kafka {found['kafka']}, {found['java']}, "
        f"Python {found['python']}; {packages}."
    )
    busiest = max(found["load"], found["load_after"])
    if found["load"] > _QUIET_LOAD:
        loads = f"load average {found['load']} before, {busiest} at most"
        line += f" **Measured under load** ({loads}): wall clock and tails are not worth much."
    return line


def table(header: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A Markdown table; all columns but the first are aligned to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in (header, rule, *lines))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=HERE)
    return result.stdout.strip() or "unknown"


def _cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
