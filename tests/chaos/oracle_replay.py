"""One partition once more: the journal says which records made which transaction, the naive model says what follows.

The journal itself is judged here: its ranges must take up every record of every input once and in order, and its
``now`` must be the time at which it was written. Where they do not, the rest of the partition is not replayed, because
nothing that follows could be told from its consequences.

What is not in the contract and had to be known of the gate: a record whose account belongs to another partition is
forwarded there (its key the account; value, headers and timestamp as they were, an absent value empty; and a header
that names its origin); one that was forwarded already and is still wrong, or is larger than ``FORWARD_BYTES_MAX``,
becomes a dead letter. The account of a ``fills`` or ``pnl`` record that cannot be read is that of its key, for this
too.
"""

import hashlib
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import orjson
from aiokafka.partitioner import murmur2

from tests.chaos.oracle_findings import CONTRADICTED, DUPLICATED, LOST, Findings
from tests.chaos.recording import INPUTS, JOURNAL, POLICIES, Rec, Recording
from tests.model.naive import Json, NaiveGate, Unreadable, dead_letter, read_id, read_json_object, read_time, take

FORWARDED = "tidegate-forwarded-from"
FORWARD_BYTES_MAX = 1_048_576
CLOCK_SLACK_MS = 1_000
"""By how much the clocks of a worker's record and of its journal may differ."""
BATCH_DEADLINE_MS = 150_000
"""No transaction lasts longer: its worker ends itself before."""


class Transaction(NamedTuple):
    """One journal record that can be read, and the records that it names."""

    where: str
    now_ms: int
    policy_version: int
    records: Mapping[str, list[Rec]]


class Made(NamedTuple):
    """One record to be published, and in which partition of its topic."""

    output: Json
    partition: int


class Forward(NamedTuple):
    """A record on its way to the partition of its account: where it came from, where it belongs, and what it is."""

    origin: str
    topic: str
    partition: int
    digest: str


@lru_cache(maxsize=65_536)
def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Kafka's default partitioner gives to a key."""
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def forward_of(origin: str, topic: str, partition: int, rec: Rec) -> Forward:
    """What identifies a forwarded record."""
    parts = (rec.key, rec.value, rec.timestamp_ms, [(name, bytes(value)) for name, value in rec.headers])
    return Forward(origin, topic, partition, hashlib.sha256(repr(parts).encode()).hexdigest())


def arrivals(recording: Recording, partition: int) -> Iterator[Forward]:
    """The records of a partition that say they were forwarded."""
    for topic in INPUTS:
        for rec in recording.records(topic, partition):
            origins = [value for name, value in rec.headers if name == FORWARDED]
            if origins:
                yield forward_of(origins[0].decode("utf-8", "replace"), topic, partition, rec)


