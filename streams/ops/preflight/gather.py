"""Reads what checks look at: once, each part on its own, all within a deadline, nothing written."""

import asyncio
import os
import resource
import shutil
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, for_code
from aiokafka.protocol.admin import DescribeAclsRequest
from aiokafka.structs import ConsumerRecord, TopicPartition

from schemas.config import ConfigFile
from streams.core.records import APPROVED, DEAD_LETTERS, INPUTS, LOCKED, POLICIES, Record
from streams.core.rules import Rules, rules_of
from streams.core.state import OFFSETS_KEY, PARTITION, decode_offsets
from streams.ops import broker
from streams.ops.exits import CommandError
from streams.ops.preflight.access import read_identity
from streams.ops.preflight.context import (
    Acl,
    Acls,
    Cluster,
    Context,
    Group,
    Groups,
    Machine,
    NotRead,
    Part,
    PartitionFacts,
    Progress,
    State,
    TopicFacts,
)
from streams.ops.preflight.mirror import read_mirror
from streams.ops.preflight.observation import read_files, read_scraping
from streams.ops.requests import Entry, read_entries
from streams.ops.snapshot import Snapshot
from streams.runtime import clock, kafka
from streams.runtime.settings import Settings, SettingsError
from streams.runtime.store import change_of
from streams.runtime.topics import JOURNAL, OPTIONAL, STATE, TopicNames, TopicsError

# Of inputs, dead letters and journal: enough to see every producer, few enough to read in a moment.
_RECENT_MAX, _RECENT_MIN_EACH = 2_000, 20
_PENDING_READ_MAX = 500
_GROUPS_MAX = 1_000
_PART_DEADLINE_S = 120.0
_COORDINATOR_DEADLINE_S, _RETRY_INTERVAL_S = 15.0, 0.2
_NO_BROKER = "is a broker running there, and reachable from here? It is named by --broker or TIDEGATE_BROKER"

_ANY, _TOPIC, _PREFIXED, _ALL, _WRITE, _ALLOW = 1, 2, 4, 2, 4, 3
_SECURITY_DISABLED = 54

T = TypeVar("T")


async def gather(settings: Settings, config: ConfigFile) -> Context:
    """Read everything; what cannot be read is told by its part."""
    rules = rules_of(config)
    machine: Part[Machine] = await _part(asyncio.to_thread(_machine, settings.data_dir))
    mirror = await _part(read_mirror(settings))
    files = await _part(asyncio.to_thread(read_files))
    scraping = await _part(read_scraping())
    cluster = await _part(_cluster(settings))
    if cluster.fault is not None:
        # Each of the others would wait for the same broker in vain.
        gone: Part[Any] = Part(None, NotRead("the broker did not answer", cluster.fault.remedy))
        parts = (cluster, gone, gone, gone, gone, gone, gone, machine, gone, mirror, files, scraping)
        return Context(settings, config, rules, clock.now_ms(), *parts)
    topics = await _part(_topics(settings))
    acls, groups, recent, state, requests, identity = await asyncio.gather(
        _part(_acls(settings)),
        _part(_groups(settings, topics)),
        _part(_recent(settings, topics)),
        _part(_state(settings, rules, topics)),
        _part(_requests(settings)),
        _part(read_identity(settings, cluster)),
    )
    return Context(
        settings,
        config,
        rules,
        clock.now_ms(),
        cluster,
        topics,
        acls,
        groups,
        recent,
        state,
        requests,
        machine,
        identity,
        mirror,
        files,
        scraping,
    )


async def _part(work: Awaitable[T]) -> Part[T]:
    try:
        async with asyncio.timeout(_PART_DEADLINE_S):
            return Part(await work)
    except NotRead as fault:
        return Part(None, fault)
    except CommandError as error:
        return Part(None, NotRead(error.message, error.remedy))
    except TimeoutError:
        return Part(None, NotRead("the broker did not answer in time", _NO_BROKER))
    except (KafkaError, TopicsError, SettingsError, OSError, ValueError) as error:
        return Part(
            None, NotRead(str(error) or type(error).__name__, _NO_BROKER if isinstance(error, KafkaError) else "")
        )


# -- the cluster ---------------------------------------------------------------------------------------------------


async def _cluster(settings: Settings) -> Cluster:
    admin = kafka.admin(settings)
    async with asyncio.timeout(broker.REACH_DEADLINE_S):
        await admin.start()
    try:
        # The first request also opens the connection; what a decision waits for is the second.
        await kafka.ask_any_broker(admin.describe_cluster)
        started = time.perf_counter()
        found = await kafka.ask_any_broker(admin.describe_cluster)
        answered_ms = (time.perf_counter() - started) * 1000
        brokers = {one["node_id"]: f"{one['host']}:{one['port']}" for one in found["brokers"]}
        one = min(brokers)
        config = _configs(await admin.describe_configs([ConfigResource(ConfigResourceType.BROKER, str(one))]))
        return Cluster(brokers, found["controller_id"], answered_ms, config.get(str(one), {}))
    finally:
        await admin.close()


