"""The rollout without a broker: default phases, which one is in force, what is published for it, what is missing."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import CliRunner, Result

from schemas.types import read_time
from streams.config import parse_config
from streams.core.records import PNL, POLICIES, Record
from streams.core.rules import Rollout, Rules, apply_policy, rules_of
from streams.core.state import NEW_ACCOUNT
from streams.ops import broker
from streams.ops.cli import app
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.overview import Overview, overview
from streams.ops.requests import CRITERION_SIGNED, DRILL_RUN, Entry
from streams.ops.rollout import commands
from streams.ops.rollout.course import Course, course_of, labels_ever
from streams.ops.rollout.criteria import (
    UNREAD_MAX_AGE_MS,
    DrawdownLock,
    Evidence,
    Letter,
    Unread,
    criteria,
    signable,
    weeks,
)
from streams.ops.rollout.phases import Phase, Phases, load_phases
from streams.ops.rollout.scope import Scope, scope_for
from streams.ops.snapshot import PolicyLine, Snapshot
from streams.replay import Replay
from streams.runtime.settings import Settings

BEGAN_MS = read_time("2018-01-01T00:00:00Z")
WEEK_MS = 7 * 86_400_000
DEFAULTS = load_phases(None)
ACCOUNTS = {
    "test": {"exchange": "binance_testnet", "profile": "normal"},
    "main": {"exchange": "binance", "failover": ["kraken"]},
    "friend": {"exchange": "firi", "failover": ["coinbase"], "profile": "low"},
}


# -- phases --------------------------------------------------------------------------------------------------------


def phase(number: int) -> Phase:
    found = DEFAULTS.labelled(str(number))
    assert found is not None
    return found


def test_the_defaults_are_those_of_the_go_live_plan() -> None:
    told = [
        (one.phase, one.venues, one.profiles, one.accounts_max, one.capital_max, one.lasts and one.lasts // WEEK_MS)
        for one in DEFAULTS.phases
    ]

    assert told == [
        (1, "testnet", ("micro", "low", "normal"), None, None, 1),
        (2, "live", ("micro",), 1, 1000, 4),
        (3, "live", ("micro", "low"), 5, 1000, 5),
        (4, "live", ("micro", "low", "normal"), None, None, 8),
        (5, "live", ("micro", "low", "normal", "aggressive"), None, None, None),
    ]
    assert [one.not_before for one in DEFAULTS.phases] == [None, None, None, None, 18 * WEEK_MS]
    assert sum(one.lasts or 0 for one in DEFAULTS.phases) == 18 * WEEK_MS


def test_the_last_phase_has_none_after_it() -> None:
    following = DEFAULTS.after(phase(1))
    assert following is not None
    assert following.phase == 2
    assert DEFAULTS.after(phase(5)) is None


def test_testnets_are_told_by_name() -> None:
    names = ("binance_testnet", "Testnet-Kraken", "sandbox.firi", "binance")
    assert [DEFAULTS.is_testnet(name) for name in names] == [True, True, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("phases = []", "phases"),
        ("[[phases]]\nphase = 1\ntitle = 'x'\nvenues = 'moon'\nprofiles = ['micro']", "phases.0.venues"),
        ("[[phases]]\nphase = 1\ntitle = 'x'\nvenues = 'live'\nprofiles = ['huge']", "phases.0.profiles.0"),
        ("[[phases]]\nphase = 1\ntitle = 'x'\nvenues = 'live'\nprofiles = ['micro']\ncapital = 1", "phases.0.capital"),
        (
            "[[phases]]\nphase = 1\ntitle = 'x'\nvenues = 'live'\nprofiles = ['micro']\nsign = {lag = 'x'}",
            "the topics show that",
        ),
        ("phases", "is not TOML"),
    ],
)
def test_phases_that_make_no_sense_are_refused_by_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "phases.toml"
    path.write_text(text)

    with pytest.raises(CommandError) as refused:
        load_phases(path)

    assert str(path) in refused.value.message
    assert said in refused.value.message


def test_phases_that_do_not_rise_are_refused() -> None:
    with pytest.raises(ValueError, match="do not rise"):
        Phases(phases=(phase(2), phase(1)))


# -- which is in force ---------------------------------------------------------------------------------------------


def history(*records: tuple[int, Any], name: str = "rollout", **fields: Any) -> list[PolicyLine]:
    """Records of ``policies`` at times in milliseconds after the beginning, as the snapshot keeps them."""
    snapshot = Snapshot(Rules())
    for offset, (at_ms, rule) in enumerate(records):
        value = orjson.dumps({"name": name, "rule": rule, "operator": "ann"} | fields)
        snapshot.take_policy(Record(POLICIES, 0, offset, BEGAN_MS + at_ms, name.encode(), value))
    return snapshot.history


def in_force(course: Course | None) -> tuple[str, int, int]:
    assert course is not None
    return course.label, course.began_ms - BEGAN_MS, course.since_ms - BEGAN_MS


def test_without_a_policy_no_rollout_is_in_force() -> None:
    assert course_of([]) is None
    assert course_of(history((0, {"up": True}), name="venue/x")) is None
    assert course_of(history((0, {"phase": 1}), (5, None))) is None


def test_a_phase_begins_when_it_is_first_named_and_goes_on_with_other_accounts() -> None:
    lines = history((0, {"phase": 1}), (10, {"phase": 2, "accounts": ["a"]}), (20, {"phase": 2, "accounts": ["b"]}))

    course = course_of(lines)

    assert in_force(course) == ("2", 0, 10)
    assert course is not None
    assert course.rule["accounts"] == ["b"]


def test_going_back_begins_the_phase_anew_and_the_rollout_goes_on() -> None:
    assert in_force(course_of(history((0, {"phase": 1}), (10, {"phase": 2}), (20, {"phase": 1})))) == ("1", 0, 20)


def test_a_removed_policy_ends_the_rollout() -> None:
    assert in_force(course_of(history((0, {"phase": 1}), (10, None), (20, {"phase": 1})))) == ("1", 20, 20)


def test_an_unusable_record_changes_no_phase() -> None:
    assert in_force(course_of(history((0, {"phase": 1}), (10, {"phase": None})))) == ("1", 0, 0)


def test_a_phase_was_in_force_also_if_its_rollout_has_ended() -> None:
    assert labels_ever(history((0, {"phase": 1}), (5, {"phase": "pilot"}), (9, None), (10, {"phase": None}))) == {
        "1",
        "pilot",
    }


# -- which may begin -----------------------------------------------------------------------------------------------


def start(monkeypatch: pytest.MonkeyPatch, lines: list[PolicyLine], *arguments: str) -> tuple[Result, list[str]]:
    """``tidegate rollout start`` by ann after these records, without two_person; and the phases it published."""
    snapshot = Snapshot(rules())
    snapshot.history += lines
    desk = commands.Desk(Settings(broker="127.0.0.1:1"), rules(), snapshot, DEFAULTS, course_of(lines), {})
    published: list[str] = []

    async def publish(*put: Any) -> int:
        published.append(put[2].label)
        return 1

    monkeypatch.setattr(commands, "_desk", lambda *_: desk)
    monkeypatch.setattr(commands, "_publish", publish)
    monkeypatch.setattr(broker, "run", lambda coroutine, _settings: asyncio.run(coroutine))
    line = ["rollout", "start", "--reason", "plan", "--operator", "ann", *arguments]
    return CliRunner().invoke(app, line), published


@pytest.mark.parametrize(
    "lines", [[], history((0, {"phase": 3}), (5, None)), history((0, {"phase": "pilot"}))], ids=["new", "3", "pilot"]
)
@pytest.mark.parametrize("approved_by", [(), ("--approved-by", "Ann")], ids=["alone", "oneself"])
def test_phases_are_not_skipped_by_one_person(
    monkeypatch: pytest.MonkeyPatch, lines: list[PolicyLine], approved_by: tuple[str, ...]
) -> None:
    refused, published = start(monkeypatch, lines, "--phase", "4", *approved_by)

    assert (refused.exit_code, published) == (ExitStatus.REFUSED, [])
    assert "exit criteria of the earlier phases (1, 2, 3) were not checked" in refused.stderr
    assert "--approved-by" in refused.stderr


def test_two_operators_may_skip_phases_and_are_told_what_was_not_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    line = ("--phase", "4", "--approved-by", "bob")
    told, published = start(monkeypatch, [], *line)
    as_json, _ = start(monkeypatch, [], *line, "--json")

    assert published == ["4"]
    assert "exit criteria of the earlier phases (1, 2, 3) were not checked" in told.stdout
    assert orjson.loads(as_json.stdout)["unchecked_phases"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("lines", "number"),
    [([], "1"), (history((0, {"phase": 4}), (5, None)), "4"), (history((0, {"phase": 5})), "4")],
    ids=["the first", "once in force", "back"],
)
def test_the_first_phase_and_those_that_were_reached_skip_nothing(
    monkeypatch: pytest.MonkeyPatch, lines: list[PolicyLine], number: str
) -> None:
    told, published = start(monkeypatch, lines, "--phase", number)

    assert (told.exit_code, published) == (ExitStatus.DONE, [number])
    assert "not checked" not in told.stdout


# -- what is published ---------------------------------------------------------------------------------------------


def rules(**accounts: Any) -> Rules:
    routes = {"trend": {"account": "main", "exchange": "coinbase"}}
    return rules_of(parse_config({"accounts": accounts or ACCOUNTS, "strategies": {"routes": routes}}, {}))


def overviews(in_force: Rules, **equities: str) -> dict[str, Overview]:
    """The accounts after one mark each."""
    replay = Replay(in_force)
    for number, (name, equity) in enumerate(equities.items()):
        mark = {"account_id": name, "sequence": 1, "equity": equity, "as_of": "2018-01-01T00:00:00Z"}
        replay.apply(Record(PNL, 0, number, BEGAN_MS, name.encode(), orjson.dumps(mark)))
    return {
        name: overview(name, replay.accounts.get(name, NEW_ACCOUNT), in_force, BEGAN_MS) for name in in_force.accounts
    }


def scope(number: int, wanted: list[str] | None = None, **equities: str) -> Scope:
    return scope_for(phase(number), DEFAULTS, rules(), overviews(rules(), **equities), wanted)


def test_the_first_phase_names_the_testnets_and_no_live_venue() -> None:
    put = scope(1)

    assert put.faults == ()
    assert (put.rule["accounts"], put.rule["venues"]) == (None, ["binance_testnet"])


def test_a_live_phase_names_the_venues_of_its_accounts_and_routes() -> None:
    put = scope(2, ["main"], main="900")

    assert put.faults == ()
    assert put.rule == {
        "phase": 2,
        "title": "One account, micro",
        "accounts": ["main"],
        "profiles": ["micro"],
        "venues": ["binance", "coinbase", "kraken"],
        "capital_max": "1000",
    }


def test_normal_operations_take_all_accounts_and_only_live_venues() -> None:
    put = scope(4)

    assert put.faults == ()
    assert put.rule["accounts"] is None
    assert put.rule["venues"] == ["binance", "coinbase", "firi", "kraken"]


def test_what_is_published_is_what_the_gate_reads() -> None:
    value = orjson.dumps({"name": "rollout", "rule": scope(2, ["main"], main="900").rule})

    after, letter = apply_policy(rules(), Record(POLICIES, 0, 0, BEGAN_MS, b"rollout", value))

    assert letter is None
    assert after.rollout == Rollout(
        "2", frozenset(["main"]), frozenset(["micro"]), frozenset(["binance", "coinbase", "kraken"])
    )


@pytest.mark.parametrize(
    ("number", "wanted", "equities", "said"),
    [
        (2, None, {"main": "900"}, "at most 1 account, not 3"),
        (2, ["nobody"], {}, "'nobody' is not in the configuration"),
        (2, ["test"], {"test": "900"}, "test has no live venue"),
        (2, ["friend"], {"friend": "900"}, "friend is on profile low, the phase allows micro"),
        (2, ["main"], {"main": "1000.01"}, "main has 1,000.01 of capital, the phase allows 1,000"),
        (2, ["main"], {}, "main has no usable equity"),
        (1, ["main"], {}, "main has no testnet venue"),
    ],
)
def test_what_a_phase_forbids_is_told(number: int, wanted: Any, equities: dict[str, str], said: str) -> None:
    assert said in "\n".join(scope(number, wanted, **equities).faults)


def test_a_phase_without_any_venue_of_its_kind_is_refused() -> None:
    live_only = rules(main=ACCOUNTS["main"], friend=ACCOUNTS["friend"])
    nothing = scope_for(phase(1), DEFAULTS, live_only, overviews(live_only), None)

    assert nothing.faults == ("no account has a testnet venue; configure one (testnets: *testnet*, *sandbox*)",)


def test_capital_equal_to_the_limit_passes() -> None:
    assert scope(2, ["main"], main="1000").faults == ()


# -- what is missing -----------------------------------------------------------------------------------------------


def entry(kind: str, after_ms: int = 1, **detail: Any) -> Entry:
    return Entry(kind, "ann", "because", detail, BEGAN_MS + after_ms, 0)


SIGNED = [entry(CRITERION_SIGNED, phase="1", criterion=name) for name in phase(1).sign]
DRILLED = entry(DRILL_RUN, drill="lock", account_id="drill", passed=True)


def missing(number: int = 1, *, since_ms: int = 0, **found: Any) -> dict[str, str]:
    """What is unmet for the phase after ``number``, and what was seen; by default a week has passed and all is met."""
    values: dict[str, Any] = {
        "now_ms": BEGAN_MS + WEEK_MS,
        "locks": [],
        "letters": [],
        "unread": Unread(0, None),
        "entries": [*SIGNED, DRILLED],
    }
    line = history((since_ms, {"phase": number}))[0]
    course = Course(str(number), BEGAN_MS, BEGAN_MS + since_ms, {"phase": number}, line)
    following = DEFAULTS.after(phase(number))
    assert following is not None
    everything = criteria(phase(number), following, course, Evidence(**values | found))
    return {one.name: one.seen for one in everything if not one.met}


def test_nothing_is_missing_after_a_quiet_week_with_all_signatures() -> None:
    assert missing() == {}


def test_the_time_is_over_at_its_very_end() -> None:
    assert missing(now_ms=BEGAN_MS + WEEK_MS - 1) == {"time": "0.9 of 1 weeks without breach"}


def test_a_breach_begins_the_time_anew() -> None:
    lock = DrawdownLock("main", "DAILY_DRAWDOWN", BEGAN_MS + 1)

    assert "main was locked by DAILY_DRAWDOWN" in missing(locks=[lock])["time"]
    assert missing(locks=[lock], now_ms=BEGAN_MS + 1 + WEEK_MS) == {}


def test_aggressive_is_allowed_from_week_nineteen() -> None:
    entries = [entry(CRITERION_SIGNED, phase="4", criterion="reviewed"), DRILLED]

    assert missing(4, now_ms=BEGAN_MS + 18 * WEEK_MS, entries=entries) == {}
    early = missing(4, now_ms=BEGAN_MS + 18 * WEEK_MS - 1, entries=entries)
    assert early == {"week": "17.9 of 18 weeks since the rollout began"}


def test_dead_letters_are_explained_by_themselves_or_by_a_signature_that_came_after_them() -> None:
    letters = [Letter("DUPLICATE_FILL", 0, 0), Letter("SCHEMA", 0, 1), Letter("SCHEMA", 1, 7)]
    through = entry(CRITERION_SIGNED, phase="1", criterion="dead-letters", through={"0": 2, "1": 7})

    assert missing(letters=letters) == {"dead-letters": "2 SCHEMA"}
    assert missing(letters=letters, entries=[*SIGNED, DRILLED, through]) == {"dead-letters": "1 SCHEMA"}


def test_input_in_flight_is_no_lag_and_input_that_waits_is() -> None:
    now_ms = BEGAN_MS + WEEK_MS

    assert missing(unread=Unread(3, now_ms - UNREAD_MAX_AGE_MS)) == {}
    assert "3 records are not applied" in missing(unread=Unread(3, now_ms - UNREAD_MAX_AGE_MS - 1))["lag"]
    assert "20000 records" in missing(unread=Unread(20_000, None))["lag"]


@pytest.mark.parametrize(
    ("drill", "seen"),
    [
        ([], "not run in this phase"),
        ([entry(DRILL_RUN, drill="lock", passed=False)], "failed at"),
        ([entry(DRILL_RUN, drill="other", passed=True)], "not run in this phase"),
        ([entry(DRILL_RUN, -1, drill="lock", passed=True)], "not run in this phase"),
    ],
)
def test_a_drill_counts_when_it_passed_in_the_phase(drill: list[Entry], seen: str) -> None:
    assert seen in missing(entries=[*SIGNED, *drill])["drill-lock"]


def test_a_signature_of_another_phase_or_time_does_not_count() -> None:
    other = [entry(CRITERION_SIGNED, phase="2", criterion="playbook"), DRILLED]
    early = [entry(CRITERION_SIGNED, -1, phase="1", criterion="playbook"), DRILLED]

    assert set(missing(entries=other)) == set(missing(entries=early)) == {"playbook", "alerts"}


def test_only_what_no_topic_shows_is_signed() -> None:
    assert set(signable(phase(1))) == {"playbook", "alerts", "dead-letters"}


def test_weeks_are_cut_and_not_rounded() -> None:
    assert [weeks(part) for part in (0, WEEK_MS - 1, WEEK_MS, 35 * 86_400_000)] == ["0", "0.9", "1", "5"]
