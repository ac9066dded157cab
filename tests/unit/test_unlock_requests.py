"""The unlock workflow without a broker: what the gate would answer, and what the records make of a request."""

from typing import Any

import orjson
import pytest

from schemas.types import read_time
from streams.config import parse_config
from streams.core.records import CONTROLS, PNL, Record
from streams.core.rules import Rules, rules_of
from streams.core.state import Account
from streams.ops.commanding import new_command
from streams.ops.forecast import Forecast, forecast, lasting_fault
from streams.ops.requests import (
    UNLOCK_ANSWERED,
    UNLOCK_APPROVED,
    UNLOCK_REJECTED,
    UNLOCK_REQUESTED,
    Entry,
    unlock_requests,
)
from streams.replay import Replay

AT = "2017-12-19T11:00:00Z"
AT_MS = read_time(AT)

Step = tuple[str, dict[str, Any]]
"""One record of the workflow: its kind, and what it adds."""


def rules(*, two_person: bool = False) -> Rules:
    accounts = {"main": {"exchange": "binance", "profile": "low"}}
    return rules_of(parse_config({"accounts": accounts, "controls": {"two_person": two_person}}, {}))


def breached(in_force: Rules, *equities: str) -> Account:
    """An account after these marks."""
    replay = Replay(in_force)
    for number, equity in enumerate(equities):
        mark = {"account_id": "main", "sequence": number, "equity": equity, "as_of": AT}
        replay.apply(Record(PNL, 0, number, AT_MS, b"main", orjson.dumps(mark)))
    return replay.accounts["main"]


def expected(in_force: Rules, account: Account | None, now_ms: int = AT_MS, **fields: Any) -> Forecast:
    return forecast(account, in_force, new_command("unlock", "main", "ann", "test", **fields), now_ms)


# -- forecast ------------------------------------------------------------------------------------------------------


def test_the_forecast_is_what_the_gate_then_does() -> None:
    in_force = rules()
    replay = Replay(in_force)
    for number, equity in enumerate(("10000", "9800", "9950")):
        mark = {"account_id": "main", "sequence": number, "equity": equity, "as_of": AT}
        replay.apply(Record(PNL, 0, number, AT_MS, b"main", orjson.dumps(mark)))
    command = new_command("unlock", "main", "ann", "test", profile="micro", rebase="now", command_id="c-1")

    told = forecast(replay.accounts["main"], in_force, command, AT_MS)
    done = replay.apply(Record(CONTROLS, 0, 0, AT_MS, b"main", orjson.dumps(command)))

    assert told.done
    published = [(output.topic, orjson.loads(output.value)) for output in done]
    assert [(topic, body["type"], body["detail"]) for topic, body in told.outputs] == [
        (topic, body["type"], body["detail"]) for topic, body in published
    ]
    assert [body["type"] for _, body in told.outputs] == ["UNLOCKED", "PROFILE_CHANGED"]


def test_a_forecast_changes_nothing() -> None:
    account = breached(rules(), "10000", "9800", "9950")

    assert expected(rules(), account).done
    assert [lock.reason for lock in account.standing.locks] == ["DAILY_DRAWDOWN"]


@pytest.mark.parametrize(
    ("equities", "fields", "said"),
    [
        (("10000",), {}, "not locked"),
        (("10000", "9800"), {}, "DAILY_DRAWDOWN would still be breached"),
        (("10000", "9800", "NaN"), {}, "needs usable equity"),
        (("10000", "9800"), {"rebase": "now", "profile": "normal"}, "not below 'low'"),
    ],
)
def test_a_refusal_says_why(equities: tuple[str, ...], fields: dict[str, Any], said: str) -> None:
    told = expected(rules(), breached(rules(), *equities), **fields)

    assert not told.done
    assert said in told.refusals[0]


def test_equity_that_is_too_old_is_refused_at_that_moment() -> None:
    account = breached(rules(), "10000", "9800")

    assert expected(rules(), account, AT_MS + 60_000, rebase="now").done
    (refusal,) = expected(rules(), account, AT_MS + 60_001, rebase="now").refusals
    assert "needs equity within limits.max_pnl_age" in refusal


def test_a_missing_second_operator_does_not_hide_what_else_is_refused() -> None:
    in_force = rules(two_person=True)
    account = breached(in_force, "10000", "9800")

    assert [("second operator" in one, "breached" in one) for one in expected(in_force, account).refusals] == [
        (True, False),
        (False, True),
    ]
    assert len(expected(in_force, account, rebase="now").refusals) == 1
    assert expected(in_force, account, rebase="now", approved_by="bob").done


def test_an_account_that_was_never_heard_of_is_not_locked() -> None:
    assert "not locked" in expected(rules(), None).refusals[0]


@pytest.mark.parametrize(
    ("name", "equities", "profile", "said"),
    [
        ("nobody", ("10000", "9800"), None, "not in the configuration"),
        ("main", ("10000",), None, "is not locked"),
        ("main", ("10000", "9800"), "low", "not below 'low'"),
        ("main", ("10000", "9800"), "micro", None),
        ("main", ("10000", "9800"), None, None),
    ],
)
def test_a_request_that_could_never_be_granted_is_told_apart(
    name: str, equities: tuple[str, ...], profile: str | None, said: str | None
) -> None:
    fault = lasting_fault(name, breached(rules(), *equities), rules(), profile)

    assert (fault is None) == (said is None)
    assert said is None or said in str(fault)


# -- requests ------------------------------------------------------------------------------------------------------


def entries(*kinds: Step) -> list[Entry]:
    return [
        Entry(kind, f"operator{offset}", "why", {"request_id": "u-1", "account_id": "main"} | detail, AT_MS, offset)
        for offset, (kind, detail) in enumerate(kinds)
    ]


REQUESTED: Step = (UNLOCK_REQUESTED, {"locks": [{"reason": "MANUAL", "locked_at": AT}], "rebase": "now"})
APPROVED: Step = (UNLOCK_APPROVED, {})
REJECTED: Step = (UNLOCK_REJECTED, {})


@pytest.mark.parametrize(
    ("records", "state"),
    [
        ((REQUESTED,), "open"),
        ((REQUESTED, APPROVED), "approved"),
        ((REQUESTED, REJECTED), "rejected"),
        ((REQUESTED, APPROVED, (UNLOCK_ANSWERED, {"done": True})), "done"),
        ((REQUESTED, APPROVED, (UNLOCK_ANSWERED, {"done": False})), "refused"),
        ((REQUESTED, REJECTED, APPROVED), "rejected"),
        ((REQUESTED, APPROVED, REJECTED), "approved"),
    ],
)
def test_the_first_decision_on_a_request_stands(records: Any, state: str) -> None:
    assert unlock_requests(entries(*records))["u-1"].state == state


def test_a_request_carries_what_was_asked_for() -> None:
    request = unlock_requests(entries(REQUESTED))["u-1"]

    assert (request.account_id, request.rebase, request.profile) == ("main", "now", None)
    assert request.held == (("MANUAL", AT),)


def test_a_decision_without_a_request_is_nothing() -> None:
    assert unlock_requests(entries(APPROVED)) == {}
