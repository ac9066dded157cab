"""The survey of accounts: what changed is looked at, what is handed on is gone, and the loop is left to the gate."""

import asyncio
import time
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import orjson
import pytest
from msgspec.structs import replace

from streams.config import parse_config
from streams.core.records import CONTROLS, FILLS, PNL, SIGNALS, Record
from streams.core.rules import Rules, rules_of
from streams.core.state import Account
from streams.observe import survey as surveys
from streams.observe.figures import FRESH, NEVER, STALE, UNUSABLE, Figures, figures_of
from streams.observe.survey import Survey
from streams.replay import Replay
from tests.integration.support import wait_for

DEADLINE_S = 10.0
NOW_MS = 1_800_000_000_000
CONFIG = {
    "accounts": {
        "main": {"exchange": "binance", "profile": "normal", "currency": "USD"},
        "spare": {"exchange": "kraken"},
        "far": {"exchange": "kraken"},
    }
}
RULES = rules_of(parse_config(CONFIG, {}))


class Desk:
    """A gate in memory."""

    def __init__(self) -> None:
        self.replay = Replay(RULES)
        self._offset = 0

    def send(self, topic: str, account: str, **body: Any) -> Account:
        self._offset += 1
        value = orjson.dumps({"account_id": account, **body})
        self.replay.apply(Record(topic, 0, self._offset, NOW_MS, account.encode(), value))
        return self.replay.accounts[account]

    def equity(self, account: str, equity: str, **fields: Any) -> Account:
        self._offset += 1
        return self.send(PNL, account, sequence=self._offset, equity=equity, as_of="2027-01-15T08:00:00Z", **fields)

    def figures(self, account: str) -> Figures:
        return figures_of(account, self.replay.accounts.get(account), RULES)


def test_an_account_that_nothing_is_known_of() -> None:
    assert figures_of("spare", None, RULES) == Figures("micro", "ACTIVE", "none", (), (), None, False, None, 0, 0, None)


def test_an_account_with_equity_position_and_order() -> None:
    desk = Desk()
    desk.equity("main", "10000", marks={"BTC-USD": "100"})
    desk.send(FILLS, "main", fill_id="f-1", instrument="BTC-USD", side="buy", quantity="1", price="100",
              status="filled", filled_at="2027-01-15T08:00:00Z")  # fmt: skip
    desk.send(SIGNALS, "main", signal_id="s-1", strategy_id="trend", instrument="ETH-USD", side="buy", quantity="2",
              price="10", stop_loss="9", created_at="2027-01-15T08:00:00Z")  # fmt: skip
    desk.equity("main", "9900")
    figures = desk.figures("main")
    assert (figures.profile, figures.state, figures.currency) == ("normal", "ACTIVE", "USD")
    assert (figures.positions, figures.orders) == (2, 1)
    assert dict(figures.drawdowns) == pytest.approx({"DAILY_DRAWDOWN": 0.5, "WEEKLY_DRAWDOWN": 0.2})
    # To the daily floor of 9,800; a position without stop counts max_trade_risk of equity, the order its stop.
    assert figures.headroom == pytest.approx(9_900 - 9_800 - 0.01 * 9_900 - 2)


def test_a_missing_rate_leaves_headroom_unknown() -> None:
    desk = Desk()
    desk.equity("main", "10000")
    desk.send(FILLS, "main", fill_id="f-1", instrument="USD-JPY", side="buy", quantity="1", price="100",
              status="filled", filled_at="2027-01-15T08:00:00Z")  # fmt: skip
    assert desk.figures("main").headroom is None
    assert desk.figures("main").equity == 10_000


def test_locks_states_and_feeds() -> None:
    desk = Desk()
    desk.equity("spare", "10000")
    desk.equity("spare", "9900")
    figures = desk.figures("spare")
    assert (figures.state, figures.locks) == ("REDUCING", ("DAILY_DRAWDOWN",))
    desk.send(CONTROLS, "spare", command_id="c", type="halt", operator="ann", reason="x",
              issued_at="2027-01-15T08:00:00Z")  # fmt: skip
    assert desk.figures("spare").state == "HALTED"
    assert figures.feed(NOW_MS + 60_000, RULES) == FRESH
    assert figures.feed(NOW_MS + 60_001, RULES) == STALE
    assert figures.feed(NOW_MS + 60_001, replace(RULES, clock="record")) == FRESH
    assert desk.figures("far").feed(NOW_MS, RULES) == NEVER
    desk.equity("spare", "nonsense")
    assert desk.figures("spare").feed(NOW_MS, RULES) == UNUSABLE
    assert desk.figures("spare").drawdowns == ()


# -- going round -----------------------------------------------------------------------------------------------------


class Held:
    """A partition."""

    def __init__(self, accounts: Mapping[str, Account]) -> None:
        self.accounts = dict(accounts)
        self.changed: dict[str, Account] | None = None
        self.asked: list[str] = []

    def account(self, account_id: str) -> Account | None:
        self.asked.append(account_id)
        return self.accounts.get(account_id)

    def commit(self, account_id: str, account: Account) -> None:
        self.accounts[account_id] = account
        if self.changed is not None:
            self.changed[account_id] = account


