"""Every policy name: in force, removed, overriding configuration, unusable; and the version that decisions name."""

from typing import Any

import pytest

from tests.unit.desk import ABSENT, TUESDAY, Desk, Said


def funded(**desk: Any) -> Desk:
    made = Desk(**desk)
    made.pnl("10000")
    return made


def unusable(said: Said, name: str | None) -> None:
    """The record is dead-lettered; nothing of an account is in the letter."""
    assert said.names == ["POLICY_UNUSABLE"]
    letter = said.letter
    assert letter["topic"] == "policies"
    assert letter["account_id"] is None
    assert letter["first_id"] is None
    assert letter["key"] == name
    assert name is None or name in letter["detail"]


# -- versions ------------------------------------------------------------------------------------------------------


def test_the_version_is_the_last_offset_plus_one() -> None:
    desk = funded()
    assert desk.signal().approved["basis"]["policy_version"] == 0
    desk.policy("venue/kraken", {"up": False})
    assert desk.signal().approved["basis"]["policy_version"] == 1
    desk.policy("venue/kraken", None)
    assert desk.signal().approved["basis"]["policy_version"] == 2


def test_an_unusable_record_counts_for_the_version() -> None:
    desk = funded()
    desk.policy("venue/kraken", {"up": "no"})
    said = desk.signal()
    assert said.approved["basis"]["policy_version"] == 1
    assert "policies" not in said.approved["basis"]["offsets"]


def test_locks_and_events_name_the_version_too() -> None:
    desk = Desk()
    desk.policy("venue/kraken", {"up": False})
    assert desk.command("lock").lock["basis"]["policy_version"] == 1
    assert desk.command("halt").event("HALTED")["basis"]["policy_version"] == 1


def test_a_policy_needs_no_operator_reason_or_time() -> None:
    desk = funded()
    assert desk.send("policies", {"name": "state/global", "rule": {"state": "HALTED"}}) == []
    assert desk.signal().codes == ["TRADING_HALTED"]
    assert desk.send("policies", {"name": "state/global", "rule": None, "operator": 7, "issued_at": "today"}) == []
    assert desk.signal().approved


def test_a_rule_replaces_the_former_one_of_that_name_as_a_whole() -> None:
    desk = funded()
    desk.policy("profile/normal", {"max_leverage": "1"})
    desk.policy("profile/normal", {"max_open_positions": 1})
    said = desk.signal(leverage="3")
    assert said.check("LEVERAGE_EXCEEDED", "signal")["limit"] == "3"
    assert said.check("MAX_OPEN_POSITIONS_EXCEEDED")["limit"] == "1"


# -- the end of a temporary rule -----------------------------------------------------------------------------------


def reverting(desk: Desk, name: str, rule: Any, version: Any) -> Said:
    return desk.send("policies", {"name": name, "rule": rule, "reverts": version, "operator": "tidegate"}, key=name)


def test_a_record_that_reverts_the_rule_in_force_takes_effect() -> None:
    desk = funded()
    desk.policy("state/global", {"state": "HALTED"})
    assert reverting(desk, "state/global", {"state": "REDUCING"}, 1) == []
    assert desk.signal().codes == ["TRADING_STATE_REDUCING"]
    assert reverting(desk, "state/global", None, 2) == []
    assert desk.signal().approved["basis"]["policy_version"] == 3


@pytest.mark.parametrize("version", [1, 3, 4, 99])
def test_a_record_that_reverts_another_version_changes_the_version_only(version: int) -> None:
    desk = funded()
    desk.policy("state/global", {"state": "ACTIVE"})
    desk.policy("state/global", {"state": "HALTED"})
    desk.policy("venue/kraken", {"up": False})
    assert reverting(desk, "state/global", None, version) == []
    said = desk.signal()
    assert said.codes == ["TRADING_HALTED"]
    assert said.rejected["basis"]["policy_version"] == 4


