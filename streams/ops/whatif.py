"""``tidegate whatif``: what the gate would say to a signal now, with nothing published."""

import sys
from decimal import localcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import orjson
import typer
from aiokafka.structs import ConsumerRecord, TopicPartition
from rich.text import Text

from schemas.types import write_time
from streams.core import lock
from streams.core.decode import Event, decode, parse_object
from streams.core.guard import Case, inspect
from streams.core.records import APPROVED, DEAD_LETTERS, POLICIES, REJECTED, SIGNALS, Record
from streams.core.rules import Rules
from streams.core.state import DECISIONS, NEW_ACCOUNT, Account, Breach, Remembered, decode_remembered, remembered_key
from streams.core.step import ARITHMETIC, step
from streams.ops import broker as kafka_broker
from streams.ops.checks import CheckLine, check_document, check_line, checks_table
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import AppId, Broker, Config, Json, Prefix, connect, examples, rules_in
from streams.ops.overview import breach_document
from streams.ops.snapshot import Snapshot
from streams.ops.tables import breach_in_words
from streams.ops.terminal import note, print_json, say, stdout
from streams.runtime import clock
from streams.runtime.settings import Settings
from streams.runtime.store import change_of
from streams.runtime.topics import STATE, TopicNames

_STDIN = "-"
_UNNAMED = "whatif"

EXAMPLES = examples(
    "# Would this pass now? What is not named: signal_id, created_at (now):",
    'echo \'{"strategy_id": "trend", "instrument": "BTC-USD", "side": "buy", "quantity": "0.5",',
    '       "price": "16500", "stop_loss": "16170"}\' | tidegate whatif --account main_binance --signal -',
    "",
    "# The largest quantity whose risk still fits? Look at the margins, or ask in a loop by exit status:",
    "tidegate whatif --account main_binance --signal order.json --json | jq '.checks[] | {code, margin}'",
)


class Answer(NamedTuple):
    """What the gate would do. ``verdict``: approved, rejected, or dead-lettered (then without checks, but with why).

    ``last_breach``: the account's, also after its unlock.
    """

    account_id: str
    signal_id: str | None
    verdict: str
    code: str | None
    detail: str | None
    venue: str | None
    reduces: bool
    trading_state: str | None
    profile: str | None
    last_breach: Breach | None
    checks: tuple[CheckLine, ...]


def answer(record: Record, account_id: str, account: Account | None, memory: Remembered | None, rules: Rules) -> Answer:
    """The gate's answer to a signal at the record's time. ``memory``: what is remembered of its id. Pure."""
    event = decode(record)
    now_ms = record.timestamp_ms

    def basis() -> dict[str, Any]:
        return {}

    done = step(event, account_id, account or NEW_ACCOUNT, lambda _: memory, rules, now_ms, basis)
    decision = next((one for one in done.outputs if one.topic in (APPROVED, REJECTED)), None)
    signal_id = getattr(event.body, "signal_id", None)
    breach = (account or NEW_ACCOUNT).standing.last_breach
    if decision is None:
        letter = next(orjson.loads(one.value) for one in done.outputs if one.topic == DEAD_LETTERS)
        return Answer(
            account_id,
            signal_id,
            "dead-lettered",
            letter["reason"],
            letter["detail"],
            None,
            False,
            None,
            None,
            breach,
            (),
        )
    case, checks = examine(event, account_id, account, rules, now_ms)
    failed = next((line.code for line in checks if not line.passed), None)
    return Answer(
        account_id,
        signal_id,
        "approved" if failed is None else "rejected",
        failed,
        None,
        case.venue.name,
        case.reduces,
        lock.shown_state(rules, case.account.standing, case.venue.name, case.signal.strategy_id),
        case.profile.name if case.known else None,
        breach,
        checks,
    )


def examine(
    event: Event, account_id: str, account: Account | None, rules: Rules, now_ms: int
) -> tuple[Case, tuple[CheckLine, ...]]:
    """Every check of a signal whose fields could be read, passed or not. Pure."""
    with localcontext(ARITHMETIC):
        case = Case(event, account_id, account or NEW_ACCOUNT, rules.accounts.get(account_id), rules, now_ms)
        return case, tuple(check_line(code, check, case.signal.side) for code, check in inspect(case))


