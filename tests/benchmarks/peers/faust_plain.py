"""(a) Faust as its guide shows it: an agent a topic, tables on RocksDB, at least once; defaults throughout."""

import sys

import faust

from streams.core.records import FILLS, OUTPUTS, PNL, SIGNALS, Record
from tests.benchmarks.peers import faust_changelogs
from tests.benchmarks.peers.setup import OneByOne, Setup
from tests.benchmarks.peers.tables import ACCOUNTS, IDS, TableState

RAW = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}


def create_app(setup: Setup) -> faust.App:
    """The app with its three agents."""
    app = faust.App(
        f"{setup.prefix}faust",
        broker=f"kafka://{setup.bootstrap}",
        store="rocksdb://",
        datadir=f"{setup.directory}/faust",
        topic_partitions=setup.partitions,
        web_enabled=False,
        autodiscover=False,
    )
    gate, progress = OneByOne(setup.rules), setup.progress

    def topic(name: str) -> faust.TopicT:
        return app.topic(setup.topic(name), **RAW)

    outputs = {name: topic(name) for name in OUTPUTS}
    tables = [
        app.Table(name, key_type=bytes, value_type=bytes, partitions=setup.partitions) for name in (ACCOUNTS, IDS)
    ]
    state = TableState(*tables)

    async def decide(name: str, event: faust.EventT) -> None:
        message = event.message
        at_ms = int(message.timestamp * 1000)
        record = Record(name, message.partition, message.offset, at_ms, message.key, message.value)
        decided = gate.decide(record, state.read, state.recall)
        state.write(decided.account_id, decided.changes)
        for output in decided.outputs:
            await outputs[output.topic].send(key=output.key, value=output.value)
        progress.set(name, message.partition, message.offset + 1)

    @app.agent(topic(SIGNALS))
    async def signals(stream: faust.StreamT) -> None:
        async for event in stream.events():
            await decide(SIGNALS, event)

    @app.agent(topic(FILLS))
    async def fills(stream: faust.StreamT) -> None:
        async for event in stream.events():
            await decide(FILLS, event)

    @app.agent(topic(PNL))
    async def pnl(stream: faust.StreamT) -> None:
        async for event in stream.events():
            await decide(PNL, event)

    return app


if __name__ == "__main__":
    setup = Setup.of(sys.argv[1])
    app = create_app(setup)
    faust_changelogs.create(setup, app.conf.id, (ACCOUNTS, IDS))
    faust.Worker(app, loglevel="WARN").execute_from_commandline()