def test_the_removal_of_a_rule_can_be_reverted_once() -> None:
    desk = funded()
    desk.policy("state/global", {"state": "HALTED"})
    desk.policy("state/global", None)
    assert reverting(desk, "state/global", {"state": "HALTED"}, 2) == []
    assert desk.signal().codes == ["TRADING_HALTED"]
    desk.policy("state/global", None)
    assert reverting(desk, "state/global", {"state": "HALTED"}, 2) == []
    assert desk.signal().approved


def test_a_rule_that_could_not_be_used_does_not_replace_the_version_but_a_state_does() -> None:
    desk = funded()
    desk.policy("venue/binance", {"up": False})
    desk.policy("venue/binance", {"up": "perhaps"})
    assert reverting(desk, "venue/binance", None, 1) == []
    assert desk.signal().approved
    desk.policy("state/global", {"state": "ACTIVE"})
    desk.policy("state/global", {"state": "OFF"})
    assert reverting(desk, "state/global", None, 4) == []
    assert desk.signal().codes == ["TRADING_HALTED"]
    assert reverting(desk, "state/global", None, 5) == []
    assert desk.signal().approved


def test_a_late_end_is_ignored_whatever_its_rule() -> None:
    desk = funded()
    desk.policy("state/global", {"state": "ACTIVE"})
    assert reverting(desk, "state/global", {"state": "OFF"}, 9) == []
    assert desk.signal().approved


@pytest.mark.parametrize("version", ["1", 0, -1, True, 1.5, [1]])
def test_an_unreadable_version_makes_the_record_unusable(version: Any) -> None:
    desk = funded()
    desk.policy("venue/binance", {"up": False})
    said = reverting(desk, "venue/binance", None, version)
    unusable(said, "venue/binance")
    assert "reverts" in said.letter["detail"]
    assert "VENUE_UNAVAILABLE" in desk.signal().codes


def test_null_reverts_nothing_and_takes_effect() -> None:
    desk = funded()
    assert reverting(desk, "state/global", {"state": "HALTED"}, None) == []
    assert desk.signal().codes == ["TRADING_HALTED"]


@pytest.mark.parametrize("fields", [{"expires_at": "soon"}, {"then": 5}, {"approved_by": 7}])
def test_what_is_for_the_steward_and_for_people_makes_no_rule_unusable(fields: dict[str, Any]) -> None:
    desk = funded()
    assert desk.send("policies", {"name": "state/global", "rule": {"state": "HALTED"}, **fields}) == []
    assert desk.signal().codes == ["TRADING_HALTED"]


# -- states --------------------------------------------------------------------------------------------------------

STATE_SCOPES = [("state/global", "global"), ("state/venue/binance", "venue"), ("state/strategy/trend", "strategy")]


@pytest.mark.parametrize(("name", "scope"), STATE_SCOPES)
def test_state(name: str, scope: str) -> None:
    desk = funded()
    desk.policy(name, {"state": "REDUCING"})
    assert desk.signal().check("TRADING_STATE_REDUCING")["scope"] == scope
    desk.policy(name, {"state": "HALTED"})
    assert desk.signal().check("TRADING_HALTED")["scope"] == scope
    desk.policy(name, {"state": "ACTIVE"})
    assert desk.signal().approved["trading_state"] == "ACTIVE"
    desk.policy(name, {"state": "HALTED"})
    desk.policy(name, None)
    assert desk.signal().approved


@pytest.mark.parametrize(("name", "scope"), STATE_SCOPES)
@pytest.mark.parametrize(
    "rule", [{}, {"state": "halted"}, {"state": None}, {"state": 1}, {"state": []}, {"state": {}}, "HALTED", [], 3]
)
def test_an_unusable_state_means_halted_for_its_scope(name: str, scope: str, rule: Any) -> None:
    desk = funded()
    desk.policy(name, {"state": "ACTIVE"})
    unusable(desk.policy(name, rule), name)
    assert desk.signal().check("TRADING_HALTED") == {
        "observed": "HALTED",
        "limit": None,
        "unit": "name",
        "scope": scope,
    }
    assert desk.policy(name, {"state": "ACTIVE"}) == []
    assert desk.signal().approved


