"""The topics: their names on the broker, how they are made, and the check that a worker can rely on them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiokafka.admin import NewTopic
from aiokafka.errors import TopicAlreadyExistsError, for_code

from streams.core.records import CONTROLS, FILLS, INPUTS, OUTPUTS, PNL, POLICIES, SIGNALS
from streams.runtime import kafka
from streams.runtime.kafka import TopicPartition
from streams.runtime.settings import Settings

STATE = "state"
JOURNAL = "journal"
# What operators ask for, approve and sign. Workers neither read nor need it.
REQUESTS = "requests"
# What the notifier has sent. Only it needs them.
NOTIFICATIONS = "notifications"
OPTIONAL = (REQUESTS, NOTIFICATIONS)
# One account's records of these topics are in the partition of the same number: whoever owns it has them all.
CO_PARTITIONED = (SIGNALS, FILLS, PNL, CONTROLS, STATE, JOURNAL)
FOREVER_MS = -1

# Clients send up to 1 MiB by default. A record that is forwarded gains a key and a header, a decision repeats its
# signal's headers and adds its checks, a dead letter repeats the key: what can be read in must fit on its way out.
_INPUT_MAX_BYTES = 1_048_576 + 128 * 1024
_OUTPUT_MAX_BYTES = 8 * 1024 * 1024
# One record holds all open orders of an account, and nothing but executors closes them.
_STATE_MAX_BYTES = 64 * 1024 * 1024
# Longer than the notifier ever looks back (schemas.config: give_up).
NOTIFICATIONS_RETENTION_MS = 7 * 86_400_000


class TopicsError(RuntimeError):
    """Topics are missing or do not fit together. The message names topic and remedy."""


@dataclass(frozen=True)
class TopicNames:
    """Logical names (as the contract and the core use them) to names on the broker, and back."""

    prefix: str = ""
    app_id: str = "tidegate"
    _to_physical: Mapping[str, str] = field(init=False, repr=False, compare=False)
    _to_logical: Mapping[str, str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = {topic: self.prefix + topic for topic in (*INPUTS, POLICIES, *OUTPUTS)}
        names |= {topic: f"{self.prefix}{self.app_id}-{topic}" for topic in (STATE, JOURNAL, *OPTIONAL)}
        object.__setattr__(self, "_to_physical", names)
        object.__setattr__(self, "_to_logical", {physical: logical for logical, physical in names.items()})

    @classmethod
    def of(cls, settings: Settings) -> "TopicNames":
        return cls(settings.topic_prefix, settings.app_id)

    def physical(self, logical: str) -> str:
        """The broker's name. Raises KeyError for a name that is none of Tidegate's."""
        return self._to_physical[logical]

    def logical(self, physical: str) -> str:
        return self._to_logical[physical]

    def all(self) -> tuple[str, ...]:
        """All names on the broker that the gate cannot run without."""
        return tuple(name for topic, name in self._to_physical.items() if topic not in OPTIONAL)


async def create_topics(
    settings: Settings,
    *,
    partitions: int,
    replication_factor: int = 1,
    input_retention_ms: int = FOREVER_MS,
    output_retention_ms: int = FOREVER_MS,
    journal_retention_ms: int = FOREVER_MS,
) -> tuple[str, ...]:
    """Create the topics that are missing and return their names; those that exist are left as they are.

    Raises a KafkaError if the broker refuses.
    """
    names = TopicNames.of(settings)
    wanted: list[NewTopic] = []

    def want(logical: str, count: int, **configs: str | int) -> None:
        texts = {name.replace("_", "."): str(value) for name, value in configs.items()}
        wanted.append(NewTopic(names.physical(logical), count, replication_factor, topic_configs=texts))

    for topic in INPUTS:
        want(topic, partitions, retention_ms=input_retention_ms, max_message_bytes=_INPUT_MAX_BYTES)
    for topic in OUTPUTS:
        want(topic, partitions, retention_ms=output_retention_ms, max_message_bytes=_OUTPUT_MAX_BYTES)
    want(POLICIES, 1, retention_ms=FOREVER_MS, retention_bytes=-1)
    want(REQUESTS, 1, retention_ms=FOREVER_MS, retention_bytes=-1)
    want(NOTIFICATIONS, 1, retention_ms=NOTIFICATIONS_RETENTION_MS)
    want(JOURNAL, partitions, retention_ms=journal_retention_ms, max_message_bytes=_OUTPUT_MAX_BYTES)
    want(
        STATE,
        partitions,
        cleanup_policy="compact",
        max_message_bytes=_STATE_MAX_BYTES,
        min_cleanable_dirty_ratio="0.2",
    )

    admin = kafka.admin(settings)
    await admin.start()
    try:
        existing = set(await kafka.ask_any_broker(admin.list_topics))
        missing = [topic for topic in wanted if topic.name not in existing]
        response = await kafka.ask_any_broker(lambda: admin.create_topics(missing)) if missing else None
    finally:
        await admin.close()
    for topic, code, *message in response.topic_errors if response is not None else ():
        error = for_code(code)
        # Another process may have created it since the listing.
        if code and error is not TopicAlreadyExistsError:
            raise error(f"topic {topic} could not be created: {' '.join(filter(None, message)) or error.__name__}")
    return tuple(topic.name for topic in missing)


@dataclass(frozen=True, slots=True)
class Layout:
    """What the broker said at the start."""

    partitions: int
    """Of the inputs, the state changelog and the journal."""
    counts: Mapping[str, int]
    """Partitions of every topic, by logical name; of the optional ones only where they are there."""
    cluster_id: str

    def partition_of(self, account_id: str) -> int:
        """The partition of an account's records in every co-partitioned topic."""
        return kafka.partition_of_key(account_id.encode(), self.partitions)

    def partition_in(self, topic: str, account_id: str) -> int:
        """The same in any topic: an output may have another number of partitions than the inputs."""
        return kafka.partition_of_key(account_id.encode(), self.counts[topic])

    def places(self, names: TopicNames, topic: str) -> list[TopicPartition]:
        """Every partition of a topic, given by its logical name."""
        return [TopicPartition(names.physical(topic), number) for number in range(self.counts[topic])]


