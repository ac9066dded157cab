"""The load is the same for the same seed and approvals, follows the gate, and holds a bit of everything."""

from collections import Counter
from decimal import Decimal
from itertools import pairwise
from typing import Any

import orjson

from schemas.types import write_time
from streams.config import parse_config
from streams.core.outputs import order_id_of
from tests.chaos.desk import ACCOUNTS, configuration, partition_of, primary_of, probes, toml_of
from tests.chaos.executor import RELEASED, reports_of
from tests.chaos.schedule import PARTITIONS
from tests.chaos.workload import Message, Workload
from tests.model.naive import NaiveGate

NOW_MS = 1_790_000_000_000
MANY = 30_000
VALID_MS = 30_000
LONGEST = 8_000
"""Records of the load within which all is over that an order brings about."""


def _approval(signal: Message, now_ms: int) -> dict[str, Any]:
    """What of a record of ``approved-orders`` an executor looks at."""
    value: dict[str, Any] = orjson.loads(signal.value or b"")
    return value | {
        "order_id": order_id_of(value["account_id"], value["signal_id"]),
        "venue": primary_of(value["account_id"]),
        "valid_until": write_time(now_ms + VALID_MS),
    }


def _is_sound(message: Message) -> bool:
    return message.kind in ("entry, calm", "exit")


def _messages(seed: int, count: int = MANY, *, approving: bool = True) -> list[Message]:
    """Beside a gate that approves whatever is sound, at once."""
    workload = Workload(seed)
    messages = []
    for number in range(count):
        now_ms = NOW_MS + 2 * number
        messages.append(workload.next(now_ms))
        if approving and _is_sound(messages[-1]):
            workload.approved(_approval(messages[-1], now_ms), now_ms)
    return messages


def _reports_of(order: dict[str, Any], workload: Workload, now_ms: int) -> list[dict[str, Any]]:
    """What the executor makes known of an order, each once; who fills at another price is not the executor."""
    found = {}
    for _ in range(LONGEST):
        message = workload.next(now_ms)
        if message.kind.startswith(("fill", "command, release")):
            value = orjson.loads(message.value or b"")
            if value["order_id"] == order["order_id"] and value.get("price", order["price"]) == order["price"]:
                found[value.get("fill_id") or value["command_id"]] = value
    return list(found.values())


def _first_order(workload: Workload) -> dict[str, Any]:
    """The approval of the first sound entry; its price is no other's."""
    entry = next(message for _ in range(LONGEST) if (message := workload.next(NOW_MS)).kind == "entry, calm")
    return _approval(entry, NOW_MS) | {"quantity": "0.3", "price": "17"}


def test_the_same_seed_and_approvals_publish_the_same(seed: int) -> None:
    assert _messages(seed, 6_000) == _messages(seed, 6_000)
    assert _messages(seed, 3_000) != _messages(seed + 1, 3_000)
    assert _messages(seed, 6_000) != _messages(seed, 6_000, approving=False)


def test_an_approved_order_is_reported_once_however_often_it_is_approved(seed: int) -> None:
    for other in range(seed, seed + 8):
        workload = Workload(other)
        order = _first_order(workload)
        for _ in range(3):
            workload.approved(order, NOW_MS)
        reported = [
            (report.get("status", RELEASED), Decimal(report.get("quantity", 0)))
            for report in _reports_of(order, workload, NOW_MS)
        ]
        planned = reports_of(other, order["order_id"], 300_000)
        assert reported == [(report.status, Decimal(report.quantity) / 10**6) for report in planned]


def test_an_approval_that_comes_too_late_is_only_reported_expired(seed: int) -> None:
    workload = Workload(seed)
    order = _first_order(workload)
    late_ms = NOW_MS + VALID_MS + 1
    workload.approved(order, late_ms)
    (report,) = _reports_of(order, workload, late_ms)
    assert report["status"] == "expired"
    assert not Decimal(report["quantity"])


def test_orders_of_other_desks_are_none_of_ours(seed: int) -> None:
    one, other = Workload(seed), Workload(seed)
    order = _first_order(one) | {"account_id": probes()[0]}
    _first_order(other)
    one.approved(order, NOW_MS)
    assert [one.next(NOW_MS) for _ in range(LONGEST)] == [other.next(NOW_MS) for _ in range(LONGEST)]


