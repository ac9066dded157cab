"""One decision per signal: what an approval and a rejection say, repeats, ages, routes."""

import hashlib
from typing import Any

import pytest

from streams.core.outputs import order_id_of
from tests.unit.desk import ABSENT, TUESDAY, Desk


def funded(**desk: Any) -> Desk:
    made = Desk(**desk)
    made.pnl("10000")
    return made


def order_id(account_id: str, signal_id: str) -> str:
    return "o-" + hashlib.sha256(f"{account_id}\0{signal_id}".encode()).hexdigest()[:32]


# -- content -------------------------------------------------------------------------------------------------------


def test_an_approval() -> None:
    desk = funded(account={"failover": ["kraken"]})
    said = desk.signal(
        "s-å",
        quantity=0.5,
        price="100.50",
        stop_loss="99.000",
        leverage=2,
        venue="kraken",
        created_at="2017-12-19T12:00:00.0009+01:00",
        expires_at="2017-12-19T11:05:00.250Z",
        note="ignored",
    )
    value = said.approved
    assert value.pop("checks")
    assert value == {
        "signal_id": "s-å",
        "account_id": "main",
        "strategy_id": "trend",
        "instrument": "BTC-USD",
        "side": "buy",
        "quantity": "0.5",
        "price": "100.5",
        "stop_loss": "99",
        "leverage": "2",
        "reduce_only": False,
        "venue": "kraken",
        "created_at": TUESDAY,
        "expires_at": "2017-12-19T11:05:00.250Z",
        "order_id": order_id("main", "s-å"),
        "profile": "normal",
        "trading_state": "ACTIVE",
        "decided_at": TUESDAY,
        "valid_until": "2017-12-19T11:00:30Z",
        "basis": {"partition": 0, "offsets": {"pnl": 0, "signals": 0}, "policy_version": 0},
        "schema_version": 1,
    }
    assert said[0].key == "main"
    assert len(said) == 1


@pytest.mark.parametrize("absent", [ABSENT, None])
def test_what_the_signal_left_out_is_null_or_resolved(absent: Any) -> None:
    desk = funded(strategies={"routes": {"trend": {"account": "main"}}})
    fields = dict.fromkeys(("account_id", "leverage", "venue", "expires_at", "reduce_only"), absent)
    value = desk.signal(**fields).approved
    assert (value["account_id"], value["venue"], value["reduce_only"]) == ("main", "binance", False)
    assert (value["leverage"], value["expires_at"]) == (None, None)


def test_amounts_are_written_plain_with_at_most_12_places() -> None:
    value = funded().signal(quantity="1e-3", price="1.234567890123999e2", stop_loss="1.2e+2").approved
    assert (value["quantity"], value["price"], value["stop_loss"]) == ("0.001", "123.456789012400"[:-2], "120")


@pytest.mark.parametrize(
    ("expires_in_s", "valid_until"),
    [(29.999, "2017-12-19T11:00:29.999Z"), (30, "2017-12-19T11:00:30Z"), (31, "2017-12-19T11:00:30Z")],
)
def test_an_order_is_valid_for_order_valid_and_at_most_until_it_expires(expires_in_s: float, valid_until: str) -> None:
    desk = funded()
    assert desk.signal(expires_at=desk.time(seconds=expires_in_s)).approved["valid_until"] == valid_until


def test_order_valid_is_configured() -> None:
    assert funded(limits={"order_valid": "2m"}).signal().approved["valid_until"] == "2017-12-19T11:02:00Z"


def test_a_decision_names_the_account_of_its_route() -> None:
    desk = funded(
        strategies={"routes": {"trend": {"account": "main", "exchange": "kraken"}}}, account={"failover": ["kraken"]}
    )
    value = desk.signal(account_id=None).approved
    assert (value["account_id"], value["venue"]) == ("main", "kraken")
    assert value["order_id"] == order_id("main", "s-1")


def test_a_route_to_an_unknown_account_is_rejected() -> None:
    desk = funded(strategies={"routes": {"trend": {"account": "ghost"}}})
    assert desk.signal(account_id=None).rejected["account_id"] == "ghost"


def test_the_signals_own_account_wins_over_the_route() -> None:
    desk = funded(strategies={"routes": {"trend": {"account": "ghost"}}})
    assert desk.signal().approved["account_id"] == "main"


