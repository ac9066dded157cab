"""Every record that the gate writes is exactly what the published models say, to the byte."""

import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from schemas import outputs
from schemas.meanings import CODES, EVENTS
from schemas.outputs import MODELS, AccountEvent, ApprovedOrder, ClosedPeriod, Journal
from streams.config import parse_config
from streams.core.fold import Batch, fold
from streams.core.records import OUTPUTS, Record
from streams.core.rules import rules_of
from streams.core.state import Account, Remembered
from streams.runtime.topics import JOURNAL
from tests.schemas.scenario import CONFIG, everything


def written(topic: str) -> list[dict[str, Any]]:
    return [record.value for record in everything() if record.topic == topic]


def reasons() -> list[dict[str, Any]]:
    rejections = [reason for record in written("rejected-signals") for reason in record["reasons"]]
    return rejections + [check for record in written("approved-orders") for check in record["checks"]]


def test_there_is_a_model_for_every_output_topic() -> None:
    assert set(MODELS) == {*OUTPUTS, JOURNAL}


@pytest.mark.parametrize("topic", OUTPUTS)
def test_every_record_reads_and_writes_back_to_the_same_bytes(topic: str) -> None:
    records = [record for record in everything() if record.topic == topic]
    assert records
    for record in records:
        read = MODELS[topic].model_validate_json(record.raw)
        assert read.model_dump_json().encode() == record.raw


@pytest.mark.parametrize("topic", OUTPUTS)
def test_a_field_that_is_missing_or_unknown_is_refused_at_every_depth(topic: str) -> None:
    for record in written(topic):
        for path in _objects(record):
            if "detail" in path:
                continue  # an event's detail is open
            # A basis leaves out topics that were not yet read.
            for broken in _without_each_field(record, path) if "offsets" not in path else ():
                with pytest.raises(ValidationError):
                    MODELS[topic].model_validate(broken)
            with pytest.raises(ValidationError):
                MODELS[topic].model_validate(_with_surprise(record, path))


