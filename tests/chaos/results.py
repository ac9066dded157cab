"""The table of recorded runs, ``RESULTS.md`` beside this file; ``--record FILE`` appends to it."""

import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tests.chaos.run import HARMS

COLUMNS = (
    "date",
    "commit",
    "machine",
    "seed",
    "standby",
    "faults landed",
    "events",
    "harm",
    "decisions",
    "locks",
    "redeliveries",
    "rebalances",
    "recovery p50 / p99 / max, s",
    "wall, s",
    "approved (of sound entries)",
)
HEADER = f"""# Recorded chaos runs

One row per run of `make chaos`, appended by `--record`. Harm is the sum of the six counts: lost, duplicated,
contradicted, approvals after a lock, state mismatches, wrong dead letters. Standby: whether the workers kept warm
copies of each other's partitions (odd seeds do). Approved: exits too, and how much of the sound entries.

| {" | ".join(COLUMNS)} |
|{"---|" * len(COLUMNS)}
"""


def append(file: Path, figures: Mapping[str, Any]) -> None:
    """Add a run's row; begin the file if it is not there."""
    if not file.exists():
        file.write_text(HEADER)
    with file.open("a") as table:
        table.write(row(figures, commit=_commit(), machine=_machine(), when=datetime.now(UTC)))


def row(figures: Mapping[str, Any], *, commit: str, machine: str, when: datetime) -> str:
    """One line of the table."""
    recovery = " / ".join(str(figures[f"recovery_{which}_s"]) for which in ("p50", "p99", "max"))
    cells = (
        f"{when:%Y-%m-%d %H:%M}Z",
        commit,
        machine,
        figures["seed"],
        "yes" if figures["standby"] else "no",
        f"{figures['faults_landed']} of {figures['faults_asked']}",
        f"{figures['events']:,}",
        sum(figures[harm] for harm in HARMS),
        f"{figures['decisions']:,}",
        f"{figures['locks']:,}",
        f"{figures['redeliveries']:,}",
        figures["rebalances"],
        recovery,
        figures["wall_s"],
        f"{figures['approved']:,} ({figures['sound_entries_approved'] / max(1, figures['sound_entries']):.0%})",
    )
    return f"| {' | '.join(map(str, cells))} |\n"


def _commit() -> str:
    try:
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return told.stdout.strip()


def _machine() -> str:
    return f"{os.cpu_count()} × {platform.machine()}, Python {platform.python_version()}"
