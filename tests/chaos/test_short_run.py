"""The whole of it, small: five faults on three real brokers and three real workers, and the oracle's verdict."""

import json
from pathlib import Path

import pytest

from tests.chaos.run import HARMS, SESSION_TIMEOUT_S, run
from tests.chaos.schedule import Kind, draw, load
from tests.integration.support import require_local_kafka

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(420)]

SEED, FAULTS, EVENTS = 46, 5, 9_000


async def test_five_faults_do_no_harm(tmp_path: Path) -> None:
    require_local_kafka()
    schedule = draw(SEED, FAULTS, EVENTS, SESSION_TIMEOUT_S)
    outcome = await run(schedule, tmp_path, quiet=True)
    told = json.loads((tmp_path / "schedule.json").read_text())
    said = json.dumps([outcome.figures, outcome.findings, told["happened"]], indent=1)
    assert not any(outcome.figures[harm] for harm in HARMS), said
    assert outcome.figures["faults_landed"] == FAULTS, said
    assert outcome.figures["events"] >= EVENTS, said
    assert outcome.figures["faults_not_recovered"] == 0, said
    assert outcome.figures["sound_entries_approved"] >= 0.4 * outcome.figures["sound_entries"], said
    assert outcome.is_good, said
    assert load(tmp_path / "schedule.json") == schedule


def test_the_fixed_seed_covers_process_disk_and_broker() -> None:
    kinds = {fault.kind for fault in draw(SEED, FAULTS, EVENTS, SESSION_TIMEOUT_S).faults}
    assert {Kind.WORKER_PAUSE, Kind.LEADER_KILL, Kind.KILL_IN_RESTORE, Kind.DATA_TRUNCATED} <= kinds
