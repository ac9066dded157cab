"""Which records make the next batch."""

import pytest
from msgspec.structs import replace

from streams.core.records import CONTROLS, FILLS, PNL, SIGNALS, Record
from streams.runtime.inbox import Inbox, size_of

PLENTY = {"max_records": 1_000, "max_bytes": 1_000_000}


def record(topic: str, offset: int, timestamp_ms: int = 0, value: bytes = b"{}") -> Record:
    return Record(topic, 0, offset, timestamp_ms, b"a", value)


def inbox_with(*records: Record) -> Inbox:
    inbox = Inbox(queue_max_records=4, queue_max_bytes=1_000)
    for one in records:
        inbox.put(one.topic, [one])
    return inbox


def test_signals_come_with_everything_else_when_all_that_is_known_was_read() -> None:
    inbox = inbox_with(record(SIGNALS, 0), record(CONTROLS, 0), record(FILLS, 0), record(PNL, 0))
    batch = inbox.take(known_are_read=True, **PLENTY)
    assert {topic: len(part) for topic, part in batch.items()} == {SIGNALS: 1, CONTROLS: 1, FILLS: 1, PNL: 1}
    assert not inbox.take(known_are_read=True, **PLENTY)


def test_signals_wait_while_something_known_is_unread_and_the_rest_goes_ahead() -> None:
    inbox = inbox_with(record(SIGNALS, 0), record(PNL, 0))
    assert set(inbox.take(known_are_read=False, **PLENTY)) == {PNL}
    assert not inbox.take(known_are_read=False, **PLENTY)
    assert set(inbox.take(known_are_read=True, **PLENTY)) == {SIGNALS}


def test_signals_wait_while_the_backlog_does_not_fit_into_the_batch() -> None:
    inbox = inbox_with(record(SIGNALS, 0, 0), *(record(PNL, n, 10 + n) for n in range(3)))
    assert [len(part) for part in inbox.take(known_are_read=True, max_records=2, max_bytes=1_000).values()] == [2]
    assert {topic: len(part) for topic, part in inbox.take(known_are_read=True, **PLENTY).items()} == {
        PNL: 1,
        SIGNALS: 1,
    }


def test_a_backlog_that_exactly_fills_the_batch_leaves_the_signals_for_the_next() -> None:
    inbox = inbox_with(record(SIGNALS, 0), record(PNL, 0), record(FILLS, 0))
    assert set(inbox.take(known_are_read=True, max_records=2, max_bytes=1_000)) == {PNL, FILLS}
    assert set(inbox.take(known_are_read=True, max_records=2, max_bytes=1_000)) == {SIGNALS}


def test_a_backlog_is_taken_oldest_first_with_ties_for_what_may_forbid() -> None:
    inbox = inbox_with(record(PNL, 0, 5), record(FILLS, 0, 5), record(CONTROLS, 0, 5), record(PNL, 1, 3))
    taken = [next(iter(inbox.take(known_are_read=False, max_records=1, max_bytes=99))) for _ in range(4)]
    # The second pnl is older, but keeps its place behind the first.
    assert taken == [CONTROLS, FILLS, PNL, PNL]


@pytest.mark.timeout(10)
@pytest.mark.parametrize("topic", [CONTROLS, SIGNALS])
def test_any_timestamp_that_kafka_takes_is_taken(topic: str) -> None:
    extremes = [record(topic, 0, 2**63 - 1), record(topic, 1, -1)]
    assert inbox_with(*extremes).take(known_are_read=True, **PLENTY) == {topic: extremes}


def test_bytes_bound_a_batch_but_one_record_always_goes() -> None:
    large = record(PNL, 0, value=b"x" * 500)
    inbox = inbox_with(large, record(PNL, 1))
    assert inbox.take(known_are_read=True, max_records=10, max_bytes=100) == {PNL: [large]}
    assert inbox.take(known_are_read=True, max_records=10, max_bytes=100) == {PNL: [record(PNL, 1)]}


@pytest.mark.parametrize("value", [b"{}", b"x" * 400])
def test_a_full_queue_asks_for_a_pause_and_a_half_empty_one_for_more(value: bytes) -> None:
    inbox = inbox_with(*(record(PNL, n, value=value) for n in range(4)))
    assert inbox.is_full(PNL)
    assert not inbox.is_low(PNL)
    assert not inbox.is_full(FILLS)
    inbox.take(known_are_read=True, max_records=2, max_bytes=1_000_000)
    assert not inbox.is_full(PNL)
    assert inbox.is_low(PNL) == (len(value) == 2)
    inbox.take(known_are_read=True, **PLENTY)
    assert inbox.is_low(PNL)


def test_headers_count_as_bytes() -> None:
    plain = record(SIGNALS, 0)
    assert size_of(replace(plain, headers=(("trace", b"12345"),))) == size_of(plain) + 10
