"""A clean run without Kafka: the real gate over logs in memory, recorded like a run on brokers.

Several partitions share the topics; records come keyed for the wrong partition, policies in between. Now and then an
owner dies after it has sent a transaction, which leaves aborted records behind, and another takes over.
"""

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from streams.config import parse_config
from streams.core.fold import fold_in_slices
from streams.core.records import Output, Record
from streams.core.rules import Rules, apply_policy, rules_of
from streams.core.state import TABLES, decode_account, decode_remembered
from streams.runtime.kafka import partition_of_key
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Core, Limits, Partition
from streams.runtime.policies import PolicyDeadLetter
from streams.runtime.store import MemoryStore, changelog_key
from tests.chaos.recording import INPUTS, JOURNAL, JOURNAL_UNCOMMITTED, OUTPUTS, POLICIES, STATE, Entry, Rec, Store
from tests.model import strategies
from tests.unit.memory_log import Broker, Crash, MemoryLog

FORGET_SLACK_MS = 60_000


@dataclass
class MemoryRecording:
    """``Recording`` in memory."""

    table: dict[str, Any]
    topics: dict[str, dict[int, list[Rec]]]
    databases: list[Store] = field(default_factory=list)

    def config(self) -> dict[str, Any]:
        return self.table

    def environment(self) -> Mapping[str, str]:
        return {}

    def partitions(self, topic: str) -> int:
        return len(self.topics[topic])

    def records(self, topic: str, partition: int) -> Iterable[Rec]:
        return self.topics[topic][partition]

    def stores(self, partition: int) -> Iterable[Store]:
        return [store for store in self.databases if store.partition == partition]


def clean_run(seed: int, records: int = 200, partitions: int = 2, clock: str = "wall") -> MemoryRecording:
    """What a gate makes of a generated session, with owners that die on the way."""
    config, session = strategies.generate(seed, records)
    return record_run(config | {"clock": clock}, session, Random(seed), partitions)


def record_run(
    config: dict[str, Any], session: Sequence[strategies.Record], rng: Random, partitions: int
) -> MemoryRecording:
    """What a gate makes of these records."""
    run = _Run(config, rng, partitions)
    asyncio.run(run.live(session))
    return run.recording


