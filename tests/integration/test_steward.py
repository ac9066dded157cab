"""The steward beside a real worker on a real broker: venues down and up again, one rung down, changes that end."""

import os
import signal
from pathlib import Path
from typing import Any, Self

import orjson
import pytest

from infra.brokers import Broker
from schemas.types import read_time, write_time
from streams.core.records import APPROVED, CONTROLS, EVENTS, FILLS, LOCKED, PNL, POLICIES, SIGNALS
from streams.runtime import clock
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames, create_topics
from tests.integration.processes import Program, environment_of, tidegate_command
from tests.integration.support import Names, produce, produce_in_transaction, read_topic, wait_for
from tests.integration.workers import WorkerProcess, settings_for
from tests.observe.scrape import listed, scraped, shown

DEADLINE_S = 30.0
ACCOUNT = "main"
CONFIG: dict[str, Any] = {
    "accounts": {ACCOUNT: {"exchange": "binance", "failover": ["kraken"], "profile": "normal"}},
    "controls": {"auto_downgrade": True},
    "venue_watch": {"orders": 3, "window": "60s", "cool_down": "6s"},
}
TOML = """
[accounts.main]
exchange = "binance"
failover = ["kraken"]
profile = "normal"
[controls]
auto_downgrade = true
[venue_watch]
orders = 3
window = "60s"
cool_down = "6s"
"""


class Desk:
    """A test's topics, and what a desk sends to them."""

    def __init__(self, kafka: Broker, topics: Names, directory: Path) -> None:
        self._kafka = kafka
        self._topics = topics
        self._directory = directory
        self._names = TopicNames.of(self._settings("any"))
        self._count = 0

    def _settings(self, name: str) -> Settings:
        return settings_for(self._kafka, self._topics, self._directory / name)

    async def create(self) -> Self:
        await create_topics(self._settings("any"), partitions=2)
        return self

    def worker(self) -> WorkerProcess:
        return WorkerProcess(self._settings("worker"), core="real", rules=CONFIG)

    def steward(self, name: str, toml: str = TOML) -> Program:
        config = self._directory / f"{name}.toml"
        config.write_text(toml)
        environment = os.environ | environment_of(self._settings(name)) | {"TIDEGATE_HTTP": "127.0.0.1:0"}
        return Program(tidegate_command("steward", "--config", str(config)), config.with_suffix(".log"), environment)

    async def send(self, topic: str, key: str, **value: Any) -> int:
        """One record; its offset."""
        records = [(key.encode(), orjson.dumps(value))]
        ((_, offset),) = await produce(self._kafka.bootstrap, self._names.physical(topic), records)
        return offset

    async def send_in_transaction(
        self, topic: str, key: str, value: dict[str, Any], *, commit: bool, at_ms: int | None = None
    ) -> None:
        record = (key.encode(), orjson.dumps(value))
        await produce_in_transaction(
            self._kafka.bootstrap, self._names.physical(topic), [record], commit=commit, timestamp_ms=at_ms
        )

    async def values(self, topic: str) -> list[dict[str, Any]]:
        return [value for _, value in await self.stamped(topic)]

    async def stamped(self, topic: str) -> list[tuple[int, dict[str, Any]]]:
        """Each record's timestamp in ms, and its value."""
        records = await read_topic(self._kafka.bootstrap, self._names.physical(topic))
        return [(one.timestamp, orjson.loads(one.value)) for one in records]

    async def expect(self, topic: str, count: int) -> list[dict[str, Any]]:
        """Wait for so many records, and return them."""

        async def there() -> list[dict[str, Any]]:
            values = await self.values(topic)
            return values if len(values) >= count else []

        return await wait_for(there, DEADLINE_S, f"{count} records on {topic}")

    def next(self) -> int:
        self._count += 1
        return self._count

    async def pnl(self, equity: str) -> None:
        await self.send(PNL, ACCOUNT, account_id=ACCOUNT, sequence=self.next(), equity=equity, as_of=now())

    async def order(self) -> dict[str, Any]:
        """A signal that is approved; the approval."""
        count = len(await self.values(APPROVED)) + 1
        order = {"instrument": "BTC-USD", "side": "buy", "quantity": "0.001", "price": "16500", "stop_loss": "16400"}
        stamp = {"signal_id": f"s-{self.next()}", "strategy_id": "trend", "created_at": now()}
        await self.send(SIGNALS, ACCOUNT, account_id=ACCOUNT, **stamp, **order)
        return (await self.expect(APPROVED, count))[-1]

    async def failed(self, order: dict[str, Any], status: str) -> None:
        """The order's end at its venue, as an executor that names no venue reports it."""
        same = {name: order[name] for name in ("order_id", "account_id", "instrument", "side")}
        end = {"fill_id": f"f-{self.next()}", "quantity": "0", "price": None, "status": status, "filled_at": now()}
        await self.send(FILLS, ACCOUNT, **same, **end)


