"""(b) Faust as well tuned as it gets: one agent for all topics, batches, live accounts, linger, uvloop, logging off.

Tables on RocksDB cannot be written from the batches of ``stream.take`` (the store asks for the event that is being
iterated, and there is none), so they are in memory behind their changelogs, Faust's default: a third cheaper than the
same agent event by event on RocksDB. Outputs are handed to the producer without a pause (``send_soon``).
"""

import logging
import sys
import time
from collections import defaultdict

import faust
import uvloop

from streams.core.fold import Batch, fold
from streams.core.records import OUTPUTS, Record
from streams.core.state import DECISIONS, TABLES, Account, Remembered, decode_remembered
from streams.runtime.worker import quieten_gc
from tests.benchmarks.peers import faust_changelogs
from tests.benchmarks.peers.setup import INPUTS, Setup

BATCH = 500
WITHIN_S = 0.02

RAW = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}


class _View:
    """Live accounts of one partition, and remembered ids as the table has them."""

    def __init__(self, decisions: faust.Table) -> None:
        self._decisions = decisions
        self.accounts: dict[str, Account] = {}
        self.offsets: dict[str, int] = {}

    def account(self, account_id: str) -> Account | None:
        return self.accounts.get(account_id)

    def remembered(self, key: bytes) -> Remembered | None:
        value = self._decisions.get(key)
        return None if value is None else decode_remembered(value)


def create_app(setup: Setup) -> faust.App:
    """The app with its one agent."""
    app = faust.App(
        f"{setup.prefix}faust",
        broker=f"kafka://{setup.bootstrap}",
        datadir=f"{setup.directory}/faust",
        topic_partitions=setup.partitions,
        web_enabled=False,
        autodiscover=False,
        producer_linger=0.005,
        producer_max_batch_size=262_144,
        broker_commit_every=50_000,
        stream_wait_empty=False,
    )
    progress, rules = setup.progress, setup.rules
    outputs = {name: app.topic(setup.topic(name), **RAW) for name in OUTPUTS}
    tables = {
        name: app.Table(name, key_type=bytes, value_type=bytes, partitions=setup.partitions, use_partitioner=True)
        for name in (*TABLES, DECISIONS)
    }
    views: defaultdict[int, _View] = defaultdict(lambda: _View(tables[DECISIONS]))
    logical = {setup.topic(topic): topic for topic in INPUTS}

    @app.agent(app.topic(*logical, **RAW))
    async def gate(stream: faust.StreamT) -> None:
        async for events in stream.take_events(BATCH, within=WITHIN_S):
            batches: defaultdict[int, dict[str, list[Record]]] = defaultdict(lambda: defaultdict(list))
            for event in events:
                message = event.message
                topic = logical[message.topic]
                at_ms = int(message.timestamp * 1000)
                record = Record(topic, message.partition, message.offset, at_ms, message.key, message.value)
                batches[message.partition][topic].append(record)
            for partition, inputs in batches.items():
                view = views[partition]
                commit = fold(Batch(partition, inputs, time.time_ns() // 1_000_000), view, rules, setup.partition_of)
                view.accounts.update(commit.accounts)
                view.offsets = dict(commit.offsets)
                for table, key, value in commit.changes:
                    if table in tables:
                        tables[table][key] = value
                for output in commit.outputs:
                    outputs[output.topic].send_soon(key=output.key, value=output.value)
                for topic, position in commit.offsets.items():
                    progress.set(topic, partition, position + 1)

    return app


if __name__ == "__main__":
    uvloop.install()
    logging.disable(logging.WARNING)
    setup = Setup.of(sys.argv[1])
    app = create_app(setup)
    faust_changelogs.create(setup, app.conf.id, (*TABLES, DECISIONS))
    quieten_gc()
    faust.Worker(app, loglevel="ERROR").execute_from_commandline()