async def verify_topics(settings: Settings) -> Layout:
    """Check that all topics are there and co-partitioned. Raises TopicsError that names topic and remedy."""
    names = TopicNames.of(settings)
    admin = kafka.admin(settings)
    await admin.start()
    try:
        described = await kafka.ask_any_broker(admin.describe_topics)
        cluster = await kafka.ask_any_broker(admin.describe_cluster)
    finally:
        await admin.close()
    counts = {topic["topic"]: len(topic["partitions"]) for topic in described}
    return Layout(*check_counts(names, counts), cluster.get("cluster_id") or "")


def check_counts(names: TopicNames, counts: Mapping[str, int]) -> tuple[int, Mapping[str, int]]:
    """Partitions of the inputs, and of every topic by logical name, from those on the broker. Raises TopicsError."""
    missing = sorted(name for name in names.all() if not counts.get(name))
    if missing:
        raise TopicsError(f"topics are missing: {', '.join(missing)}; create them with `tidegate topics create`")
    first = CO_PARTITIONED[0]
    expected = counts[names.physical(first)]
    for topic in CO_PARTITIONED:
        if (count := counts[names.physical(topic)]) != expected:
            raise TopicsError(
                f"topic {names.physical(topic)} has {count} partitions, but {names.physical(first)} has {expected}: an "
                "account's records would be spread over owners; recreate it with the same number of partitions"
            )
    for topic in (POLICIES, *OPTIONAL):
        if (count := counts.get(names.physical(topic), 1)) != 1:
            raise TopicsError(
                f"topic {names.physical(topic)} has {count} partitions: {topic} are one sequence for everyone; "
                "recreate it with one partition"
            )
    present = [*names.all(), *(name for topic in OPTIONAL if counts.get(name := names.physical(topic)))]
    return expected, {names.logical(name): counts[name] for name in present}
