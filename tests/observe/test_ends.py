"""How processes ended, over restarts."""

from pathlib import Path

import pytest

from streams.observe.ends import FAILED, FENCED, KILLED, STOPPED, Ends, reason_of
from streams.runtime.log import FencedError, LogError


def life(directory: Path, *reasons: str) -> Ends:
    ends = Ends(directory)
    ends.start()
    for reason in reasons:
        ends.end(reason)
    return ends


def test_a_successor_shows_how_the_former_ones_ended(tmp_path: Path) -> None:
    life(tmp_path, STOPPED)
    life(tmp_path, FENCED)
    life(tmp_path)  # a kill writes nothing
    now = life(tmp_path)
    assert now.starts == 4
    assert now.counts == {STOPPED: 1, FENCED: 1, KILLED: 1, FAILED: 0, "stuck": 0}


def test_the_first_reason_is_the_one(tmp_path: Path) -> None:
    life(tmp_path, FENCED, STOPPED)
    assert life(tmp_path).counts[FENCED] == 1
    assert life(tmp_path).counts[STOPPED] == 0


def test_one_that_never_started_ends_uncounted(tmp_path: Path) -> None:
    Ends(tmp_path).end(FAILED)
    assert life(tmp_path).counts[FAILED] == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"starts": "x", "ends": 3}', '{"ends": {"fenced": -1}}', "\x00"])
def test_a_file_that_cannot_be_used_costs_counts_only(tmp_path: Path, text: str) -> None:
    (tmp_path / "ends.json").write_text(text)
    now = life(tmp_path)
    assert now.starts == 1
    assert set(now.counts.values()) == {0}


def test_a_directory_that_cannot_be_written_stops_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    assert life(tmp_path / "file" / "data", STOPPED).counts[STOPPED] == 1
    assert "cannot be written" in caplog.text


def test_what_was_raised_says_why() -> None:
    assert reason_of(None) == STOPPED
    assert reason_of(FencedError("partition 3")) == FENCED
    assert reason_of(LogError("gone")) == reason_of(TimeoutError()) == FAILED
