"""The bare reading of a changelog, which a restore is held against: a process, so that it can be pinned.

``python -m tests.benchmarks.changelog SETUP_JSON`` reads all partitions at once with the client that a restore uses,
keeps nothing, and prints one JSON line with seconds and records.
"""

import asyncio
import json
import sys
import time

from streams.runtime import kafka
from streams.runtime.kafka import TopicPartition
from streams.runtime.topics import STATE, TopicNames
from streams.runtime.worker import quieten_gc
from tests.benchmarks.engines import settings_of
from tests.benchmarks.peers.setup import Setup


async def read(setup: Setup) -> tuple[float, int]:
    """Seconds and records."""
    settings = settings_of(setup)
    topic = TopicNames.of(settings).physical(STATE)
    places = [TopicPartition(topic, number) for number in range(setup.partitions)]
    async with kafka.consumer(settings) as looker:
        ends = await looker.end_offsets(places)
    quieten_gc()
    began = time.perf_counter()
    counts = await asyncio.gather(*(_read(setup, place, ends[place]) for place in places))
    return time.perf_counter() - began, sum(counts)


async def _read(setup: Setup, place: TopicPartition, end: int) -> int:
    count = position = 0
    async with kafka.consumer(settings_of(setup), auto_offset_reset="earliest") as reader:
        reader.assign([place])
        reader.seek(place, 0)
        while position < end:
            batches = await reader.getmany(timeout_ms=200)
            count += len(batches.get(place, ()))
            position = await reader.position(place)
    return count


if __name__ == "__main__":
    seconds, records = asyncio.run(read(Setup.of(sys.argv[1])))
    print(json.dumps({"seconds": seconds, "records": records}))