def test_without_a_gate_everything_but_orders_goes_on(seed: int) -> None:
    messages = _messages(seed, approving=False)
    last = Counter(message.kind for message in messages[-MANY // 3 :])
    assert last["entry, calm"] >= 100
    assert last["mark"] > MANY / 3 / 2
    assert last["command, unlock"] >= 20
    orders = Counter(message.kind for message in messages if message.kind.startswith("fill"))
    assert set(orders) <= {"fill, filled", "fill, unknown order"}, "only what nobody waited for, or knows"
    assert orders["fill, filled"] < MANY / 100


def test_beside_a_gate_positions_agree_and_much_is_approved(seed: int) -> None:
    workload, gate = Workload(seed), NaiveGate(configuration(NOW_MS / 1000))
    sound = approved = 0
    coming: list[tuple[int, dict[str, Any]]] = []
    for number in range(8_000):
        now_ms = NOW_MS + 4 * number
        while coming and coming[0][0] <= number:
            workload.approved(coming.pop(0)[1], now_ms)
        message = workload.next(now_ms)
        sound += _is_sound(message)
        outputs = gate.feed(message.topic, message.value, key=message.key, timestamp_ms=now_ms, offset=number)
        orders = [one["value"] for one in outputs if one["topic"] == "approved-orders"]
        approved += bool(orders and _is_sound(message))
        coming += [(number + 100, order) for order in orders]
    assert approved > 0.4 * sound > 100
    held = {name: workload.positions(name) for name in ACCOUNTS}
    assert held == {
        name: {(instrument, venue): int(position.quantity * 10**6) for instrument, venue, position in account.held}
        for name, account in gate.accounts.items()
        if name in ACCOUNTS
    }
    assert sum(map(len, held.values())) < 4 * len(ACCOUNTS), "what is entered is left again"


def test_a_bit_of_everything(seed: int) -> None:
    messages = _messages(seed)
    kinds = Counter(message.kind for message in messages)
    for kind in ("hand trade", "fill, unknown order", "command, release_order"):
        assert kinds[kind] >= 3, (kind, kinds)
    for kind in (
        "entry, calm",
        "entry, locked",
        "exit",
        "fill, filled",
        "fill, cancelled",
        "mark, falling",
        "command, unlock",
        "policy",
    ):
        assert kinds[kind] >= 20, (kind, kinds)
    for kind in ("repeat", "misplaced", "malformed"):
        assert kinds[kind] >= MANY / 200, (kind, kinds)
    topics = Counter(message.topic for message in messages)
    assert topics["pnl"] > MANY / 2
    assert topics["signals"] > MANY / 8
    assert {message.topic for message in messages} == {"signals", "fills", "pnl", "controls", "policies"}


def test_misplaced_records_are_on_the_wrong_partition(seed: int) -> None:
    misplaced = [message for message in _messages(seed) if message.kind == "misplaced"]
    for message in misplaced:
        account_id = orjson.loads(message.value or b"")["account_id"]
        assert message.partition in range(PARTITIONS)
        if account_id in ACCOUNTS:
            assert message.partition != partition_of(account_id)


def test_sequences_only_rise(seed: int) -> None:
    marks: dict[str, list[int]] = {}
    for message in _messages(seed, 5_000):
        if message.topic == "pnl" and message.kind.startswith("mark"):
            value = orjson.loads(message.value or b"")
            marks.setdefault(value["account_id"], []).append(value["sequence"])
    assert len(marks) == len(ACCOUNTS)
    assert all(before < after for sequence in marks.values() for before, after in pairwise(sequence))


def test_the_configuration_is_one_and_probes_reach_every_partition() -> None:
    import tomllib

    table = configuration(NOW_MS / 1000)
    assert tomllib.loads(toml_of(table)) == table
    config = parse_config(table, {})
    assert set(ACCOUNTS) | set(probes().values()) == set(config.accounts)
    assert {partition_of(account): number for number, account in probes().items()} == {
        number: number for number in range(PARTITIONS)
    }
