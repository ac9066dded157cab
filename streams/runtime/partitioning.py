"""The number of partitions that state was made with.

An account's partition follows from its key and that number. With another one its state stays behind on a partition that
its records no longer reach, and they would be decided as if it had no positions and no lock. So a partition's first
transaction begins with the number (of state from before that, the next one), and a worker asks for it twice: before it
joins the group, since one that is given only new partitions has no state to ask; and whenever it takes a partition
over, which also finds a number that is not at the beginning.
"""

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import ConsumerRecord

from streams.core.state import PARTITION, PARTITIONS_KEY, Change, decode_partitions, encode_partitions
from streams.runtime import kafka
from streams.runtime.kafka import TopicPartition
from streams.runtime.settings import Settings
from streams.runtime.store import state_record
from streams.runtime.topics import STATE, Layout, TopicNames

REMEDY = (
    "keys now map to other partitions than their accounts' state. Recreate the topics with the old number, or start "
    "anew with another TIDEGATE_APP_ID"
)
"""What it means that the number of partitions changed, and what to do."""
_POLL_MS = 200
_FIRST_BYTES = 4_096


class PartitionsChanged(RuntimeError):
    """State was made with another number of partitions than the inputs have."""


def beginning(partitions: int) -> Change:
    """The record that a partition's state begins with."""
    return Change(PARTITION, PARTITIONS_KEY, encode_partitions(partitions))


def refuse_other(number: int, held: bytes, partitions: int) -> None:
    """Raises PartitionsChanged if the state of partition ``number`` was made with other than ``partitions``."""
    if (made_with := decode_partitions(held)) != partitions:
        raise PartitionsChanged(
            f"partition {number}: its state was made with {made_with} partitions, and the inputs have {partitions}: "
            f"{REMEDY}"
        )


async def refuse_changed(settings: Settings, layout: Layout) -> None:
    """Ask the changelogs for the number that state was made with: one that tells answers for all, as none was ever made
    beside it with another. Raises PartitionsChanged, KafkaError."""
    places = layout.places(TopicNames.of(settings), STATE)
    key, _ = state_record(beginning(layout.partitions))
    reader = await kafka.started(
        kafka.consumer(settings, auto_offset_reset="earliest", max_partition_fetch_bytes=_FIRST_BYTES)
    )
    try:
        ends = await reader.end_offsets(places)
        for place in places:
            first = await _first_record(reader, place, ends[place])
            if first is not None and first.key == key and first.value is not None:
                refuse_other(place.partition, first.value, layout.partitions)
                return
    finally:
        await reader.stop()


async def _first_record(reader: AIOKafkaConsumer, place: TopicPartition, end: int) -> ConsumerRecord | None:
    """The first committed record; None if there is none before ``end``."""
    if end == 0:
        return None
    reader.assign([place])
    # Markers and aborted transactions are never handed out: a changelog may end without a record.
    while await reader.position(place) < end:
        for records in (await reader.getmany(timeout_ms=_POLL_MS, max_records=1)).values():
            return records[0]
    return None
