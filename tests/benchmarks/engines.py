"""The engines side by side: how each is started, what it guarantees, and how to tell how far it is."""

import asyncio
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from streams.core.fold import fold
from streams.core.records import OUTPUTS
from streams.runtime.settings import Settings
from streams.runtime.topics import JOURNAL, STATE, TopicNames, create_topics
from tests.benchmarks import java, reduced
from tests.benchmarks.memory import Fold
from tests.benchmarks.peers.setup import Setup
from tests.benchmarks.processes import Measured
from tests.benchmarks.workload import configuration, toml_of


class Engine(NamedTuple):
    """One line of the table."""

    name: str
    title: str
    guarantee: str
    state: str
    batches: bool
    """Whether it folds batches; else it steps event by event. Tells which step cost is its own."""
    needs: str | None = None
    """A package that may be missing."""
    fold: Fold = fold
    """The rules that it runs."""

    @property
    def missing(self) -> bool:
        return self.needs is not None and importlib.util.find_spec(self.needs) is None


TIDEGATE = Engine("tidegate", "Tidegate", "exactly once", "RocksDB + changelog", batches=True)
PEERS = (
    Engine("faust_plain", "(a) Faust, plain", "at least once", "RocksDB tables + changelog", batches=False),
    Engine(
        "faust_tuned", "(b) Faust, tuned", "at least once", "tables in memory + changelog", batches=True, needs="uvloop"
    ),
    Engine("quix", "(c) Quix Streams", "exactly once", "RocksDB + changelog", batches=False, needs="quixstreams"),
    Engine("aiokafka_loop", "(d) bare aiokafka loop", "none", "dict, lost with the process", batches=True),
    Engine("librdkafka_loop", "(e) bare librdkafka loop", "none", "dict, lost with the process", batches=True),
)
TIDEGATE_REDUCED = Engine(
    "tidegate_reduced",
    "Tidegate, reduced rules",
    "exactly once",
    "RocksDB + changelog",
    batches=True,
    fold=reduced.fold,
)
KAFKA_STREAMS = Engine(
    "kafka_streams",
    "(f) Kafka Streams, reduced rules",
    "exactly once",
    "RocksDB + changelog",
    batches=False,
    fold=reduced.fold,
)


class Peer:
    """A peer's process and its progress file."""

    def __init__(self, engine: Engine, setup: Setup) -> None:
        self._progress = setup.progress
        if engine is KAFKA_STREAMS:
            command = java.command(setup)
        else:
            command = [sys.executable, "-m", f"tests.benchmarks.peers.{engine.name}", setup.argument()]
        self.process = Measured(command, Path(setup.directory) / "log")

    def positions(self) -> Mapping[tuple[str, int], int]:
        return self._progress.read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.__exit__(kind, error, trace)


