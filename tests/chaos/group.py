"""How often the workers' consumer group was rebalanced, as its coordinator has written it down."""

import struct

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.runtime.settings import Settings

_OFFSETS = "__consumer_offsets"
_GROUP_KEY_VERSION = 2


async def rebalances_of(settings: Settings) -> int:
    """The generation that the group has reached: one for each time that it was rebalanced. Raises KafkaError.

    The coordinator keeps it in an internal topic, under a key of version 2, behind version and protocol type.
    """
    group = (settings.topic_prefix + settings.app_id).encode()
    wanted = struct.pack(f">hh{len(group)}s", _GROUP_KEY_VERSION, len(group), group)
    latest = 0
    async with AIOKafkaConsumer(
        _OFFSETS,
        bootstrap_servers=settings.bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        exclude_internal_topics=False,
    ) as consumer:
        places = [TopicPartition(_OFFSETS, number) for number in consumer.partitions_for_topic(_OFFSETS) or ()]
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(place) < end for place, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    if record.key == wanted and record.value:
                        latest = max(latest, _generation(record.value))
    return latest


def _generation(value: bytes) -> int:
    (length,) = struct.unpack_from(">h", value, 2)
    return int(struct.unpack_from(">i", value, 4 + length)[0])