async def _topics(settings: Settings) -> Mapping[str, TopicFacts]:
    names = TopicNames.of(settings)
    ours = {*names.all(), *map(names.physical, OPTIONAL)}
    admin = kafka.admin(settings)
    await admin.start()
    try:
        described = [topic for topic in await kafka.ask_any_broker(admin.describe_topics) if topic["topic"] in ours]
        wanted = [ConfigResource(ConfigResourceType.TOPIC, topic["topic"]) for topic in described]
        configs = _configs(await admin.describe_configs(wanted)) if wanted else {}
    finally:
        await admin.close()
    return {
        names.logical(topic["topic"]): TopicFacts(
            topic["topic"],
            {
                one["partition"]: PartitionFacts(one["leader"], tuple(one["replicas"]), tuple(one["isr"]))
                for one in topic["partitions"]
            },
            configs.get(topic["topic"], {}),
        )
        for topic in described
    }


def _configs(responses: Sequence[Any]) -> dict[str, dict[str, str]]:
    """Configuration by resource. Raises KafkaError where the broker refuses to tell."""
    configs: dict[str, dict[str, str]] = {}
    for response in responses:
        for code, message, _, name, entries, *_rest in response.resources:
            if code:
                raise for_code(code)(message or "")
            configs[name] = {entry[0]: entry[1] for entry in entries if entry[1] is not None}
    return configs


async def _acls(settings: Settings) -> Acls:
    async with kafka.client(settings) as client:
        # Any operation, any permission, any pattern, of topics.
        request = DescribeAclsRequest(_TOPIC, None, _ANY, None, None, _ANY, _ANY)
        response = await kafka.ask_any_broker(lambda: client.send(client.get_random_node(), request))
    if response.error_code == _SECURITY_DISABLED:
        return Acls(authorizer=False, rules=())
    if response.error_code:
        raise NotRead(
            f"the broker does not tell its ACLs: {for_code(response.error_code).__name__}",
            "run preflight as a principal that may DESCRIBE the cluster",
        )
    return Acls(
        authorizer=True,
        rules=tuple(
            Acl(name, pattern == _PREFIXED, principal, host, operation in (_ALL, _WRITE), permission == _ALLOW)
            for _, name, pattern, rules, *_rest in response.resources
            for principal, host, operation, permission, *_more in rules
        ),
    )


# -- groups --------------------------------------------------------------------------------------------------------


async def _groups(settings: Settings, topics: Part[Mapping[str, TopicFacts]]) -> Groups:
    outputs = {topics.get()[one].name for one in (APPROVED, LOCKED, DEAD_LETTERS) if one in topics.get()}
    ours = settings.topic_prefix + settings.app_id
    stewards, notifiers = f"{ours}-steward", f"{ours}-notify"
    admin = kafka.admin(settings)
    await admin.start()
    try:
        others = {one[0] for one in await admin.list_consumer_groups()} - {ours, stewards, notifiers}
        names = sorted(others)[:_GROUPS_MAX]
        readers = {}
        for name in names:
            offsets = await _when_ready(partial(admin.list_consumer_group_offsets, name))
            mine = {place: one.offset for place, one in offsets.items() if place.topic in outputs and one.offset >= 0}
            if mine:
                readers[name] = Group("", (), mine)
        workers = _described(await _when_ready(partial(admin.describe_consumer_groups, [ours])))
        steward = _described(await _when_ready(partial(admin.describe_consumer_groups, [stewards])))
        notifier = _described(await _when_ready(partial(admin.describe_consumer_groups, [notifiers])))
    finally:
        await admin.close()
    places = [place for one in readers.values() for place in one.offsets]
    if not places:
        return Groups(workers, steward, notifier, readers, {})
    async with broker.reader(settings) as consumer:
        return Groups(workers, steward, notifier, readers, await broker.ends_of(consumer, places))


async def _when_ready(ask: Callable[[], Awaitable[T]]) -> T:
    """A fresh cluster makes its groups' coordinator when it is first asked for one. Raises KafkaError."""
    deadline = time.monotonic() + _COORDINATOR_DEADLINE_S
    while True:
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable or time.monotonic() > deadline:
                raise
        await asyncio.sleep(_RETRY_INTERVAL_S)


def _described(responses: Sequence[Any]) -> Group:
    (group,) = (one for response in responses for one in response.to_object()["groups"])
    return Group(
        group["state"], tuple(f"{one['client_id']}@{one['client_host'].lstrip('/')}" for one in group["members"]), {}
    )