@pytest.mark.parametrize(("name", "scope"), STATE_SCOPES)
@pytest.mark.parametrize("value", ['"no object"', "[]", "7", "null", "NaN", "[" * 200 + "]" * 200])
def test_a_malformed_state_is_named_by_its_key(name: str, scope: str, value: str) -> None:
    desk = funded()
    unusable(desk.raw("policies", value, key=name), name)
    assert desk.signal().check("TRADING_HALTED")["scope"] == scope


def test_a_state_without_its_rule_is_unusable() -> None:
    desk = funded()
    unusable(desk.send("policies", {"name": "state/global"}, key="state/global"), "state/global")
    assert desk.signal().codes == ["TRADING_HALTED"]


def test_unknown_keys_of_a_state_are_ignored() -> None:
    desk = funded()
    assert desk.policy("state/global", {"state": "ACTIVE", "until": "tomorrow"}) == []


def test_a_reducing_state_lets_exits_pass() -> None:
    desk = funded().hold("1")
    desk.policy("state/global", {"state": "REDUCING"})
    assert desk.signal(side="sell", stop_loss=None).approved["trading_state"] == "REDUCING"


def test_an_exits_venue_state_is_that_of_the_positions_venue() -> None:
    desk = funded(account={"failover": ["kraken"]}).hold("1", venue="kraken")
    desk.policy("state/venue/kraken", {"state": "HALTED"})
    assert desk.signal(side="sell", stop_loss=None).codes == ["TRADING_HALTED"]
    assert desk.signal().approved["venue"] == "binance"


def test_names_of_venues_and_strategies_may_hold_slashes() -> None:
    desk = funded()
    desk.policy("state/strategy/desk/a", {"state": "HALTED"})
    assert desk.signal(strategy_id="desk/a").codes == ["TRADING_HALTED"]
    assert desk.signal().approved


def test_with_all_venues_down_the_state_is_that_of_the_first_candidate() -> None:
    desk = funded(account={"failover": ["kraken"]})
    for venue in ("binance", "kraken"):
        desk.policy(f"venue/{venue}", {"up": False})
    desk.policy("state/venue/binance", {"state": "HALTED"})
    assert desk.signal().codes == ["TRADING_HALTED", "VENUE_UNAVAILABLE"]


# -- venues --------------------------------------------------------------------------------------------------------


def test_venue() -> None:
    desk = funded(account={"failover": ["kraken"]})
    desk.policy("venue/binance", {"up": False})
    assert desk.signal().approved["venue"] == "kraken"
    desk.policy("venue/binance", {"up": True})
    assert desk.signal().approved["venue"] == "binance"
    desk.policy("venue/binance", {"up": False})
    desk.policy("venue/binance", None)
    assert desk.signal().approved["venue"] == "binance"


@pytest.mark.parametrize("rule", [{}, {"up": "false"}, {"up": 0}, {"up": None}, "down", [True]])
def test_an_unusable_venue_rule_leaves_the_old_one(rule: Any) -> None:
    desk = funded()
    desk.policy("venue/binance", {"up": False})
    unusable(desk.policy("venue/binance", rule), "venue/binance")
    assert desk.signal().codes == ["VENUE_UNAVAILABLE"]


# -- profiles ------------------------------------------------------------------------------------------------------


def test_profile_overrides_configuration() -> None:
    desk = funded(profiles={"normal": {"max_leverage": "2", "max_open_positions": 3}})
    desk.policy("profile/normal", {"max_leverage": "1.5"})
    said = desk.signal(leverage="1.5")
    assert said.check("LEVERAGE_EXCEEDED", "signal")["limit"] == "1.5"
    assert said.check("MAX_OPEN_POSITIONS_EXCEEDED")["limit"] == "3", "what is not named keeps what is configured"
    desk.policy("profile/normal", None)
    assert desk.signal(leverage="2").check("LEVERAGE_EXCEEDED", "signal")["limit"] == "2"


