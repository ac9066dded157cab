"""A core that is simple enough to predict: it numbers each account's events and approves every signal once.

The runtime's tests use it where they need to know exactly what must come out, or to make it misbehave.
"""

import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, cast

import orjson

from streams.core.fold import Batch, Commit, View
from streams.core.records import APPROVED, DEAD_LETTERS, INPUTS, SIGNALS, Output, Record
from streams.core.rules import Rules
from streams.core.state import (
    DECISIONS,
    OFFSETS_KEY,
    PARTITION,
    STATE_VERSION,
    Account,
    Change,
    Remembered,
    decode_remembered,
    encode_state,
)
from streams.runtime.partition import Core

NEVER_MS = 1 << 50
_BLOCKED_S = 600.0
Counts = dict[str, int]


def fold(batch: Batch, view: View, rules: Rules, partition_of: Callable[[str], int]) -> Commit:
    """Merge, count, approve. A signal's ``blow_bytes`` makes its decision that large; ``expires_ms``: its id's."""
    outputs: list[Output] = []
    touched: dict[str, Counts] = {}
    ids: dict[bytes, bytes] = {}
    offsets = dict(view.offsets)
    for record in _merged(batch):
        offsets[record.topic] = record.offset
        account_id = (record.key or b"").decode()
        if partition_of(account_id) != batch.partition:
            outputs.append(Output(record.topic, record.key, record.value or b"", record.headers, record.timestamp_ms))
            continue
        value: dict[str, Any] = orjson.loads(record.value or b"{}")
        if value.get("crash"):
            raise RuntimeError("told to crash")
        if value.get("block"):
            time.sleep(_BLOCKED_S)
        counts = touched.get(account_id)
        if counts is None:
            counts = touched[account_id] = dict(cast("Counts", view.account(account_id) or {}))
        if record.topic != SIGNALS:
            counts[record.topic] = counts.get(record.topic, 0) + 1
            continue
        key = f"{account_id}\0signal\0{value['id']}".encode()
        if key in ids or view.remembered(key) is not None:
            outputs.append(_output(DEAD_LETTERS, record, {"id": value["id"], "reason": "DUPLICATE_SIGNAL"}))
            continue
        counts[SIGNALS] = counts.get(SIGNALS, 0) + 1
        ids[key] = encode_state(Remembered(value["id"], value.get("expires_ms", NEVER_MS)))
        body = {"id": value["id"], "counts": counts, "policy_version": rules.version, "partition": batch.partition}
        outputs.append(_output(APPROVED, record, body | {"blown": "x" * value.get("blow_bytes", 0)}))
    changes = [Change("accounts", one.encode(), orjson.dumps(counts)) for one, counts in touched.items()]
    changes += [Change(DECISIONS, key, value) for key, value in ids.items()]
    changes.append(Change(PARTITION, OFFSETS_KEY, orjson.dumps({"v": STATE_VERSION, "offsets": offsets})))
    journal = orjson.dumps({"partition": batch.partition, "offsets": offsets, "now": batch.wall_ms})
    accounts = cast("Mapping[str, Account]", touched)
    return Commit(tuple(outputs), tuple(changes), accounts, journal, offsets)


def _merged(batch: Batch) -> list[Record]:
    records = [record for topic in INPUTS for record in batch.records.get(topic, ())]
    return sorted(records, key=lambda record: (record.timestamp_ms, INPUTS.index(record.topic), record.offset))


def _output(topic: str, record: Record, body: dict[str, Any]) -> Output:
    return Output(topic, record.key, orjson.dumps(body), record.headers)


def decode_account(parts: Mapping[str, bytes]) -> Account:
    return cast("Account", orjson.loads(parts["accounts"]))


Fold = Callable[[Batch, View, Rules, Callable[[str], int]], Commit]


def at_one_go(whole: Fold) -> Callable[[Batch, View, Rules, Callable[[str], int], int], Generator[None, None, Commit]]:
    """A fold in the form in which a partition takes it, without a pause."""

    def folding(
        batch: Batch, view: View, rules: Rules, partition_of: Callable[[str], int], _slice_records: int
    ) -> Generator[None, None, Commit]:
        yield from ()
        return whole(batch, view, rules, partition_of)

    return folding


CORE = Core(at_one_go(fold), decode_account, decode_remembered, ("accounts",))
