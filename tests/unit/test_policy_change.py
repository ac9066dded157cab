"""A change of a policy before it is published: expiries, edits, the two-person rule, and its history afterwards."""

from typing import Any

import orjson
import pytest

from schemas.config import ConfigFile
from schemas.types import read_time
from streams.core.records import POLICIES, Record
from streams.core.rules import Rules, rules_of
from streams.ops import policy_edits, policy_history
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.policy_change import (
    Course,
    Terms,
    course_of,
    edited,
    policy_value,
    read_expiry,
    replaced,
    require_second_operator,
    what_loosens,
)
from streams.ops.snapshot import Snapshot

NOW_MS = read_time("2026-01-05T12:00:00Z")
HOUR_MS = 3_600_000
HALTED, REDUCING = {"state": "HALTED"}, {"state": "REDUCING"}
STRATEGIES = {"blacklist": ["old"], "micro": {"whitelist": ["trend"]}}
RULES = rules_of(ConfigFile.model_validate({"strategies": STRATEGIES, "controls": {"two_person": True}}))
BY_ANN = Terms("ann", "why not")


def loosens(before: Course, after: Course, name: str = "state/global") -> tuple[str, ...]:
    in_force = Log(RULES)
    in_force.publish(name, before)
    return what_loosens(in_force.snapshot.rules, name, before, after, NOW_MS)


class Log:
    """The topic ``policies`` as the commands see it."""

    def __init__(self, rules: Rules) -> None:
        self.snapshot = Snapshot(rules)

    def publish(self, name: str, course: Course, terms: Terms = BY_ANN) -> None:
        self.append(name, policy_value(name, course, terms, NOW_MS))

    def append(self, name: str, value: bytes) -> None:
        offset = len(self.snapshot.history)
        self.snapshot.take_policy(Record(POLICIES, 0, offset, NOW_MS, name.encode(), value))

    def revert(self, name: str, rule: Any, version: int) -> None:
        self.append(name, orjson.dumps({"name": name, "rule": rule, "reverts": version, "operator": "tidegate"}))


