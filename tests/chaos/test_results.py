"""A recorded run is one row under the table's head."""

from datetime import UTC, datetime
from pathlib import Path

from tests.chaos import results
from tests.chaos.run import HARMS

FIGURES = dict.fromkeys(HARMS, 0) | {
    "seed": 7,
    "standby": True,
    "faults_asked": 60,
    "faults_landed": 60,
    "events": 300_123,
    "decisions": 70_000,
    "locks": 1_200,
    "approved": 21_000,
    "sound_entries": 16_000,
    "sound_entries_approved": 8_320,
    "redeliveries": 45,
    "rebalances": 80,
    "recovery_p50_s": 7.1,
    "recovery_p99_s": 21.0,
    "recovery_max_s": 22.5,
    "wall_s": 900.0,
}


def test_a_row_has_a_cell_for_every_column() -> None:
    row = results.row(
        FIGURES | {"lost": 2}, commit="abc", machine="2 × x86_64", when=datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    )
    cells = [cell.strip() for cell in row.strip().strip("|").split("|")]
    told = dict(zip(results.COLUMNS, cells, strict=True))
    assert told["harm"] == "2"
    assert told["faults landed"] == "60 of 60"
    assert told["date"] == "2026-01-02 03:04Z"
    assert told["recovery p50 / p99 / max, s"] == "7.1 / 21.0 / 22.5"
    assert told["approved (of sound entries)"] == "21,000 (52%)"


def test_the_head_comes_once(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    results.append(file, FIGURES)
    results.append(file, FIGURES)
    text = file.read_text()
    assert text.count("# Recorded chaos runs") == 1
    assert text.count("| 60 of 60 |") == 2