class _Run:
    def __init__(self, config: dict[str, Any], rng: Random, partitions: int) -> None:
        self._rng = rng
        self._partitions = partitions
        numbers = range(partitions)
        topics: dict[str, dict[int, list[Rec]]]
        topics = {topic: {number: [] for number in numbers} for topic in (*INPUTS, *OUTPUTS, STATE, JOURNAL)}
        topics[JOURNAL_UNCOMMITTED] = {number: [] for number in numbers}
        topics[POLICIES] = {0: []}
        self.recording = MemoryRecording(config, topics)
        self._ends: dict[tuple[str, int], int] = {}
        self._rules: Rules = rules_of(parse_config(config, {}))
        self._letters: list[PolicyDeadLetter] = []
        self._wall_ms = 0
        self._brokers = [Broker() for _ in numbers]
        self._disks = [MemoryStore(lambda value: decode_remembered(value).expires_ms) for _ in numbers]
        self._owners: list[Partition | None] = [None] * partitions

    async def live(self, session: Sequence[strategies.Record]) -> None:
        at = 0
        while at < len(session):
            # A policy ends a stretch: it is in force for what comes after it.
            stretch = session[at : at + self._rng.randrange(1, 12)]
            at += len(stretch)
            self._wall_ms = max(self._wall_ms, *(record.timestamp_ms for record in stretch))
            for record in stretch:
                self._publish(record)
            for number in self._rng.sample(range(self._partitions), self._partitions):
                await self._serve(number)
        # What is forwarded late is decided late.
        for _ in range(2):
            for number in range(self._partitions):
                await self._serve(number)
        self._store_databases()

    def _publish(self, record: strategies.Record) -> None:
        if record.topic == POLICIES:
            rec = self._append(POLICIES, 0, record.timestamp_ms, record.key, record.value)
            version = self._rules.version
            policy = Record(POLICIES, 0, rec.offset, rec.timestamp_ms, rec.key, rec.value)
            self._rules, letter = apply_policy(self._rules, policy)
            assert self._rules.version > version
            if letter is not None:
                self._letters.append(PolicyDeadLetter(rec.offset, letter))
            return
        key = record.key
        partition = self._rng.randrange(self._partitions)
        if key is not None and self._rng.random() > 0.06:
            partition = partition_of_key(key, self._partitions)
        self._append(record.topic, partition, record.timestamp_ms, key, record.value)

    def _append(
        self,
        topic: str,
        partition: int,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> Rec:
        offset = self._ends.get((topic, partition), 0)
        self._ends[topic, partition] = offset + 1
        rec = Rec(offset, timestamp_ms, key, value, tuple(headers))
        self.recording.topics[topic][partition].append(rec)
        return rec

    async def _serve(self, number: int) -> None:
        owner = self._owners[number] or await self._take_over(number)
        batch = self._batch(number, owner.offsets)
        letters = [one for one in self._letters if number == 0 and one.offset > owner.reported_policies]
        if not batch and not letters:
            return
        if self._rng.random() < 0.15:
            await self._die(number, batch, letters)
            owner = await self._take_over(number)
        broker = self._brokers[number]
        before, outputs_before = len(broker.changelog), len(broker.outputs)
        await owner.process(batch, self._rules, letters)
        self._commit(number, broker, before, outputs_before)

    async def _die(
        self, number: int, batch: Mapping[str, Sequence[Record]], letters: Sequence[PolicyDeadLetter]
    ) -> None:
        """An owner that has sent everything and does not commit."""
        broker = self._brokers[number]
        log = MemoryLog(broker, "commit")
        owner = await self._take_over(number, log)
        try:
            await owner.process(batch, self._rules, letters)
        except Crash:
            self._append(JOURNAL_UNCOMMITTED, number, self._wall_ms, None, log._journal)
            for topic in (JOURNAL_UNCOMMITTED, JOURNAL):
                self._ends[topic, number] = max(
                    self._ends.get((name, number), 0) for name in (JOURNAL_UNCOMMITTED, JOURNAL)
                )

    async def _take_over(self, number: int, log: MemoryLog | None = None) -> Partition:
        owner = Partition(
            number,
            log=log or MemoryLog(self._brokers[number]),
            store=self._disks[number],
            core=Core(fold_in_slices, decode_account, decode_remembered, TABLES),
            limits=Limits(10, 60_000, FORGET_SLACK_MS, 5),
            partitions=self._partitions,
            partition_of=lambda account_id: partition_of_key(account_id.encode(), self._partitions),
            wall_ms=lambda: self._wall_ms,
            metrics=Metrics(),
        )
        await owner.open()
        self._owners[number] = owner
        return owner

    def _batch(self, number: int, applied: Mapping[str, int]) -> dict[str, list[Record]]:
        batch = {}
        for topic in INPUTS:
            waiting = [rec for rec in self.recording.topics[topic][number] if rec.offset > applied.get(topic, -1)]
            if waiting:
                batch[topic] = [Record(topic, number, *rec) for rec in waiting]
        return batch

    def _commit(self, number: int, broker: Broker, before: int, outputs_before: int) -> None:
        """Put what was committed where consumers see it; a marker follows in every partition that was written to."""
        written = {(JOURNAL, number), (JOURNAL_UNCOMMITTED, number)}
        for offset, change in enumerate(broker.changelog):
            if offset >= before and change is not None:
                key = changelog_key(change.table, change.key)
                self.recording.topics[STATE][number].append(Rec(offset, self._wall_ms, key, change.value))
        for output in broker.outputs[outputs_before:]:
            written.add(self._output(number, output))
        journal = broker.journal[-1]
        for topic in (JOURNAL, JOURNAL_UNCOMMITTED):
            self._append(topic, number, self._wall_ms, None, journal)
        for place in written:
            self._ends[place] += 1

    def _output(self, number: int, output: Output) -> tuple[str, int]:
        partition = number if output.key is None else partition_of_key(output.key, self._partitions)
        timestamp_ms = self._wall_ms if output.timestamp_ms is None else output.timestamp_ms
        self._append(output.topic, partition, timestamp_ms, output.key, output.value, output.headers)
        return output.topic, partition

    def _store_databases(self) -> None:
        for number, disk in enumerate(self._disks):
            meta = json.dumps([1, "cluster", "tidegate", "tidegate-state", number, disk.checkpoint]).encode()
            entries = [Entry(b"\x00meta", meta)]
            for (table, key), value in disk.records().items():
                entries.append(Entry(changelog_key(table, key), value))
                if table == "decisions":
                    expires_ms = decode_remembered(value).expires_ms
                    entries.append(Entry(b"\x01" + max(0, expires_ms).to_bytes(8, "big") + key, b""))
            self.recording.databases.append(Store("only", number, tuple(sorted(entries))))