def now() -> str:
    return write_time(clock.now_ms())


@pytest.fixture
async def desk(kafka: Broker, topics: Names, tmp_path: Path) -> Desk:
    return await Desk(kafka, topics, tmp_path).create()


async def test_a_failing_venue_goes_down_once_and_up_again_after_its_cool_down(desk: Desk) -> None:
    with desk.worker() as worker, desk.steward("first") as first:
        worker.wait_serving(2)
        first.wait_for("steward serving")
        await desk.pnl("100000")
        await desk.failed(await desk.order(), "rejected")
        await desk.failed(await desk.order(), "expired")
        # What the next steward knows of these it can only have from the topics.
        assert first.end(signal.SIGTERM) == 0
        with desk.steward("second") as second:
            second.wait_for("steward serving")
            order = await desk.order()
            assert order["venue"] == "binance"
            await desk.failed(order, "rejected")
            (down,) = await desk.expect(POLICIES, 1)
            assert (down["name"], down["rule"], down["then"]) == ("venue/binance", {"up": False}, None)
            assert down["operator"] == "tidegate"
            assert "2 orders rejected and 1 expired unfilled at binance" in down["reason"]

            async def failed_over() -> bool:
                order = await desk.order()
                return bool(order["venue"] == "kraken")

            await wait_for(failed_over, DEADLINE_S, "an order at the next venue")
            assert second.end(signal.SIGTERM) == 0
        # It reads the three failures again, and that the venue is down because of them.
        with desk.steward("third") as last:
            last.wait_for("steward serving")
            await desk.expect(POLICIES, 2)
            (up_ms, up) = (await desk.stamped(POLICIES))[-1]
            assert (up["name"], up["rule"], up["reverts"]) == ("venue/binance", None, 1)
            assert up_ms >= read_time(down["expires_at"])
            assert len(await desk.values(POLICIES)) == 2


async def test_a_breach_moves_the_account_one_rung_down_once(desk: Desk) -> None:
    with desk.worker() as worker, desk.steward("first") as first:
        worker.wait_serving(2)
        first.wait_for("steward serving")
        await desk.pnl("100000")
        await desk.pnl("97900")
        (lock,) = await desk.expect(LOCKED, 1)
        assert lock["reason"] == "DAILY_DRAWDOWN"

        async def changed() -> list[dict[str, Any]]:
            return [one for one in await desk.values(EVENTS) if one["type"] == "PROFILE_CHANGED"]

        (event,) = await wait_for(changed, DEADLINE_S, "the downgrade")
        assert event["command_id"] == f"downgrade-{lock['lock_id']}"
        assert (event["detail"]["before"], event["detail"]["after"]) == ("normal", "low")
        assert event["detail"]["operator"] == "tidegate"
        # A second one waits for the first to go, reads the lock again, and its repeat changes nothing.
        with desk.steward("second") as second:
            second.wait_for("another steward")
            assert first.end(signal.SIGTERM) == 0
            second.wait_for("steward serving")
            _, repeat = await desk.expect(CONTROLS, 2)
            assert repeat["command_id"] == event["command_id"]
            await desk.expect("dead-letters", 1)
            assert [one["reason"] for one in await desk.values("dead-letters")] == ["DUPLICATE_COMMAND"]
            assert len(await changed()) == 1
            text = scraped(second.address)
            assert shown(text) == listed("steward")
            assert "tidegate_steward_serving 1.0" in text
            assert 'tidegate_steward_published_records_total{topic="controls"} 1.0' in text


