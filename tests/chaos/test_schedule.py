"""The seed draws everything up front, and the file gives it back."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from tests.chaos.schedule import BROKERS, FIRST_FAULT_S, GAP_S, PARTITIONS, WORKERS, Kind, draw, load, to_json

SESSION_S = 6.0


def test_the_same_seed_draws_the_same_schedule(seed: int) -> None:
    assert draw(seed, 60, 300_000, SESSION_S) == draw(seed, 60, 300_000, SESSION_S)
    assert draw(seed, 60, 300_000, SESSION_S) != draw(seed + 1, 60, 300_000, SESSION_S)


def test_every_kind_comes_where_there_are_enough_faults(seed: int) -> None:
    counts = Counter(fault.kind for fault in draw(seed, 60, 1, SESSION_S).faults)
    assert counts.keys() == set(Kind)
    assert counts.total() == 60


def test_the_first_faults_are_of_different_kinds(seed: int) -> None:
    assert len({fault.kind for fault in draw(seed, 5, 1, SESSION_S).faults}) == 5


def test_faults_come_one_gap_apart_and_hit_what_exists(seed: int) -> None:
    faults = draw(seed, 60, 1, SESSION_S).faults
    assert [fault.number for fault in faults] == list(range(1, 61))
    assert faults[0].at_s == FIRST_FAULT_S
    for before, after in pairwise(faults):
        assert GAP_S[0] - 0.01 <= after.at_s - before.at_s <= GAP_S[1] + 0.01
    for fault in faults:
        assert fault.worker in range(WORKERS)
        assert fault.broker in range(BROKERS)
        assert fault.partition in range(PARTITIONS)


def test_a_paused_worker_outlasts_its_session(seed: int) -> None:
    pauses = [fault for fault in draw(seed, 60, 1, SESSION_S).faults if fault.kind is Kind.WORKER_PAUSE]
    assert pauses
    assert all(fault.lasts_s > SESSION_S for fault in pauses)


def test_a_file_gives_the_schedule_back(seed: int, tmp_path: Path) -> None:
    schedule = draw(seed, 12, 1_000, SESSION_S)
    file = tmp_path / "schedule.json"
    file.write_text(json.dumps({"schedule": to_json(schedule), "happened": []}))
    assert load(file) == schedule


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "schedule.json"
    file.write_text('{"schedule": {"seed": 1, "events": 1, "faults": [{"kind": "earthquake"}]}}')
    with pytest.raises(ValueError, match="earthquake"):
        load(file)