PROFILE_KEYS: list[tuple[str, Any]] = [
    ("max_daily_drawdown", "0.01"),
    ("max_weekly_drawdown", 0.01),
    ("max_trailing_drawdown", "0.01"),
    ("max_trade_risk", "0.01"),
    ("max_leverage", 2),
    ("max_open_positions", 2),
    ("spot_only", True),
    ("headroom", False),
    ("breach", "exceed"),
    ("confirmations", 2),
    ("warning", ["0.5"]),
]


@pytest.mark.parametrize(("key", "value"), PROFILE_KEYS, ids=[key for key, _ in PROFILE_KEYS])
def test_profile_takes_any_key_of_the_configuration(key: str, value: Any) -> None:
    assert Desk().policy("profile/micro", {key: value}) == []


@pytest.mark.parametrize(
    "rule",
    [
        {"max_leverage": "0"},
        {"max_leverage": "NaN"},
        {"max_daily_drawdown": "1.01"},
        {"max_daily_drawdown": "-0.1"},
        {"max_open_positions": 0},
        {"max_open_positions": "two"},
        {"spot_only": "yes"},
        {"breach": "touch"},
        {"confirmations": 0},
        {"warning": "0.5"},
        {"warning": ["1.5"]},
        {"max_leverage": "1", "max_levrage": "1"},
        "tight",
        [],
    ],
    ids=str,
)
def test_an_unusable_profile_leaves_the_old_one(rule: Any) -> None:
    desk = funded()
    desk.policy("profile/normal", {"max_leverage": "2"})
    unusable(desk.policy("profile/normal", rule), "profile/normal")
    assert desk.signal(leverage="2").check("LEVERAGE_EXCEEDED", "signal")["limit"] == "2"


def test_a_tightened_profile_refuses_entries_at_once_and_locks_with_the_next_update() -> None:
    desk = funded()
    desk.pnl("9900")
    desk.policy("profile/normal", {"max_daily_drawdown": "0.01"})
    assert desk.signal().rejected["code"] == "DAILY_DRAWDOWN_REACHED"
    assert desk.pnl("9900").locks == ["DAILY_DRAWDOWN"]


# -- strategies ----------------------------------------------------------------------------------------------------


def test_strategies() -> None:
    desk = funded(strategies={"blacklist": ["configured"]})
    desk.policy("strategies", {"blacklist": ["trend"]})
    assert desk.signal().codes == ["STRATEGY_BLACKLISTED"]
    assert desk.signal(strategy_id="configured").approved, "the key that is named replaces the configured one"
    desk.policy("strategies", None)
    assert desk.signal().approved
    assert desk.signal(strategy_id="configured").codes == ["STRATEGY_BLACKLISTED"]


def test_strategies_whitelist_applies_to_all_profiles() -> None:
    desk = funded(strategies={"blacklist": ["configured"], "normal": {"whitelist": ["trend", "configured"]}})
    desk.policy("strategies", {"whitelist": ["other", "configured"]})
    assert desk.signal().codes == ["STRATEGY_NOT_WHITELISTED"]
    assert desk.signal(strategy_id="other").codes == ["STRATEGY_NOT_WHITELISTED"]
    assert desk.signal(strategy_id="configured").codes == ["STRATEGY_BLACKLISTED"], "keys not named stay"
    desk.policy("strategies", {"whitelist": []})
    assert desk.signal().approved


def test_strategies_of_a_profile() -> None:
    desk = funded(strategies={"normal": {"whitelist": ["other"], "blacklist": ["bad"]}})
    desk.policy("strategies/normal", {"whitelist": ["trend", "bad"]})
    assert desk.signal().approved
    assert desk.signal(strategy_id="bad").codes == ["STRATEGY_BLACKLISTED"], "keys not named stay"
    desk.policy("strategies/micro", {"blacklist": ["trend"]})
    assert desk.signal().approved
    desk.policy("strategies/normal", None)
    assert desk.signal().codes == ["STRATEGY_NOT_WHITELISTED"]


