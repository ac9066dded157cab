"""(c) Quix Streams: three dataframes concatenated, state in its RocksDB store, exactly once.

Commits come by count as well as by time, so that a transaction holds as many events as Tidegate's do in a second of
load; that is what its documentation advises for throughput under exactly once.
"""

import sys
from collections.abc import Iterable
from typing import Any

from quixstreams import Application, State, message_context
from quixstreams.models import Serializer, Topic

from streams.core.records import OUTPUTS, Output, Record
from streams.runtime.worker import quieten_gc
from tests.benchmarks.peers.setup import INPUTS, OneByOne, Setup
from tests.benchmarks.peers.tables import ACCOUNTS, IDS, TableState

COMMIT_EVERY = 5_000
COMMIT_INTERVAL_S = 1.0


class _OutputBytes(Serializer):
    def __call__(self, value: Output, ctx: Any) -> bytes:
        return value.value


class _Part:
    """One table within the state that Quix hands out for the message's key."""

    state: State

    def __init__(self, name: str) -> None:
        self._name = name

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self.state.get_bytes(f"{self._name}/{key.decode()}")
        return value

    def __setitem__(self, key: bytes, value: bytes) -> None:
        self.state.set_bytes(f"{self._name}/{key.decode()}", value)


def create_app(setup: Setup) -> Application:
    """The application with its one stateful function."""
    app = Application(
        broker_address=setup.bootstrap,
        consumer_group=f"{setup.prefix}quix",
        auto_offset_reset="earliest",
        processing_guarantee="exactly-once",
        commit_every=COMMIT_EVERY,
        commit_interval=COMMIT_INTERVAL_S,
        state_dir=f"{setup.directory}/quix",
        producer_extra_config={"linger.ms": 5},
        loglevel="WARNING",
    )
    logical = {setup.topic(topic): topic for topic in INPUTS}
    outputs: dict[str, Topic] = {
        topic: app.topic(setup.topic(topic), key_serializer="bytes", value_serializer=_OutputBytes())
        for topic in OUTPUTS
    }
    frames = [
        app.dataframe(app.topic(topic, key_deserializer="bytes", value_deserializer="bytes")) for topic in logical
    ]
    gate, progress = OneByOne(setup.rules), setup.progress
    parts = _Part(ACCOUNTS), _Part(IDS)
    tables = TableState(*parts)

    def decide(value: bytes, key: bytes, at_ms: int, _headers: Any, state: State) -> Iterable[Output]:
        for part in parts:
            part.state = state
        context = message_context()
        topic = logical[context.topic]
        record = Record(topic, context.partition, context.offset, at_ms, key, value)
        decided = gate.decide(record, tables.read, tables.recall)
        tables.write(decided.account_id, decided.changes)
        progress.set(topic, context.partition, context.offset + 1)
        return decided.outputs

    frame = frames[0].concat(frames[1]).concat(frames[2])
    frame = frame.apply(decide, stateful=True, metadata=True, expand=True)
    frame.to_topic(lambda output, _key, _at_ms, _headers: outputs[output.topic])
    return app


if __name__ == "__main__":
    app = create_app(Setup.of(sys.argv[1]))
    quieten_gc()
    app.run()