@dataclass
class Journal:
    """The journal of a partition beside its inputs."""

    recording: Recording
    partition: int
    findings: Findings
    complete: bool = True
    """Whether it could be followed to the end of all inputs."""

    def transactions(self) -> Iterator[Transaction]:
        """In order, up to the first that does not follow from those before it."""
        waiting = {topic: deque(self.recording.records(topic, self.partition)) for topic in INPUTS}
        applied = dict.fromkeys(INPUTS, -1)
        version = 0
        for rec in self.recording.records(JOURNAL, self.partition):
            where = f"{JOURNAL}-{self.partition}@{rec.offset}"
            try:
                now_ms, policy_version, ranges = self._read(rec, where)
            except (ValueError, KeyError, TypeError, AttributeError, Unreadable) as error:
                self.findings.add(CONTRADICTED, where, f"cannot be read ({error}): {rec.value!r}")
                self.complete = False
                return
            if ranges and all(last <= applied[topic] for topic, (_, last) in ranges.items()):
                count = sum(last - first + 1 for first, last in ranges.values())
                self.findings.add(DUPLICATED, where, f"{dict(ranges)} was applied before", count)
                continue
            if policy_version < version:
                self.findings.add(CONTRADICTED, where, f"policy_version {policy_version} after {version}")
            version = max(version, policy_version)
            records = self._take(waiting, applied, ranges, where)
            if records is None:
                self.complete = False
                return
            yield Transaction(where, now_ms, policy_version, records)
        for topic, rest in waiting.items():
            if rest:
                where = f"{topic}-{self.partition}@{rest[0].offset}"
                self.findings.add(LOST, where, "and what follows was applied by no transaction", len(rest))
                self.complete = False

    def _read(self, rec: Rec, where: str) -> tuple[int, int, dict[str, tuple[int, int]]]:
        body = orjson.loads(rec.value or b"")
        if body.keys() != {"partition", "offsets", "now", "policy_version", "schema_version"}:
            raise ValueError(f"its fields are {sorted(body)}")
        if body["partition"] != self.partition or body["schema_version"] != 1:
            self.findings.add(CONTRADICTED, where, f"is of partition {body['partition']}: {body}")
        now_ms = read_time(body["now"])
        if not -CLOCK_SLACK_MS <= rec.timestamp_ms - now_ms <= BATCH_DEADLINE_MS:
            self.findings.add(CONTRADICTED, where, f"now is {body['now']}, written at {rec.timestamp_ms} ms")
        ranges = {str(topic): (int(first), int(last)) for topic, (first, last) in body["offsets"].items()}
        if not ranges.keys() <= set(INPUTS) or any(first > last for first, last in ranges.values()):
            raise ValueError(f"its offsets are {ranges}")
        return now_ms, int(body["policy_version"]), ranges

    def _take(
        self,
        waiting: Mapping[str, deque[Rec]],
        applied: dict[str, int],
        ranges: Mapping[str, tuple[int, int]],
        where: str,
    ) -> dict[str, list[Rec]] | None:
        """The records of a transaction, off the queues; None where they are not the next ones.

        Offsets without a record (transaction markers, what was aborted) lie between records, never at a range's ends.
        """
        taken: dict[str, list[Rec]] = {}
        sound = True
        for topic, (first, last) in ranges.items():
            queue = waiting[topic]
            skipped = [rec.offset for rec in queue if rec.offset < first]
            if skipped:
                self.findings.add(LOST, where, f"{topic} {skipped[:5]}… was applied by no transaction", len(skipped))
            if first <= applied[topic]:
                count = min(last, applied[topic]) - first + 1
                self.findings.add(DUPLICATED, where, f"{topic} {first} was applied before", count)
            part = []
            while queue and queue[0].offset <= last:
                part.append(queue.popleft())
            if (
                not skipped
                and first > applied[topic]
                and (not part or (part[0].offset, part[-1].offset) != (first, last))
            ):
                self.findings.add(CONTRADICTED, where, f"{topic} {first} to {last}: there are no such records")
                sound = False
            sound = sound and not skipped and first > applied[topic]
            applied[topic] = last
            taken[topic] = part
        return taken if sound else None