class Tidegate:
    """The worker as it is shipped; its journal tells what is committed."""

    def __init__(
        self, setup: Setup, command: list[str] | None = None, directory: str = "data", log: str = "log"
    ) -> None:
        self.settings = settings_of(setup)
        config = Path(setup.directory) / "tidegate.toml"
        if not config.exists():
            config.write_text(toml_of(configuration(setup.accounts)))
        environment = {
            "TIDEGATE_BROKER": self.settings.broker,
            "TIDEGATE_TOPIC_PREFIX": self.settings.topic_prefix,
            "TIDEGATE_DATA_DIR": str(Path(setup.directory) / directory),
        }
        command = command or [sys.executable, "-m", "streams.ops.cli", "worker", "--config", str(config)]
        self._journal = Journal(self.settings, setup.partitions)
        self.process = Measured(command, Path(setup.directory) / log, environment)

    def positions(self) -> Mapping[tuple[str, int], int]:
        return self._journal.positions()

    def says(self, text: str) -> int:
        """How often its log says so."""
        return self.process.log.count(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.__exit__(kind, error, trace)
        self._journal.close()


class Journal:
    """Which offsets are applied, from Tidegate's journal."""

    def __init__(self, settings: Settings, partitions: int) -> None:
        topic = TopicNames.of(settings).physical(JOURNAL)
        self._consumer = Consumer(reading_all(settings.bootstrap) | {"fetch.wait.max.ms": 5})
        self._consumer.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
        self._positions: dict[tuple[str, int], int] = {}

    def positions(self) -> Mapping[tuple[str, int], int]:
        for message in self._consumer.consume(100, 0):
            if message.error():
                continue
            entry = orjson.loads(message.value())
            for topic, (_, last) in entry["offsets"].items():
                self._positions[topic, entry["partition"]] = last + 1
        return self._positions

    def close(self) -> None:
        self._consumer.close()


def settings_of(setup: Setup) -> Settings:
    """Tidegate's settings for a setup; also what its topics are made from."""
    return Settings(
        broker=f"kafka://{setup.bootstrap}", topic_prefix=setup.prefix, data_dir=Path(setup.directory) / "data"
    )


def start(engine: Engine, setup: Setup) -> Peer | Tidegate:
    """Make the topics and start the engine on them."""
    asyncio.run(create_topics(settings_of(setup), partitions=setup.partitions))
    if engine is TIDEGATE:
        return Tidegate(setup)
    if engine is TIDEGATE_REDUCED:
        return Tidegate(setup, [sys.executable, "-m", "tests.benchmarks.reduced", setup.argument()])
    return Peer(engine, setup)


def key_of(output: Mapping[str, Any]) -> str:
    """What tells one decision from another: the signal, and its order or the code that refused it."""
    return f"{output.get('signal_id')} {output.get('order_id') or output.get('code')}"


class Decisions(NamedTuple):
    """What came out: signals with their orders or codes; how many records, by logical topic."""

    approved: frozenset[str]
    rejected: frozenset[str]
    counts: Mapping[str, int]


class Outputs:
    """Everything on an engine's output topics, read committed."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._consumer = Consumer(reading_all(setup.bootstrap))
        places = [
            TopicPartition(setup.topic(topic), number, 0) for topic in OUTPUTS for number in range(setup.partitions)
        ]
        self._consumer.assign(places)
        self._ids: dict[str, list[str]] = {topic: [] for topic in OUTPUTS}

    def read(self, seconds: float) -> Decisions:
        """Read on for at most so long, and return all since the beginning."""
        for message in self._consumer.consume(10_000, seconds):
            if message.error():
                continue
            value = orjson.loads(message.value())
            self._ids[self._setup.logical(message.topic())].append(key_of(value))
        counts = {topic: len(ids) for topic, ids in self._ids.items() if ids}
        return Decisions(frozenset(self._ids["approved-orders"]), frozenset(self._ids["rejected-signals"]), counts)

    def close(self) -> None:
        self._consumer.close()


def written_bytes(settings: Settings, partitions: int) -> dict[str, int]:
    """Bytes of keys and values that a gate has written so far: its outputs, changelog and journal."""
    names = TopicNames.of(settings)
    kinds = {names.physical(topic): "outputs" for topic in OUTPUTS}
    kinds |= {names.physical(STATE): "changelog", names.physical(JOURNAL): "journal"}
    consumer = Consumer(reading_all(settings.bootstrap) | {"enable.partition.eof": True})
    places = [TopicPartition(topic, number, 0) for topic in kinds for number in range(partitions)]
    consumer.assign(places)
    sizes = dict.fromkeys(kinds.values(), 0)
    ended = 0
    while ended < len(places):
        for message in consumer.consume(10_000, 0.2):
            if message.error():
                ended += 1
            else:
                sizes[kinds[message.topic()]] += len(message.value() or b"") + len(message.key() or b"")
    consumer.close()
    return sizes


def make_topics(bootstrap: str, names: Iterable[str]) -> None:
    """Topics of one partition that no engine knows. Raises KafkaException."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for made in admin.create_topics([NewTopic(name, 1, 1) for name in names]).values():
        made.result(timeout=30)


def reading_all(bootstrap: str) -> dict[str, Any]:
    """Options of a consumer that is told what to read, from the beginning and read committed."""
    return {
        "bootstrap.servers": bootstrap,
        "group.id": "unused",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    }
