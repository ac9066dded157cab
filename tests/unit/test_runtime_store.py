"""Stores: one commit is all or nothing, and what cannot be trusted is wiped."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from streams.core.state import DECISIONS, Change
from streams.runtime.store import (
    Expiring,
    Identity,
    MemoryStore,
    RocksEnvironment,
    RocksStore,
    Store,
    StoreError,
    change_of,
    changelog_key,
    state_record,
)

OWNER = Identity("cluster", "tidegate", "tidegate-state", 3)
ENVIRONMENT = RocksEnvironment(8 * 1024 * 1024)


def expires(value: bytes) -> int:
    return int(value)


def rocks(path: Path, owner: Identity = OWNER) -> RocksStore:
    return RocksStore(path / "3", owner, ENVIRONMENT, expires)


@pytest.fixture(params=["memory", "rocks"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return MemoryStore(expires) if request.param == "memory" else rocks(tmp_path)


def remember(key: bytes, expires_ms: int) -> Change:
    return Change(DECISIONS, key, b"%d" % expires_ms)


def test_a_new_store_is_empty_and_begins_at_the_changelogs_start(store: Store) -> None:
    assert store.checkpoint == 0
    assert store.get("accounts", b"a") is None
    assert not store.due(1 << 60, 10)


def test_writes_and_deletes_records_with_the_checkpoint(store: Store) -> None:
    store.write([Change("accounts", b"a", b"1"), Change("orders", b"a", b"2")], 7)
    assert (store.get("accounts", b"a"), store.get("orders", b"a"), store.checkpoint) == (b"1", b"2", 7)
    store.write([Change("accounts", b"a", None)], 9)
    assert (store.get("accounts", b"a"), store.get("orders", b"a"), store.checkpoint) == (None, b"2", 9)


def test_the_last_of_several_changes_to_a_record_wins(store: Store) -> None:
    store.write([remember(b"a", 5), remember(b"a", 8), remember(b"b", 6), Change(DECISIONS, b"b", None)], 1)
    assert store.get(DECISIONS, b"a") == b"8"
    assert store.due(100, 10) == [Expiring(b"a", 8)]


def test_what_the_changelog_holds_is_restored_as_it_was_written(store: Store) -> None:
    store.restore([state_record(Change("accounts", b"a", b"1")), state_record(remember(b"x", 5))], 7)
    assert (store.get("accounts", b"a"), store.checkpoint) == (b"1", 7)
    store.restore([(changelog_key("accounts", b"a"), None), state_record(remember(b"x", 9))], 9)
    assert (store.get("accounts", b"a"), store.checkpoint) == (None, 9)
    assert store.due(100, 10) == [Expiring(b"x", 9)]


def test_remembered_ids_are_due_in_order_of_expiry_and_only_past_it(store: Store) -> None:
    store.write([remember(b"late", 300), remember(b"early", 100), remember(b"mid", 200)], 1)
    assert store.due(100, 10) == []
    assert store.due(201, 10) == [Expiring(b"early", 100), Expiring(b"mid", 200)]
    assert store.due(1_000, 1) == [Expiring(b"early", 100)]


def test_forgotten_and_renewed_ids_leave_the_index(store: Store) -> None:
    store.write([remember(b"a", 100), remember(b"b", 110)], 1)
    assert len(store.due(1_000, 10)) == 2
    store.write([Change(DECISIONS, b"a", None), remember(b"b", 500)], 2)
    assert store.due(400, 10) == []
    assert store.due(1_000, 10) == [Expiring(b"b", 500)]
    store.write([remember(b"c", 50)], 3)
    assert store.due(1_000, 10) == [Expiring(b"c", 50), Expiring(b"b", 500)]


def test_other_tables_have_no_expiry(store: Store) -> None:
    store.write([Change("accounts", b"a", b"not a number")], 1)
    assert not store.due(1 << 60, 10)


def test_wiping_forgets_everything(store: Store) -> None:
    store.write([Change("accounts", b"a", b"1"), remember(b"x", 5)], 7)
    store.wipe()
    assert (store.get("accounts", b"a"), store.checkpoint, store.due(1_000, 9)) == (None, 0, [])


def test_rocks_keeps_everything_over_a_restart(tmp_path: Path) -> None:
    store = rocks(tmp_path)
    store.write([Change("accounts", b"a", b"1"), remember(b"x", 5)], 7)
    store.close()
    again = rocks(tmp_path)
    assert (again.get("accounts", b"a"), again.checkpoint, again.due(9, 9)) == (b"1", 7, [Expiring(b"x", 5)])


@pytest.mark.parametrize(
    "other",
    [
        OWNER._replace(cluster_id="another"),
        OWNER._replace(app_id="another"),
        OWNER._replace(topic="another"),
        OWNER._replace(partition=4),
    ],
)
def test_rocks_wipes_what_belongs_to_someone_else(tmp_path: Path, other: Identity) -> None:
    store = rocks(tmp_path)
    store.write([Change("accounts", b"a", b"1")], 7)
    store.close()
    foreign = rocks(tmp_path, other)
    assert (foreign.get("accounts", b"a"), foreign.checkpoint) == (None, 0)


def break_manifest(database: Path) -> None:
    (database / "CURRENT").write_text("garbage")


def break_contents(database: Path) -> None:
    for file in database.iterdir():
        if file.suffix in (".log", ".sst") or file.name.startswith("MANIFEST"):
            file.write_bytes(b"\xff" * 100)


def truncate_everything(database: Path) -> None:
    for file in database.iterdir():
        os.truncate(file, 0)


@pytest.mark.parametrize("damage", [break_manifest, break_contents, truncate_everything])
def test_rocks_wipes_a_damaged_database(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    store = rocks(tmp_path)
    store.write([Change("accounts", b"a", b"1")], 7)
    store.close()
    damage(tmp_path / "3")
    again = rocks(tmp_path)
    assert (again.get("accounts", b"a"), again.checkpoint) == (None, 0)
    again.write([Change("accounts", b"a", b"2")], 1)
    assert again.get("accounts", b"a") == b"2"


def test_damage_that_shows_while_reading_condemns_the_database(tmp_path: Path) -> None:
    store = rocks(tmp_path)
    store.write([Change("accounts", b"%d" % n, os.urandom(1_000)) for n in range(9_000)], 7)
    store.close()
    tables = list((tmp_path / "3").glob("*.sst"))
    assert tables, "nothing was flushed: the test would damage nothing"
    for table in tables:
        size_bytes = table.stat().st_size
        with table.open("r+b") as file:
            file.seek(size_bytes // 4)
            file.write(b"\xff" * (size_bytes // 4))
    store = rocks(tmp_path)
    with pytest.raises(StoreError, match="the next start restores it"):
        read_all(store)
    store.close()
    assert rocks(tmp_path).checkpoint == 0


def read_all(store: RocksStore) -> None:
    for n in range(9_000):
        store.get("accounts", b"%d" % n)


HOLD = """
import sys
from pathlib import Path
from tests.unit.test_runtime_store import rocks
held = rocks(Path(sys.argv[1]))
print("held", flush=True)
sys.stdin.read()
"""


def test_a_database_that_another_process_holds_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StoreError, match="data directory of its own"):
            rocks(tmp_path)
        holder.communicate("")


def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(StoreError, match="file"):
        rocks(file)


@pytest.mark.parametrize("key", [b"a", b"a\0signal\0s-1", b"\xff\0\xfe"])
def test_changelog_keys_name_table_and_key(key: bytes) -> None:
    assert change_of(changelog_key("accounts", key), b"1") == Change("accounts", key, b"1")


@pytest.mark.parametrize("key", [b"accounts", b"\0a", b""])
def test_a_changelog_key_without_table_is_refused(key: bytes) -> None:
    with pytest.raises(ValueError, match="names no table"):
        change_of(key, b"1")


# -- damage


def snapshot(source: Path, target: Path) -> None:
    """What a process that dies now leaves on the disk. Files that go meanwhile make it try again."""
    while True:
        try:
            shutil.copytree(source, target)
            return
        except shutil.Error:
            shutil.rmtree(target)


@pytest.mark.parametrize("kind", ["MANIFEST-*", "*.sst", "CURRENT"])
def test_a_database_that_lost_the_end_of_a_file_is_wiped_or_is_that_of_one_transaction(
    tmp_path: Path, kind: str
) -> None:
    """A hole below the checkpoint would be state that nobody misses: decisions made on nothing."""
    store = rocks(tmp_path / "live")
    rng = random.Random(kind)
    after: list[dict[bytes, bytes]] = [{}]
    for number in range(1, 121):
        changes = [Change("orders", b"%d" % rng.randrange(40), b"%d" % number * 50) for _ in range(4)]
        store.write(changes, number)
        after.append(after[-1] | {key: value or b"" for _, key, value in changes})
        if number % 30 == 0 and number < 120:
            store._db.flush()
    opened = 0
    for cut in range(12):
        broken = tmp_path / str(cut)
        snapshot(tmp_path / "live", broken)
        file = rng.choice(sorted((broken / "3").glob(kind)))
        data = file.read_bytes()
        file.write_bytes(data[: int(len(data) * rng.uniform(0.2, 0.99))])
        try:
            one = rocks(broken)
            expected = after[one.checkpoint]
            held = {key: one.get("orders", key) for key in map(b"%d".__mod__, range(40))}
        except StoreError:
            continue  # what shows later condemns it
        assert {key: value for key, value in held.items() if value is not None} == expected
        opened += one.checkpoint > 0
        one.close()
    store.close()
    assert opened or kind != "MANIFEST-*", "no cut left a database that opens: nothing was shown"


def test_a_process_that_dies_leaves_the_state_of_an_earlier_transaction(tmp_path: Path) -> None:
    store = rocks(tmp_path / "live")
    store.write([Change("accounts", b"a", b"1")], 1)
    store.close()
    store = rocks(tmp_path / "live")
    assert (store.checkpoint, store.get("accounts", b"a")) == (1, b"1")
    store.write([Change("accounts", b"a", b"2")], 2)
    snapshot(tmp_path / "live", tmp_path / "dead")
    dead = rocks(tmp_path / "dead")
    assert (dead.checkpoint, dead.get("accounts", b"a")) == (1, b"1")
    dead.close()
    store.close()
