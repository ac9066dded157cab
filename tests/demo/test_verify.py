"""The verifier finds every record that is dropped, repeated or changed, in a run that the pure core decided."""

from collections.abc import Callable

import orjson
import pytest

from streams.demo.accounts import UNLOCKED
from streams.demo.desk import Desk
from streams.demo.verify import INPUTS, OUTPUTS, Seen, verify
from tests.demo.inprocess import InProcessGate

ONE_OUTCOME = ("approved-orders", "rejected-signals", "dead-letters")


@pytest.fixture
def records(two_days: tuple[Desk, InProcessGate]) -> list[Seen]:
    return list(two_days[1].records)


def changed(seen: Seen, **fields: object) -> Seen:
    return seen._replace(value=orjson.dumps(orjson.loads(seen.value or b"") | fields))


def value(seen: Seen, field: str) -> object:
    return orjson.loads(seen.value or b"")[field]


def first(records: list[Seen], topic: str, holds: Callable[[Seen], bool] = lambda _: True) -> int:
    return next(index for index, seen in enumerate(records) if seen.topic == topic and holds(seen))


def appended(records: list[Seen], seen: Seen) -> list[Seen]:
    """The records with one more at the end of its topic."""
    end = max(other.offset for other in records if other.topic == seen.topic) + 1
    return [*records, seen._replace(offset=end)]


def test_a_good_run_has_no_findings(records: list[Seen]) -> None:
    verdict = verify(records)
    assert verdict.findings == ()
    assert verdict.signals == sum(seen.topic == "signals" for seen in records)
    assert verdict.decisions == sum(seen.topic in ("approved-orders", "rejected-signals") for seen in records)
    assert verdict.locks == 1
    assert verdict.approved_while_locked == 1


def test_a_month_has_none_either(month: tuple[Desk, InProcessGate]) -> None:
    verdict = verify(month[1].records)
    assert verdict.findings == ()
    assert verdict.locks > 9
    assert verdict.approved_while_locked > 5


@pytest.mark.parametrize("topic", ONE_OUTCOME)
def test_any_outcome_that_is_missing_is_found(records: list[Seen], topic: str) -> None:
    places = [index for index, seen in enumerate(records) if seen.topic == topic]
    assert places
    for index in places:
        assert verify(records[:index] + records[index + 1 :]).findings, records[index].where


@pytest.mark.parametrize("topic", ONE_OUTCOME)
def test_any_outcome_that_is_there_twice_is_found(records: list[Seen], topic: str) -> None:
    places = [seen for seen in records if seen.topic == topic]
    assert places
    for seen in places:
        (finding, *_) = verify(appended(records, seen)).findings
        assert seen.where in finding


def test_approved_and_rejected_is_one_too_many(records: list[Seen]) -> None:
    approved = records[first(records, "approved-orders")]
    (finding,) = verify(appended(records, approved._replace(topic="rejected-signals"))).findings
    assert "2 decisions" in finding


def test_a_decision_of_another_accounts_signal_is_found(records: list[Seen]) -> None:
    index = first(records, "rejected-signals")
    records[index] = changed(records[index], account_id="somebody_else")
    findings = verify(records).findings
    assert len(findings) == 2
    assert "0 decisions" in findings[0]
    assert "never published" in findings[1]


def test_a_signal_that_nobody_published_is_found(records: list[Seen]) -> None:
    index = first(records, "signals")
    findings = verify(records[:index] + records[index + 1 :]).findings
    assert any("never published" in finding for finding in findings)


def test_a_usable_record_with_a_dead_letter_is_found(records: list[Seen]) -> None:
    letter = changed(records[first(records, "dead-letters")], topic="pnl", offset=0)
    (finding,) = verify(appended(records, letter)).findings
    assert "pnl-0@0 is usable, but has a dead letter" in finding


def test_a_dead_letter_of_nothing_is_found(records: list[Seen]) -> None:
    letter = changed(records[first(records, "dead-letters")], offset=999_999)
    (finding,) = verify(appended(records, letter)).findings
    assert "unknown" in finding


@pytest.mark.parametrize("topic", INPUTS)
def test_a_repeated_input_without_a_dead_letter_is_found(records: list[Seen], topic: str) -> None:
    (finding, *_) = verify(appended(records, records[first(records, topic)])).findings
    assert f"{topic}-0@" in finding
    assert "has 0 dead letters" in finding


