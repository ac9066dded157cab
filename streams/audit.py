"""Decisions made again from what they were made of: inputs, journal, policies and configuration. Pure.

The journal says, transaction by transaction, which records of which input made one batch, its ``now`` and the policy
version in force. Folded once more in that order, from the first transaction of a partition on, they must give every
decision byte for byte (contract, section 1, *basis and the journal*). Anything that is missing on the way (input that
retention deleted, a journal that does not begin at the beginning, a policy that is not there) raises
:class:`AuditError`: a state that was rebuilt from a part would prove nothing.

:class:`Audit` takes the records as they come, so a reader of Kafka needs to hold no more than one transaction's worth;
:func:`replayed` does the same for records that are in memory already.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import takewhile
from typing import NamedTuple

import orjson

from schemas.types import read_time
from streams.core.fold import Batch, Commit, fold, merge
from streams.core.outputs import SCHEMA_VERSION
from streams.core.records import INPUTS, Record
from streams.core.rules import Rules, apply_policy
from streams.core.state import DECISIONS, Account, Remembered, decode_remembered


class AuditError(Exception):
    """Why a decision cannot be made again, in a sentence."""


class Transaction(NamedTuple):
    """One journal record. ``ranges``: first and last offset by input topic, those without records left out."""

    partition: int
    ranges: Mapping[str, tuple[int, int]]
    now_ms: int
    policy_version: int

    def holds(self, topic: str, offset: int) -> bool:
        """Whether it applied the record at ``offset``."""
        first, last = self.ranges.get(topic, (0, -1))
        return first <= offset <= last


def read_transaction(value: bytes) -> Transaction:
    """A record of the journal. Raises AuditError for one that this release cannot read."""
    try:
        body = orjson.loads(value)
        if body["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema_version {body['schema_version']!r} is not {SCHEMA_VERSION}")
        ranges = {topic: (int(first), int(last)) for topic, (first, last) in body["offsets"].items()}
        return Transaction(int(body["partition"]), ranges, read_time(body["now"]), int(body["policy_version"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AuditError(f"a journal record cannot be read ({error}): {value[:80]!r}") from None


class RulesByVersion:
    """The rules as of any policy version: configuration with the policies up to there."""

    def __init__(self, configured: Rules, policies: Iterable[Record]) -> None:
        self._rules = {configured.version: configured}
        rules = configured
        for record in policies:
            rules, _ = apply_policy(rules, record)
            self._rules[rules.version] = rules

    def __call__(self, version: int) -> Rules:
        """Raises AuditError where the policy that made the version is not there."""
        rules = self._rules.get(version)
        if rules is None:
            raise AuditError(f"policy version {version} is not on the policies topic: it was recreated, or cut off")
        return rules


class Memory:
    """A partition's state in memory, as its commits leave it."""

    def __init__(self) -> None:
        self.offsets: Mapping[str, int] = {}
        self._accounts: dict[str, Account] = {}
        self._remembered: dict[bytes, Remembered] = {}

    def account(self, account_id: str) -> Account | None:
        return self._accounts.get(account_id)

    def remembered(self, key: bytes) -> Remembered | None:
        return self._remembered.get(key)

    def apply(self, commit: Commit) -> None:
        """Take over what one transaction made durable."""
        self.offsets = commit.offsets
        self._accounts.update(commit.accounts)
        for change in commit.changes:
            if change.table == DECISIONS and change.value is not None:
                self._remembered[change.key] = decode_remembered(change.value)


class Seen(NamedTuple):
    """One record at its turn in a transaction: what it met."""

    record: Record
    account: Account | None
    rules: Rules
    now_ms: int


class Audit:
    """One partition, transaction by transaction, from the first on."""

    def __init__(self, partition: int, rules_of: Callable[[int], Rules], partition_of: Callable[[str], int]) -> None:
        """``rules_of``: by policy version; ``partition_of``: the partition of an account, as the workers have it."""
        self.memory = Memory()
        self._partition = partition
        self._rules_of = rules_of
        self._partition_of = partition_of
        self._waiting: Mapping[str, deque[Record]] = {topic: deque() for topic in INPUTS}
        self._taken = dict.fromkeys(INPUTS, -1)

    def take(self, record: Record) -> None:
        """One committed record of an input of this partition, in offset order."""
        self._waiting[record.topic].append(record)
        self._taken[record.topic] = record.offset

    def lacks(self, transaction: Transaction) -> tuple[str, ...]:
        """The inputs whose records for the transaction have not all been taken yet."""
        return tuple(topic for topic, (_, last) in transaction.ranges.items() if self._taken[topic] < last)

    def apply(self, transaction: Transaction) -> Commit:
        """Fold the next transaction again. Raises AuditError where its records are not there, whole."""
        commit = self._fold(transaction, self._records(transaction))
        for topic, (_, last) in transaction.ranges.items():
            waiting = self._waiting[topic]
            while waiting and waiting[0].offset <= last:
                waiting.popleft()
        self.memory.apply(commit)
        return commit

    def seen_by(self, transaction: Transaction, topic: str, offset: int, account_id: str) -> Seen:
        """What one record of the *next* transaction meets: the account after all records that go before it.

        Changes nothing. Raises AuditError where the record or those before it are not there.
        """
        before: dict[str, list[Record]] = {}
        for record in merge(self._records(transaction)):
            if (record.topic, record.offset) == (topic, offset):
                commit = self._fold(transaction, before)
                account = commit.accounts.get(account_id) or self.memory.account(account_id)
                return Seen(record, account, self._rules_of(transaction.policy_version), transaction.now_ms)
            before.setdefault(record.topic, []).append(record)
        raise AuditError(f"{topic} {self._partition}@{offset} is not among the records of its transaction")

    def _fold(self, transaction: Transaction, records: Mapping[str, Sequence[Record]]) -> Commit:
        batch = Batch(self._partition, records, transaction.now_ms)
        return fold(batch, self.memory, self._rules_of(transaction.policy_version), self._partition_of)

    def _records(self, transaction: Transaction) -> Mapping[str, Sequence[Record]]:
        records = {}
        for topic, (first, last) in transaction.ranges.items():
            part = list(takewhile(partial(_is_up_to, last), self._waiting[topic]))
            if not part or part[-1].offset != last or part[0].offset > first:
                raise AuditError(
                    f"{topic} {self._partition}@{first} to {last} made a transaction and is not there any more: the "
                    "inputs are no longer retained"
                )
            if part[0].offset < first:
                raise AuditError(
                    f"{topic} {self._partition}@{part[0].offset} was applied by no transaction of the journal: the "
                    "journal is no longer retained from its beginning"
                )
            records[topic] = part
        return records


def _is_up_to(last: int, record: Record) -> bool:
    return record.offset <= last


class Replayed(NamedTuple):
    """One transaction and what it makes when it is folded again."""

    transaction: Transaction
    commit: Commit


def replayed(
    partition: int,
    inputs: Iterable[Record],
    journal: Iterable[bytes],
    policies: Iterable[Record],
    configured: Rules,
    partition_of: Callable[[str], int],
) -> Iterator[Replayed]:
    """Every transaction of one partition again, in order. ``inputs``: each topic in offset order.

    Raises AuditError as :class:`Audit` does.
    """
    audit = Audit(partition, RulesByVersion(configured, policies), partition_of)
    for record in inputs:
        audit.take(record)
    for value in journal:
        transaction = read_transaction(value)
        yield Replayed(transaction, audit.apply(transaction))
