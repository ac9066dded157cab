"""Item 5: the pure step alone, by kind and in its parts, without a broker. CPU time of this thread only.

Also what the other items subtract from an engine's total: the step as a batch engine calls it (a fold of 500 records
of one partition), and as an engine calls it that goes event by event.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from streams.core.decode import decode
from streams.core.fold import Batch, fold
from streams.core.records import FILLS, PNL, SIGNALS, Record
from streams.core.state import NEW_ACCOUNT, TABLES, encode_state
from streams.runtime.kafka import partition_of_key
from streams.runtime.worker import quieten_gc
from tests.benchmarks.figures import Figure, median_of
from tests.benchmarks.memory import Fold, MemoryView, fold_all, rules_for
from tests.benchmarks.peers.setup import OneByOne
from tests.benchmarks.stream import Encoded, batches, encoded
from tests.benchmarks.workload import Workload

ACCOUNTS = 1_000
BATCH = 500
EVENTS = 20_000
ROUNDS = 5
KINDS = (PNL, SIGNALS, FILLS)
PARTS = ("total_ns", "decode_ns", "encode_state_ns", "encode_outputs_ns", "blocks")


def batched_us(
    folding: Fold, warm_up: Iterable[Encoded], measured: Iterable[Encoded], accounts: int, partitions: int
) -> float:
    """µs of CPU per event, record bytes to bytes of outputs and state, in batches of one partition."""
    rules = rules_for(accounts)

    def owner(account_id: str) -> int:
        return partition_of_key(account_id.encode(), partitions)

    views: defaultdict[int, MemoryView] = defaultdict(MemoryView)
    fold_all(folding, _partitioned(warm_up), views, rules, owner)
    prepared = _partitioned(measured)
    count = sum(len(records) for batch in prepared for records in batch.records.values())
    quieten_gc()  # as a worker does
    began = time.thread_time_ns()
    fold_all(folding, prepared, views, rules, owner)
    return (time.thread_time_ns() - began) / count / 1_000


def _partitioned(stream: Iterable[Encoded]) -> list[Batch]:
    by_partition: defaultdict[int, list[Encoded]] = defaultdict(list)
    for one in stream:
        by_partition[one.partition].append(one)
    return [batch for partition, part in sorted(by_partition.items()) for batch in batches(part, BATCH, partition)]


def one_by_one_us(warm_up: Iterable[Encoded], measured: Iterable[Encoded], accounts: int) -> float:
    """µs of CPU per event, record bytes to bytes of outputs and state, one at a time on live accounts."""
    gate = OneByOne(rules_for(accounts))
    held: dict[str, Any] = {}
    ids: dict[bytes, Any] = {}

    def run(records: Iterable[Record]) -> None:
        for record in records:
            decided = gate.decide(record, lambda account_id: held.get(account_id, NEW_ACCOUNT), ids.get)
            held[decided.account_id] = decided.account

    run(_records(warm_up))
    prepared = _records(measured)
    quieten_gc()
    began = time.thread_time_ns()
    run(prepared)
    return (time.thread_time_ns() - began) / len(prepared) / 1_000


def _records(stream: Iterable[Encoded]) -> list[Record]:
    return [record for batch in batches(stream, 1) for records in batch.records.values() for record in records]


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """ns per event by kind and part, and the blocks of memory that an event leaves allocated."""
    measured: defaultdict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for kind in (*KINDS, "mixture"):
            for name, value in _measure(kind, seed=number).items():
                measured[f"{kind}_{name}"].append(value)
    return {"values": dict(measured), "events": EVENTS, "batch": BATCH}


def _measure(kind: str, seed: int) -> dict[str, float]:
    workload = Workload(ACCOUNTS, seed=seed, fill_delay=1_000)
    rules, view = rules_for(ACCOUNTS), MemoryView()
    views = {0: view}
    before = [*workload.first_marks(), *workload.events(EVENTS)]  # until orders are open and positions held
    fold_all(fold, list(batches(encoded(before, 1), BATCH)), views, rules, lambda _account_id: 0)
    events = list(workload.events(EVENTS) if kind == "mixture" else workload.of(kind, EVENTS))
    prepared = list(batches(encoded(events, 1), BATCH))
    records = [record for batch in prepared for several in batch.records.values() for record in several]
    quieten_gc()
    began = time.thread_time_ns()
    for record in records:
        decode(record)
    decoding = time.thread_time_ns() - began
    blocks, began = sys.getallocatedblocks(), time.thread_time_ns()
    commits = []
    for batch in prepared:
        commit = fold(batch, view, rules, lambda _account_id: 0)
        view.apply(commit)
        commits.append(commit)
    total = time.thread_time_ns() - began
    kept = sys.getallocatedblocks() - blocks
    live = [part for commit in commits for account in commit.accounts.values() for part in account]
    began = time.thread_time_ns()
    for part in live:
        encode_state(part)
    encoding = (time.thread_time_ns() - began) / len(live)
    bodies = [orjson.loads(output.value) for commit in commits for output in commit.outputs]
    began = time.thread_time_ns()
    for body in bodies:
        orjson.dumps(body)
    encoding_outputs = time.thread_time_ns() - began
    changed = sum(change.table in TABLES for commit in commits for change in commit.changes)
    return {
        "total_ns": total / EVENTS,
        "decode_ns": decoding / EVENTS,
        "encode_state_ns": encoding * changed / EVENTS,
        "encode_outputs_ns": encoding_outputs / EVENTS,
        "blocks": kept / EVENTS,
    }


def figures(results: Mapping[str, Any]) -> list[Figure]:
    """The item's figures; none has a goal."""
    units = {"ns": "ns CPU per event", "blocks": "blocks of memory held per event"}
    return [
        Figure(f"step_{name}", median_of(values).value, units[name.rpartition("_")[2]])
        for name, values in results["values"].items()
    ]


def summary(results: Mapping[str, Any], name: str) -> float:
    """The median of one of the item's values."""
    return median_of(results["values"][name]).value
