"""What the gate knows, read from its topics: the state changelog and the policies. No worker is asked.

:class:`Snapshot` folds the records; :class:`SnapshotReader` brings them, up to the topics' end and on from there.
"""

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from aiokafka.structs import ConsumerRecord, TopicPartition

from schemas.types import read_time
from streams.core.decode import parse_object
from streams.core.records import POLICIES, Record, text_of
from streams.core.rules import HALTED, Rules, apply_policy
from streams.core.state import OFFSETS_KEY, PARTITION, TABLES, Account, decode_account, decode_offsets
from streams.ops import broker
from streams.ops.exits import CommandError, ExitStatus
from streams.runtime.settings import Settings
from streams.runtime.store import change_of
from streams.runtime.topics import STATE, TopicNames

_POLL_MS = 200
_OTHER_RELEASE = "use the release of Tidegate that the workers run"


class PolicyLine(NamedTuple):
    """One record of ``policies``, as it was written.

    ``fault``: why it cannot be used; ``halts``: its scope is HALTED by that. ``expires_at_ms``: when the rule ends by
    itself; ``then``: the rule after it. ``reverts``: the version whose end this record is; ``outdated``: another rule
    had come by then, so that it did nothing.
    """

    name: str | None
    rule: Any
    operator: str | None
    reason: str | None
    issued_at: str | None
    version: int
    timestamp_ms: int
    fault: str | None = None
    approved_by: str | None = None
    expires_at_ms: int | None = None
    then: Any = None
    reverts: int | None = None
    outdated: bool = False
    halts: bool = False


class Snapshot:
    """State records and policies, folded as they come."""

    def __init__(self, rules: Rules) -> None:
        """``rules``: the configuration's, before any policy."""
        self.rules = rules
        self.history: list[PolicyLine] = []
        self.unusable: dict[str | None, PolicyLine] = {}
        self._stands: dict[str, PolicyLine] = {}
        self._records: dict[str, dict[str, bytes]] = {}
        self._accounts: dict[str, Account] = {}

    def take_state(self, key: bytes | None, value: bytes | None) -> None:
        """One record of the changelog; the last one of a key stands."""
        table, account, value = change_of(key or b"", value)
        if table not in TABLES:
            return
        account_id = account.decode()
        self._accounts.pop(account_id, None)
        tables = self._records.setdefault(account_id, {})
        if value is None:
            tables.pop(table, None)
        else:
            tables[table] = value

    def take_policy(self, record: Record) -> None:
        """One record of ``policies``, in offset order."""
        self.rules, letter = apply_policy(self.rules, record)
        line = _line(record, None if letter is None else str((parse_object(letter.value)[0] or {}).get("detail")))
        decides = line.name is not None and self.rules.versions.get(line.name) == line.version
        if line.fault is not None:
            self.unusable[line.name] = line
            if decides:
                # A state that cannot be read is HALTED; any other rule leaves the old one standing.
                line = line._replace(halts=True)
                self._stands[line.name or ""] = line._replace(rule={"state": HALTED})
        elif decides:
            self.unusable.pop(line.name, None)
            self._stands[line.name or ""] = line
        else:
            line = line._replace(outdated=True)
        self.history.append(line)

    @property
    def policies(self) -> dict[str, PolicyLine]:
        """The rules in force, by name."""
        return {name: line for name, line in self._stands.items() if line.rule is not None}

    def stands(self, name: str) -> PolicyLine | None:
        """The record that decides about a name now; its rule is null where it removed one."""
        return self._stands.get(name)

    @property
    def account_ids(self) -> list[str]:
        """Accounts with state, and those that are configured."""
        known = {account_id for account_id, tables in self._records.items() if tables}
        return sorted(known | set(self.rules.accounts))

    def account(self, account_id: str) -> Account | None:
        """An account's state; None if there is none yet. Raises CommandError for state of a newer program."""
        tables = self._records.get(account_id)
        if not tables:
            return None
        if account_id not in self._accounts:
            try:
                self._accounts[account_id] = decode_account(tables)
            except ValueError as error:
                raise CommandError(f"{account_id}: {error}", ExitStatus.REFUSED, _OTHER_RELEASE) from None
        return self._accounts[account_id]


def _line(record: Record, fault: str | None) -> PolicyLine:
    raw, _ = parse_object(record.value)
    body: Mapping[str, Any] = raw or {}
    then = body.get("then")
    # A rule of which nobody could say what follows it does not end by itself.
    ends = then is None or isinstance(then, dict)
    return PolicyLine(
        name=_text(body.get("name")) or text_of(record.key),
        rule=body.get("rule"),
        operator=_text(body.get("operator")),
        reason=_text(body.get("reason")),
        issued_at=_text(body.get("issued_at")),
        version=record.offset + 1,
        timestamp_ms=record.timestamp_ms,
        fault=fault,
        approved_by=_text(body.get("approved_by")),
        expires_at_ms=_time(body.get("expires_at")) if ends else None,
        then=then if ends else None,
        reverts=reverts if type(reverts := body.get("reverts")) is int else None,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _time(value: object) -> int | None:
    try:
        return read_time(value)
    except ValueError:
        return None


class SnapshotReader:
    """Reads the topics of one gate into a snapshot; ``applied``: by partition, the last offset of each input in it."""

    def __init__(self, settings: Settings, rules: Rules, *, with_state: bool) -> None:
        self.snapshot = Snapshot(rules)
        self.applied: dict[int, Mapping[str, int]] = {}
        self._settings = settings
        self._with_state = with_state
        self._policies = TopicNames.of(settings).physical(POLICIES)

    async def read(self, consumer: Any) -> None:
        """Everything up to the present end. Raises TopicsError, KafkaError, TimeoutError."""
        layout = await broker.layout_of(self._settings)
        places = [TopicPartition(self._policies, 0)]
        if self._with_state:
            places += layout.places(TopicNames.of(self._settings), STATE)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        await broker.read_to(consumer, await broker.ends_of(consumer, places), self._take)

    async def follow(self, consumer: Any, seconds: float) -> bool:
        """Take what comes within ``seconds``, then return; whether anything came."""
        until = time.monotonic() + seconds
        came = False
        while (left := until - time.monotonic()) > 0:
            for records in (await consumer.getmany(timeout_ms=min(_POLL_MS, int(left * 1000) + 1))).values():
                came = True
                for record in records:
                    self._take(record)
        return came

    def _take(self, record: ConsumerRecord) -> None:
        if record.topic == self._policies:
            self.snapshot.take_policy(
                Record(POLICIES, record.partition, record.offset, record.timestamp, record.key, record.value)
            )
            return
        self.snapshot.take_state(record.key, record.value)
        table, key, value = change_of(record.key or b"", record.value)
        if (table, key) == (PARTITION, OFFSETS_KEY) and value is not None:
            try:
                self.applied[record.partition] = decode_offsets(value)
            except ValueError as error:
                raise CommandError(str(error), ExitStatus.REFUSED, _OTHER_RELEASE) from None