# -- until when ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "at_ms"),
    [("2h", NOW_MS + 2 * HOUR_MS), ("30m", NOW_MS + HOUR_MS // 2), ("2026-01-05T14:00:00+01:00", NOW_MS + HOUR_MS)],
)
def test_an_expiry_is_a_duration_or_a_time(text: str, at_ms: int) -> None:
    assert read_expiry(text, NOW_MS) == at_ms


@pytest.mark.parametrize("text", ["2026-01-05T12:00:00Z", "2025-12-31T00:00:00Z", "2026-01-05T14:00:00", "soon", "-1h"])
def test_an_expiry_that_is_past_or_unreadable_is_refused(text: str) -> None:
    with pytest.raises(CommandError) as refused:
        read_expiry(text, NOW_MS)

    assert refused.value.status == ExitStatus.USAGE
    assert text in refused.value.message
    assert refused.value.remedy


def test_a_change_that_ends_puts_back_what_stood_before() -> None:
    course = replaced(Course(REDUCING), HALTED, NOW_MS + HOUR_MS)

    assert course == Course(HALTED, NOW_MS + HOUR_MS, REDUCING)
    record = orjson.loads(policy_value("state/global", course, BY_ANN, NOW_MS))
    assert (record["expires_at"], record["then"]) == ("2026-01-05T13:00:00Z", REDUCING)


def test_a_change_for_good_names_no_end() -> None:
    record = orjson.loads(policy_value("state/global", Course(HALTED), BY_ANN, NOW_MS))

    assert {"expires_at", "then"}.isdisjoint(record)


def test_over_a_rule_that_ends_earlier_the_last_lasting_one_comes_back() -> None:
    temporary = Course(REDUCING, NOW_MS + HOUR_MS, None)

    assert replaced(temporary, HALTED, NOW_MS + 2 * HOUR_MS).then is None
    with pytest.raises(CommandError, match="ends by itself at 2026-01-05T13:00:00Z"):
        replaced(temporary, HALTED, NOW_MS + HOUR_MS // 2)


def test_an_edit_for_good_outlives_a_rule_that_ends() -> None:
    temporary = Course({"blacklist": ["old", "trend"]}, NOW_MS + HOUR_MS, None)

    after = edited(temporary, policy_edits.block(RULES, "", "mean"), None)

    assert after == Course({"blacklist": ["old", "trend", "mean"]}, NOW_MS + HOUR_MS, {"blacklist": ["old", "mean"]})
    with pytest.raises(CommandError, match="cannot end on its own"):
        edited(temporary, policy_edits.block(RULES, "", "mean"), NOW_MS + 2 * HOUR_MS)


# -- edits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "rule", "after"),
    [
        (policy_edits.block(RULES, "", "trend"), None, {"blacklist": ["old", "trend"]}),
        (policy_edits.block(RULES, "", "old"), None, None),
        (
            policy_edits.block(RULES, "micro", "trend"),
            {"whitelist": ["trend"]},
            {"whitelist": ["trend"], "blacklist": ["trend"]},
        ),
        (policy_edits.allow(RULES, "", "old"), None, {"blacklist": []}),
        (policy_edits.allow(RULES, "", "trend"), None, None),
        (policy_edits.allow(RULES, "micro", "mean"), None, {"whitelist": ["trend", "mean"]}),
        (policy_edits.allow(RULES, "micro", "mean"), {"whitelist": []}, {"whitelist": []}),
        (policy_edits.limits({"max_leverage": "2"}), {"spot_only": True}, {"spot_only": True, "max_leverage": "2"}),
        (policy_edits.limits({"max_leverage": None}), {"max_leverage": "2"}, None),
    ],
)
def test_an_edit_changes_one_thing(edit: policy_edits.Edit, rule: Any, after: Any) -> None:
    assert edit(rule) == after


def test_limits_are_read_as_the_configuration_writes_them() -> None:
    pairs = ("max_daily_drawdown=0.010", "max_open_positions=3", "spot_only=true", "warning=0.5,0.9", "breach=exceed")

    values = policy_edits.read_limits((*pairs, "headroom=configured"))

    assert values == {
        "max_daily_drawdown": "0.010",
        "max_open_positions": 3,
        "spot_only": True,
        "warning": ["0.5", "0.9"],
        "breach": "exceed",
        "headroom": None,
    }


@pytest.mark.parametrize("pair", ["max_daily_drawdwn=0.01", "max_daily_drawdown", "=", "0.01"])
def test_what_is_no_limit_is_refused_with_the_keys_that_are(pair: str) -> None:
    with pytest.raises(CommandError) as refused:
        policy_edits.read_limits([pair])

    assert refused.value.status == ExitStatus.USAGE
    assert "max_weekly_drawdown" in refused.value.remedy


# -- the two-person rule -------------------------------------------------------------------------------------------

LATER_MS = NOW_MS + HOUR_MS
MUCH_LATER_MS = NOW_MS + 2 * HOUR_MS


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (Course(None), Course(HALTED)),
        (Course(None), Course(HALTED, LATER_MS, None)),
        (Course(REDUCING), Course(HALTED, LATER_MS, REDUCING)),
        (Course(HALTED, LATER_MS, None), Course(HALTED)),
        (Course(HALTED, LATER_MS, None), Course(HALTED, MUCH_LATER_MS, None)),
        (Course(None, LATER_MS, HALTED), Course(HALTED)),
    ],
)
def test_what_restricts_needs_nobody_and_may_end_by_itself(before: Course, after: Course) -> None:
    assert loosens(before, after) == ()


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (Course(HALTED), Course(None), "from HALTED to ACTIVE"),
        (Course(HALTED), Course(REDUCING, LATER_MS, HALTED), "from HALTED to REDUCING"),
        # Looser now for a while, for good: the present does not change, what comes does.
        (Course(None, LATER_MS, HALTED), Course(None), "from HALTED to ACTIVE from 2026-01-05T13:00:00Z on"),
        (Course(None, LATER_MS, HALTED), Course(None, MUCH_LATER_MS, HALTED), "from 2026-01-05T13:00:00Z on"),
        # Stricter now, and looser once the present rule would have ended.
        (Course(None, LATER_MS, HALTED), Course(REDUCING), "from HALTED to REDUCING from 2026-01-05T13:00:00Z on"),
        # Halted for an hour only, instead of for two.
        (Course(HALTED, MUCH_LATER_MS, None), Course(HALTED, LATER_MS, None), "from 2026-01-05T13:00:00Z on"),
    ],
)
def test_what_is_looser_now_or_later_is_found(before: Course, after: Course, told: str) -> None:
    (text,) = loosens(before, after)

    assert told in text


@pytest.mark.parametrize("approved_by", [None, "", "  ", "ann", "Ann", " ann "])
def test_a_loosening_without_a_second_operator_is_refused(approved_by: str | None) -> None:
    with pytest.raises(CommandError) as refused:
        require_second_operator(RULES, Terms("ann", "x", approved_by), ("venue binance comes up",))

    assert refused.value.status == ExitStatus.REFUSED
    assert "venue binance comes up" in refused.value.message
    assert "--approved-by" in refused.value.remedy


