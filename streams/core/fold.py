"""One transaction's input folded into what it must make durable (contract, section 1, *basis and the journal*).

The records of a batch are merged by timestamp, each topic in its own offset order: the topic whose next record is
oldest goes first, ties go to controls, fills, pnl, signals. So inputs and journal reproduce every decision.
"""

import heapq
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import orjson

from schemas.types import write_time
from streams.core.decode import Event, decode
from streams.core.fanout import fan_out
from streams.core.outputs import SCHEMA_VERSION, dead_letter
from streams.core.records import INPUTS, LOCKED, SIGNALS, Output, Record, timestamp_of
from streams.core.routing import account_of
from streams.core.rules import Rules
from streams.core.state import (
    DECISIONS,
    NEW_ACCOUNT,
    OFFSETS_KEY,
    PARTITION,
    Account,
    Change,
    Remembered,
    changes_of,
    encode_offsets,
    encode_state,
)
from streams.core.step import Basis, step

FORWARDED = "tidegate-forwarded-from"
# Why a record is on the wrong partition: it names no account and went where it liked, or its producer keyed it wrongly.
ROUTED, MISKEYED = "routed", "miskeyed"
FORWARD_BYTES_MAX = 1_048_576
_WHOLE = 1 << 62


class Batch(NamedTuple):
    """One transaction's input of one partition; ``wall_ms`` is the wall clock at its start."""

    partition: int
    records: Mapping[str, Sequence[Record]]
    wall_ms: int


class View(Protocol):
    """State as of the partition's last commit."""

    def account(self, account_id: str) -> Account | None:
        """None: nothing is known of it yet."""

    def remembered(self, key: bytes) -> Remembered | None: ...

    @property
    def offsets(self) -> Mapping[str, int]:
        """Last applied offset by topic; a topic not yet read is left out."""


class Commit(NamedTuple):
    """What one transaction makes durable, all or nothing, and the live objects after it.

    ``locked_by_ms``: for each ``account-locked``, the timestamp of the record that it answers.
    """

    outputs: tuple[Output, ...]
    changes: tuple[Change, ...]
    accounts: Mapping[str, Account]
    journal: bytes
    offsets: Mapping[str, int]
    locked_by_ms: tuple[int, ...] = ()


def merge(records: Mapping[str, Sequence[Record]]) -> Iterator[Record]:
    """The order in which one transaction applies its records."""
    queues = [records[topic] for topic in INPUTS if records.get(topic)]
    # heapq.merge compares heads only and is stable, which is the contract's rule even for times out of order.
    return heapq.merge(*queues, key=timestamp_of)


def now_of(record: Record, wall_ms: int, rules: Rules) -> int:
    """Live, the later of the record's timestamp and the wall clock; in replays and demos the record's."""
    return max(record.timestamp_ms, wall_ms) if rules.clock == "wall" else record.timestamp_ms


def fold(batch: Batch, view: View, rules: Rules, partition_of: Callable[[str], int]) -> Commit:
    """Apply a batch. Raises only what the view raises: a record is answered, whatever it holds."""
    slices = fold_in_slices(batch, view, rules, partition_of, _WHOLE)
    while True:
        try:
            next(slices)
        except StopIteration as end:
            commit: Commit = end.value
            return commit


def fold_in_slices(
    batch: Batch, view: View, rules: Rules, partition_of: Callable[[str], int], slice_records: int
) -> Generator[None, None, Commit]:
    """As :func:`fold`, with a pause after every ``slice_records`` records, in which ``view`` must stay as it is."""
    outputs: list[Output] = []
    accounts: dict[str, Account] = {}
    before: dict[str, Account] = {}
    remembered: dict[bytes, Remembered] = {}
    offsets = dict(view.offsets)
    locked_by_ms: list[int] = []

    def recall(key: bytes) -> Remembered | None:
        found = remembered.get(key)
        return view.remembered(key) if found is None else found

    def basis() -> Basis:
        return {"partition": batch.partition, "offsets": dict(offsets), "policy_version": rules.version}

    for number, record in enumerate(merge(batch.records), 1):
        if number % slice_records == 0:
            yield
        offsets[record.topic] = record.offset
        event = decode(record)
        account_id = account_of(event, rules)
        if account_id is None and rules.fanouts and (children := fan_out(event, rules)) is not None:
            outputs += children
            continue
        if account_id is None:
            account = NEW_ACCOUNT
        elif account_id in accounts:
            account = accounts[account_id]
        else:
            known = view.account(account_id)
            # State is only ever made on the account's own partition, and the number of partitions never changes
            # (see `runtime/partitioning.py`): to have some is to be there.
            if known is None and partition_of(account_id) != batch.partition:
                outputs.append(_forward(record, account_id, _cause(event)))
                continue
            account = before[account_id] = known or NEW_ACCOUNT
        done = step(event, account_id, account, recall, rules, now_of(record, batch.wall_ms, rules), basis)
        if account_id is not None:
            accounts[account_id] = done.account
        remembered.update(done.remember)
        if done.outputs:
            outputs += done.outputs
            locked_by_ms += [record.timestamp_ms for output in done.outputs if output.topic == LOCKED]
    changes = [
        change
        for account_id, account in before.items()
        for change in changes_of(account_id, account, accounts[account_id])
    ]
    changes += [Change(DECISIONS, key, encode_state(memory)) for key, memory in remembered.items()]
    changes.append(Change(PARTITION, OFFSETS_KEY, encode_offsets(offsets)))
    journal = _journal(batch, rules)
    return Commit(tuple(outputs), tuple(changes), accounts, journal, offsets, tuple(locked_by_ms))


def _cause(event: Event) -> str:
    """Why a record is not on its account's partition. Only a signal may leave the account to its route."""
    return ROUTED if event.record.topic == SIGNALS and event.body.account_id is None else MISKEYED


def _forward(record: Record, account_id: str, cause: str) -> Output:
    """Send a record to the partition that owns its account, once: a second time, two workers' routes disagree."""
    origin = f"{record.topic}/{record.partition}/{record.offset}"
    if any(name == FORWARDED for name, _ in record.headers):
        detail = f"account_id {account_id!r}: forwarded already and still on the wrong partition; align the routes"
        return dead_letter(record, "UNKNOWN_ACCOUNT", detail, account_id=account_id)
    if len(record.value or b"") > FORWARD_BYTES_MAX:
        # Compression let it in; uncompressed it would fail the transaction, and every one after it.
        detail = f"value is larger than {FORWARD_BYTES_MAX} bytes and on the wrong partition; send it to its own"
        return dead_letter(record, "MALFORMED", detail, account_id=account_id)
    headers = (*record.headers, (FORWARDED, origin.encode()))
    return Output(record.topic, account_id.encode(), record.value or b"", headers, record.timestamp_ms, tally=(cause,))


def _journal(batch: Batch, rules: Rules) -> bytes:
    """What a replay needs besides the inputs: which records made one transaction, its now, the rules in force."""
    return orjson.dumps(
        {
            "partition": batch.partition,
            "offsets": {
                topic: [records[0].offset, records[-1].offset] for topic, records in batch.records.items() if records
            },
            "now": write_time(batch.wall_ms),
            "policy_version": rules.version,
            "schema_version": SCHEMA_VERSION,
        }
    )