async def test_a_change_ends_within_a_second_of_its_expiry_unless_it_was_changed_again(desk: Desk) -> None:
    await desk.send(
        POLICIES, "venue/kraken", name="venue/kraken", rule={"up": False}, expires_at="2020-01-01T00:00:00Z"
    )
    with desk.steward("only", "") as steward:
        steward.wait_for("steward serving")
        overdue = (await desk.expect(POLICIES, 2))[-1]
        assert (overdue["name"], overdue["rule"], overdue["reverts"]) == ("venue/kraken", None, 1)
        expires_ms = clock.now_ms() + 2_500
        end = {"expires_at": write_time(expires_ms), "then": {"state": "REDUCING"}, "reason": "CPI at 14:30"}
        halted = await desk.send(POLICIES, "state/global", name="state/global", rule={"state": "HALTED"}, **end)
        kept = {"name": "state/venue/kraken", "expires_at": write_time(expires_ms)}
        await desk.send(POLICIES, kept["name"], **kept, rule={"state": "HALTED"})
        await desk.send(POLICIES, kept["name"], name=kept["name"], rule={"state": "REDUCING"})
        await desk.expect(POLICIES, 6)
        ended_ms, ended = (await desk.stamped(POLICIES))[-1]
        assert (ended["name"], ended["rule"], ended["reverts"]) == ("state/global", {"state": "REDUCING"}, halted + 1)
        assert (ended["operator"], ended["reason"]) == ("tidegate", f"version {halted + 1} has expired (CPI at 14:30)")
        assert 0 <= ended_ms - expires_ms < 1_000
        assert steward.end(signal.SIGTERM) == 0
        # What an operator has set in the meantime stays.
        assert len(await desk.values(POLICIES)) == 6


async def test_what_was_aborted_is_old_or_cannot_be_read_moves_nobody(desk: Desk) -> None:
    with desk.steward("only") as steward:
        steward.wait_for("steward serving")
        await desk.send(LOCKED, ACCOUNT, lock_id="l-of-another-release")
        await desk.send_in_transaction(LOCKED, ACCOUNT, lock("l-aborted"), commit=False)
        thirteen_hours_ago_ms = clock.now_ms() - 13 * 3_600_000
        await desk.send_in_transaction(LOCKED, ACCOUNT, lock("l-old"), commit=True, at_ms=thirteen_hours_ago_ms)
        await desk.send_in_transaction(LOCKED, ACCOUNT, lock("l-committed"), commit=True)
        (command,) = await desk.expect(CONTROLS, 1)
        assert command["command_id"] == "downgrade-l-committed"
        assert "is not a record that this release knows" in steward.log


def lock(lock_id: str) -> dict[str, Any]:
    """An ``account-locked`` record of a breach on profile normal."""
    breach = {"reason": "DAILY_DRAWDOWN", "observed": "0.021", "limit": "0.02", "equity": "97900"}
    state = {"base_equity": "100000", "period_start": now(), "profile": "normal", "trading_state": "REDUCING"}
    made = {"open_orders": [], "positions": [], "locked_at": now(), "schema_version": 1}
    basis = {"partition": 0, "offsets": {"pnl": 7}, "policy_version": 0}
    return {"lock_id": lock_id, "account_id": ACCOUNT, **breach, **state, **made, "basis": basis}
