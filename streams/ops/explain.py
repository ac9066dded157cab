"""``tidegate explain``: one decision, made again from what it was made of, and what each of its checks saw."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from aiokafka.structs import ConsumerRecord, TopicPartition
from rich.text import Text

from schemas.types import write_time
from streams.audit import Audit, AuditError, RulesByVersion, Transaction, read_transaction
from streams.core.decode import decode, parse_object
from streams.core.fold import now_of
from streams.core.records import APPROVED, DEAD_LETTERS, INPUTS, POLICIES, REJECTED, SIGNALS, Record
from streams.core.rules import Rules
from streams.ops import broker as kafka_broker
from streams.ops.checks import CheckLine, check_document, checks_table, published_line
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import AppId, Broker, Config, Json, Prefix, connect, examples, rules_in
from streams.ops.overview import Overview, document, overview
from streams.ops.tables import account_page
from streams.ops.terminal import print_json, say, stdout
from streams.ops.whatif import examine
from streams.runtime.settings import Settings
from streams.runtime.topics import JOURNAL, Layout, TopicNames

EXAMPLES = examples(
    "# Why was it refused, and is that what the records say?",
    "tidegate explain s-1 --config tidegate.toml",
    "",
    "# One account's share of a signal that was fanned out; for scripts:",
    "tidegate explain s-1/main_binance --account main_binance --json | jq '.equal, .decision.code'",
)
_POLL_MS = 200


class Decision(NamedTuple):
    """A decision as it was published."""

    topic: str
    key: bytes
    value: bytes
    body: Mapping[str, Any]

    @property
    def approved(self) -> bool:
        return self.topic == APPROVED


class Recomputed(NamedTuple):
    """The same decision made again. ``value`` None: the records made no decision on that signal."""

    transaction: Transaction
    value: bytes | None
    signal: Record
    state: Overview
    now_ms: int
    policy_version: int
    checks: tuple[CheckLine, ...]


def explain_command(
    signal_id: Annotated[str, typer.Argument(metavar="SIGNAL_ID", help="The decided signal.")],
    account: Annotated[
        str | None,
        typer.Option("--account", "-a", metavar="ACCOUNT", help="Needed where several accounts decided on that id."),
    ] = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Explain a decision: what was decided, the state that it saw, each check, and whether the records agree.

    The account's partition is folded again from its first record, batch by batch as the journal says, under the
    policies of that time and the configuration that is read here: give the one that the worker had. The decision made
    again has to equal the published one byte for byte.

    Status 0: it does. Status 1: there is no such decision, the records are no longer retained, or it differs.
    """
    rules = rules_in(config)
    settings = connect(config, broker, prefix, app_id)
    decision, again, why_not = kafka_broker.run(_explain(settings, rules, signal_id, account), settings)
    equal = again is not None and again.value == decision.value
    if as_json:
        print_json(_document(decision, again, why_not, equal=equal))
    else:
        _show(decision, again, why_not, equal=equal)
    if not equal:
        raise typer.Exit(ExitStatus.REFUSED)


async def _explain(
    settings: Settings, rules: Rules, signal_id: str, account: str | None
) -> tuple[Decision, Recomputed | None, str | None]:
    layout = await kafka_broker.layout_of(settings)
    async with kafka_broker.reader(settings, auto_offset_reset="earliest") as consumer:
        topics = _Topics(settings, layout, consumer)
        decision = await _find(topics, signal_id, account)
        try:
            return decision, await _recompute(topics, rules, decision), None
        except AuditError as error:
            return decision, None, str(error)


class _Topics:
    """Reads of the gate's topics with one consumer, read committed."""

    def __init__(self, settings: Settings, layout: Layout, consumer: Any) -> None:
        self.layout = layout
        self._consumer = consumer
        self._names = TopicNames.of(settings)

    def places(self, topic: str, account: str | None = None) -> list[TopicPartition]:
        """All partitions of a topic, or the one of an account."""
        if account is not None:
            return [self.place(topic, self.layout.partition_in(topic, account))]
        return self.layout.places(self._names, topic)

    def place(self, topic: str, partition: int) -> TopicPartition:
        return TopicPartition(self._names.physical(topic), partition)

    async def records(self, places: Sequence[TopicPartition], holding: bytes = b"") -> list[ConsumerRecord]:
        """Every record up to the present ends whose value has ``holding`` in it: few of a day's decisions are kept."""
        kept: list[ConsumerRecord] = []

        def take(record: ConsumerRecord) -> None:
            if holding in (record.value or b""):
                kept.append(record)

        await self.begin(places)
        await kafka_broker.read_to(self._consumer, await self.ends(places), take)
        return kept

    async def first_offset(self, place: TopicPartition) -> int:
        async with asyncio.timeout(kafka_broker.REACH_DEADLINE_S):
            return int((await self._consumer.beginning_offsets([place]))[place])

    async def begin(self, places: Sequence[TopicPartition]) -> None:
        """Go to the beginning of some partitions, to read on with ``more``."""
        self._consumer.assign(list(places))
        await self._consumer.seek_to_beginning(*places)

    async def more(self) -> list[ConsumerRecord]:
        """The next records of any of them; nothing where none came in a while."""
        fetched = await self._consumer.getmany(timeout_ms=_POLL_MS)
        return [record for part in fetched.values() for record in part]

    async def position(self, place: TopicPartition) -> int:
        return int(await self._consumer.position(place))

    async def ends(self, places: Sequence[TopicPartition]) -> Mapping[TopicPartition, int]:
        return await kafka_broker.ends_of(self._consumer, places)

    def logical(self, physical: str) -> str:
        return self._names.logical(physical)


