"""Every operator command: done, refused, repeated, by two persons, for an account that does not exist."""

from typing import Any

import pytest

from tests.unit.desk import ABSENT, TUESDAY, Desk, Said


def locked(**desk: Any) -> Desk:
    """Locked by the day's drawdown: 10,000 to 9,700, of 2 %."""
    made = Desk(**desk)
    made.pnl("10000")
    assert made.pnl("9700").locks == ["DAILY_DRAWDOWN"]
    return made


def refused(said: Said, *words: str) -> None:
    """The command was refused, nothing else happened, and the letter says why."""
    assert said.names == ["COMMAND_REFUSED"]
    letter = said.letter
    assert letter["account_id"] == "main"
    assert letter["topic"] == "controls"
    assert letter["first_id"] is None
    for word in words:
        assert word in letter["detail"]


# -- lock ----------------------------------------------------------------------------------------------------------


def test_lock() -> None:
    desk = Desk(account={"failover": ["kraken"]})
    desk.pnl("10000")
    entry = desk.working(quantity="3")
    half = desk.working(instrument="ETH-USD", quantity="2", stop_loss="99.5", venue="kraken")
    desk.fill(order_id=half, instrument="ETH-USD", quantity="0.5", price="101", status="partially_filled", fee="1")
    desk.hold("-2", "90", instrument="ADA-USD")
    exit_id = desk.working(side="buy", instrument="ADA-USD", stop_loss=None)
    said = desk.later(seconds=1).command("lock")
    assert exit_id not in str(said)
    lock = said.lock
    assert lock.pop("lock_id").startswith("l-")
    assert lock.pop("basis") == {
        "partition": 0,
        "offsets": {"pnl": 0, "signals": 2, "fills": 1, "controls": 0},
        "policy_version": 0,
    }
    assert lock == {
        "account_id": "main",
        "reason": "MANUAL",
        "observed": None,
        "limit": None,
        "equity": "10000",
        "base_equity": None,
        "period_start": None,
        "profile": "normal",
        "trading_state": "REDUCING",
        "open_orders": [
            {"order_id": entry, "instrument": "BTC-USD", "side": "buy", "quantity_left": "3", "venue": "binance"},
            {"order_id": half, "instrument": "ETH-USD", "side": "buy", "quantity_left": "1.5", "venue": "kraken"},
        ],
        "positions": [
            {"instrument": "ADA-USD", "venue": "binance", "quantity": "-2", "average_price": "90"},
            {"instrument": "ETH-USD", "venue": "kraken", "quantity": "0.5", "average_price": "101"},
        ],
        "locked_at": "2017-12-19T11:00:01Z",
        "schema_version": 1,
    }
    assert said[0].key == "main"
    assert len(said) == 1, "the lock's account-locked is its record; there is no event beside it"


def test_lock_without_usable_equity_publishes_none() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.pnl("NaN")
    assert desk.command("lock").lock["equity"] is None


def test_lock_while_halted_shows_the_most_restrictive_state() -> None:
    desk = Desk()
    desk.command("halt")
    assert desk.command("lock").lock["trading_state"] == "HALTED"


def test_lock_while_manual_is_held_is_refused() -> None:
    desk = Desk()
    desk.command("lock")
    refused(desk.command("lock"))


def test_lock_is_added_to_a_drawdown_lock() -> None:
    desk = locked()
    assert desk.command("lock").locks == ["MANUAL"]
    assert desk.signal(quantity="0.1").codes[:2] == ["ACCOUNT_LOCKED_DAILY_DRAWDOWN", "ACCOUNT_LOCKED_MANUAL"]


def test_a_drawdown_is_added_to_a_manual_lock() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.command("lock")
    assert desk.pnl("9000").locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]


def test_a_lock_outlives_midnight_and_profit() -> None:
    desk = locked()
    desk.at("2017-12-26T12:00:00Z").pnl("20000")
    assert desk.signal().codes == ["ACCOUNT_LOCKED_DAILY_DRAWDOWN"]


# -- unlock --------------------------------------------------------------------------------------------------------


def test_unlock_clears_all_reasons() -> None:
    desk = locked()
    desk.command("lock")
    desk.pnl("9801")
    said = desk.command("unlock", "c-9")
    event = said.event("UNLOCKED")
    assert event.pop("event_id").startswith("e-")
    assert event.pop("detail")["rebase"] == "keep"
    assert event.pop("basis")["offsets"] == {"pnl": 2, "controls": 1}
    assert event == {
        "account_id": "main",
        "type": "UNLOCKED",
        "command_id": "c-9",
        "order_id": None,
        "observed": None,
        "limit": None,
        "unit": None,
        "at": TUESDAY,
        "schema_version": 1,
    }
    assert len(said) == 1
    assert desk.signal(quantity="0.5").approved


