"""A dump on disk, and how it is read and written. Nothing of the gate in here: the oracle reads it.

A dump is a directory:

- ``manifest.json``: the partitions of each topic, by logical name;
- ``tidegate.toml`` and ``environment.json``: what the workers were configured with (no secrets: accounts and limits);
- ``topics/TOPIC-PARTITION.gz``: the records that a ``read_committed`` consumer sees, to the end; of the journal also
  ``journal-uncommitted``, which holds the transactions that were aborted as well;
- ``stores/WORKER-PARTITION.gz``: keys and values of one RocksDB database, as they are.

Each file holds frames, gzipped: a length of four bytes, then one msgpack array. Nothing is held in memory but one
frame, so a dump may be as large as the disk.
"""

import gzip
import json
import struct
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple, Protocol, Self

import msgspec

INPUTS = ("controls", "fills", "pnl", "signals")
OUTPUTS = ("approved-orders", "rejected-signals", "account-locked", "account-events", "dead-letters")
POLICIES, STATE, JOURNAL, JOURNAL_UNCOMMITTED = "policies", "state", "journal", "journal-uncommitted"
TOPICS = (*INPUTS, POLICIES, *OUTPUTS, STATE, JOURNAL, JOURNAL_UNCOMMITTED)

_LENGTH = struct.Struct(">I")
_encode = msgspec.msgpack.Encoder().encode


class Rec(NamedTuple):
    """One record of a topic."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...] = ()


class Entry(NamedTuple):
    """One key of a RocksDB database."""

    key: bytes
    value: bytes


_read_rec = msgspec.msgpack.Decoder(Rec).decode
_read_entry = msgspec.msgpack.Decoder(Entry).decode


class Store(NamedTuple):
    """One database of one worker."""

    worker: str
    partition: int
    entries: tuple[Entry, ...]


class Recording(Protocol):
    """What a run left behind."""

    def config(self) -> dict[str, Any]:
        """``tidegate.toml`` as it was."""

    def environment(self) -> Mapping[str, str]:
        """The variables that configured accounts and limits."""

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""

    def records(self, topic: str, partition: int) -> Iterable[Rec]:
        """A partition's committed records by offset."""

    def stores(self, partition: int) -> Iterable[Store]:
        """The databases of a partition, one worker after the other."""


class Directory(NamedTuple):
    """``Recording`` on disk."""

    path: Path

    def config(self) -> dict[str, Any]:
        return tomllib.loads((self.path / "tidegate.toml").read_text(encoding="utf-8"), parse_float=Decimal)

    def environment(self) -> Mapping[str, str]:
        variables: dict[str, str] = json.loads((self.path / "environment.json").read_text(encoding="utf-8"))
        return variables

    def partitions(self, topic: str) -> int:
        manifest: dict[str, int] = json.loads((self.path / "manifest.json").read_text(encoding="utf-8"))
        return manifest[topic]

    def records(self, topic: str, partition: int) -> Iterator[Rec]:
        return map(_read_rec, read_frames(topic_path(self.path, topic, partition)))

    def stores(self, partition: int) -> Iterator[Store]:
        for file in sorted((self.path / "stores").glob(f"*-{partition}.gz")):
            worker = file.name.rpartition("-")[0]
            yield Store(worker, partition, tuple(map(_read_entry, read_frames(file))))


def write_recording(
    directory: Path,
    *,
    config: str,
    environment: Mapping[str, str],
    topics: Mapping[str, Mapping[int, Iterable[Rec]]],
    stores: Iterable[Store] = (),
) -> None:
    """Write a dump of records that are in memory already."""
    write_configuration(directory, config, environment, {topic: len(parts) for topic, parts in topics.items()})
    for topic, parts in topics.items():
        for partition, records in parts.items():
            write_frames(topic_path(directory, topic, partition), records)
    for store in stores:
        write_frames(store_path(directory, store.worker, store.partition), store.entries)


def write_configuration(
    directory: Path, config: str, environment: Mapping[str, str], counts: Mapping[str, int]
) -> None:
    """The parts of a dump that are not records."""
    (directory / "topics").mkdir(parents=True, exist_ok=True)
    (directory / "stores").mkdir(exist_ok=True)
    (directory / "tidegate.toml").write_text(config, encoding="utf-8")
    (directory / "environment.json").write_text(json.dumps(dict(environment)), encoding="utf-8")
    (directory / "manifest.json").write_text(json.dumps(dict(counts)), encoding="utf-8")


def write_frames(path: Path, items: Iterable[Any]) -> int:
    """Write a file of frames; returns how many."""
    with Frames(path) as frames:
        for item in items:
            frames.add(item)
        return frames.count


def read_frames(path: Path) -> Iterator[bytes]:
    """The frames of a file; none if there is no such file."""
    if not path.exists():
        return
    with gzip.open(path, "rb") as file:
        while head := file.read(_LENGTH.size):
            yield file.read(_LENGTH.unpack(head)[0])


class Frames:
    """A file of frames that is being written."""

    def __init__(self, path: Path) -> None:
        self._file = gzip.open(path, "wb", compresslevel=1)  # noqa: SIM115 - closed by __exit__
        self.count = 0

    def add(self, item: Any) -> None:
        frame = _encode(item)
        self._file.write(_LENGTH.pack(len(frame)) + frame)
        self.count += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def topic_path(directory: Path, topic: str, partition: int) -> Path:
    return directory / "topics" / f"{topic}-{partition}.gz"


def store_path(directory: Path, worker: str, partition: int) -> Path:
    return directory / "stores" / f"{worker}-{partition}.gz"