def test_a_second_operator_agrees_and_is_named_in_the_record() -> None:
    terms = Terms("ann", "x", "bob")

    require_second_operator(RULES, terms, ("venue binance comes up",))

    assert orjson.loads(policy_value("venue/binance", Course({"up": True}), terms, NOW_MS))["approved_by"] == "bob"


def test_nobody_is_asked_where_nothing_loosens_or_the_rule_is_off() -> None:
    require_second_operator(RULES, BY_ANN, ())
    require_second_operator(Rules(), BY_ANN, ("venue binance comes up",))


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("state/global", Terms("", "x")),
        ("state/global", Terms("ann", " ")),
        ("state/global", Terms("ann", "x" * 1025)),
        ("state/global", Terms("ann", "x", "\udcff")),
        ("state/venue/\udcff", Terms("ann", "x")),
    ],
)
def test_people_and_names_that_no_record_can_hold_are_refused(name: str, terms: Terms) -> None:
    with pytest.raises(CommandError) as refused:
        policy_value(name, Course(HALTED), terms, NOW_MS)

    assert refused.value.status == ExitStatus.USAGE


# -- what stands, and the history ----------------------------------------------------------------------------------


def test_the_course_that_stands_is_read_back_from_the_topic() -> None:
    log = Log(RULES)
    course = Course(HALTED, LATER_MS, REDUCING)
    log.publish("state/global", course)

    assert course_of(log.snapshot.stands("state/global")) == course
    assert course_of(log.snapshot.stands("venue/binance")) == Course(None)


def test_a_removal_that_ends_stands_although_no_rule_is_in_force() -> None:
    log = Log(RULES)
    log.publish("state/global", Course(None, LATER_MS, HALTED))

    assert log.snapshot.policies == {}
    assert course_of(log.snapshot.stands("state/global")) == Course(None, LATER_MS, HALTED)


def test_a_rule_of_which_nobody_can_say_what_follows_does_not_end() -> None:
    log = Log(RULES)
    log.append("state/global", b'{"name": "state/global", "rule": {"state": "HALTED"}, "expires_at": "soon"}')
    assert course_of(log.snapshot.stands("state/global")) == Course(HALTED)

    ending = {"name": "state/global", "rule": HALTED, "expires_at": "2026-01-05T13:00:00Z", "then": "ACTIVE"}
    log.append("state/global", orjson.dumps(ending))
    assert course_of(log.snapshot.stands("state/global")) == Course(HALTED)


def test_a_revert_that_comes_too_late_leaves_what_an_operator_set() -> None:
    log = Log(RULES)
    log.publish("state/global", Course(REDUCING, LATER_MS, None))
    log.publish("state/global", Course(HALTED))
    log.revert("state/global", None, 1)

    assert log.snapshot.policies["state/global"].rule == HALTED
    assert log.snapshot.rules.states == {"state/global": "HALTED"}
    assert policy_history.changes(log.snapshot.history)[-1].effect == policy_history.OUTDATED


def test_the_history_tells_who_and_what_changed() -> None:
    log = Log(RULES)
    log.publish("strategies", Course({"blacklist": ["old", "trend"]}), Terms("ann", "runs away"))
    log.publish("strategies", Course({"blacklist": ["old", "mean"]}), Terms("ann", "the other one", "bob"))
    log.publish("state/global", Course(HALTED, LATER_MS, None))
    log.revert("state/global", None, 3)
    log.append("venue/binance", b'{"name": "venue/binance", "rule": {"up": "no"}}')
    log.append("state/global", b'{"name": "state/global", "rule": {"state": "STOP"}}')

    told = policy_history.changes(log.snapshot.history)

    assert [one.diff for one in told] == [
        ("blacklist: +old +trend",),
        ("blacklist: +mean −trend",),
        ("state: – → HALTED",),
        ("state: HALTED → –",),
        (),
        ("state: – → HALTED",),
    ]
    assert [policy_history.people(one.line) for one in told[:2]] == ["ann", "ann, approved by bob"]
    assert [one.before for one in told[:2]] == [None, {"blacklist": ["old", "trend"]}]
    assert [one.effect for one in told[3:]] == [
        policy_history.IN_FORCE,
        policy_history.UNUSABLE,
        policy_history.UNUSABLE_HALTS,
    ]
    assert told[3].line.reverts == 3