def test_a_signal_with_neither_account_nor_route_is_a_dead_letter() -> None:
    said = funded().signal(account_id=None)
    assert said.names == ["UNKNOWN_ACCOUNT"]
    assert said.letter["account_id"] is None


def test_every_output_names_what_it_was_made_from() -> None:
    desk = Desk()
    assert desk.signal().rejected["basis"]["offsets"] == {"signals": 0}
    desk.pnl("10000")
    desk.hold("1", instrument="ETH-USD")
    desk.command("halt")
    assert desk.signal().rejected["basis"]["offsets"] == {"signals": 1, "pnl": 0, "fills": 0, "controls": 0}


def test_ids_are_functions_of_the_record() -> None:
    def log() -> list[str]:
        desk = funded()
        said = [*desk.pnl("9000"), *desk.command("halt"), *desk.command("resume")]
        return [value["lock_id"] if "lock_id" in value else value["event_id"] for _, _, value in said]

    ids = log()
    assert ids == log()
    assert len(set(ids)) == len(ids)


def test_event_ids_count_the_outputs_of_their_record() -> None:
    said = funded().pnl("9700")
    assert said.names == ["WARNING", "WARNING", "WARNING", "DAILY_DRAWDOWN"]
    expected = [hashlib.sha256(f"main\0pnl\0{0}\0{1}\0{n}".encode()).hexdigest()[:32] for n in range(4)]
    assert [value.get("event_id") or value["lock_id"] for _, _, value in said] == [
        *(f"e-{one}" for one in expected[:3]),
        f"l-{expected[3]}",
    ]


def test_a_dead_letter_is_counted_too() -> None:
    event = Desk().fill(price="0").event("FILL_UNUSABLE")
    assert event["event_id"] == "e-" + hashlib.sha256(b"main\0fills\x000\x000\x001").hexdigest()[:32]


# -- repeats and age -----------------------------------------------------------------------------------------------


def test_a_repeat_of_an_approved_signal_names_its_order() -> None:
    desk = funded()
    desk.signal("s-1")
    before = desk.account
    said = desk.signal("s-1", quantity="5")
    assert said.names == ["DUPLICATE_SIGNAL"]
    assert said.letter["first_id"] == order_id("main", "s-1")
    assert said.letter["account_id"] == "main"
    assert desk.account == before


def test_a_repeat_of_a_rejected_signal_names_the_signal() -> None:
    desk = Desk()
    assert desk.signal("s-1").rejected
    desk.pnl("10000")
    said = desk.signal("s-1")
    assert said.names == ["DUPLICATE_SIGNAL"], "not decided again although it would pass now"
    assert said.letter["first_id"] == "s-1"


def test_an_invalid_or_unknown_accounts_signal_is_decided_once() -> None:
    desk = funded()
    assert desk.signal("s-1", side="up").rejected["code"] == "INVALID_SIGNAL"
    assert desk.signal("s-1").names == ["DUPLICATE_SIGNAL"]
    assert desk.signal("s-1", account_id="ghost").rejected["code"] == "UNKNOWN_ACCOUNT"
    said = desk.signal("s-1", account_id="ghost")
    assert said.names == ["DUPLICATE_SIGNAL"]
    assert said.letter["account_id"] == "ghost"


@pytest.mark.parametrize(("age_ms", "names"), [(3_600_000, ["STALE_SIGNAL"]), (3_600_001, ["TOO_OLD"])])
def test_a_signal_older_than_the_horizon_is_too_old(age_ms: int, names: list[str]) -> None:
    desk = funded(limits={"dedup_horizon": "1h"})
    assert desk.signal(created_at=desk.time(milliseconds=-age_ms)).names == names


def test_too_old_comes_before_duplicate_and_unknown_account() -> None:
    desk = funded(limits={"dedup_horizon": "1h"})
    created_at = desk.time()
    desk.signal("s-1", created_at=created_at)
    desk.later(hours=1)
    assert desk.signal("s-1", created_at=created_at).names == ["DUPLICATE_SIGNAL"]
    desk.later(seconds=0.001)
    assert desk.signal("s-1", created_at=created_at).names == ["TOO_OLD"]
    assert desk.signal("s-2", created_at=created_at, account_id="ghost").names == ["TOO_OLD"]
    assert desk.signal("s-3", created_at=created_at, side="up").names == ["TOO_OLD"]


