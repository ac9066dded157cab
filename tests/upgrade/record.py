"""Keeps what a release has written, for its successors to read: ``python -m tests.upgrade.record DIRECTORY``.

A session of the tests' own is decided by one partition: the first part of it becomes the state that is restored, the
rest shows what that release decided on it. Kept are configuration, inputs with the batches that they came in, policies,
changelog, journal, outputs, and the RocksDB directory as it was closed at the cut. Run it once for a release that
changes how anything of that is written, and commit the directory; never again for the same release.
"""

import asyncio
import json
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from streams.config import parse_config
from streams.core.fold import fold_in_slices
from streams.core.records import INPUTS, POLICIES, Output, Record
from streams.core.rules import Rules, apply_policy, rules_of
from streams.core.state import TABLES, Change, decode_account, decode_remembered
from streams.runtime.log import Log
from streams.runtime.metrics import Metrics
from streams.runtime.partition import Core, Limits, Partition
from streams.runtime.policies import PolicyDeadLetter
from streams.runtime.store import Identity, MemoryStore, RocksEnvironment, RocksStore, Store, changelog_key
from tests.fuzz.cases import bytes_of, text_of
from tests.model.strategies import generate
from tests.unit.memory_log import Broker, MemoryLog

SEED, HISTORY, NEXT, BATCH = 86, 120, 60, 4
IDENTITY = Identity("recorded-cluster", "tidegate", "tidegate-state", 0)


class Turn(NamedTuple):
    """One transaction's input, or one policy."""

    records: tuple[Record, ...]

    @property
    def policy(self) -> Record | None:
        return self.records[0] if self.records[0].topic == POLICIES else None


def expires(value: bytes) -> int:
    """When a remembered id may be forgotten."""
    return decode_remembered(value).expires_ms


class Life:
    """One partition that takes turns, on any log and store; ``rules``: the configuration's, before any policy."""

    def __init__(self, log: Log, store: Store, rules: Rules) -> None:
        self.rules = rules
        self._unusable: list[PolicyDeadLetter] = []
        self._wall_ms = 0
        self.partition = Partition(
            0,
            log=log,
            store=store,
            core=Core(fold_in_slices, decode_account, decode_remembered, TABLES),
            limits=Limits(1, 60_000, 3_600_000, 100),  # one live account: all others come out of their records
            partitions=1,
            partition_of=lambda _account: 0,
            wall_ms=lambda: self._wall_ms,
            metrics=Metrics(),
        )

    def obey(self, policy: Record) -> None:
        """Put a policy in force, or note that it cannot be used."""
        self.rules, letter = apply_policy(self.rules, policy)
        if letter is not None:
            self._unusable.append(PolicyDeadLetter(policy.offset, letter))

    async def take(self, turn: Turn) -> None:
        """One turn."""
        policy = turn.policy
        if policy is not None:
            self.obey(policy)
            return
        by_topic = {topic: [one for one in turn.records if one.topic == topic] for topic in INPUTS}
        self._wall_ms = turn.records[-1].timestamp_ms
        unreported = [one for one in self._unusable if one.offset > self.partition.reported_policies]
        await self.partition.process({topic: part for topic, part in by_topic.items() if part}, self.rules, unreported)


def turns_of(seed: int, count: int) -> tuple[dict[str, Any], list[Turn]]:
    """A session, cut into turns."""
    config, session = generate(seed, count)
    turns: list[Turn] = []
    waiting: list[Record] = []
    for one in session:
        record = Record(one.topic, 0, one.offset, one.timestamp_ms, one.key, one.value)
        if one.topic == POLICIES or len(waiting) == BATCH:
            turns += [Turn(tuple(waiting))] if waiting else []
            waiting = []
        if one.topic == POLICIES:
            turns.append(Turn((record,)))
        else:
            waiting.append(record)
    return config, turns + ([Turn(tuple(waiting))] if waiting else [])


async def record(directory: Path) -> None:
    """Write everything into a new directory."""
    config, turns = turns_of(SEED, HISTORY + NEXT)
    cut = next(n for n in range(len(turns)) if sum(len(one.records) for one in turns[:n]) >= HISTORY)
    broker, rules = Broker(), rules_of(parse_config(config, {}))
    outputs: list[list[Output]] = []

    async def take(life: Life, turn: Turn) -> None:
        before = len(broker.outputs)
        await life.take(turn)
        outputs.append(broker.outputs[before:])

    with tempfile.TemporaryDirectory() as scratch:
        store = RocksStore(Path(scratch) / "0", IDENTITY, RocksEnvironment(8 << 20), expires)
        life = Life(MemoryLog(broker), store, rules)
        await life.partition.open()
        for one in turns[:cut]:
            await take(life, one)
        await life.partition.close()
        with tarfile.open(directory / "store.tar.gz", "w:gz") as archive:
            for path in sorted((Path(scratch) / "0").iterdir()):
                if not path.name.startswith("LOG"):  # tells paths and machines, and holds no state
                    archive.add(path, f"0/{path.name}", filter=_anonymous)
    position = len(broker.changelog)
    heir = Life(MemoryLog(broker), MemoryStore(expires), life.rules)
    await heir.partition.open()
    for one in turns[cut:]:
        await take(heir, one)
    _write(directory / "config.json", [{"config": config, "cut": cut, "position": position}])
    _write(directory / "turns.jsonl", [[_record(one) for one in turn.records] for turn in turns])
    _write(directory / "changelog.jsonl", [_change(one) for one in broker.changelog[:position]])
    _write(directory / "journal.jsonl", [text_of(one) for one in broker.journal])
    _write(directory / "outputs.jsonl", [[_output(one) for one in part] for part in outputs])


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def _write(path: Path, lines: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in lines), encoding="utf-8")


def _record(one: Record) -> list[Any]:
    return [one.topic, one.offset, one.timestamp_ms, text_of(one.key), text_of(one.value)]


def _change(one: Change | None) -> list[Any] | None:
    return None if one is None else [text_of(changelog_key(one.table, one.key)), text_of(one.value)]


def _output(one: Output) -> list[Any]:
    return [one.topic, text_of(one.key), text_of(one.value)]


class Dump(NamedTuple):
    """What a release has written, read again.

    ``cut``: the first turn after the state that is restored; ``changelog``: up to there, None for a transaction marker.
    """

    config: dict[str, Any]
    cut: int
    turns: list[Turn]
    changelog: list[tuple[bytes, bytes | None] | None]
    journal: list[bytes]
    outputs: list[list[tuple[str, bytes | None, bytes | None]]]
    store: Path


def read(directory: Path) -> Dump:
    """A recorded release."""

    def lines(name: str) -> list[Any]:
        return [json.loads(line) for line in (directory / name).read_text(encoding="utf-8").split("\n") if line]

    head = lines("config.json")[0]
    turns = [
        Turn(tuple(Record(one[0], 0, one[1], one[2], bytes_of(one[3]), bytes_of(one[4])) for one in turn))
        for turn in lines("turns.jsonl")
    ]
    changelog = [
        None if one is None else (bytes_of(one[0]) or b"", bytes_of(one[1])) for one in lines("changelog.jsonl")
    ]
    outputs = [[(one[0], bytes_of(one[1]), bytes_of(one[2])) for one in part] for part in lines("outputs.jsonl")]
    journal = [bytes_of(one) or b"" for one in lines("journal.jsonl")]
    return Dump(head["config"], head["cut"], turns, changelog, journal, outputs, directory / "store.tar.gz")


if __name__ == "__main__":
    Path(sys.argv[1]).mkdir(parents=True)
    asyncio.run(record(Path(sys.argv[1])))