# -- records -------------------------------------------------------------------------------------------------------


async def _recent(settings: Settings, topics: Part[Mapping[str, TopicFacts]]) -> Mapping[str, Sequence[Record]]:
    names = TopicNames.of(settings)
    places = [
        TopicPartition(names.physical(topic), number)
        for topic in (*INPUTS, DEAD_LETTERS, JOURNAL)
        if topic in topics.get()
        for number in topics.get()[topic].partitions
    ]
    recent: dict[str, list[Record]] = {}

    def take(one: ConsumerRecord) -> None:
        topic = names.logical(one.topic)
        recent.setdefault(topic, []).append(Record(topic, one.partition, one.offset, one.timestamp, one.key, one.value))

    if not places:
        return recent
    each = max(_RECENT_MIN_EACH, _RECENT_MAX // len(places))
    async with broker.reader(settings) as consumer:
        consumer.assign(places)
        ends = await broker.ends_of(consumer, places)
        firsts = await consumer.beginning_offsets(places)
        for place in places:
            consumer.seek(place, max(firsts[place], ends[place] - each))
        await broker.read_to(consumer, ends, take)
    return recent


async def _state(settings: Settings, rules: Rules, topics: Part[Mapping[str, TopicFacts]]) -> State:
    names = TopicNames.of(settings)
    there = topics.get()
    for topic in (POLICIES, STATE, *INPUTS):
        if topic not in there:
            raise NotRead(f"topic {names.physical(topic)} is missing", "tidegate topics create")
    snapshot = Snapshot(rules)
    numbers = sorted(there[STATE].partitions)
    applied: dict[int, Mapping[str, int]] = {number: {} for number in numbers}
    records = 0

    def take(one: ConsumerRecord) -> None:
        nonlocal records
        if one.topic == names.physical(POLICIES):
            snapshot.take_policy(Record(POLICIES, one.partition, one.offset, one.timestamp, one.key, one.value))
            return
        records += 1
        snapshot.take_state(one.key, one.value)
        table, key, value = change_of(one.key or b"", one.value)
        if table == PARTITION and key == OFFSETS_KEY and value is not None:
            applied[one.partition] = decode_offsets(value)

    places = [TopicPartition(names.physical(POLICIES), 0)]
    places += [TopicPartition(names.physical(STATE), number) for number in numbers]
    inputs = [TopicPartition(names.physical(topic), number) for topic in INPUTS for number in there[topic].partitions]
    async with broker.reader(settings) as consumer:
        # Before the state is read: what comes meanwhile is not waiting, it has just come.
        ends = await broker.ends_of(consumer, inputs)
        firsts = await consumer.beginning_offsets(inputs)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        await broker.read_to(consumer, await broker.ends_of(consumer, places), take)
        partitions = {}
        for number in numbers:
            by_topic = {topic: TopicPartition(names.physical(topic), number) for topic in INPUTS}
            first = {topic: firsts[place] for topic, place in by_topic.items() if place in firsts}
            end = {topic: ends[place] for topic, place in by_topic.items() if place in ends}
            starts = {by_topic[topic]: max(first[topic], applied[number].get(topic, -1) + 1) for topic in first}
            pending, oldest_ms = await _pending(consumer, starts, ends)
            partitions[number] = Progress(applied[number], first, end, pending, oldest_ms)
    return State(snapshot, records, partitions)


async def _pending(
    consumer: Any, starts: Mapping[TopicPartition, int], ends: Mapping[TopicPartition, int]
) -> tuple[int, int | None]:
    """Records between, up to a few hundred of each input; counted by reading, since not every offset holds one."""
    until = {
        place: min(ends[place], start + _PENDING_READ_MAX) for place, start in starts.items() if start < ends[place]
    }
    if not until:
        return 0, None
    moments: list[int] = []
    consumer.assign(list(until))
    for place in until:
        consumer.seek(place, starts[place])
    await broker.read_to(consumer, until, lambda record: moments.append(record.timestamp))
    return len(moments), min(moments, default=None)


async def _requests(settings: Settings) -> Sequence[Entry]:
    return await read_entries(settings)


# -- this machine --------------------------------------------------------------------------------------------------


def _machine(data_dir: Path) -> Machine:
    there = next(path for path in (data_dir.absolute(), *data_dir.absolute().parents) if path.exists())
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return Machine(
        _memory_available_bytes(Path("/proc/meminfo")),
        shutil.disk_usage(there).free,
        there.is_dir() and os.access(there, os.W_OK | os.X_OK),
        files,
    )


def _memory_available_bytes(meminfo: Path) -> int | None:
    if not meminfo.exists():
        return None
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