def test_a_signal_id_is_remembered_from_the_later_of_now_and_created_at() -> None:
    """So that forgetting an id can never repeat it: once forgotten, the same signal is too old."""
    desk = funded(limits={"dedup_horizon": "1h", "max_signal_age": "2h"})
    ahead = desk.time(minutes=30)
    desk.signal("s-1", created_at=ahead)
    desk.later(minutes=90)
    assert desk.signal("s-1", created_at=ahead).names == ["DUPLICATE_SIGNAL"]
    desk.later(seconds=0.001)
    assert desk.signal("s-1", created_at=ahead).names == ["TOO_OLD"]
    assert desk.signal("s-1").names == ["DUPLICATE_SIGNAL"], "its order is still out: a second one would hide it"
    desk.command("release_order", order_id=order_id_of("main", "s-1"))
    assert "DUPLICATE_SIGNAL" not in desk.signal("s-1").names


def test_a_signal_without_a_readable_time_is_remembered_from_now() -> None:
    desk = funded(limits={"dedup_horizon": "1h"})
    desk.signal("s-1", created_at="?")
    assert desk.later(hours=1).signal("s-1", created_at="?").names == ["DUPLICATE_SIGNAL"]
    assert desk.later(seconds=0.001).signal("s-1", created_at="?").names == ["INVALID_SIGNAL"]


def test_a_too_old_signal_is_not_remembered() -> None:
    desk = funded(limits={"dedup_horizon": "1h"})
    assert desk.signal("s-1", created_at=desk.time(hours=-2)).names == ["TOO_OLD"]
    assert desk.signal("s-1").approved


def test_the_same_signal_id_of_two_accounts_is_two_signals() -> None:
    desk = funded(accounts={"other": {"exchange": "binance"}})
    desk.signal("s-1")
    assert desk.signal("s-1", account_id="other").rejected["code"] == "RISK_DATA_MISSING"


def test_ids_of_different_kinds_do_not_collide() -> None:
    desk = funded()
    desk.signal("x")
    assert desk.fill("x") == []
    assert desk.command("halt", "x").names == ["HALTED"]


@pytest.mark.parametrize(
    ("one", "other"), [(("a\0signal", "b"), ("a", "signal\0b")), (("a\0signal\0b", "c"), ("a", "c"))]
)
def test_a_nul_in_an_id_does_not_make_two_ids_one(one: tuple[str, str], other: tuple[str, str]) -> None:
    desk = Desk(accounts={one[0]: {}, other[0]: {}})
    assert desk.signal(one[1], account_id=one[0]).rejected
    assert desk.signal(other[1], account_id=other[0]).rejected


# -- accounts are apart --------------------------------------------------------------------------------------------


def test_accounts_do_not_see_each_other() -> None:
    desk = Desk(accounts={"other": {"exchange": "binance", "profile": "low"}})
    desk.pnl("10000")
    desk.pnl("500", account_id="other")
    desk.command("lock")
    assert desk.signal(account_id="other").approved["profile"] == "low"


def test_an_account_without_a_profile_is_micro() -> None:
    desk = Desk(accounts={"other": {"exchange": "binance"}})
    desk.pnl("10000", account_id="other")
    assert desk.signal(account_id="other").approved["profile"] == "micro"


PROFILES = [
    ("micro", "0.005", "0.015", "0.002", "1", "2", True),
    ("low", "0.01", "0.03", "0.005", "2", "4", False),
    ("normal", "0.02", "0.05", "0.01", "3", "6", False),
    ("aggressive", "0.035", "0.08", "0.02", "5", "10", False),
]


@pytest.mark.parametrize(("name", "daily", "weekly", "risk", "leverage", "positions", "spot"), PROFILES)
def test_default_profiles(
    name: str, daily: str, weekly: str, risk: str, leverage: str, positions: str, spot: bool
) -> None:
    said = funded(profile=name).signal(leverage="1")
    listed = {
        code: said.checks(code)[-1]["limit"]
        for code in (
            "DAILY_DRAWDOWN_REACHED",
            "WEEKLY_DRAWDOWN_REACHED",
            "TRADE_RISK_EXCEEDED",
            "LEVERAGE_EXCEEDED",
            "MAX_OPEN_POSITIONS_EXCEEDED",
        )
    }
    assert list(listed.values()) == [daily, weekly, risk, leverage, positions]
    assert bool(said.checks("SPOT_ONLY")) is spot
    assert said.checks("RISK_HEADROOM_EXCEEDED")
    assert said.checks("TRAILING_DRAWDOWN_REACHED") == []