def whatif_command(
    account: Annotated[str, typer.Option("--account", "-a", metavar="ACCOUNT", help="Whose signal it would be.")],
    signal: Annotated[
        str, typer.Option("--signal", "-s", metavar="FILE", help="The signal as JSON; [bold]-[/bold]: standard input.")
    ],
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """What would the gate say to this signal now? Every check with observed, limit and margin; nothing is published.

    Asked of the account's state and the policies as they are on the topics, under the configuration that is read
    here: give the workers' own. The account takes the place of the signal's; a signal_id and created_at (now) are
    added where there are none. An order that only reduces is asked fewer checks, as by the gate.

    Status 0: it would be approved. Status 1: it would be rejected, or dead-lettered.
    """
    now_ms = clock.now_ms()
    value, signal_id = completed(_read(signal), account, now_ms)
    rules = rules_in(config)
    settings = connect(config, broker, prefix, app_id)
    reader = _AccountReader(rules, account, signal_id)
    kafka_broker.run(reader.read(settings), settings)
    record = Record(SIGNALS, reader.partition, 0, now_ms, account.encode(), value)
    found = answer(record, account, reader.snapshot.account(account), reader.memory, reader.snapshot.rules)
    if as_json:
        print_json(_document(found, reader.snapshot.rules.version, now_ms))
    else:
        if account not in rules.accounts:
            note(f"{account} is not in the configuration that was read here; give the workers' --config")
        _show(found, reader.snapshot.rules.version)
    if found.verdict != "approved":
        raise typer.Exit(ExitStatus.REFUSED)


def completed(value: bytes, account_id: str, now_ms: int) -> tuple[bytes, str]:
    """The signal as the account's, with an id and a time of its own where it has none; and its id.

    Raises CommandError for what is not a JSON object: there would be nothing to check.
    """
    raw, fault = parse_object(value)
    if raw is None:
        raise CommandError(f"--signal {fault}", ExitStatus.USAGE, "see the fields of `signals` in schemas/README.md")
    added: dict[str, str] = {"account_id": account_id}
    if raw.get("signal_id") is None:
        added["signal_id"] = _UNNAMED
    if raw.get("created_at") is None:
        added["created_at"] = write_time(now_ms)
    # Of repeated keys the last wins; all else stays as it was written, down to the digit.
    whole = value.strip()[:-1] + (b"," if raw else b"") + orjson.dumps(added)[1:]
    signal_id = raw.get("signal_id")
    return whole, signal_id if isinstance(signal_id, str) else _UNNAMED


def _read(path: str) -> bytes:
    if path == _STDIN:
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        remedy = "give the path of a JSON file, or - for standard input"
        raise CommandError(f"--signal {path}: {error.strerror}", ExitStatus.USAGE, remedy) from None


class _AccountReader:
    """One account's state, what is remembered of one signal_id, and the policies, up to the topics' present ends."""

    def __init__(self, rules: Rules, account_id: str, signal_id: str) -> None:
        self.snapshot = Snapshot(rules)
        self.memory: Remembered | None = None
        self.partition = 0
        self._account_id = account_id
        self._id_key = remembered_key(account_id, "signal", signal_id)
        self._account_key = account_id.encode()

    async def read(self, settings: Settings) -> None:
        """Raises TopicsError, KafkaError, TimeoutError."""
        layout = await kafka_broker.layout_of(settings)
        names = TopicNames.of(settings)
        self.partition = layout.partition_of(self._account_id)
        state = TopicPartition(names.physical(STATE), self.partition)
        policies = TopicPartition(names.physical(POLICIES), 0)
        async with kafka_broker.reader(settings) as consumer:
            consumer.assign([state, policies])
            await consumer.seek_to_beginning(state, policies)
            ends = await kafka_broker.ends_of(consumer, [state, policies])
            await kafka_broker.read_to(consumer, ends, lambda record: self._take(record, policies.topic))

    def _take(self, record: ConsumerRecord, policies: str) -> None:
        if record.topic == policies:
            self.snapshot.take_policy(
                Record(POLICIES, record.partition, record.offset, record.timestamp, record.key, record.value)
            )
            return
        change = change_of(record.key or b"", record.value)
        if change.key == self._account_key:
            self.snapshot.take_state(record.key, record.value)
        elif change.table == DECISIONS and change.key == self._id_key:
            self.memory = None if change.value is None else decode_remembered(change.value)


def _show(found: Answer, policy_version: int) -> None:
    style = "bold green" if found.verdict == "approved" else "bold red"
    text = Text.assemble(f"{found.signal_id or 'the signal'} for {found.account_id} would be ", (found.verdict, style))
    if found.code is not None:
        text.append(f": {found.code}")
    say(text)
    if found.detail is not None:
        say(found.detail)
        return
    kind = "an exit" if found.reduces else "an entry"
    say(
        Text(
            f"{kind} at {found.venue or 'no venue'}, profile {found.profile or '–'}, trading state "
            f"{found.trading_state}, policy version {policy_version}; nothing was published",
            style="dim",
        )
    )
    if found.last_breach is not None:
        say(Text(f"last breach: {breach_in_words(found.last_breach)}", style="dim"))
    say("")
    stdout().print(checks_table(found.checks))


def _document(found: Answer, policy_version: int, now_ms: int) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "at": write_time(now_ms),
        "policy_version": policy_version,
        **found._asdict(),
        "last_breach": breach_document(found.last_breach),
        "checks": [check_document(line) for line in found.checks],
    }
