"""The line that knows no model: what it counts as an approval of added exposure under a lock."""

import json
from typing import Any

import pytest

from tests.chaos.memory_run import MemoryRecording
from tests.chaos.oracle_exposure import check_exposure
from tests.chaos.oracle_findings import Findings
from tests.chaos.recording import INPUTS, OUTPUTS, Rec

Json = dict[str, Any]
LOCK: Json = {"topic": "account-locked", "reason": "MANUAL"}
UNLOCK: Json = {"topic": "account-events", "type": "UNLOCKED"}
HALTED: Json = {"topic": "account-events", "type": "HALTED"}


def approval(side: str, quantity: str, **more: Any) -> Json:
    checks = [{"code": "TRADING_HALTED", "passed": True}]
    order = {"order_id": "o-1", "signal_id": "s-1", "instrument": "BTC-USD", "venue": "x", "trading_state": "REDUCING"}
    return {"topic": "approved-orders", "side": side, "quantity": quantity, "checks": checks} | order | more


def fill(side: str, quantity: str, **more: Any) -> Json:
    return {"topic": "fills", "side": side, "quantity": quantity, "instrument": "BTC-USD", "order_id": None} | more


def approved_while_locked(*happened: Json, dead_fills: tuple[int, ...] = ()) -> int:
    """What is counted after these, in this order, all of one account."""
    topics: dict[str, dict[int, list[Rec]]] = {topic: {0: []} for topic in (*INPUTS, *OUTPUTS)}
    offsets = {"signals": -1, "fills": -1}
    for one in happened:
        read = "fills" if one["topic"] == "fills" else "signals"
        offsets[read] += 1
        basis = {"partition": 0, "offsets": {topic: at for topic, at in offsets.items() if at >= 0}}
        value = {name: field for name, field in one.items() if name != "topic"} | {"account_id": "main", "basis": basis}
        records = topics[one["topic"]][0]
        records.append(Rec(len(records), 0, b"main", json.dumps(value).encode()))
    for offset in dead_fills:
        letter = {"topic": "fills", "partition": 0, "offset": offset}
        topics["dead-letters"][0].append(Rec(offset, 0, b"main", json.dumps(letter).encode()))
    findings = Findings()
    check_exposure(MemoryRecording({"accounts": {"main": {"exchange": "x"}}}, topics), 0, findings)
    return findings.counts["approvals_after_lock"]


@pytest.mark.parametrize(
    ("happened", "count"),
    [
        ([approval("buy", "1"), LOCK], 0),
        ([LOCK, approval("buy", "1")], 1),
        ([LOCK, approval("buy", "1"), approval("sell", "1")], 2),
        ([LOCK, UNLOCK, approval("buy", "1")], 0),
        ([LOCK, HALTED, approval("buy", "1")], 1),
        ([LOCK, UNLOCK, LOCK, approval("buy", "1")], 1),
        ([fill("buy", "2"), LOCK, approval("sell", "2")], 0),
        ([fill("buy", "2"), LOCK, approval("sell", "2.000001")], 1),
        ([fill("buy", "2"), LOCK, approval("buy", "1")], 1),
        ([fill("sell", "2"), LOCK, approval("buy", "2")], 0),
        ([LOCK, fill("buy", "2"), approval("sell", "1")], 0),
        ([fill("buy", "2"), LOCK, approval("sell", "1", venue="y")], 1),
        ([fill("buy", "2"), LOCK, approval("sell", "1", trading_state="ACTIVE")], 1),
        ([fill("buy", "2"), LOCK, approval("sell", "1", checks=[{"code": "TRADING_STATE_REDUCING"}])], 1),
        (
            [approval("buy", "2", venue="y"), fill("buy", "2", order_id="o-1"), LOCK, approval("sell", "2", venue="y")],
            0,
        ),
    ],
)
def test_what_adds_exposure_under_a_lock(happened: list[Json], count: int) -> None:
    assert approved_while_locked(*happened) == count


def test_a_fill_that_is_a_dead_letter_moved_nothing() -> None:
    happened = [fill("buy", "2"), LOCK, approval("sell", "2")]
    assert approved_while_locked(*happened) == 0
    assert approved_while_locked(*happened, dead_fills=(0,)) == 1
