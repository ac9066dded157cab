"""What is written of an account: the gate's own figures, in the words of the contract."""

from typing import Any

import orjson
import pytest

from streams.core.drawdown import DAILY
from streams.mirror.view import account_document, account_view, rules_view
from streams.ops.overview import document, overview
from tests.unit.desk import ACCOUNT, Desk


def fields_of(desk: Desk) -> dict[str, str]:
    return account_view(ACCOUNT, desk.account, desk.gate.rules).fields


def busy_desk() -> Desk:
    desk = Desk(account={"currency": "USD", "timezone": "Europe/Oslo"})
    desk.pnl("10000", marks={"BTC-USD": "100"})
    desk.hold("3")
    desk.working(quantity="2")
    desk.working(side="sell", quantity="1", stop_loss=None)
    desk.later(seconds=1).pnl("9950", marks={"BTC-USD": "98"})
    desk.command("lock")
    desk.command("halt")
    return desk


@pytest.mark.parametrize("desk", [Desk(), busy_desk()], ids=["new", "busy"])
def test_it_reads_back_as_the_command_line_shows_it(desk: Desk) -> None:
    shown = document(overview(ACCOUNT, desk.account, desk.gate.rules, 0))
    shown.pop("equity_stale")
    assert account_document(fields_of(desk)) == shown


def test_every_field_is_there_for_every_account() -> None:
    """A reader never has to tell an absent field from an empty one."""
    desk = busy_desk()
    busy = fields_of(desk)
    assert fields_of(Desk()).keys() == busy.keys()
    assert account_view(ACCOUNT, None, Desk().gate.rules).fields.keys() == busy.keys()
    assert account_view("stranger", desk.account, desk.gate.rules).fields.keys() == busy.keys()
    assert all(isinstance(value, str) for value in busy.values())


def test_profit_and_loss_is_signed_and_in_percent() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.later(seconds=1).pnl("10125")
    assert fields_of(desk)["daily_pnl_pct"] == "1.25"
    desk.later(hours=24).pnl("9922.5")
    fields = fields_of(desk)
    assert (fields["daily_pnl_pct"], fields["weekly_pnl_pct"]) == ("-2", "-0.775")
    assert fields["daily_drawdown"] == "0.02"
    assert fields["lock_reasons"] == f'["{DAILY}"]'


def test_profit_and_loss_of_an_initial_capital_is_a_part_of_it() -> None:
    desk = Desk(account={"loss_basis": "initial", "initial_capital": "20000"})
    desk.pnl("10000")
    desk.later(seconds=1).pnl("10100")
    assert fields_of(desk)["daily_pnl_pct"] == "0.5"


@pytest.mark.parametrize("name", ["daily_pnl_pct", "weekly_pnl_pct", "daily_room", "headroom", "open_risk", "leverage"])
def test_without_usable_equity_there_is_no_figure(name: str) -> None:
    desk = Desk()
    desk.pnl("10000")
    assert fields_of(desk)[name] != ""
    desk.pnl("NaN")
    assert fields_of(desk)[name] == ""


def test_headroom_is_what_the_next_trade_may_still_risk() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.working(quantity="2")
    fields = fields_of(desk)
    assert (fields["open_risk"], fields["daily_room"], fields["headroom"]) == ("2", "200", "198")
    # As the gate says when it refuses one that does not fit.
    check = desk.signal(quantity="99", stop_loss="97.99").check("RISK_HEADROOM_EXCEEDED")
    assert check["limit"] == fields["daily_room"]


def test_positions_are_counted_as_the_limit_counts_them() -> None:
    desk = Desk(profiles={"normal": {"headroom": False}})
    desk.pnl("10000")
    desk.hold("3")
    desk.hold("1", venue="kraken")
    desk.working(instrument="ETH-USD")
    fields = fields_of(desk)
    assert (fields["position_count"], fields["order_count"]) == ("2", "1")
    assert len(orjson.loads(fields["positions"])) == 2


def test_an_account_that_is_not_configured_shows_what_is_known_and_refuses() -> None:
    desk = busy_desk()
    fields = account_view("stranger", desk.account, desk.gate.rules).fields
    assert fields["configured"] == "0"
    assert fields["entry_refusals"] == '["UNKNOWN_ACCOUNT"]'
    assert (fields["headroom"], fields["daily_pnl_pct"]) == ("", "")


def test_the_rules_are_those_in_force() -> None:
    desk = Desk(strategies={"blacklist": ["worn"], "micro": {"whitelist": ["trend"]}})
    desk.policy("state/venue/binance", {"state": "REDUCING"})
    desk.policy("venue/kraken", {"up": False})
    desk.policy("rollout", {"phase": 2, "accounts": ["main"]})
    desk.policy("profile/normal", {"max_daily_drawdown": "0.01"})
    desk.policy("state/global", {"state": "nonsense"})
    read: dict[str, Any] = {name: orjson.loads(text) for name, text in rules_view(desk.gate.rules).items()}
    assert read["states"] == {"state/venue/binance": "REDUCING", "state/global": "HALTED"}
    assert read["venues"] == {"kraken": False}
    assert read["lists"][""] == {"whitelist": [], "blacklist": ["worn"]}
    assert read["lists"]["micro"] == {"whitelist": ["trend"], "blacklist": []}
    assert read["rollout"] == {"phase": "2", "accounts": ["main"], "profiles": None, "venues": None}
    assert read["profiles"]["normal"]["max_daily_drawdown"] == "0.01"