def test_unlock_keep_is_the_default_and_keeps_the_bases() -> None:
    desk = locked()
    desk.pnl("9801")
    desk.command("unlock", rebase="keep")
    assert desk.pnl("9800").locks == ["DAILY_DRAWDOWN"]


def test_unlock_when_not_locked_is_refused() -> None:
    refused(Desk().command("unlock"))


def test_unlock_keep_is_refused_while_a_limit_is_breached() -> None:
    desk = locked()
    desk.pnl("9800")
    refused(desk.command("unlock"), "DAILY_DRAWDOWN")


def test_unlock_keep_passes_at_the_limit_where_it_must_be_exceeded() -> None:
    desk = locked(profiles={"normal": {"breach": "exceed"}})
    desk.pnl("9800")
    assert desk.command("unlock").event("UNLOCKED")


def test_unlock_keep_is_refused_for_a_manual_lock_while_a_limit_is_breached() -> None:
    desk = Desk(profiles={"normal": {"confirmations": 2}})
    desk.pnl("10000")
    desk.pnl("9700")
    desk.command("lock")
    refused(desk.command("unlock"), "DAILY_DRAWDOWN")


def test_unlock_keep_under_a_drawdown_lock_needs_usable_equity() -> None:
    desk = locked()
    desk.pnl("9900")
    desk.pnl("NaN")
    refused(desk.command("unlock"))


def test_unlock_keep_of_a_manual_lock_does_not() -> None:
    desk = Desk()
    desk.command("lock")
    assert desk.command("unlock").event("UNLOCKED")


def test_unlock_keep_may_use_stale_equity() -> None:
    desk = locked()
    desk.pnl("9900")
    assert desk.later(hours=3).command("unlock").event("UNLOCKED")


def test_unlock_now_rebases_the_bases_of_the_held_reasons_only() -> None:
    desk = locked()
    assert desk.command("unlock", rebase="now").event("UNLOCKED")["detail"]["rebase"] == "now"
    assert desk.pnl("9507").locks == [], "1.99 % below the new base; 4.93 % below the week's old one"
    assert desk.pnl("9500").locks == ["DAILY_DRAWDOWN", "WEEKLY_DRAWDOWN"]


def test_unlock_now_is_refused_if_another_limit_stays_breached() -> None:
    desk = Desk(profiles={"normal": {"max_daily_drawdown": "0.5", "confirmations": 2}})
    desk.pnl("10000")
    desk.pnl("9400")
    desk.command("lock")
    refused(desk.command("unlock", rebase="now"), "WEEKLY_DRAWDOWN")
    assert desk.pnl("9400").locks == ["WEEKLY_DRAWDOWN"]
    assert desk.command("unlock", rebase="now").event("UNLOCKED")


@pytest.mark.parametrize(("age_s", "fresh"), [(60, True), (60.001, False)])
@pytest.mark.parametrize("reason", ["MANUAL", "DAILY_DRAWDOWN"])
def test_unlock_now_needs_fresh_equity_even_for_manual(reason: str, age_s: float, fresh: bool) -> None:
    desk = locked() if reason != "MANUAL" else Desk()
    if reason == "MANUAL":
        desk.pnl("10000")
        desk.command("lock")
    desk.later(seconds=age_s)
    said = desk.command("unlock", rebase="now")
    assert said.names == (["UNLOCKED"] if fresh else ["COMMAND_REFUSED"])


def test_unlock_now_is_refused_without_usable_equity() -> None:
    desk = locked()
    desk.pnl("NaN")
    refused(desk.command("unlock", rebase="now"))


def test_unlock_now_is_refused_when_equity_is_lost() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.pnl("-1")
    refused(desk.command("unlock", rebase="now"))


def test_unlock_now_rebases_to_equity_whatever_the_base_convention_is() -> None:
    desk = Desk(account={"base": "max"})
    desk.pnl("10000", balance="10000")
    desk.pnl("9700", balance="9990")
    desk.command("unlock", rebase="now")
    assert desk.pnl("9506.01", balance="9990").locks == []
    lock = desk.pnl("9506", balance="9990").lock
    assert (lock["reason"], lock["base_equity"], lock["observed"]) == ("DAILY_DRAWDOWN", "9700", "0.02")