class Replay:
    """The naive model of one partition, transaction by transaction."""

    def __init__(self, recording: Recording, partition: int, findings: Findings) -> None:
        config = recording.config()
        if config.get("fanout"):
            raise ValueError("the naive model does not know [fanout]: a run with it cannot be judged")
        environment = recording.environment()
        self.gate = NaiveGate(config, environment)
        self.partition = partition
        self.forwards: list[Forward] = []
        self.offsets: dict[str, int] = {}
        self.unusable_policies: set[int] = set()
        self.touched: set[str] = set()
        """Accounts that a record of the last transaction named."""
        self._wall = environment.get("TIDEGATE_CLOCK", config.get("clock", "wall")) == "wall"
        self._routes: Json = config.get("strategies", {}).get("routes", {})
        self._partitions = recording.partitions("signals")
        self._policies = list(recording.records(POLICIES, 0))
        self._next_policy = 0
        self._findings = findings
        self._published = _partition_counts(recording)

    def apply(self, transaction: Transaction) -> Iterator[Made]:
        """What the transaction has to publish, in order."""
        self._rule(transaction)
        self.touched = set()
        for topic, rec in merged(transaction.records):
            self.offsets[topic] = rec.offset
            account_id = self.account_of(topic, rec)
            if account_id is not None and partition_of(account_id.encode(), self._partitions) != self.partition:
                outputs = self._forward(topic, rec, account_id)
            else:
                outputs = self._step(topic, rec, account_id, transaction.now_ms)
            for output in outputs:
                yield self._made(output, rec)

    def _rule(self, transaction: Transaction) -> None:
        """Bring the policies to the version that the transaction names."""
        while self._next_policy < len(self._policies):
            policy = self._policies[self._next_policy]
            if policy.offset >= transaction.policy_version:
                break
            self._next_policy += 1
            if self.gate.feed(
                POLICIES, policy.value, key=policy.key, timestamp_ms=policy.timestamp_ms, offset=policy.offset
            ):
                self.unusable_policies.add(policy.offset)
        if self.gate.policy_version != transaction.policy_version:
            text = f"policy_version {transaction.policy_version} is not on the topic, {self.gate.policy_version} is"
            self._findings.add(CONTRADICTED, transaction.where, text)

    def account_of(self, topic: str, rec: Rec) -> str | None:
        """The account that decides where the record belongs; None: it stays where it is."""
        try:
            record = read_json_object(rec.value)
        except Unreadable:
            record = {}
        account_id = take(record, "account_id", read_id)
        if topic == "signals" and account_id is None:
            strategy_id = take(record, "strategy_id", read_id)
            account_id = self._routes.get(strategy_id, {}).get("account") if isinstance(strategy_id, str) else None
        if topic in ("fills", "pnl") and not isinstance(account_id, str) and rec.key is not None:
            named = rec.key.decode("utf-8", "replace")
            account_id = named if named in self.gate.accounts else None
        return account_id if isinstance(account_id, str) else None

    def _step(self, topic: str, rec: Rec, account_id: str | None, now_ms: int) -> list[Json]:
        for name in (account_id, None if rec.key is None else rec.key.decode("utf-8", "replace")):
            if name in self.gate.accounts:
                self.touched.add(name)
        return self.gate.feed(
            topic,
            rec.value,
            key=rec.key,
            timestamp_ms=rec.timestamp_ms,
            partition=self.partition,
            offset=rec.offset,
            now_ms=now_ms if self._wall else None,
        )

    def _forward(self, topic: str, rec: Rec, account_id: str) -> list[Json]:
        """Expect the record on its own partition; the model never sees it here."""
        self.gate.offsets.setdefault(self.partition, {})[topic] = rec.offset
        reason = None
        if any(name == FORWARDED for name, _ in rec.headers):
            reason = "UNKNOWN_ACCOUNT"
        elif len(rec.value or b"") > FORWARD_BYTES_MAX:
            reason = "MALFORMED"
        if reason is not None:
            place = (topic, self.partition, rec.offset, rec.timestamp_ms, rec.key)
            value = dead_letter(reason, "", *place, account_id, None, rec.value)
            return [{"topic": "dead-letters", "key": rec.key, "value": value}]
        origin = f"{topic}/{self.partition}/{rec.offset}"
        sent = rec._replace(
            key=account_id.encode(), value=rec.value or b"", headers=(*rec.headers, (FORWARDED, origin.encode()))
        )
        target = partition_of(account_id.encode(), self._partitions)
        self.forwards.append(forward_of(origin, topic, target, sent))
        return []

    def _made(self, output: Json, rec: Rec) -> Made:
        topic = output["topic"]
        # A dead letter keeps the key of its record, which need not be text.
        key = rec.key if topic == "dead-letters" else str(output["key"]).encode()
        partition = self.partition if key is None else partition_of(key, self._published[topic])
        return Made(output | {"key": key}, partition)


def _partition_counts(recording: Recording) -> Mapping[str, int]:
    names = ("approved-orders", "rejected-signals", "account-locked", "account-events", "dead-letters")
    return {topic: recording.partitions(topic) for topic in names}


def merged(records: Mapping[str, list[Rec]]) -> Iterator[tuple[str, Rec]]:
    """By timestamp, each topic in its own order; ties go to controls, fills, pnl, signals."""
    queues = {topic: deque(records.get(topic, ())) for topic in INPUTS}
    while True:
        heads = [(queue[0].timestamp_ms, INPUTS.index(topic), topic) for topic, queue in queues.items() if queue]
        if not heads:
            return
        topic = min(heads)[2]
        yield topic, queues[topic].popleft()