@pytest.mark.parametrize("name", ["strategies", "strategies/normal"])
@pytest.mark.parametrize(
    "rule", [{"whitelist": "trend"}, {"blacklist": [1]}, {"whitelist": [""]}, {"blocklist": []}, "trend", []], ids=str
)
def test_unusable_strategies_leave_the_old_ones(name: str, rule: Any) -> None:
    desk = funded()
    desk.policy(name, {"blacklist": ["trend"]})
    unusable(desk.policy(name, rule), name)
    assert desk.signal().codes == ["STRATEGY_BLACKLISTED"]


# -- rollout -------------------------------------------------------------------------------------------------------


def test_rollout() -> None:
    desk = funded()
    desk.policy("rollout", {"phase": 1, "accounts": ["other"], "profiles": None, "note": "ignored"})
    assert desk.signal().check("ROLLOUT_PHASE")["limit"] == "1"
    desk.policy("rollout", {"phase": "all"})
    assert desk.signal().check("ROLLOUT_PHASE")["limit"] == "all"
    desk.policy("rollout", None)
    assert desk.signal().checks("ROLLOUT_PHASE") == []


@pytest.mark.parametrize(
    "rule",
    [
        {"accounts": []},
        {"phase": None},
        {"phase": True},
        {"phase": []},
        {"phase": "pilot", "accounts": "main"},
        {"phase": "pilot", "venues": [1]},
        {"phase": "pilot", "profiles": {}},
        "pilot",
    ],
    ids=str,
)
def test_an_unusable_rollout_leaves_the_old_one(rule: Any) -> None:
    desk = funded()
    desk.policy("rollout", {"phase": "closed", "accounts": []})
    unusable(desk.policy("rollout", rule), "rollout")
    assert desk.signal().check("ROLLOUT_PHASE")["limit"] == "closed"


# -- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "state",
        "state/account/main",
        "state/venue",
        "state/venue/",
        "venue",
        "venue/",
        "profile",
        "profile/huge",
        "strategies/huge",
        "rollout/1",
        "limits",
        "STATE/GLOBAL",
    ],
)
@pytest.mark.parametrize("rule", [{"state": "HALTED"}, None], ids=["rule", "null"])
def test_an_unknown_name_is_unusable_and_changes_nothing(name: str, rule: Any) -> None:
    desk = funded()
    unusable(desk.policy(name, rule), name)
    assert desk.signal().approved["trading_state"] == "ACTIVE"


@pytest.mark.parametrize("name", [ABSENT, None, 7, "", "x" * 257])
def test_a_policy_without_a_readable_name_is_unusable(name: Any) -> None:
    said = funded().send("policies", {"name": name, "rule": None}, key=None)
    unusable(said, None)
    assert "name" in said.letter["detail"]


def test_an_unreadable_name_falls_back_on_the_key() -> None:
    desk = funded()
    said = desk.send("policies", {"name": 7, "rule": {"state": "ACTIVE"}}, key="state/global")
    unusable(said, "state/global")
    assert desk.signal().codes == ["TRADING_HALTED"], "a rule that cannot be read never loosens anything"


def test_the_dead_letter_of_a_policy() -> None:
    letter = Desk().policy("limits", {"max_pnl_age": "1h"}).letter
    assert letter.pop("payload").startswith('{"name"')
    assert len(letter.pop("payload_sha256")) == 64
    assert letter.pop("payload_size") > 0
    assert "limits" in letter.pop("detail")
    assert letter == {
        "reason": "POLICY_UNUSABLE",
        "topic": "policies",
        "partition": 0,
        "offset": 0,
        "timestamp": TUESDAY,
        "key": "limits",
        "account_id": None,
        "first_id": None,
        "schema_version": 1,
    }
