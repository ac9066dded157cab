"""What the command says of a run, and what its exit status depends on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError

from infra.jars import KafkaUnavailable
from tests.chaos import __main__ as command
from tests.chaos.run import HARMS, Outcome, Stuck
from tests.chaos.schedule import Schedule

AGAIN = "make chaos SEED=7 FAULTS=5 EVENTS=900"
GOOD: Mapping[str, Any] = dict.fromkeys(HARMS, 0) | {
    "seed": 7,
    "faults_asked": 5,
    "faults_landed": 5,
    "events": 2_000,
    "locks": 2,
    "sound_entries": 40,
    "sound_entries_approved": 10,
}
# Each one short of what a run has to hold.
TOO_LITTLE = ({"locks": 1}, {"sound_entries": 41}, {"events": 2_001}, {"sound_entries": 9, "sound_entries_approved": 9})


class Run:
    """Stands in for a run: comes to an outcome, or to an end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.outcome: Outcome | Exception = Outcome(GOOD, [], {})
        self.directory = Path()
        monkeypatch.setattr(command, "run", self._run)

    async def _run(self, schedule: Schedule, directory: Path, *, rate: float | None) -> Outcome:
        assert (schedule.seed, len(schedule.faults), schedule.events, rate) == (7, 5, 900, None)
        self.directory = directory
        if isinstance(self.outcome, Exception):
            raise self.outcome
        return self.outcome

    def status(self) -> int:
        return command.main(["--seed", "7", "--faults", "5", "--events", "900"])


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Run(monkeypatch)


def test_a_good_run_is_one_line_of_json_and_leaves_nothing(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.status() == 0
    assert json.loads(capsys.readouterr().out) == GOOD
    assert not run.directory.exists()


@pytest.mark.parametrize("change", [*({harm: 1} for harm in HARMS), {"faults_landed": 4}], ids=str)
def test_any_harm_or_a_fault_that_did_not_land_fails_the_run(
    run: Run, change: Mapping[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    run.outcome = Outcome({**GOOD, **change}, ["what was found"], {})
    assert run.status() == 1
    said = capsys.readouterr()
    assert json.loads(said.out) == {**GOOD, **change}
    assert "what was found" in said.err
    assert f"to see it again: {AGAIN}" in said.err
    assert run.directory.is_dir()


@pytest.mark.parametrize("change", TOO_LITTLE, ids=str)
def test_a_run_that_hardly_approves_or_locks_does_not_pass(
    run: Run, change: Mapping[str, int], capsys: pytest.CaptureFixture[str]
) -> None:
    run.outcome = Outcome({**GOOD, **change}, [], {})
    assert run.status() == 1
    said = capsys.readouterr().err
    assert "too little was approved or locked" in said
    assert "did harm" not in said


@pytest.mark.parametrize("why", [Stuck("no end"), KafkaConnectionError("no broker"), TimeoutError()], ids=repr)
def test_a_run_without_an_end_prints_what_repeats_it(
    run: Run, why: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    run.outcome = why
    assert run.status() == 1
    said = capsys.readouterr().err
    assert f"chaos: {str(why) or repr(why)}\n" in said
    assert f"to see it again: {AGAIN}" in said
    assert run.directory.is_dir()


def test_a_machine_without_kafka_is_told_apart(run: Run) -> None:
    run.outcome = KafkaUnavailable("no java")
    assert run.status() == 2
    assert not run.directory.exists()
