"""What a partition's owner keeps beside the log: its state records, and how far the changelog is applied.

Everything of one commit goes into one write batch together with the checkpoint, so a store always holds the state
of exactly one committed transaction: never a part, and (it is written after the commit) never more than the log has.
It is a cache: whenever it cannot be trusted it is wiped and restored from the log.

RocksDB writes no log of its own here. What it has flushed to files is always the state of some transaction, the last
one or an earlier one, whatever of the disk is lost: a MANIFEST without its end names fewer files, and each write is in
one file whole. With a log of newer writes beside it, such a database opened without a word, up to date by its
checkpoint, and with holes. A process that dies loses what was not flushed (at most :data:`FLUSH_INTERVAL_S` and the
write buffers), and restores it from the changelog.

Layout of a RocksDB database, in key order: ``\\x00meta``, the checkpoint; ``\\x01`` + expiry (8 bytes) + id, the index
of remembered ids by expiry, local only; ``table NUL key``, the state records under the keys of the changelog.
"""

import contextlib
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import orjson
from rocksdict import (
    AccessType,
    BlockBasedOptions,
    Cache,
    DBCompressionType,
    Options,
    Rdict,
    WriteBatch,
    WriteBufferManager,
    WriteOptions,
)

from streams.core.state import DECISIONS, Change

log = logging.getLogger(__name__)

LAYOUT_VERSION = 1
FLUSH_INTERVAL_S = 10.0
_META = b"\x00meta"
_EXPIRY = b"\x01"
_DAMAGED = ".damaged"
_DECISION = DECISIONS.encode() + b"\x00"

Expires = Callable[[bytes], int]
"""When the remembered id of this value may be forgotten, ms since 1970."""


StateRecord = tuple[bytes, bytes | None]
"""A changelog record: its key (:func:`changelog_key`) and value, None of a deleted one."""


class StoreError(RuntimeError):
    """The store cannot be opened or belongs to someone else. The message names the directory and the remedy."""


class Identity(NamedTuple):
    """Whose state it is: a store of another cluster, application or partition must never be mistaken for it."""

    cluster_id: str
    app_id: str
    topic: str
    partition: int


class Expiring(NamedTuple):
    """A remembered id whose index entry is due."""

    key: bytes
    expires_ms: int


class Store(Protocol):
    """State records of one partition with the changelog offset that they are up to."""

    def get(self, table: str, key: bytes) -> bytes | None: ...

    @property
    def checkpoint(self) -> int:
        """The changelog offset to go on from; 0 for a new store."""

    def write(self, changes: Iterable[Change], checkpoint: int) -> None:
        """Apply changes and checkpoint together, or nothing."""

    def restore(self, records: Iterable[StateRecord], checkpoint: int) -> None:
        """The same with records of the changelog as they were read."""

    def due(self, before_ms: int, limit: int) -> Sequence[Expiring]:
        """At most ``limit`` remembered ids that expired before ``before_ms``, oldest first."""

    def wipe(self) -> None:
        """Forget everything."""

    def close(self) -> None:
        """Release what is held; a second time does nothing."""


def changelog_key(table: str, key: bytes) -> bytes:
    """A state record's key on the changelog (and in RocksDB)."""
    return table.encode() + b"\x00" + key


def state_record(change: Change) -> StateRecord:
    """The changelog record of a change."""
    return changelog_key(change.table, change.key), change.value


def names_table(key: bytes) -> bool:
    """Whether a changelog key is one of ours."""
    return key.find(b"\x00") > 0


def change_of(key: bytes, value: bytes | None) -> Change:
    """The state record of a changelog record. Raises ValueError for a key that is none of ours."""
    table, _, rest = key.partition(b"\x00")
    if not names_table(key):
        raise ValueError(f"changelog key {key[:64]!r} names no table")
    return Change(table.decode(), rest, value)


class MemoryStore:
    """A store for tests and simulations."""

    def __init__(self, expires: Expires) -> None:
        self._expires = expires
        self.wipe()

    def wipe(self) -> None:
        self._records: dict[tuple[str, bytes], bytes] = {}
        self._index: set[tuple[int, bytes]] = set()
        self._checkpoint = 0

    def get(self, table: str, key: bytes) -> bytes | None:
        return self._records.get((table, key))

    @property
    def checkpoint(self) -> int:
        return self._checkpoint

    def write(self, changes: Iterable[Change], checkpoint: int) -> None:
        for table, key, value in changes:
            old = self._records.pop((table, key), None)
            if table == DECISIONS and old is not None:
                self._index.discard((self._expires(old), key))
            if value is None:
                continue
            self._records[table, key] = value
            if table == DECISIONS:
                self._index.add((self._expires(value), key))
        self._checkpoint = checkpoint

    def restore(self, records: Iterable[StateRecord], checkpoint: int) -> None:
        self.write((change_of(key, value) for key, value in records), checkpoint)

    def due(self, before_ms: int, limit: int) -> Sequence[Expiring]:
        due = sorted(entry for entry in self._index if entry[0] < before_ms)[:limit]
        return [Expiring(key, expires_ms) for expires_ms, key in due]

    def close(self) -> None:
        """Nothing to release."""

    def records(self) -> Mapping[tuple[str, bytes], bytes]:
        """All state records by table and key."""
        return dict(self._records)