def test_unlock_with_a_lower_profile() -> None:
    desk = locked(profile="normal")
    desk.pnl("9900.5")
    said = desk.command("unlock", "c-9", profile="low")
    assert said.names == ["UNLOCKED", "PROFILE_CHANGED"]
    assert said.event("PROFILE_CHANGED")["command_id"] == "c-9"
    assert desk.signal(quantity="0.1").approved["profile"] == "low"


@pytest.mark.parametrize("profile", ["normal", "aggressive", "huge"])
def test_unlock_with_a_profile_that_is_not_lower_is_refused(profile: str) -> None:
    desk = locked(profile="normal")
    desk.pnl("10000")
    refused(desk.command("unlock", profile=profile), profile)


def test_unlock_tests_the_limits_of_the_profile_that_it_names() -> None:
    desk = locked(profile="normal")
    desk.pnl("9900")
    refused(desk.command("unlock", profile="low"), "DAILY_DRAWDOWN")
    assert desk.command("unlock").event("UNLOCKED")


def test_unlock_resets_confirmations() -> None:
    desk = Desk(profiles={"normal": {"confirmations": 2}})
    desk.pnl("10000")
    desk.pnl("9700")
    assert desk.pnl("9700").locks == ["DAILY_DRAWDOWN"]
    desk.pnl("9900")
    desk.command("unlock")
    assert desk.pnl("9700").locks == []
    assert desk.pnl("9700").locks == ["DAILY_DRAWDOWN"]


# -- set_profile ---------------------------------------------------------------------------------------------------


def test_set_profile_up_one_rung() -> None:
    desk = Desk("micro")
    desk.pnl("10000")
    event = desk.command("set_profile", "c-9", profile="low").event("PROFILE_CHANGED")
    assert event["command_id"] == "c-9"
    assert (event["observed"], event["limit"], event["unit"], event["order_id"]) == (None, None, None, None)
    assert desk.signal().approved["profile"] == "low"


def test_set_profile_down_any_number_of_rungs() -> None:
    desk = Desk("aggressive")
    assert desk.command("set_profile", profile="micro").names == ["PROFILE_CHANGED"]


def test_set_profile_more_than_one_rung_up_is_refused() -> None:
    desk = Desk("micro")
    desk.pnl("10000")
    refused(desk.command("set_profile", profile="normal"), "normal")


def test_the_present_profile_is_accepted() -> None:
    desk = locked()
    assert desk.command("set_profile", profile="normal").names == ["PROFILE_CHANGED"]


def test_set_profile_up_is_refused_where_only_down_was_asked_for() -> None:
    """The steward's downgrade may arrive after an operator has moved the account further down."""
    desk = Desk("micro")
    desk.pnl("10000")
    refused(desk.command("set_profile", profile="low", down_only=True), "down_only")
    assert desk.command("set_profile", profile="micro", down_only=True).names == ["PROFILE_CHANGED"]


def test_set_profile_up_is_refused_while_locked() -> None:
    desk = Desk("micro")
    desk.pnl("10000")
    desk.command("lock")
    refused(desk.command("set_profile", profile="low"))


def test_set_profile_up_is_refused_while_a_limit_is_breached() -> None:
    desk = Desk("micro", profiles={"micro": {"confirmations": 2}})
    desk.pnl("10000")
    desk.pnl("9950")
    refused(desk.command("set_profile", profile="low"))


def test_set_profile_up_needs_usable_equity() -> None:
    desk = Desk("micro")
    refused(desk.command("set_profile", profile="low"))
    desk.pnl("10000")
    desk.pnl("NaN")
    refused(desk.command("set_profile", profile="low"))
    desk.pnl("10000")
    assert desk.later(hours=1).command("set_profile", profile="low").names == ["PROFILE_CHANGED"], "stale will do"


@pytest.mark.parametrize("profile", [ABSENT, None, "", "huge", 3])
def test_set_profile_needs_a_profile(profile: Any) -> None:
    desk = Desk("micro")
    desk.pnl("10000")
    refused(desk.command("set_profile", profile=profile), "profile")


def test_set_profile_down_locks_at_once_if_the_new_limits_are_breached_whatever_the_confirmations() -> None:
    desk = Desk("normal", profiles={"low": {"confirmations": 5}})
    desk.pnl("10000")
    desk.pnl("9900")
    said = desk.later(hours=1).command("set_profile", profile="low")
    assert said.names == ["DAILY_DRAWDOWN", "PROFILE_CHANGED"]
    assert (said.lock["observed"], said.lock["limit"], said.lock["profile"]) == ("0.01", "0.01", "low")
    assert said.lock["locked_at"] == "2017-12-19T12:00:00Z"


