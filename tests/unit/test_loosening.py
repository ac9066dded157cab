"""What needs a second operator: every way of letting more pass is told, nothing that only restricts is."""

from decimal import Decimal
from typing import Any

import orjson
import pytest
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from schemas.config import ConfigFile
from streams.core.records import POLICIES, Record
from streams.core.rules import Rules, apply_policy, rules_of
from streams.ops.loosening import loosened
from tests.unit.desk import Desk

CONFIG: dict[str, Any] = {
    "accounts": {"main": {"exchange": "binance", "profile": "normal"}},
    "profiles": {"normal": {"max_trailing_drawdown": "0.06"}, "low": {"breach": "reach"}},
    "strategies": {"blacklist": ["old"], "micro": {"whitelist": ["trend"], "blacklist": ["wild"]}},
}
BASE = rules_of(ConfigFile.model_validate(CONFIG))


def under(*policies: tuple[str, Any], base: Rules = BASE) -> Rules:
    """The rules after these policies; all of them must be usable."""
    for offset, (name, rule) in enumerate(policies):
        value = orjson.dumps({"name": name, "rule": rule})
        base, letter = apply_policy(base, Record(POLICIES, 0, offset, 0, name.encode(), value))
        assert letter is None, letter
    return base


# Each from the looser rule to the stricter one: backwards it loosens, forwards it does not.
TIGHTER: list[tuple[str, Any, Any]] = [
    ("state/global", None, {"state": "REDUCING"}),
    ("state/global", {"state": "REDUCING"}, {"state": "HALTED"}),
    ("state/global", {"state": "ACTIVE"}, {"state": "HALTED"}),
    ("state/venue/binance", None, {"state": "HALTED"}),
    ("state/strategy/trend", None, {"state": "REDUCING"}),
    ("venue/binance", None, {"up": False}),
    ("venue/binance", {"up": True}, {"up": False}),
    *(("profile/normal", None, {key: "0.001"}) for key in ("max_daily_drawdown", "max_weekly_drawdown")),
    ("profile/normal", None, {"max_trade_risk": "0.001"}),
    ("profile/normal", None, {"max_leverage": "1.5"}),
    ("profile/normal", None, {"max_open_positions": 5}),
    ("profile/normal", None, {"max_trailing_drawdown": "0.05"}),
    ("profile/low", None, {"max_trailing_drawdown": "0.05"}),
    ("profile/normal", None, {"spot_only": True}),
    ("profile/normal", {"headroom": False}, None),
    ("profile/normal", {"breach": "exceed"}, None),
    ("profile/normal", {"confirmations": 2}, None),
    ("profile/normal", {"warning": ["0.5"]}, None),
    ("strategies", None, {"blacklist": ["old", "trend"]}),
    ("strategies", {"blacklist": []}, None),
    ("strategies", None, {"whitelist": ["trend"]}),
    ("strategies", {"whitelist": ["trend", "mean"]}, {"whitelist": ["trend"]}),
    ("strategies/micro", {"whitelist": []}, None),
    ("strategies/micro", {"whitelist": ["trend", "mean"]}, None),
    ("strategies/micro", {"blacklist": []}, None),
    ("rollout", None, {"phase": 1, "venues": ["testnet"]}),
    ("rollout", {"phase": 2, "accounts": ["a", "b"]}, {"phase": 1, "accounts": ["a"]}),
    ("rollout", {"phase": 2}, {"phase": 1, "profiles": ["micro"]}),
]


@pytest.mark.parametrize(("name", "loose", "strict"), TIGHTER, ids=str)
def test_a_stricter_rule_needs_nobody_and_the_way_back_does(name: str, loose: Any, strict: Any) -> None:
    before, after = under((name, loose)), under((name, strict))

    assert loosened(before, after) == ()
    assert len(loosened(after, before)) == 1


def test_every_thing_that_loosens_is_told_in_words() -> None:
    before = under(("state/global", {"state": "HALTED"}), ("venue/binance", {"up": False}))
    after = under(("profile/normal", {"max_leverage": "4", "max_trade_risk": "0.02"}))

    assert loosened(before, after) == (
        "state/global goes from HALTED to ACTIVE",
        "venue binance comes up",
        "profile normal: max_trade_risk rises from 0.010 to 0.02",
        "profile normal: max_leverage rises from 3 to 4",
    )


def test_one_thing_that_loosens_among_others_that_restrict_is_found() -> None:
    after = under(("profile/normal", {"max_daily_drawdown": "0.001", "max_weekly_drawdown": "0.06"}))

    assert loosened(BASE, after) == ("profile normal: max_weekly_drawdown rises from 0.050 to 0.06",)


def test_a_rollout_that_swaps_its_accounts_loosens() -> None:
    before = under(("rollout", {"phase": 2, "accounts": ["a"]}))
    after = under(("rollout", {"phase": 2, "accounts": ["b"]}))

    assert loosened(before, after) == ("rollout phase 2 adds accounts: b",)


def test_another_name_of_the_same_phase_loosens_nothing() -> None:
    before = under(("rollout", {"phase": 2, "accounts": ["a"]}))

    assert loosened(before, under(("rollout", {"phase": "two", "accounts": ["a"]}))) == ()


RULES = st.sampled_from([(name, rule) for name, *pair in TIGHTER for rule in pair])
STRICT = st.sampled_from([(name, strict) for name, _, strict in TIGHTER])


@given(before=st.lists(RULES, max_size=4), after=st.lists(RULES, max_size=4))
def test_two_sets_of_rules_are_equally_loose_only_where_they_allow_the_same(
    before: list[tuple[str, Any]], after: list[tuple[str, Any]]
) -> None:
    one, other = under(*before), under(*after)

    if not loosened(one, other) and not loosened(other, one):
        for rules in (one, other):
            assert (rules.profiles, rules.lists) == (one.profiles, one.lists)
        assert {name for name, state in one.states.items() if state != "ACTIVE"} == {
            name for name, state in other.states.items() if state != "ACTIVE"
        }
    assert loosened(one, one) == ()


SIGNALS = st.fixed_dictionaries(
    {
        "strategy_id": st.sampled_from(["trend", "mean", "old", "wild"]),
        "side": st.sampled_from(["buy", "sell"]),
        "quantity": st.sampled_from(["1", "10", "60", "150", "250"]),
        "leverage": st.sampled_from([None, "1.2", "2"]),
        "venue": st.sampled_from([None, "binance"]),
    }
)


@settings(max_examples=300)
@given(
    profile=st.sampled_from(["micro", "low", "normal"]),
    before=st.lists(RULES, max_size=4),
    change=st.lists(STRICT, max_size=3),
    loss=st.sampled_from(["0", "8", "49", "120"]),
    signal=SIGNALS,
)
def test_nothing_passes_a_gate_that_was_not_loosened(
    profile: str, before: list[tuple[str, Any]], change: list[tuple[str, Any]], loss: str, signal: dict[str, Any]
) -> None:
    """What counts is what the gate decides: an order that passes after the change would have passed before it."""
    after = before + change
    assume(not loosened(under(*before), under(*after)))

    def passes(policies: list[tuple[str, Any]]) -> bool:
        desk = Desk(profile, **{table: CONFIG[table] for table in ("profiles", "strategies")})
        for name, rule in policies:
            desk.policy(name, rule)
        desk.pnl("10000")
        desk.pnl(str(Decimal(10_000) - Decimal(loss)))
        return desk.signal(**signal, stop_loss="99" if signal["side"] == "buy" else "101").names == ["APPROVED"]

    event(f"passes after: {passes(after)}")
    assert passes(before) or not passes(after)