# -- the decision --------------------------------------------------------------------------------------------------


async def _find(topics: _Topics, signal_id: str, account: str | None) -> Decision:
    """The one decision on a signal. Raises CommandError where there is none, or several."""
    places = [place for topic in (APPROVED, REJECTED) for place in topics.places(topic, account)]
    # As orjson writes it: without the quotes, since a parent's id only begins its children's.
    written = orjson.dumps(signal_id.encode(errors="replace").decode())[1:-1]
    records = await topics.records(places, written)
    found = [
        Decision(topics.logical(record.topic), record.key or b"", record.value, orjson.loads(record.value))
        for record in records
    ]
    own = [one for one in found if one.body["signal_id"] == signal_id and account in (None, one.body["account_id"])]
    accounts = sorted({str(one.body["account_id"]) for one in own})
    if len(accounts) == 1:
        # An id that was forgotten after the horizon can be decided again; the last decision is the one asked for.
        return max(own, key=lambda one: int(one.body["basis"]["offsets"][SIGNALS]))
    if accounts:
        raise CommandError(
            f"signal {signal_id!r} was decided for several accounts: {', '.join(accounts)}",
            ExitStatus.REFUSED,
            "name one with --account",
        )
    children = sorted({str(one.body["signal_id"]) for one in found if _is_child(one, signal_id)})
    if children:
        raise CommandError(
            f"signal {signal_id!r} was fanned out and has no decision of its own",
            ExitStatus.REFUSED,
            f"its shares were decided: {', '.join(children)}",
        )
    raise await _undecided(topics, signal_id, account)


def _is_child(decision: Decision, signal_id: str) -> bool:
    return bool(decision.body["signal_id"] == f"{signal_id}/{decision.body['account_id']}")


async def _undecided(topics: _Topics, signal_id: str, account: str | None) -> CommandError:
    """Why there is no decision, as far as the dead letters say."""
    of_account = "" if account is None else f" of account {account!r}"
    for record in await topics.records(topics.places(DEAD_LETTERS), b'"topic":"signals"'):
        letter = orjson.loads(record.value)
        payload, _ = parse_object((letter["payload"] or "").encode())
        if payload is not None and payload.get("signal_id") == signal_id:
            return CommandError(
                f"signal {signal_id!r}{of_account} has no decision: it is a dead letter, {letter['reason']}: "
                f"{letter['detail']}",
                ExitStatus.REFUSED,
                f"it was signals {letter['partition']}@{letter['offset']}; correct it and send it under a new id",
            )
    return CommandError(
        f"there is no decision on signal {signal_id!r}{of_account}",
        ExitStatus.REFUSED,
        "it has not been decided, or its decision is no longer retained; is the id spelt as the strategy sent it?",
    )


# -- once more -----------------------------------------------------------------------------------------------------


async def _recompute(topics: _Topics, rules: Rules, decision: Decision) -> Recomputed:
    """The decision from inputs, journal, policies and configuration. Raises AuditError where they do not suffice."""
    partition, offset = decision.body["basis"]["partition"], decision.body["basis"]["offsets"][SIGNALS]
    account_id = str(decision.body["account_id"])
    journal = topics.place(JOURNAL, partition)
    if await topics.first_offset(journal) > 0:
        raise AuditError("the journal is no longer retained from its beginning, so the state cannot be rebuilt")
    transactions = [read_transaction(record.value) for record in await topics.records([journal])]
    at = next((n for n, one in enumerate(transactions) if one.holds(SIGNALS, offset)), None)
    if at is None:
        raise AuditError(f"no transaction of the journal holds signals {partition}@{offset}")
    policies = [_record(POLICIES, one) for one in await topics.records(topics.places(POLICIES))]
    audit = Audit(partition, RulesByVersion(rules, policies), topics.layout.partition_of)
    *before, transaction = transactions[: at + 1]
    places = {topic: topics.place(topic, partition) for topic in INPUTS}
    await topics.begin(list(places.values()))
    ends = await topics.ends(list(places.values()))
    for one in before:
        await _supply(topics, audit, one, places, ends)
        audit.apply(one)
    await _supply(topics, audit, transaction, places, ends)
    seen = audit.seen_by(transaction, SIGNALS, offset, account_id)
    commit = audit.apply(transaction)
    value = next(
        (one.value for one in commit.outputs if one.topic in (APPROVED, REJECTED) and _is_of(one.value, decision)), None
    )
    event = decode(seen.record)
    now_ms = now_of(seen.record, seen.now_ms, seen.rules)
    _, checks = examine(event, account_id, seen.account, seen.rules, now_ms)
    return Recomputed(
        transaction,
        value,
        seen.record,
        overview(account_id, seen.account, seen.rules, now_ms),
        now_ms,
        seen.rules.version,
        checks,
    )


