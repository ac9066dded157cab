"""The reduced rules that are compared with Kafka Streams: what each rule answers."""

from decimal import Decimal
from typing import Any

import orjson
import pytest

from streams.core.fold import Batch
from streams.core.records import Output, Record
from streams.core.rules import Rules
from tests.benchmarks.memory import MemoryView
from tests.benchmarks.reduced import fold

_TIME = "2026-01-05T12:00:00Z"


class Desk:
    """One account under the reduced rules."""

    def __init__(self) -> None:
        self.view = MemoryView()
        self._offset = 0

    def put(self, topic: str, **value: Any) -> list[dict[str, Any]]:
        """What one record makes."""
        self._offset += 1
        record = Record(topic, 0, self._offset, 0, b"a", orjson.dumps({"account_id": "a", **value}))
        commit = fold(Batch(0, {topic: [record]}, 0), self.view, Rules(), lambda _account_id: 0)
        self.view.apply(commit)
        return [_body(output) for output in commit.outputs]

    def mark(self, equity: str, sequence: int = 1) -> list[dict[str, Any]]:
        return self.put("pnl", sequence=sequence, equity=equity, as_of=_TIME)

    def signal(self, signal_id: str = "s-1", quantity: str = "1", price: str = "100", stop: str = "99") -> str | None:
        """The code that refuses it, "approved", or None for no answer."""
        fields = {"strategy_id": "t", "instrument": "BTC-USD", "side": "buy", "created_at": _TIME}
        outputs = self.put("signals", signal_id=signal_id, quantity=quantity, price=price, stop_loss=stop, **fields)
        return outputs[0].get("code", "approved") if outputs else None


def _body(output: Output) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(output.value)
    return body | {"topic": output.topic}


def test_a_loss_of_five_percent_locks_once_and_refuses() -> None:
    desk = Desk()
    assert desk.mark("1000", 1) == []
    assert [body["topic"] for body in desk.mark("950", 2)] == ["account-locked"]
    assert desk.mark("900", 3) == []
    assert desk.signal() == "ACCOUNT_LOCKED"


def test_an_old_sequence_changes_nothing() -> None:
    desk = Desk()
    desk.mark("1000", 2)
    assert desk.mark("1", 2) == []
    assert desk.signal() == "approved"


@pytest.mark.parametrize(
    ("quantity", "price", "stop", "answer"),
    [
        ("20", "100", "99", "approved"),
        ("20.1", "100", "99", "TRADE_RISK_EXCEEDED"),
        ("50", "100", "99.9", "approved"),
        ("50.1", "100", "99.9", "LEVERAGE_EXCEEDED"),
    ],
)
def test_risk_and_leverage_pass_at_their_limits(quantity: str, price: str, stop: str, answer: str) -> None:
    desk = Desk()
    desk.mark("1000")
    assert desk.signal(quantity=quantity, price=price, stop=stop) == answer


def test_without_equity_nothing_is_approved_and_a_repeat_is_not_answered() -> None:
    desk = Desk()
    assert desk.signal() == "RISK_DATA_MISSING"
    assert desk.signal() is None


def test_an_open_order_counts_until_its_fill_moves_the_position() -> None:
    desk = Desk()
    desk.mark("1000")
    assert desk.signal("s-1", quantity="20") == "approved"
    order_id = next(iter(desk.view.accounts["a"].open))  # type: ignore[attr-defined]
    fill = {"instrument": "BTC-USD", "side": "buy", "price": "100", "status": "filled", "filled_at": _TIME}
    desk.put("fills", fill_id="f-1", order_id=order_id, quantity="20", **fill)
    desk.put("fills", fill_id="f-1", order_id=order_id, quantity="20", **fill)
    held = desk.view.accounts["a"]
    assert (held.position, held.open) == (Decimal(20), {})  # type: ignore[attr-defined]
