"""Checks of what producers send: on the right partition, with clocks that agree."""

from collections.abc import Callable, Iterator, Sequence

from schemas.types import read_time
from streams.core.decode import parse_object
from streams.core.drawdown import AHEAD_MS_MAX
from streams.core.records import CONTROLS, FILLS, PNL, SIGNALS, Record, text_of
from streams.ops.preflight.check import Check, Finding, check, failed, passed, some, warned
from streams.ops.preflight.context import Context
from streams.runtime.kafka import partition_of_key
from streams.runtime.topics import JOURNAL

PARTITIONERS, CLOCKS = "partitioners", "clocks"

_MURMUR2 = (
    "use Kafka's default partitioner (Java, aiokafka: nothing to do; librdkafka, kcat: partitioner=murmur2_random) and "
    "the account id as key: until the gate has forwarded such a record, a lock on it waits on another partition"
)
_NTP = "run NTP (chrony) on every machine: ages, expiries and the day's boundary go by these clocks"


def partitioner_of(topic: str) -> Callable[[Context], Finding]:
    """The check of one input's producers, by what they have sent last."""

    def check(context: Context) -> Finding:
        records = _recent(context, topic)
        count = len(context.topics.get()[topic].partitions) if topic in context.topics.get() else 0
        keyed = [(record, account) for record in records if (account := _owner(record)) is not None]
        if not keyed or not count:
            return warned(
                "nothing was sent yet that names an account", f"let a producer of {topic} send, and run this again"
            )
        astray = [
            f"{record.partition}@{record.offset} of {account}"
            for record, account in keyed
            if partition_of_key(account.encode(), count) != record.partition
        ]
        if astray:
            return failed(f"{len(astray)} of the last {len(keyed)} are astray: {some(astray, 3)}", _MURMUR2)
        return passed(f"the last {len(keyed)} are where murmur2 puts their accounts")

    return check


@check(CLOCKS, "clock-producers")
def records_are_not_ahead(context: Context) -> Finding:
    """No producer's clock is ahead.

    Of two records, the one whose timestamp is older goes first: a clock ahead delays what comes with it.
    """
    newest = [record for topic in (SIGNALS, FILLS, PNL, CONTROLS) for record in _recent(context, topic)]
    if not newest:
        return warned("no input yet", "let producers send, and run this again")
    ahead_ms = max(record.timestamp_ms for record in newest) - context.now_ms
    if ahead_ms > AHEAD_MS_MAX:
        who = {record.topic for record in newest if record.timestamp_ms - context.now_ms > AHEAD_MS_MAX}
        return failed(f"{ahead_ms} ms ahead of this machine, on {some(who)}", _NTP)
    return passed(f"the newest record is {-ahead_ms} ms old")


@check(CLOCKS, "clock-workers")
def workers_agree(context: Context) -> Finding:
    """No worker's clock is ahead.

    The journal has each transaction's now beside the timestamp that its producer gave it.
    """
    moments = [
        (record.timestamp_ms, at_ms)
        for record in _recent(context, JOURNAL)
        if (at_ms := _time(record, "now")) is not None
    ]
    if not moments:
        return warned("no transaction yet", "start a worker, send it something, and run this again")
    ahead_ms = max(at_ms for _, at_ms in moments) - context.now_ms
    if ahead_ms > AHEAD_MS_MAX:
        return failed(f"a worker is {ahead_ms} ms ahead of this machine", _NTP)
    return passed(f"the newest transaction is {-ahead_ms} ms old")


@check(CLOCKS, "clock-pnl")
def marks_are_of_now(context: Context) -> Finding:
    """Marks carry their own moment.

    An equity from the future cannot be used; one that is old when it arrives soon is stale.
    """
    lateness = [
        record.timestamp_ms - at_ms for record in _recent(context, PNL) if (at_ms := _time(record, "as_of")) is not None
    ]
    if not lateness:
        return warned("no pnl yet", "let the portfolio send, and run this again")
    allowed_ms = context.rules.limits.max_pnl_age_ms
    if min(lateness) < -AHEAD_MS_MAX:
        return failed(f"as_of is up to {-min(lateness)} ms after its record: RISK_DATA_MISSING", _NTP)
    if max(lateness) > allowed_ms:
        return failed(
            f"as_of is up to {max(lateness)} ms before its record, limits.max_pnl_age is {allowed_ms} ms",
            "send marks when they are made, with the portfolio's clock set: entries are refused as RISK_DATA_STALE",
        )
    return passed(f"as_of is at most {max(0, *lateness)} ms before its record")


@check(CLOCKS, "clock-signals")
def signals_are_of_now(context: Context) -> Finding:
    """Signals are sent when they are made."""
    lateness = [
        record.timestamp_ms - at_ms
        for record in _recent(context, SIGNALS)
        if (at_ms := _time(record, "created_at")) is not None
    ]
    if not lateness:
        return warned("no signal yet", "let a strategy send, and run this again")
    allowed_ms = context.rules.limits.max_signal_age_ms
    stale = sum(abs(late_ms) > allowed_ms for late_ms in lateness)
    if stale:
        return warned(
            f"{stale} of the last {len(lateness)} were made more than {allowed_ms} ms before or after they were sent",
            "they are refused as STALE_SIGNAL: send signals when they are made, with the strategy's clock set",
        )
    return passed(f"the last {len(lateness)}, within {allowed_ms} ms")


def _recent(context: Context, topic: str) -> Sequence[Record]:
    return context.recent.get().get(topic, ())


def _owner(record: Record) -> str | None:
    """The account that a record is for; its key where the value does not say."""
    body, _ = parse_object(record.value)
    named = None if body is None else body.get("account_id")
    return named if isinstance(named, str) and named else text_of(record.key)


def _time(record: Record, field: str) -> int | None:
    body, _ = parse_object(record.value)
    try:
        return None if body is None else read_time(body.get(field))
    except ValueError:
        return None


def _partitioner_checks() -> Iterator[Check]:
    for topic in (SIGNALS, FILLS, PNL, CONTROLS):
        yield Check(PARTITIONERS, f"partitioner-{topic}", f"Producers of {topic} use murmur2", partitioner_of(topic))


CHECKS = (
    *_partitioner_checks(),
    records_are_not_ahead,
    workers_agree,
    marks_are_of_now,
    signals_are_of_now,
)
