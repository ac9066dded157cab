"""The same damage through a real worker: Kafka between, one process that must neither end nor stall, every input found.

One long session, its records broken and copied as offline, is produced to the partitions that the mutations name. When
the worker has applied everything, copies and children included, the topics are read whole: the accounting of
``accounting.py`` is made over all of them, and inputs, policies and journal are folded once more, which has to give the
published records byte for byte.

What brokers refuse never reaches the gate and is counted as refused; times outside of what they take by default are
let in by the topics' configuration, since older brokers take them.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from infra.brokers import Broker
from streams.audit import replayed
from streams.config import parse_config
from streams.core.records import CONTROLS, FILLS, INPUTS, OUTPUTS, PNL, POLICIES, SIGNALS, Output, Record
from streams.core.rules import Rules, rules_of
from streams.core.state import DECISIONS, PARTITION, Account, decode_account
from streams.runtime.kafka import partition_of_key
from streams.runtime.settings import Settings
from streams.runtime.store import change_of
from streams.runtime.topics import JOURNAL, STATE, TopicNames, create_topics
from tests.fuzz.accounting import unaccounted
from tests.fuzz.mutations import INT64_MAX, PARTITIONS, Mutator, Sent
from tests.integration.support import Names, read_topic, wait_for
from tests.integration.workers import WorkerProcess, settings_for, workers
from tests.model import strategies
from tests.model.strategies import Scenario

_DEADLINE_S = 300.0
_REQUEST_BYTES_MAX = 8 << 20
# Delta-encoded beside others, such a time would overflow: it makes a batch of its own.
_ORDINARY_MS = range(1 << 50)
Place = tuple[str, int, int]
# Later than any wall clock, so that on the wall clock each record's own time is its now, as at a desk.
START_MS = 3_800_000_000_000
_PNL_SPARED = 0.6
_COPIES = {SIGNALS: (1, 2), FILLS: (0, 1), PNL: (1, 2), CONTROLS: (1, 2), POLICIES: (0, 0, 1)}


class Outcome(NamedTuple):
    """What a live run came to. ``faults``: what is not accounted for, or was decided otherwise; a sentence each."""

    inputs: int
    refused: int
    outputs: Mapping[str, int]
    transactions: int
    faults: Sequence[str]


def session(seed: int, count: int) -> tuple[dict[str, Any], list[Sent]]:
    """A configuration and ``count`` records, about half of them broken; the rest keeps the desk trading."""
    scenario = Scenario(Random(f"{seed}/live"))
    scenario.now_ms = START_MS
    config = scenario.config | {"clock": "wall"}
    names = list(config["accounts"])
    config["fanout"] = {"shared": {"accounts": {names[0]: "0.5", names[1]: "0.3", names[2]: "0.2"}}}
    first = [_sent(scenario.next_record()) for _ in range(500)]
    rng = Random(f"{seed}/live/damage")
    mutator = Mutator(rng, first)
    sent: list[Sent] = []
    sound = chain(first, (_sent(scenario.next_record()) for _ in repeat(None)))
    while len(sent) < count:
        record = next(sound)
        # Broken copies go beside the sound records, so that the session's own story goes on.
        sent.append(record)
        copies = rng.choice(_COPIES[record.topic])
        if record.topic == PNL and len(sent) < _PNL_SPARED * count:
            copies = 0  # one mark with the highest sequence there is, and its account is without equity for ever
        sent += (mutator.spoil(record)[0] for _ in range(copies))
        if copies and record.topic in (FILLS, POLICIES):
            sent.append(_healed(record, len(sent)))
    return config, sent[:count]


def _sent(one: strategies.Record) -> Sent:
    partition = 0 if one.topic == POLICIES else partition_of_key(one.key or b"", PARTITIONS)
    return Sent(one.topic, partition, one.timestamp_ms, one.key, one.value)


def _healed(record: Sent, number: int) -> Sent:
    """What an operator sends after a fill or policy that could not be used: else it would stop all entries for ever."""
    body: dict[str, Any] = {"operator": "ann", "approved_by": "bob", "reason": "checked"}
    if record.topic == POLICIES:
        key = b"state/global"
        return Sent(POLICIES, 0, record.timestamp_ms, key, orjson.dumps(body | {"name": key.decode(), "rule": None}))
    key = record.key or b""
    body |= {"command_id": f"healed{number}", "type": "resume", "account_id": key.decode(errors="replace")}
    body |= {"issued_at": "2090-01-01T00:00:00Z"}
    return Sent(CONTROLS, partition_of_key(key, PARTITIONS), record.timestamp_ms, key, orjson.dumps(body))


async def run(kafka: Broker, names: Names, directory: Path, seed: int, count: int) -> Outcome:
    """Give a worker ``count`` inputs and account for them.

    Raises AssertionError if it ends, TimeoutError if it stalls.
    """
    config, sent = session(seed, count)
    settings = settings_for(kafka, names, directory / "data")
    await create_topics(settings, partitions=PARTITIONS)
    await _let_any_time_in(settings)
    topics = _Topics(kafka, settings)
    worker = WorkerProcess(settings, core="real", rules=json.loads(json.dumps(config)))
    with workers(worker):
        await asyncio.to_thread(worker.wait_serving, PARTITIONS)
        own = await _produce(settings, sent)
        await topics.applied(worker)
        if (status := await asyncio.to_thread(worker.terminate)) != 0:
            raise AssertionError(f"the worker ended with status {status}:\n{worker.log[-4_000:]}")
    found = await topics.read(own)
    rules = rules_of(parse_config(config, {}))
    faults = unaccounted(found.inputs, found.outputs, found.remembered, found.accounts, rules)
    faults += _decided_otherwise(found, rules)
    counts = Counter(output.topic for output in found.outputs)
    return Outcome(len(own), len(sent) - len(own), counts, sum(map(len, found.journal.values())), faults)


async def _let_any_time_in(settings: Settings) -> None:
    names = TopicNames.of(settings)
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.bootstrap)
    await admin.start()
    try:
        any_time = {"message.timestamp.after.max.ms": str(INT64_MAX), "max.message.bytes": str(2 << 20)}
        resources = [
            ConfigResource(ConfigResourceType.TOPIC, names.physical(topic), any_time) for topic in (*INPUTS, POLICIES)
        ]
        await admin.alter_configs(resources)
    finally:
        await admin.close()


async def _produce(settings: Settings, sent: Sequence[Sent]) -> set[Place]:
    """Send everything in order; the places of what the broker took."""
    names = TopicNames.of(settings)
    producer = AIOKafkaProducer(
        bootstrap_servers=settings.bootstrap,
        acks="all",
        enable_idempotence=True,
        linger_ms=5,
        max_request_size=_REQUEST_BYTES_MAX,
    )
    await producer.start()
    taken: set[Place] = set()
    under_way: list[tuple[str, Any]] = []

    async def settle() -> None:
        for topic, future in under_way:
            try:
                done = await future
            except KafkaError:
                continue  # refused: too large, or a time that no broker takes
            taken.add((topic, done.partition, done.offset))
        under_way.clear()

    try:
        for one in sent:
            topic, headers = names.physical(one.topic), list(one.headers)
            alone = one.timestamp_ms not in _ORDINARY_MS or one.value is None or len(one.value) > 200_000
            if alone or len(under_way) >= 1_000:
                await settle()
            if alone:
                # A batch takes what ``send`` refuses and other clients do not: neither key nor value.
                batch = producer.create_batch()
                batch.append(timestamp=one.timestamp_ms, key=one.key, value=one.value, headers=headers)
                batch.close()
                under_way.append((one.topic, await producer.send_batch(batch, topic, partition=one.partition)))
                await settle()
                continue
            future = await producer.send(
                topic, one.value, one.key, partition=one.partition, timestamp_ms=one.timestamp_ms, headers=headers
            )
            under_way.append((one.topic, future))
        await settle()
    finally:
        await producer.stop()
    return taken


class _Found(NamedTuple):
    inputs: list[Record]
    outputs: list[Output]
    published: Mapping[int, Counter[tuple[str, bytes]]]
    remembered: set[bytes]
    accounts: Mapping[str, Account]
    journal: Mapping[int, list[bytes]]


class _Topics:
    """The topics of one gate."""

    def __init__(self, kafka: Broker, settings: Settings) -> None:
        self._kafka = kafka
        self._settings = settings
        self._names = TopicNames.of(settings)

    async def records(self, topic: str) -> list[Any]:
        return await read_topic(self._kafka.bootstrap, self._names.physical(topic), deadline_s=120)

    async def applied(self, worker: WorkerProcess) -> None:
        """Wait until the worker has applied all that is on the inputs, also what it has put there itself."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._kafka.bootstrap)
        await admin.start()
        group = self._settings.topic_prefix + self._settings.app_id
        last: dict[TopicPartition, int] = {}

        async def caught_up() -> bool:
            assert worker.exit_status is None, f"the worker ended:\n{worker.log[-4_000:]}"
            offsets = await admin.list_consumer_group_offsets(group)
            return all(place in offsets and offsets[place].offset > offset for place, offset in last.items())

        try:
            while True:
                now: dict[TopicPartition, int] = {}
                for topic in INPUTS:
                    for record in await self.records(topic):
                        now[TopicPartition(record.topic, record.partition)] = record.offset
                if now == last:
                    return
                last = now
                await wait_for(caught_up, _DEADLINE_S, f"all of {sum(last.values())} inputs to be applied")
        finally:
            await admin.close()

    async def read(self, own: set[Place]) -> _Found:
        """Everything, told apart into what producers sent (``own``) and what the gate published."""
        inputs: list[Record] = []
        outputs: list[Output] = []
        published: dict[int, Counter[tuple[str, bytes]]] = {number: Counter() for number in range(PARTITIONS)}
        for topic in (*INPUTS, POLICIES):
            for one in await self.records(topic):
                record = Record(topic, one.partition, one.offset, one.timestamp, one.key, one.value, tuple(one.headers))
                inputs.append(record)
                if (topic, one.partition, one.offset) not in own:
                    outputs.append(Output(topic, one.key, one.value or b"", tuple(one.headers)))
        for topic in OUTPUTS:
            for one in await self.records(topic):
                outputs.append(Output(topic, one.key, one.value, tuple(one.headers)))
                body = orjson.loads(one.value)
                if body.get("topic") != POLICIES:
                    published[body["basis"]["partition"] if "basis" in body else body["partition"]][
                        topic, one.value
                    ] += 1
        remembered: set[bytes] = set()
        parts: dict[str, dict[str, bytes]] = {}
        for one in await self.records(STATE):
            change = change_of(one.key, one.value)
            if change.table == DECISIONS:
                remembered.add(change.key)
            elif change.table != PARTITION and change.value is not None:
                parts.setdefault(change.key.decode(), {})[change.table] = change.value
        journal: dict[int, list[bytes]] = {number: [] for number in range(PARTITIONS)}
        for one in await self.records(JOURNAL):
            journal[one.partition].append(one.value)
        accounts = {account_id: decode_account(tables) for account_id, tables in parts.items()}
        return _Found(inputs, outputs, published, remembered, accounts, journal)


def _decided_otherwise(found: _Found, rules: Rules) -> list[str]:
    """Where inputs and journal, folded again, give other records than were published."""
    policies = [one for one in found.inputs if one.topic == POLICIES]
    faults: list[str] = []
    for number, journal in found.journal.items():
        inputs = [one for one in found.inputs if one.topic != POLICIES and one.partition == number]
        again: Counter[tuple[str, bytes]] = Counter()
        for transaction in replayed(
            number, inputs, journal, policies, rules, lambda account: partition_of_key(account.encode(), PARTITIONS)
        ):
            again.update((one.topic, one.value) for one in transaction.commit.outputs if one.topic in OUTPUTS)
        if again != found.published[number]:
            missing, extra = again - found.published[number], found.published[number] - again
            faults.append(
                f"partition {number}: {missing.total()} records made again were not published, {extra.total()} "
                f"published were not made again: {[*list(missing)[:2], *list(extra)[:2]]!r}"
            )
    return faults
