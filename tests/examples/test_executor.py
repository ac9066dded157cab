"""What the example executor does about one record: sent once or accounted for, never after a lock."""

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from infra.examples.executor import Executor
from infra.examples.venue import PaperVenue, Report, VenueError
from schemas.inputs import Fill
from streams.core.decode import parse_object
from streams.mirror.last_look import Code, Look
from tests.examples.signals import order


def approved(order_id: str = "o-1", valid_for_s: float = 30, **fields: Any) -> dict[str, Any]:
    until = (datetime.now(UTC) + timedelta(seconds=valid_for_s)).isoformat()
    return {**order("main", "s-1"), "order_id": order_id, "venue": "binance", "valid_until": until, **fields}


def lock_of(*orders: Mapping[str, Any]) -> dict[str, Any]:
    entries = [
        {name: one[name] for name in ("order_id", "instrument", "side", "venue")} | {"quantity_left": one["quantity"]}
        for one in orders
    ]
    return {"account_id": "main", "reason": "DAILY_DRAWDOWN", "open_orders": entries}


class Bench:
    """An executor with a venue and a mirror that do as they are told; what it has published."""

    def __init__(self, *, rests: bool = False, says: Code = "ALLOWED", serves: str | None = None) -> None:
        self.venue = PaperVenue(rests=rests)
        self.published: list[dict[str, Any]] = []
        self.looks = 0
        self.says: Code = says
        self.executor = Executor(self.venue, self._look, self._publish, serves=serves)

    async def _look(self, _account_id: str, _order_id: str) -> Look:
        self.looks += 1
        return Look(self.says)

    async def _publish(self, fill: Mapping[str, Any]) -> None:
        self.published.append(dict(fill))

    @property
    def statuses(self) -> list[tuple[str, str]]:
        return [(fill["order_id"], fill["status"]) for fill in self.published]


async def test_an_order_is_sent_and_its_fill_is_one_that_the_gate_can_use() -> None:
    bench = Bench()
    await bench.executor.on_approved(approved())
    assert bench.statuses == [("o-1", "filled")]
    raw, _ = parse_object(json.dumps(bench.published[0]).encode())
    fill = Fill.model_validate(raw)
    assert (fill.quantity, fill.price, fill.account_id) == (Decimal("0.01"), Decimal(16500), "main")


async def test_orders_of_other_venues_are_left_alone() -> None:
    bench = Bench(serves="kraken")
    await bench.executor.on_approved(approved())
    assert (bench.published, bench.looks) == ([], 0)


@pytest.mark.parametrize("says", ["ACCOUNT_LOCKED_MANUAL", "MIRROR_STALE", "REDIS_UNAVAILABLE", "ORDER_UNKNOWN"])
async def test_what_the_last_look_refuses_is_not_sent_and_is_accounted_for(says: Code) -> None:
    bench = Bench(says=says)
    await bench.executor.on_approved(approved())
    assert await bench.venue.find("o-1") is None
    assert bench.statuses == [("o-1", "cancelled")]
    assert bench.published[0]["quantity"] == "0"


async def test_an_order_that_has_expired_is_not_sent() -> None:
    bench = Bench()
    await bench.executor.on_approved(approved(valid_for_s=-0.001))
    assert await bench.venue.find("o-1") is None
    assert bench.statuses == [("o-1", "cancelled")]


async def test_a_lock_cancels_what_rests_and_nothing_else() -> None:
    bench = Bench(rests=True)
    entry, exit_order = approved("o-entry"), approved("o-exit", side="sell")
    for one in (entry, exit_order):
        await bench.executor.on_approved(one)
    await bench.executor.on_locked(lock_of(entry))
    assert bench.statuses == [("o-entry", "cancelled")]
    assert (await bench.venue.find("o-exit") or [])[-1].status == "working"
    await bench.executor.on_locked(lock_of(entry))
    assert bench.statuses == [("o-entry", "cancelled")]


async def test_an_order_that_comes_after_its_lock_is_not_sent_even_if_the_account_is_free_again() -> None:
    bench = Bench()
    order_of_lock = approved()
    await bench.executor.on_locked(lock_of(order_of_lock))
    await bench.executor.on_approved(order_of_lock)
    assert (await bench.venue.find("o-1"), bench.looks) == (None, 0)
    assert bench.statuses == [("o-1", "cancelled")]


async def test_a_lock_that_comes_while_an_order_is_sent_cancels_it_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench(rests=True)
    may_answer, is_asked, answers = asyncio.Event(), asyncio.Event(), bench.venue.send

    async def slow(one: dict[str, Any]) -> list[Report]:
        is_asked.set()
        await may_answer.wait()
        return await answers(one)

    monkeypatch.setattr(bench.venue, "send", slow)
    entry = approved()
    sending = asyncio.create_task(bench.executor.on_approved(entry))
    await is_asked.wait()
    locking = asyncio.create_task(bench.executor.on_locked(lock_of(entry)))
    await asyncio.sleep(0)
    may_answer.set()
    await asyncio.gather(sending, locking)
    assert bench.statuses == [("o-1", "cancelled")]


async def test_after_a_crash_an_order_is_not_sent_again_and_its_reports_are_the_same() -> None:
    bench = Bench()
    one = approved()
    await bench.executor.on_approved(one)
    # The record is read again: it was not committed. By now the order has expired, and its account is locked.
    bench.says = "ACCOUNT_LOCKED_MANUAL"
    await bench.executor.on_approved(one | {"valid_until": "2017-12-19T11:00:00Z"})
    first, second = bench.published
    assert (first["fill_id"], first["status"]) == (second["fill_id"], second["status"])


async def test_an_unclear_answer_of_the_venue_ends_the_program_and_reports_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = Bench()

    async def unclear(_order: dict[str, Any]) -> list[Report]:
        raise VenueError("no answer")

    monkeypatch.setattr(bench.venue, "send", unclear)
    with pytest.raises(VenueError):
        await bench.executor.on_approved(approved())
    assert bench.published == []
