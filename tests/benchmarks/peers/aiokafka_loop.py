"""A bare aiokafka loop: state in a dict, offsets committed by a timer, no guarantee. The practical limit of asyncio."""

import asyncio
import signal
import sys
import time
from collections import defaultdict

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from streams.core.fold import Batch, fold
from streams.core.records import Record
from streams.runtime.worker import quieten_gc
from tests.benchmarks.memory import MemoryView
from tests.benchmarks.peers.setup import INPUTS, Setup

BATCH = 500


async def run(setup: Setup) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    progress, rules = setup.progress, setup.rules
    views: defaultdict[int, MemoryView] = defaultdict(MemoryView)
    logical = {setup.topic(topic): topic for topic in INPUTS}
    consumer = AIOKafkaConsumer(
        *logical,
        bootstrap_servers=setup.bootstrap,
        group_id=f"{setup.prefix}aiokafka",
        auto_offset_reset="earliest",
    )
    producer = AIOKafkaProducer(bootstrap_servers=setup.bootstrap, acks=1, linger_ms=5, max_batch_size=262_144)
    quieten_gc()
    async with consumer, producer:
        while not stop.is_set():
            fetched = await consumer.getmany(timeout_ms=100, max_records=BATCH)
            batches: defaultdict[int, dict[str, list[Record]]] = defaultdict(dict)
            for place, records in fetched.items():
                topic = logical[place.topic]
                batches[place.partition][topic] = [
                    Record(topic, one.partition, one.offset, one.timestamp, one.key, one.value) for one in records
                ]
            for partition, inputs in batches.items():
                view = views[partition]
                commit = fold(Batch(partition, inputs, time.time_ns() // 1_000_000), view, rules, setup.partition_of)
                view.apply(commit)
                for output in commit.outputs:
                    await producer.send(setup.topic(output.topic), output.value, output.key)
                for topic, position in commit.offsets.items():
                    progress.set(topic, partition, position + 1)


if __name__ == "__main__":
    asyncio.run(run(Setup.of(sys.argv[1])))
