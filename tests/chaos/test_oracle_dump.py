"""What the dump makes of files and databases; topics are read from real brokers by the short chaos run."""

import json
from collections.abc import Mapping
from pathlib import Path

import orjson

from streams.core.state import Change
from streams.runtime.store import Identity, RocksEnvironment, RocksStore
from tests.chaos.dump import dump_stores
from tests.chaos.recording import Directory, Rec, read_frames, write_configuration, write_frames

IDENTITY = Identity("cluster", "tidegate", "tidegate-state", 3)


def make_store(data_dir: Path, changes: list[Change], checkpoint: int, partition: int = 3) -> None:
    identity = IDENTITY._replace(partition=partition)
    path = data_dir / "state" / str(partition)
    store = RocksStore(path, identity, RocksEnvironment(1 << 20), lambda value: int(orjson.loads(value)["expires_ms"]))
    store.write(changes, checkpoint)
    store.close()


def contents(data_dir: Path) -> Mapping[bytes, bytes]:
    """All files of a directory: opening a database to look must not change it."""
    return {str(path).encode(): path.read_bytes() for path in sorted(data_dir.rglob("*")) if path.is_file()}


def test_a_stopped_workers_databases_are_copied_and_left_as_they_are(tmp_path: Path) -> None:
    data_dir, dumped = tmp_path / "worker", tmp_path / "dump"
    remembered = b'{"v":1,"first_id":"s","expires_ms":7}'
    make_store(data_dir, [Change("accounts", b"main", b"{}"), Change("decisions", b"signal\0s", remembered)], 12)
    before = {name for name in contents(data_dir) if not name.endswith(b"LOG")}
    write_configuration(dumped, "", {}, {"signals": 4})

    assert dump_stores(data_dir, "w0", dumped) == [3]

    assert {name for name in contents(data_dir) if not name.endswith(b"LOG")} == before
    (store,) = Directory(dumped).stores(3)
    assert store.worker == "w0"
    entries = dict(store.entries)
    assert json.loads(entries.pop(b"\0meta"))[-2:] == [3, 12]
    assert entries == {
        b"accounts\0main": b"{}",
        b"decisions\0signal\0s": remembered,
        b"\x01" + (7).to_bytes(8, "big") + b"signal\0s": b"",
    }
    assert list(Directory(dumped).stores(2)) == []


def test_databases_that_the_next_start_would_wipe_are_left_out(tmp_path: Path) -> None:
    for partition in (1, 2, 3):
        make_store(tmp_path / "worker", [Change("accounts", b"main", b"{}")], 5, partition)
    (tmp_path / "worker/state/1.damaged").touch()
    for manifest in (tmp_path / "worker/state/2").glob("MANIFEST*"):
        manifest.write_bytes(b"")
    write_configuration(tmp_path / "dump", "", {}, {"signals": 4})
    assert dump_stores(tmp_path / "worker", "w0", tmp_path / "dump") == [3]


def test_frames_hold_what_was_written(tmp_path: Path) -> None:
    records = [
        Rec(0, 1_513_681_200_000, None, None),
        Rec(7, 0, b"\xff", b"", (("name", b"\0"), ("name", b""))),
        Rec(2**40, -1, b"k" * 1_000, b"v" * 2_000_000),
    ]
    write_configuration(tmp_path, "", {}, {"signals": 1})
    assert write_frames(tmp_path / "topics" / "signals-0.gz", records) == 3
    assert list(Directory(tmp_path).records("signals", 0)) == records
    assert list(read_frames(tmp_path / "topics" / "signals-1.gz")) == []
