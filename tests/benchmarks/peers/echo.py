"""A bare transactional echo: consume, produce, commit, with the very clients that Tidegate uses.

It repeats every record on one output topic, a transaction a fetch, and does nothing else: no state, no offsets in the
transaction, so not even exactly once. What is left is what a Kafka transaction takes.
"""

import asyncio
import signal
import sys

from streams.core.records import APPROVED
from streams.runtime import kafka
from tests.benchmarks.engines import settings_of
from tests.benchmarks.peers.setup import INPUTS, Setup

BATCH = 500


async def run(setup: Setup) -> None:
    """Until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    settings, progress = settings_of(setup), setup.progress
    logical = {setup.topic(topic): topic for topic in INPUTS}
    consumer = kafka.consumer(
        settings, group_id=f"{setup.prefix}echo", auto_offset_reset="earliest", fetch_max_wait_ms=250
    )
    consumer.subscribe(list(logical))
    producer = kafka.producer(settings, transactional_id=f"{setup.prefix}echo")
    output = setup.topic(APPROVED)
    async with consumer, producer:
        while not stop.is_set():
            fetched = await consumer.getmany(timeout_ms=100, max_records=BATCH)
            if not fetched:
                continue
            await producer.begin_transaction()
            sent = [await producer.send(output, one.value, one.key) for records in fetched.values() for one in records]
            await asyncio.gather(*sent)
            await producer.commit_transaction()
            for place, records in fetched.items():
                progress.set(logical[place.topic], place.partition, records[-1].offset + 1)


if __name__ == "__main__":
    asyncio.run(run(Setup.of(sys.argv[1])))