class RocksEnvironment:
    """Memory shared by all databases of a worker: with RocksDB's defaults each would take up to 2 GiB of its own."""

    def __init__(self, cache_bytes: int) -> None:
        self._cache = Cache(cache_bytes)
        self._buffers = WriteBufferManager.new_write_buffer_manager_with_cache(cache_bytes // 2, False, self._cache)

    def options(self) -> Options:
        table = BlockBasedOptions()
        table.set_block_cache(self._cache)
        table.set_block_size(8 * 1024)
        table.set_bloom_filter(10, False)
        table.set_cache_index_and_filter_blocks(True)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_manager(self._buffers)
        options.set_write_buffer_size(8 * 1024 * 1024)
        # An eighth of the buffer by default: some thirty partitions' first few records would use the whole budget up.
        options.set_arena_block_size(256 * 1024)
        options.set_max_write_buffer_number(2)
        # Most ids that are looked up are new: 80 KiB a buffer save the search among all that is not flushed yet.
        options.set_memtable_whole_key_filtering(True)
        options.set_memtable_prefix_bloom_ratio(0.01)
        options.set_target_file_size_base(4 * 1024 * 1024)
        options.set_max_bytes_for_level_base(16 * 1024 * 1024)
        options.set_max_open_files(32)
        options.set_max_background_jobs(2)
        options.set_max_file_opening_threads(1)
        options.set_manifest_preallocation_size(64 * 1024)
        options.set_keep_log_file_num(2)
        options.set_max_log_file_size(256 * 1024)
        options.set_stats_dump_period_sec(0)
        options.set_stats_persist_period_sec(0)
        options.set_compression_type(DBCompressionType.lz4())
        return options


class RocksStore:
    """One RocksDB database. Opening a damaged, older or someone else's database wipes it.

    Damage that shows later raises StoreError and condemns the database: the next open wipes it.
    """

    def __init__(self, path: Path, identity: Identity, environment: RocksEnvironment, expires: Expires) -> None:
        """Raises StoreError if the directory cannot be used, for instance because another process holds it."""
        self._path = path
        self._condemned = path.with_name(path.name + _DAMAGED)
        self._identity = identity
        self._environment = environment
        self._expires = expires
        self._db = self._open()
        self._checkpoint = _checkpoint_of(self._db)
        self._swept = _EXPIRY
        self._closed = False
        self._unlogged = WriteOptions()
        self._unlogged.disable_wal = True
        self._flush_due_s = time.monotonic() + FLUSH_INTERVAL_S

    def get(self, table: str, key: bytes) -> bytes | None:
        try:
            value: bytes | None = self._db.get(changelog_key(table, key))
        except Exception as error:  # rocksdict raises nothing narrower
            raise self._condemn(error) from error
        return value

    @property
    def checkpoint(self) -> int:
        return self._checkpoint

    def write(self, changes: Iterable[Change], checkpoint: int) -> None:
        self.restore(map(state_record, changes), checkpoint)

    def restore(self, records: Iterable[StateRecord], checkpoint: int) -> None:
        # The last of several changes to a record wins, as it would on the compacted changelog: RocksDB never sees the
        # others, which are most of a stretch of a changelog on which few accounts change often.
        batch = WriteBatch(raw_mode=True)
        try:
            for stored, value in dict(records).items():
                if stored.startswith(_DECISION):
                    self._index(batch, stored, value)
                if value is None:
                    batch.delete(stored)
                else:
                    batch.put(stored, value)
            batch.put(_META, self._meta(checkpoint))
            self._db.write(batch, self._unlogged)
            if time.monotonic() > self._flush_due_s:
                self._db.flush(False)
                self._flush_due_s = time.monotonic() + FLUSH_INTERVAL_S
        except Exception as error:
            raise self._condemn(error) from error
        self._checkpoint = checkpoint

    def _index(self, batch: WriteBatch, stored: bytes, value: bytes | None) -> None:
        """Once for a record: what the same batch puts into the index cannot be read yet."""
        key = stored.removeprefix(_DECISION)
        old = self._db.get(stored)
        if old is not None:
            batch.delete(_expiry_key(self._expires(old), key))
        if value is not None:
            entry = _expiry_key(self._expires(value), key)
            batch.put(entry, b"")
            self._swept = min(self._swept, entry)

    def due(self, before_ms: int, limit: int) -> Sequence[Expiring]:
        found: list[Expiring] = []
        end = _expiry_key(before_ms, b"")
        if self._swept >= end:
            return found
        # Deleted entries stay in the way until compaction: the search starts where the last one ended.
        entries = self._db.iter()
        try:
            entries.seek(self._swept)
            while entries.valid() and len(found) < limit:
                entry: bytes = entries.key()
                if entry >= end:
                    break
                found.append(Expiring(entry[9:], int.from_bytes(entry[1:9], "big")))
                entries.next()
            entries.status()
        except Exception as error:
            raise self._condemn(error) from error
        self._swept = _expiry_key(found[0].expires_ms, found[0].key) if found else end
        return found

    def wipe(self) -> None:
        self._db.close()
        self._db = self._create_anew()
        self._checkpoint = 0
        self._swept = _EXPIRY

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self._db.flush()
            except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
                log.warning("store %s was not flushed (%s): the next start restores what is missing", self._path, error)
            self._db.close()

    def _open(self) -> Rdict:
        if self._condemned.exists():
            log.warning("store %s was found damaged: it is wiped and restored from the changelog", self._path)
            return self._create_anew()
        fresh = not self._path.exists()
        try:
            database = self._create()
            meta = _stored_meta(database)
        except StoreError:
            raise
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
            log.warning("store %s is damaged (%s): it is wiped and restored from the changelog", self._path, error)
            return self._create_anew()
        if not fresh and (meta is None or meta[:-1] != _owner(self._identity)):
            log.warning(
                "store %s is of another version or owner: it is wiped and restored from the changelog", self._path
            )
            database.close()
            return self._create_anew()
        return database

    def _create_anew(self) -> Rdict:
        shutil.rmtree(self._path, ignore_errors=True)
        database = self._create()
        self._condemned.unlink(missing_ok=True)
        return database

    def _create(self) -> Rdict:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return Rdict(str(self._path), self._environment.options())
        except OSError as error:
            raise StoreError(f"data directory {self._path.parent} cannot be used: {error.strerror}") from error
        except Exception as error:
            text = str(error)
            if "lock" in text.lower():
                raise StoreError(
                    f"store {self._path} is in use by another process: give every worker a data directory of its own"
                ) from error
            if "permission denied" in text.lower() or "no space left" in text.lower():
                raise StoreError(f"store {self._path} cannot be opened: {text}") from error
            raise

    def _condemn(self, error: Exception) -> StoreError:
        with contextlib.suppress(OSError):
            self._condemned.touch()
        return StoreError(f"store {self._path} failed: {error}; if it is damaged, the next start restores it")

    def _meta(self, checkpoint: int) -> bytes:
        return orjson.dumps([*_owner(self._identity), checkpoint])


def peek(path: Path, identity: Identity) -> int:
    """How far a database that may belong to another, be damaged or not be there is; 0 where that cannot be told.

    It takes no lock and changes nothing.
    """
    if path.with_name(path.name + _DAMAGED).exists() or not path.exists():
        return 0
    try:
        database = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only())
        try:
            meta = _stored_meta(database)
        finally:
            database.close()
    except Exception:  # noqa: BLE001 - rocksdict raises nothing narrower; whoever opens it finds out
        return 0
    return int(str(meta[-1])) if meta is not None and meta[:-1] == _owner(identity) else 0


def _owner(identity: Identity) -> list[object]:
    return [LAYOUT_VERSION, *identity]


def _checkpoint_of(database: Rdict) -> int:
    meta = _stored_meta(database)
    return 0 if meta is None else int(str(meta[-1]))


def _stored_meta(database: Rdict) -> list[object] | None:
    held = database.get(_META)
    if held is None:
        return None
    with contextlib.suppress(orjson.JSONDecodeError):
        meta = orjson.loads(held)
        if isinstance(meta, list) and len(meta) == 2 + len(Identity._fields) and isinstance(meta[-1], int):
            return meta
    return None


def _expiry_key(expires_ms: int, key: bytes) -> bytes:
    return _EXPIRY + max(0, expires_ms).to_bytes(8, "big") + key