class World:
    def __init__(self, tmp_path: Path, rules: Rules = RULES) -> None:
        self.rules = rules
        self.owned: dict[int, Held] = {}
        self.survey = Survey(
            owned=lambda: self.owned,
            rules=lambda: self.rules,
            partition_of=lambda account_id: int(account_id == "far"),
            state_dir=tmp_path,
        )

    def shown(self) -> dict[str, float | None]:
        return {account_id: figures.equity for account_id, figures in self.survey.of(self.rules.accounts)}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_all_accounts_of_a_new_partition_are_looked_at_and_then_only_those_that_changed(world: World) -> None:
    desk = Desk()
    partition = world.owned[0] = Held({"main": desk.equity("main", "100")})
    await world.survey.go_round()
    assert world.shown() == {"main": 100, "spare": None}
    assert sorted(partition.asked) == ["main", "spare"]

    partition.asked.clear()
    await world.survey.go_round()
    partition.commit("spare", desk.equity("spare", "200"))
    partition.commit("stranger", desk.equity("main", "100"))
    await world.survey.go_round()
    assert world.shown() == {"main": 100, "spare": 200}
    assert partition.asked == []
    assert world.survey.pending == 0


async def test_a_partition_that_is_handed_on_is_gone_at_once_and_forgotten_at_the_next_look(world: World) -> None:
    world.owned = {0: Held({}), 1: Held({})}
    await world.survey.go_round()
    assert set(world.shown()) == {"main", "spare", "far"}
    del world.owned[0]
    assert set(world.shown()) == {"far"}
    await world.survey.go_round()
    assert set(world.survey.figures) == {1}


async def test_a_partition_that_came_back_is_looked_at_anew(world: World) -> None:
    desk = Desk()
    world.owned[0] = Held({"main": desk.equity("main", "100")})
    await world.survey.go_round()
    # Meanwhile another worker had it, and nobody told this one what changed.
    world.owned[0] = Held({"main": desk.equity("main", "90")})
    await world.survey.go_round()
    assert world.shown()["main"] == 90


async def test_other_rules_change_everyones_figures(world: World) -> None:
    desk = Desk()
    account = desk.equity("main", "100")
    world.owned[0] = Held({"main": account})
    await world.survey.go_round()
    tight = replace(RULES.profiles["normal"], max_daily_drawdown=Decimal("0.001"))
    world.owned[0].commit("main", desk.equity("main", "99.95"))
    await world.survey.go_round()
    world.rules = replace(RULES, profiles={**RULES.profiles, "normal": tight})
    await world.survey.go_round()
    assert dict(world.survey.figures[0]["main"].drawdowns)["DAILY_DRAWDOWN"] == pytest.approx(0.5)


async def test_a_fault_costs_figures_and_not_the_gate(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(surveys, "_INTERVAL_S", 0.001)
    broken: Any = object()
    partition = world.owned[0] = Held({"main": broken})
    async with world.survey:
        await wait_for(lambda: "could not be brought up to date" in caplog.text, DEADLINE_S, "the fault")
        partition.accounts = {"main": Desk().equity("main", "100")}
        partition.commit("main", partition.accounts["main"])
        await wait_for(lambda: world.shown().get("main") == 100, DEADLINE_S, "the figures")
    assert not world.survey.crashed


async def test_it_rests_as_often_as_it_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in slices, not in time: after each slice it lets go of the loop for 99 times what the slice took."""
    config = {"accounts": {f"a{n}": {"exchange": "x"} for n in range(25)}}
    world = World(tmp_path, rules_of(parse_config(config, {})))
    world.owned[0] = Held({})
    clock, rests = iter(range(1_000)), []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(asyncio, "sleep", rest)
    await world.survey.go_round()
    assert rests == [99.0, 99.0, 99.0]
    assert len(world.shown()) == 25


async def test_the_size_of_the_state_is_that_of_its_files(world: World, tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "000004.sst").write_bytes(b"x" * 1_000)
    (tmp_path / "0" / "CURRENT").write_bytes(b"x" * 16)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "000004.sst").write_bytes(b"x" * 9)
    world.owned[0] = Held({})
    await world.survey.go_round()
    assert world.survey.state_bytes == {0: 1_016}


async def test_all_accounts_are_added_up_and_those_that_were_handed_on_are_not(world: World) -> None:
    desk = Desk()
    locked = [desk.equity("spare", "10000"), desk.equity("spare", "9000")][-1]
    world.owned = {0: Held({"main": desk.equity("main", "100"), "spare": locked}), 1: Held({})}
    await world.survey.go_round()
    totals = world.survey.totals
    assert totals.states == {("normal", "ACTIVE"): 1, ("micro", "REDUCING"): 1, ("micro", "ACTIVE"): 1}
    assert totals.locks == {("DAILY_DRAWDOWN",): 1, ("WEEKLY_DRAWDOWN",): 1}
    assert totals.drawdowns["micro", "DAILY_DRAWDOWN"] == pytest.approx(20)
    assert totals.feeds["micro", NEVER] == 1
    assert world.survey.count == 3

    del world.owned[0]
    assert world.survey.count == 1
    await world.survey.go_round()
    assert world.survey.totals.states == {("micro", "ACTIVE"): 1}
    assert world.survey.totals.locks == {}