async def _supply(
    topics: _Topics,
    audit: Audit,
    transaction: Transaction,
    places: Mapping[str, TopicPartition],
    ends: Mapping[TopicPartition, int],
) -> None:
    """Read on until the transaction's records are there, or the topics end."""
    while any([await topics.position(places[topic]) < ends[places[topic]] for topic in audit.lacks(transaction)]):
        for record in await topics.more():
            audit.take(_record(topics.logical(record.topic), record))


def _is_of(value: bytes, decision: Decision) -> bool:
    body = orjson.loads(value)
    return all(body[name] == decision.body[name] for name in ("signal_id", "account_id"))


def _record(topic: str, one: ConsumerRecord) -> Record:
    return Record(topic, one.partition, one.offset, one.timestamp, one.key, one.value, tuple(one.headers))


# -- what is shown -------------------------------------------------------------------------------------------------


def _show(decision: Decision, again: Recomputed | None, why_not: str | None, *, equal: bool) -> None:
    body = decision.body
    side = body.get("side")
    basis = body["basis"]
    what = Text("approved", style="bold green") if decision.approved else Text("rejected", style="bold red")
    headline = Text.assemble(f"{body['signal_id']} for {body['account_id']} was ", what, f" at {body['decided_at']}")
    headline.append(f" as {body['order_id']}" if decision.approved else f": {body['code']}")
    say(headline)
    if decision.approved:
        say(
            f"{body['side']} {body['quantity']} {body['instrument']} at {body['price']}, venue {body['venue']}, "
            f"valid until {body['valid_until']}"
        )
    offsets = ", ".join(f"{topic} {offset}" for topic, offset in basis["offsets"].items())
    say(Text(f"partition {basis['partition']} at {offsets}; policy version {basis['policy_version']}", style="dim"))
    if again is None:
        say(Text(f"\nIt cannot be made again: {why_not}. What was published:\n", style="yellow"))
        listed = body["checks"] if decision.approved else body["reasons"]
        stdout().print(checks_table(published_line(check, side) for check in listed))
        return
    records = ", ".join(f"{topic} {first} to {last}" for topic, (first, last) in again.transaction.ranges.items())
    say(Text(f"in one transaction of {write_time(again.transaction.now_ms)} with {records}", style="dim"))
    say(Text("\nThe state that it saw\n", style="bold"))
    stdout().print(account_page(again.state, policy_version=again.policy_version, now_ms=again.now_ms))
    say(Text("\nIts checks, made again\n", style="bold"))
    stdout().print(checks_table(again.checks))
    if equal:
        say(
            Text("\nMade again from inputs and journal, it equals the published decision byte for byte.", style="green")
        )
    else:
        say(Text(f"\n{_difference(decision, again)}", style="bold red"))


def _difference(decision: Decision, again: Recomputed) -> str:
    if again.value is None:
        found = "the records make no decision on this signal"
    else:
        made = orjson.loads(again.value)
        names = [name for name in {**decision.body, **made} if decision.body.get(name) != made.get(name)]
        found = f"it differs in {', '.join(names) or 'its writing'}"
    return (
        f"Made again from inputs and journal, {found}. Was another configuration, or another release, in force when it "
        "was decided? Give that one with --config."
    )


def _document(decision: Decision, again: Recomputed | None, why_not: str | None, *, equal: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "schema_version": 1,
        "topic": decision.topic,
        "decision": decision.body,
        "equal": equal,
        "why_not": why_not if again is None else None if equal else _difference(decision, again),
        "recomputed": None,
        "transaction": None,
        "signal": None,
        "state": None,
        "checks": None,
    }
    if again is None:
        return found
    return found | {
        "recomputed": None if again.value is None else orjson.loads(again.value),
        "transaction": {
            "partition": again.transaction.partition,
            "offsets": again.transaction.ranges,
            "now": write_time(again.transaction.now_ms),
            "policy_version": again.transaction.policy_version,
        },
        "signal": {
            "partition": again.signal.partition,
            "offset": again.signal.offset,
            "timestamp": write_time(again.signal.timestamp_ms),
            "value": (again.signal.value or b"").decode(),
        },
        "state": document(again.state),
        "checks": [check_document(line) for line in again.checks],
    }
