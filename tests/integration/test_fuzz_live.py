"""Broken input through a live worker on real Kafka (see ``tests/fuzz/live.py``)."""

import os
from pathlib import Path

import pytest

from infra.brokers import Broker
from tests.fuzz import live
from tests.integration.support import Names

# Enough for every kind of damage; `python -m tests.fuzz --live 20000` gives the whole.
INPUTS = int(os.environ.get("TIDEGATE_FUZZ_LIVE_INPUTS") or 5_000)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_a_live_worker_accounts_for_every_broken_input(
    kafka: Broker, topics: Names, tmp_path: Path, seed: int
) -> None:
    found = await live.run(kafka, topics, tmp_path, seed, INPUTS)
    assert found.faults == []
    assert found.inputs + found.refused == INPUTS
    assert found.refused < INPUTS // 100
    assert set(found.outputs) >= {"rejected-signals", "account-locked", "account-events"}
    assert found.outputs["dead-letters"] > INPUTS // 4
