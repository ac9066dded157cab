"""Reads a finished run from the brokers and the workers' data directories into a dump (see ``recording.py``).

Partition by partition, so memory does not grow with the run. Workers must have stopped: their databases are opened
(read-only), and a transaction that is still open would hide what follows it. The dump waits until the brokers have
ended all transactions, and raises TimeoutError if they do not.
"""

import asyncio
import logging
import shutil
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from rocksdict import AccessType, Options, Rdict

from streams.runtime import kafka
from streams.runtime.kafka import TopicPartition
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames, verify_topics
from tests.chaos.recording import (
    JOURNAL,
    JOURNAL_UNCOMMITTED,
    TOPICS,
    Entry,
    Frames,
    Rec,
    store_path,
    topic_path,
    write_configuration,
    write_frames,
)

log = logging.getLogger(__name__)

CLOSE_DEADLINE_S = 150.0
"""A worker's transactions end by themselves after a minute; a broker looks for such every ten seconds."""
_READ_DEADLINE_S = 60.0
_POLL_S = 0.2
_FETCH_MS = 100


async def dump(
    settings: Settings,
    directory: Path,
    *,
    config: Path,
    data_dirs: Mapping[str, Path],
    environment: Mapping[str, str] | None = None,
) -> None:
    """Read a finished run into ``directory``, which is made anew.

    ``config``: the workers' ``tidegate.toml``; ``environment``: theirs, of which accounts and limits are kept;
    ``data_dirs``: the data directory of every worker, by a name for it. Raises TimeoutError, KafkaError, TopicsError.
    """
    layout = await verify_topics(settings)
    counts = {topic: layout.counts[topic] for topic in TOPICS if topic != JOURNAL_UNCOMMITTED}
    counts[JOURNAL_UNCOMMITTED] = counts[JOURNAL]
    shutil.rmtree(directory, ignore_errors=True)
    kept = {name: value for name, value in (environment or {}).items() if _configures(name)}
    text = await asyncio.to_thread(config.read_text, encoding="utf-8")
    write_configuration(directory, text, kept, counts)
    await _dump_topics(settings, directory, counts)
    for worker, data_dir in data_dirs.items():
        await asyncio.to_thread(dump_stores, data_dir, worker, directory)


def dump_stores(data_dir: Path, worker: str, directory: Path) -> list[int]:
    """Copy every sound database of a stopped worker into the dump; returns their partitions.

    One that is marked as damaged, cannot be opened or cannot be read to its end is left out: the worker that takes its
    partition would wipe it too, so it stands for nothing.
    """
    found = []
    for path in sorted((data_dir / "state").glob("*")):
        if not path.name.isdigit() or path.with_name(f"{path.name}.damaged").exists():
            continue
        target = store_path(directory, worker, int(path.name))
        try:
            database = Rdict(str(path), Options(raw_mode=True), access_type=AccessType.read_only())
            try:
                write_frames(target, _entries(database))
            finally:
                database.close()
        except Exception as error:  # noqa: BLE001 - rocksdict raises nothing narrower
            target.unlink(missing_ok=True)
            log.warning("%s is left out of the dump: %s", path, error)
        else:
            found.append(int(path.name))
    return found


def _entries(database: Rdict) -> Iterator[Entry]:
    entries = database.iter()
    entries.seek_to_first()
    while entries.valid():
        yield Entry(bytes(entries.key()), bytes(entries.value()))
        entries.next()
    # An iterator also ends, without a word, where a block cannot be read.
    entries.status()


def _configures(name: str) -> bool:
    is_account = name.startswith("QT_ACCOUNT_") and name.endswith(("_EXCHANGE", "_CAPITAL_PROFILE"))
    return is_account or name.startswith("TIDEGATE_LIMITS_") or name == "TIDEGATE_CLOCK"


async def _dump_topics(settings: Settings, directory: Path, counts: Mapping[str, int]) -> None:
    names = TopicNames.of(settings)
    async with _consumer(settings, "read_committed") as committed, _consumer(settings, "read_uncommitted") as all_of_it:
        for topic, count in counts.items():
            physical = names.physical(JOURNAL if topic == JOURNAL_UNCOMMITTED else topic)
            places = [TopicPartition(physical, number) for number in range(count)]
            ends = await _closed_ends(committed, all_of_it, places)
            consumer = all_of_it if topic == JOURNAL_UNCOMMITTED else committed
            await _dump_topic(
                consumer, ends, {place: topic_path(directory, topic, place.partition) for place in places}
            )


@asynccontextmanager
async def _consumer(settings: Settings, isolation_level: str) -> AsyncIterator[Any]:
    consumer = kafka.consumer(settings, isolation_level=isolation_level, auto_offset_reset="earliest")
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def _closed_ends(
    committed: Any, all_of_it: Any, places: Sequence[TopicPartition]
) -> Mapping[TopicPartition, int]:
    """The end of every partition once no transaction is open in any."""
    try:
        async with asyncio.timeout(CLOSE_DEADLINE_S):
            while True:
                ends: Mapping[TopicPartition, int] = await all_of_it.end_offsets(places)
                stable = await committed.end_offsets(places)
                if all(stable[place] >= end for place, end in ends.items()):
                    return ends
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise TimeoutError(f"{places[0].topic}: a transaction is open and was not ended") from None


async def _dump_topic(consumer: Any, ends: Mapping[TopicPartition, int], paths: Mapping[TopicPartition, Path]) -> None:
    """All partitions of a topic side by side, each up to its end: what is fetched ahead is all that is in memory."""
    consumer.assign(list(ends))
    await consumer.seek_to_beginning(*ends)
    with ExitStack() as open_files:
        frames = {place: open_files.enter_context(Frames(path)) for place, path in paths.items()}
        left = {place for place, end in ends.items() if end > 0}
        # Nothing for so long is a broker that does not answer, and aiokafka waits for it for ever.
        last_s = time.monotonic()
        while left:
            for place, records in (await consumer.getmany(*left, timeout_ms=_FETCH_MS)).items():
                last_s = time.monotonic()
                for record in records:
                    headers = tuple((name, value or b"") for name, value in record.headers)
                    frames[place].add(Rec(record.offset, record.timestamp, record.key, record.value, headers))
            # By position: a transaction's marker is not handed out, and may be the last of the partition.
            left = {place for place in left if await consumer.position(place) < ends[place]}
            if time.monotonic() - last_s > _READ_DEADLINE_S:
                raise TimeoutError(f"not read to their ends: {sorted(left)}")
