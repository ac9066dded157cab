"""Publish one operator command and wait for what becomes of it."""

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import orjson
from aiokafka.structs import ConsumerRecord, TopicPartition
from pydantic import ValidationError

from schemas.inputs import Command
from schemas.types import write_time
from streams.core.decode import parse_object
from streams.core.records import CONTROLS, LOCKED
from streams.ops import broker
from streams.ops.answers import ANSWERS, Answer, Body, Sent, answer_to, comes_with
from streams.ops.exits import CommandError, ExitStatus
from streams.runtime import clock
from streams.runtime.settings import Settings
from streams.runtime.topics import Layout, TopicNames

# How much later than the worker's clock an operator's may be, where answers are looked up by time.
_CLOCKS_DIFFER_MS = 300_000
_POLL_MS = 200


class Outcome(NamedTuple):
    """A published command and its answer.

    ``first``: the answer that an earlier command of this id had. ``locks``: those that a change of profile brought.
    """

    sent: Sent
    answer: Answer | None
    first: Answer | None = None
    locks: tuple[Body, ...] = ()

    @property
    def telling(self) -> Answer | None:
        """The answer that says what became of the command."""
        return self.first or self.answer


def new_command(kind: str, account_id: str, operator: str, reason: str, **fields: Any) -> dict[str, Any]:
    """The value of a ``controls`` record. Raises CommandError that names what is wrong with it."""
    body: dict[str, Any] = {
        "command_id": fields.pop("command_id", None) or str(uuid.uuid4()),
        "account_id": account_id,
        "type": kind,
        "operator": operator,
        "approved_by": fields.pop("approved_by", None),
        "reason": reason,
        **{name: value for name, value in fields.items() if value is not None},
        "issued_at": write_time(clock.now_ms()),
    }
    try:
        command = Command.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise CommandError(f"{first['loc'][0]} {first['input']!r}: {first['msg']}", ExitStatus.USAGE) from None
    if not command.reason.strip():
        raise CommandError("--reason is empty; every command names one", ExitStatus.USAGE)
    return body


async def give(settings: Settings, command: Mapping[str, Any], timeout_s: float | None) -> Outcome:
    """Publish a command; wait up to ``timeout_s`` for its answer (None: do not wait)."""
    layout = await broker.layout_of(settings)
    places = _places(settings, layout, command["account_id"])
    async with broker.reader(settings) as consumer:
        # Where to read from is noted before the command is out: its answer cannot be missed.
        consumer.assign(list(places))
        starts = await broker.ends_of(consumer, places)
        for place, start in starts.items():
            consumer.seek(place, start)
        topic = TopicNames.of(settings).physical(CONTROLS)
        written = await broker.publish(settings, topic, command["account_id"], orjson.dumps(command))
        sent = Sent(command["account_id"], command["command_id"], written.partition, written.offset)
        if timeout_s is None:
            return Outcome(sent, None)
        answer: Answer | None = None
        first: Answer | None = None
        locks: tuple[Body, ...] = ()
        try:
            async with asyncio.timeout(timeout_s):
                answer = await _next_answer(consumer, places, sent)
                if answer.repeats:
                    first = await _first_answer(settings, consumer, places, sent)
                elif answer.may_lock:
                    locks = await _locks_with(settings, consumer, starts, answer)
        except TimeoutError:
            pass  # The answer so far is the outcome.
        return Outcome(sent, answer, first, locks)


async def given_before(settings: Settings, account_id: str, command_id: str) -> Outcome | None:
    """What became of a command that was published earlier; None if it was not, or has no answer (yet, or any more)."""
    layout = await broker.layout_of(settings)
    places = _places(settings, layout, account_id)
    partition = layout.partition_of(account_id)
    controls = TopicPartition(TopicNames.of(settings).physical(CONTROLS), partition)
    async with broker.reader(settings) as consumer:
        consumer.assign(list(places))
        end = (await broker.ends_of(consumer, [controls]))[controls]
        answer = await _first_answer(settings, consumer, places, Sent(account_id, command_id, partition, end))
    if answer is None:
        return None
    body = answer.body
    offset = body["basis"]["offsets"][CONTROLS] if answer.done else body["offset"]
    return Outcome(Sent(account_id, command_id, partition, offset), answer, answer)


def _places(settings: Settings, layout: Layout, account_id: str) -> dict[TopicPartition, str]:
    """The partitions that can hold an answer to the account, by key, with their logical topics."""
    names = TopicNames.of(settings)
    return {TopicPartition(names.physical(topic), layout.partition_in(topic, account_id)): topic for topic in ANSWERS}


async def _next_answer(consumer: Any, places: Mapping[TopicPartition, str], sent: Sent) -> Answer:
    while True:
        batches: dict[TopicPartition, Sequence[ConsumerRecord]] = await consumer.getmany(timeout_ms=_POLL_MS)
        for place, records in batches.items():
            for record in records:
                if (answer := _answer_in(record, places[place], (sent,))) is not None:
                    return answer


def _answer_in(record: ConsumerRecord, topic: str, sent: Sequence[Sent]) -> Answer | None:
    body, _ = parse_object(record.value)
    if body is None:
        return None
    return next((answer for one in sent if (answer := answer_to(one, topic, body)) is not None), None)


async def _locks_with(
    settings: Settings, consumer: Any, starts: Mapping[TopicPartition, int], answer: Answer
) -> tuple[Body, ...]:
    """The locks of the answer's own step.

    They are in its transaction, so they are written; but each partition shows a transaction in its own time, so the
    read goes to an end that does not depend on that.
    """
    name = TopicNames.of(settings).physical(LOCKED)
    place = next(place for place in starts if place.topic == name)
    found: list[Body] = []

    def collect(record: ConsumerRecord) -> None:
        body, _ = parse_object(record.value)
        if body is not None and comes_with(answer, body):
            found.append(body)

    async with broker.reader(settings, isolation_level="read_uncommitted") as uncommitted:
        ends = await broker.ends_of(uncommitted, [place])
    # They may have been read past already, beside the answer.
    consumer.seek(place, starts[place])
    await broker.read_to(consumer, ends, collect)
    return tuple(found)


async def _first_answer(
    settings: Settings, consumer: Any, places: Mapping[TopicPartition, str], sent: Sent
) -> Answer | None:
    """What became of the command that used the id first; None if its records are not kept any more."""
    earlier: list[tuple[Sent, int]] = []

    def collect(record: ConsumerRecord) -> None:
        body, _ = parse_object(record.value)
        same = body and (body.get("account_id"), body.get("command_id")) == (sent.account_id, sent.command_id)
        if same and record.offset < sent.offset:
            earlier.append((sent._replace(offset=record.offset), record.timestamp))

    controls = TopicPartition(TopicNames.of(settings).physical(CONTROLS), sent.partition)
    async with broker.reader(settings) as commands:
        commands.assign([controls])
        await commands.seek_to_beginning(controls)
        await broker.read_to(commands, {controls: sent.offset}, collect)
    if not earlier:
        return None
    found: list[Answer] = []

    def match(record: ConsumerRecord) -> None:
        topic = places[TopicPartition(record.topic, record.partition)]
        answer = _answer_in(record, topic, [one for one, _ in earlier])
        if answer is not None and not answer.repeats:
            found.append(answer)

    since_ms = min(at_ms for _, at_ms in earlier) - _CLOCKS_DIFFER_MS
    await broker.read_since(consumer, places, since_ms, match)
    return found[-1] if found else None