def test_set_profile_down_without_usable_equity_locks_at_the_next_update() -> None:
    desk = Desk("normal")
    desk.pnl("10000")
    desk.pnl("9900")
    desk.pnl("NaN")
    assert desk.command("set_profile", profile="low").names == ["PROFILE_CHANGED"]
    assert desk.pnl("9900").locks == ["DAILY_DRAWDOWN"]


# -- halt and resume -----------------------------------------------------------------------------------------------


def test_halt_and_resume() -> None:
    desk = Desk()
    desk.pnl("10000")
    assert desk.command("halt", "c-8").event("HALTED")["command_id"] == "c-8"
    assert desk.signal().codes == ["TRADING_HALTED"]
    assert desk.command("resume", "c-9").event("RESUMED")["command_id"] == "c-9"
    assert desk.signal().approved["trading_state"] == "ACTIVE"


def test_a_repeated_halt_is_accepted() -> None:
    desk = Desk()
    desk.command("halt")
    assert desk.command("halt").names == ["HALTED"]


def test_resume_when_nothing_is_halted_is_refused() -> None:
    refused(Desk().command("resume"))


def test_resume_never_ends_a_lock() -> None:
    desk = locked()
    refused(desk.command("resume"))
    desk.command("halt")
    desk.command("resume")
    assert "ACCOUNT_LOCKED_DAILY_DRAWDOWN" in desk.signal().codes


def test_resume_ends_halt_and_an_unusable_fills_state_together() -> None:
    desk = Desk()
    desk.pnl("10000")
    desk.fill(price="-1")
    desk.command("halt")
    assert desk.command("resume").names == ["RESUMED"]
    assert desk.signal().approved
    refused(desk.command("resume"))


def test_resume_does_not_end_a_state_set_by_policy() -> None:
    desk = Desk()
    desk.policy("state/global", {"state": "HALTED"})
    refused(desk.command("resume"))


# -- release_order -------------------------------------------------------------------------------------------------


def test_release_order_gives_back_what_it_reserved() -> None:
    desk = Desk(profiles={"normal": {"max_open_positions": 1}})
    desk.pnl("10000")
    order_id = desk.working()
    assert desk.signal(instrument="ETH-USD").codes == ["MAX_OPEN_POSITIONS_EXCEEDED"]
    event = desk.command("release_order", "c-9", order_id=order_id).event("ORDER_RELEASED")
    assert (event["order_id"], event["command_id"]) == (order_id, "c-9")
    assert desk.signal(instrument="ETH-USD").approved


@pytest.mark.parametrize("order_id", [ABSENT, None, "o-unknown", 7])
def test_release_order_of_no_open_order_is_refused(order_id: Any) -> None:
    refused(Desk().command("release_order", order_id=order_id), "order_id")


def test_release_order_twice_is_refused() -> None:
    desk = Desk()
    desk.pnl("10000")
    order_id = desk.working()
    desk.command("release_order", order_id=order_id)
    refused(desk.command("release_order", order_id=order_id), order_id)


def test_a_fill_of_a_released_order_is_late() -> None:
    """``release_order`` closes the order: closed stays closed, and any quantity on a closed order is a LATE_FILL."""
    desk = Desk(account={"failover": ["kraken"]})
    desk.pnl("10000")
    order_id = desk.working(venue="kraken")
    desk.command("release_order", order_id=order_id)
    assert desk.fill(order_id=order_id).names == ["LATE_FILL"]
    assert desk.position(venue="kraken") == ("1", "100")


# -- two persons ---------------------------------------------------------------------------------------------------

TWO_PERSON_COMMANDS: list[dict[str, Any]] = [
    {"kind": "unlock"},
    {"kind": "resume"},
    {"kind": "set_profile", "profile": "normal"},
]


def _needing_approval() -> Desk:
    desk = Desk("low", controls={"two_person": True})
    desk.pnl("10000")
    return desk


@pytest.mark.parametrize("command", TWO_PERSON_COMMANDS, ids=lambda command: command["kind"])
@pytest.mark.parametrize("approved_by", [ABSENT, None, "", "ann"])
def test_what_loosens_needs_a_second_operator(command: dict[str, Any], approved_by: Any) -> None:
    desk = _needing_approval()
    _prepare(desk, command["kind"])
    refused(desk.command(**command, approved_by=approved_by), "approved_by")