def _objects(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all objects in a record; of a list's only the first item's, as all are alike."""
    if isinstance(value, dict):
        return [path, *(found for name, one in value.items() for found in _objects(one, (*path, name)))]
    return _objects(value[0], (*path, 0)) if isinstance(value, list) and value else []


def _without_each_field(record: dict[str, Any], path: tuple[str | int, ...]) -> list[dict[str, Any]]:
    names = list(_at(record, path))
    copies = [json.loads(json.dumps(record)) for _ in names]
    for copy, name in zip(copies, names, strict=True):
        del _at(copy, path)[name]
    return copies


def _with_surprise(record: dict[str, Any], path: tuple[str | int, ...]) -> dict[str, Any]:
    copy: dict[str, Any] = json.loads(json.dumps(record))
    _at(copy, path)["surprise"] = 1
    return copy


def _at(value: Any, path: tuple[str | int, ...]) -> dict[str, Any]:
    for step in path:
        value = value[step]
    found: dict[str, Any] = value
    return found


# -- the log that is read here leaves nothing out ------------------------------------------------------------------


def test_the_scenario_holds_every_reject_code() -> None:
    assert {one["code"] for record in written("rejected-signals") for one in record["reasons"]} == set(
        get_args(outputs.RejectCode)
    )


def test_the_scenario_holds_every_unit_and_scope() -> None:
    assert {one["unit"] for one in reasons()} == set(get_args(outputs.Unit))
    assert {one["scope"] for one in reasons()} == set(get_args(outputs.Scope))


def test_the_scenario_holds_every_event_type() -> None:
    assert {event["type"] for event in written("account-events")} == set(get_args(outputs.EventType))


def test_the_scenario_holds_every_lock_reason() -> None:
    assert {lock["reason"] for lock in written("account-locked")} == set(get_args(outputs.LockReason))


def test_the_scenario_holds_every_dead_letter_reason_and_topic() -> None:
    letters = written("dead-letters")
    assert {letter["reason"] for letter in letters} == set(get_args(outputs.DeadLetterReason))
    assert {letter["topic"] for letter in letters} == {*get_args(outputs.AnyInputTopic), None}


def test_what_a_check_observes_has_the_unit_and_scope_that_the_reference_names() -> None:
    for one in reasons():
        assert one["unit"] in CODES[one["code"]].units, one
        assert one["scope"] in CODES[one["code"]].scopes, one


def test_what_an_event_observes_has_the_unit_that_the_reference_names() -> None:
    for event in written("account-events"):
        words = EVENTS[event["type"]]
        assert event["unit"] in (words.units or (None,)), event
        assert (event["observed"] is None) == (words.observed == "–"), event
        assert (event["limit"] is None) == (words.limit == "–"), event


# -- reading them is pleasant --------------------------------------------------------------------------------------


def test_an_executor_reads_decimals_and_milliseconds() -> None:
    raw = next(
        record.raw for record in everything() if record.topic == "approved-orders" and record.value["expires_at"]
    )
    order = ApprovedOrder.model_validate_json(raw)
    assert order.quantity == Decimal("0.01")
    assert order.valid_until <= order.decided_at + 30_000
    assert order.expires_at == order.valid_until
    assert all(check.passed for check in order.checks)
    with pytest.raises(ValidationError, match="frozen"):
        order.quantity = Decimal(2)  # type: ignore[misc]


def test_the_detail_of_a_closed_period_reads_as_one() -> None:
    events = [AccountEvent.model_validate(event) for event in written("account-events")]
    periods = [ClosedPeriod.model_validate(event.detail) for event in events if event.type == "PERIOD_CLOSED"]
    assert {period.period for period in periods} == {"day", "week"}
    for period in periods:
        assert period.start < period.end
        assert period.low <= min(period.open, period.close) <= max(period.open, period.close) <= period.high


def test_amounts_beyond_what_inputs_may_hold_are_read_exactly() -> None:
    quantities = [line["quantity"] for lock in written("account-locked") for line in lock["positions"]]
    longest = max(quantities, key=len)
    assert len(longest.replace(".", "")) > 40
    record = next(lock for lock in written("account-locked") if longest in json.dumps(lock))
    read = outputs.AccountLocked.model_validate(record)
    assert str(max(line.quantity for line in read.positions)) == longest


@pytest.mark.parametrize(
    "amount", ["1.0", "1e3", "-0", "0.0000000000001", "01", "1.", ".5", "+1", "NaN", "", " 1", "١", 1]
)
def test_an_amount_that_the_gate_would_not_write_is_refused(amount: object) -> None:
    order = written("approved-orders")[0]
    with pytest.raises(ValidationError, match="quantity"):
        ApprovedOrder.model_validate(order | {"quantity": amount})


@pytest.mark.parametrize(
    "time",
    [
        "2017-12-19T11:00:00",
        "2017-12-19T11:00:00+00:00",
        "2017-12-19T11:00:00.000Z",
        "2017-12-19T11:00:00.5Z",
        "2017-13-19T11:00:00Z",
        "2017-12-19 11:00:00Z",
        1513681200000,
    ],
)
def test_a_time_that_the_gate_would_not_write_is_refused(time: object) -> None:
    order = written("approved-orders")[0]
    with pytest.raises(ValidationError, match="valid_until"):
        ApprovedOrder.model_validate(order | {"valid_until": time})


# -- the journal ---------------------------------------------------------------------------------------------------


class NothingYet:
    """A partition before its first commit."""

    offsets: Mapping[str, int] = {}

    def account(self, account_id: str) -> Account | None:
        return None

    def remembered(self, key: bytes) -> Remembered | None:
        return None


def test_the_journal_reads_and_writes_back_to_the_same_bytes() -> None:
    records = {
        "signals": [Record("signals", 3, offset, 1_513_677_600_000, b"fund", b"{}") for offset in (7, 8, 9)],
        "pnl": [Record("pnl", 3, 41, 1_513_677_600_000, b"fund", b"{}")],
        "fills": [],
    }
    rules = rules_of(parse_config(CONFIG, {}))
    commit = fold(Batch(3, records, 1_513_677_600_250), NothingYet(), rules, lambda _: 3)
    journal = Journal.model_validate_json(commit.journal)
    assert journal.offsets == {"signals": (7, 9), "pnl": (41, 41)}
    assert (journal.partition, journal.now, journal.policy_version) == (3, 1_513_677_600_250, 0)
    assert journal.model_dump_json().encode() == commit.journal