@pytest.mark.parametrize("broken", [b"{", b"[]", b"\xff", None, b'{"account_id": "main_binance"}'])
def test_unreadable_input_without_a_dead_letter_is_found(records: list[Seen], broken: bytes | None) -> None:
    (finding,) = verify(appended(records, Seen("signals", 0, 0, broken))).findings
    assert "has 0 dead letters" in finding


@pytest.mark.parametrize("topic", OUTPUTS)
@pytest.mark.parametrize("broken", [b"{", b"{}", None])
def test_an_output_that_cannot_be_read_is_found(records: list[Seen], topic: str, broken: bytes | None) -> None:
    index = first(records, topic)
    records[index] = records[index]._replace(value=broken)
    findings = verify(records).findings
    assert f"{records[index].where} cannot be read, or lacks a field" in findings


def test_a_second_order_with_one_id_is_found(records: list[Seen]) -> None:
    index = first(records, "approved-orders")
    other = first(records, "approved-orders", lambda seen: seen.offset == 1)
    records[other] = changed(records[other], order_id=value(records[index], "order_id"))
    assert any("approved 2 times" in finding for finding in verify(records).findings)


def test_without_its_unlock_what_an_account_opened_later_is_found(records: list[Seen]) -> None:
    index = first(records, "account-events", lambda seen: value(seen, "type") == "UNLOCKED")
    findings = verify(records[:index] + records[index + 1 :]).findings
    assert findings
    assert all(finding.startswith(UNLOCKED) and "under the lock" in finding for finding in findings)


def exit_under_lock(records: list[Seen]) -> int:
    lock = records[first(records, "account-locked")]
    since = value(lock, "locked_at")
    return first(
        records,
        "approved-orders",
        lambda seen: value(seen, "account_id") == UNLOCKED and str(value(seen, "decided_at")) > str(since),
    )


@pytest.mark.parametrize("side", ["buy", "sell"])
def test_an_order_under_a_lock_that_does_not_reduce_is_found(records: list[Seen], side: str) -> None:
    index = exit_under_lock(records)
    if value(records[index], "side") == side:
        records[index] = changed(records[index], quantity="1000000")
    else:
        records[index] = changed(records[index], side=side)
    (finding,) = verify(records).findings
    assert "under the lock" in finding
    assert records[index].where in finding


def test_what_exits_at_work_already_close_cannot_be_closed_again(records: list[Seen]) -> None:
    index = exit_under_lock(records)
    fill = first(records, "fills", lambda seen: value(seen, "order_id") == value(records[index], "order_id"))
    twin = changed(records[index], order_id="o-twin", signal_id="s-twin")
    published = changed(records[first(records, "signals")], signal_id="s-twin", account_id=UNLOCKED)
    findings = verify(appended(appended(records[:fill] + records[fill + 1 :], published), twin)).findings
    assert sum("under the lock" in finding for finding in findings) == 1


def test_an_exit_of_a_position_that_was_never_filled_is_found(records: list[Seen]) -> None:
    records = [seen for seen in records if not (seen.topic == "fills" and value(seen, "account_id") == UNLOCKED)]
    assert any("under the lock" in finding for finding in verify(records).findings)


def forwarded(seen: Seen, origin: Seen) -> Seen:
    return seen._replace(partition=1, offset=0, origin=f"{origin.topic}/{origin.partition}/{origin.offset}")


def test_a_forwarded_copy_needs_no_decision_of_its_own(records: list[Seen]) -> None:
    origin = records[first(records, "signals")]
    verdict = verify([*records, forwarded(origin, origin)])
    assert verdict.findings == ()
    assert verdict.signals == verify(records).signals


def test_a_dead_letter_of_a_forwarded_copy_answers_for_its_original(records: list[Seen]) -> None:
    letter = first(records, "dead-letters", lambda seen: value(seen, "topic") == "signals")
    place = value(records[letter], "offset")
    origin = records[first(records, "signals", lambda seen: seen.offset == place)]
    records[letter] = changed(records[letter], partition=1, offset=0)
    assert verify(records).findings
    assert verify([*records, forwarded(origin, origin)]).findings == ()


def test_forwarding_twice_or_changing_the_value_is_found(records: list[Seen]) -> None:
    origin = records[first(records, "signals")]
    copy = forwarded(origin, origin)
    (finding,) = verify([*records, copy, copy._replace(offset=1)]).findings
    assert "forwarded 2 times" in finding
    (finding,) = verify([*records, changed(copy, quantity="9")]).findings
    assert "is not what was forwarded" in finding
