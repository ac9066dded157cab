"""(b) Faust as well tuned as it gets: one agent for all topics, live accounts, linger, uvloop, logging off.

``stream.take`` is left out: tables cannot be written from its batches (they ask for the event that is being iterated),
and its buffer costs more than it saves. Outputs are handed to the producer without a pause (``send_soon``).
"""

import logging
import sys

import faust
import uvloop

from streams.core.records import OUTPUTS, Record
from streams.runtime.worker import quieten_gc
from tests.benchmarks.peers import faust_changelogs
from tests.benchmarks.peers.setup import INPUTS, OneByOne, Setup
from tests.benchmarks.peers.tables import ALL_TABLES, CachedTableState

RAW = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}


def create_app(setup: Setup) -> faust.App:
    """The app with its one agent."""
    app = faust.App(
        f"{setup.prefix}faust",
        broker=f"kafka://{setup.bootstrap}",
        store="rocksdb://",
        datadir=f"{setup.directory}/faust",
        topic_partitions=setup.partitions,
        web_enabled=False,
        autodiscover=False,
        producer_linger=0.005,
        producer_max_batch_size=262_144,
        broker_commit_every=50_000,
        stream_wait_empty=False,
        table_key_index_size=100_000,
    )
    gate, progress = OneByOne(setup.rules), setup.progress
    outputs = {name: app.topic(setup.topic(name), **RAW) for name in OUTPUTS}
    state = CachedTableState(
        {name: app.Table(name, key_type=bytes, value_type=bytes, partitions=setup.partitions) for name in ALL_TABLES}
    )
    logical = {setup.topic(topic): topic for topic in INPUTS}

    @app.agent(app.topic(*logical, **RAW))
    async def gate_of_all(stream: faust.StreamT) -> None:
        async for event in stream.events():
            message = event.message
            topic = logical[message.topic]
            at_ms = int(message.timestamp * 1000)
            record = Record(topic, message.partition, message.offset, at_ms, message.key, message.value)
            decided = gate.decide(record, state.read, state.recall)
            state.write(decided.changes)
            state.keep(decided.account_id, decided.account)
            for output in decided.outputs:
                outputs[output.topic].send_soon(key=output.key, value=output.value)
            progress.set(topic, message.partition, message.offset + 1)

    return app


if __name__ == "__main__":
    uvloop.install()
    logging.disable(logging.WARNING)
    setup = Setup.of(sys.argv[1])
    app = create_app(setup)
    faust_changelogs.create(setup, app.conf.id)
    quieten_gc()
    faust.Worker(app, loglevel="ERROR").execute_from_commandline()