@pytest.mark.parametrize("command", TWO_PERSON_COMMANDS, ids=lambda command: command["kind"])
def test_a_second_operator_approves(command: dict[str, Any]) -> None:
    desk = _needing_approval()
    _prepare(desk, command["kind"])
    assert desk.command(**command, approved_by="bob").names in (["UNLOCKED"], ["RESUMED"], ["PROFILE_CHANGED"])


def _prepare(desk: Desk, kind: str) -> None:
    if kind == "unlock":
        desk.command("lock")
    elif kind == "resume":
        desk.command("halt")


def test_what_tightens_needs_one_operator() -> None:
    desk = _needing_approval()
    order_id = desk.working()
    assert desk.command("halt").names == ["HALTED"]
    assert desk.command("lock").names == ["MANUAL"]
    assert desk.command("set_profile", profile="micro").names == ["PROFILE_CHANGED"]
    assert desk.command("set_profile", profile="micro").names == ["PROFILE_CHANGED"]
    assert desk.command("release_order", order_id=order_id).names == ["ORDER_RELEASED"]


def test_without_two_person_an_operator_may_approve_alone() -> None:
    desk = Desk()
    desk.command("lock")
    assert desk.command("unlock", approved_by="ann").names == ["UNLOCKED"]


# -- form, repeats, unknown accounts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("operator", ABSENT),
        ("operator", None),
        ("operator", ""),
        ("operator", 7),
        ("reason", ABSENT),
        ("reason", ""),
        ("reason", "x" * 1025),
        ("type", ABSENT),
        ("type", "open"),
        ("issued_at", ABSENT),
        ("issued_at", "2017-12-19T11:00:00"),
        ("rebase", "later"),
    ],
)
def test_a_command_without_form_is_refused_and_names_the_field(field: str, value: Any) -> None:
    desk = locked()
    desk.pnl("10000")
    refused(desk.command("unlock", **{field: value}), field)
    assert "ACCOUNT_LOCKED_DAILY_DRAWDOWN" in desk.signal().codes


def test_a_reason_may_be_1024_bytes_long() -> None:
    assert Desk().command("halt", reason="x" * 1024, operator="å" * 512).names == ["HALTED"]


@pytest.mark.parametrize("field", ["command_id", "account_id"])
@pytest.mark.parametrize("value", [ABSENT, None, 7, "", "x" * 257])
def test_a_command_that_cannot_be_addressed_is_a_schema_dead_letter(field: str, value: Any) -> None:
    said = Desk().command("halt", **{field: value})
    assert said.names == ["SCHEMA"]
    assert field in said.letter["detail"]


def test_a_repeated_command_changes_nothing() -> None:
    desk = Desk()
    desk.command("halt", "c-1")
    desk.command("resume", "c-2")
    before = desk.account
    said = desk.command("halt", "c-1")
    assert said.names == ["DUPLICATE_COMMAND"]
    assert said.letter["first_id"] == "c-1"
    assert desk.account == before


def test_a_refused_commands_id_is_remembered() -> None:
    desk = Desk()
    refused(desk.command("resume", "c-1"))
    desk.command("halt", "c-2")
    assert desk.command("resume", "c-1").names == ["DUPLICATE_COMMAND"]


def test_a_command_id_is_remembered_for_the_horizon() -> None:
    desk = Desk(limits={"dedup_horizon": "1h"})
    desk.command("halt", "c-1")
    assert desk.later(hours=1).command("halt", "c-1").names == ["DUPLICATE_COMMAND"]
    assert desk.later(seconds=0.001).command("halt", "c-1").names == ["HALTED"]


def test_a_command_id_is_the_accounts_own() -> None:
    desk = Desk(accounts={"other": {}})
    desk.command("halt", "c-1")
    assert desk.command("halt", "c-1", account_id="other").names == ["HALTED"]


def test_a_command_for_an_unknown_account_is_a_dead_letter() -> None:
    said = Desk().command("halt", account_id="other")
    assert said.names == ["UNKNOWN_ACCOUNT"]
    letter = said.letter
    assert letter.pop("payload").startswith('{"command_id"')
    assert len(letter.pop("payload_sha256")) == 64
    assert letter.pop("payload_size") > 0
    assert "other" in letter.pop("detail")
    assert letter == {
        "reason": "UNKNOWN_ACCOUNT",
        "topic": "controls",
        "partition": 0,
        "offset": 0,
        "timestamp": TUESDAY,
        "key": "main",
        "account_id": "other",
        "first_id": None,
        "schema_version": 1,
    }
