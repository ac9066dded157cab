"""``tidegate dead-letters list | show | resubmit``: what could not be used, why, and once more after the fix.

A dead letter names its input's topic, partition and offset, and has a SHA-256 of its whole value. Everything here goes
by those: the original is read again from where it was, must be the very bytes, and is sent to its topic with the key
that belongs to it, under a new offset and a present timestamp.

What is resubmitted carries the header ``tidegate-resubmitted-from: TOPIC/PARTITION/OFFSET``. The gate hands the headers
of a signal on to its decision, so both can be traced to the dead letter. A second resubmission is refused by looking
for that header on the target topic from an hour before the dead letter on (clocks differ): no state of its own that
could be lost or disagree. What that cannot see are resubmissions that retention has deleted, and two operators within
the same second; signals, fills and commands are then still told apart by their ids.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from aiokafka.errors import KafkaError
from msgspec.structs import replace
from rich.text import Text

from schemas.config import read_duration
from schemas.types import read_time, write_time
from streams.core.records import CONTROLS, DEAD_LETTERS, FILLS, INPUTS, POLICIES, SIGNALS, Record, text_of
from streams.core.rules import Rules
from streams.core.state import IdKind, remembered_key
from streams.ops import broker as kafka_broker
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.letters import (
    REASONS,
    Draft,
    Letter,
    Place,
    account_and_id,
    aftermath_of,
    caution,
    key_of,
    objection,
    read_place,
    remedy_of,
)
from streams.ops.letters_reading import LetterReader, Original, Selection, headers_for, no_letter
from streams.ops.options import AppId, Broker, Config, Json, Prefix, connect, examples, rules_in
from streams.ops.terminal import moment, note, plain_table, print_json, say, stdout
from streams.runtime import clock, kafka
from streams.runtime.settings import Settings
from streams.runtime.topics import Layout, TopicNames

_DETAIL_SHOWN = 110
_KINDS: Mapping[str, IdKind] = {SIGNALS: "signal", FILLS: "fill", CONTROLS: "command"}

LIST_EXAMPLES = examples(
    "# What went wrong in the last two hours?",
    "tidegate dead-letters list --since 2h",
    "tidegate dead-letters list --reason UNKNOWN_ACCOUNT --topic signals",
    "",
    "# How many of which reason, for a script:",
    "tidegate dead-letters list -n 100000 --json | jq '[.dead_letters[].reason] | group_by(.) | map({(.[0]): length})'",
)
SHOW_EXAMPLES = examples(
    "# What was it, what does its reason mean, and what helps? By its own place, or by its input's:",
    "tidegate dead-letters show 2@17",
    "tidegate dead-letters show signals/2@40311",
    "",
    "# The original bytes, to be repaired:",
    "tidegate dead-letters show 2@17 --raw > repaired.json",
)
RESUBMIT_EXAMPLES = examples(
    "# The account was missing in the configuration. First what would be sent, then send it:",
    "tidegate dead-letters resubmit --reason UNKNOWN_ACCOUNT --account friend2_firi --config tidegate.toml",
    "tidegate dead-letters resubmit --reason UNKNOWN_ACCOUNT --account friend2_firi --config tidegate.toml --yes",
    "",
    "# One with a repaired payload:",
    "tidegate dead-letters resubmit 2@17 --edit repaired.json --yes",
)

dead_letters = typer.Typer(no_args_is_help=True)

WHICH, WHAT = "Which", "What is sent"
TopicName = Annotated[
    str | None,
    typer.Option(
        "--topic",
        metavar="TOPIC",
        help="Of this input: signals, fills, pnl, controls, policies.",
        rich_help_panel=WHICH,
    ),
]
ReasonName = Annotated[
    str | None,
    typer.Option("--reason", metavar="REASON", help="With this reason: MALFORMED, SCHEMA, …", rich_help_panel=WHICH),
]
AccountId = Annotated[
    str | None, typer.Option("--account", "-a", metavar="ACCOUNT", help="Of this account.", rich_help_panel=WHICH)
]
Since = Annotated[
    str | None,
    typer.Option(
        "--since", metavar="WHEN", help="Published since: 30m, 2h, 7d, or an RFC 3339 time.", rich_help_panel=WHICH
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many, the latest.", rich_help_panel=WHICH)
]


class Plan(NamedTuple):
    """One dead letter and what resubmitting it comes to. ``refusal`` None: ``draft`` is sent."""

    letter: Letter
    draft: Record | None
    refusal: str | None
    caution: str | None = None
    sent: Place | None = None


@dead_letters.callback()
def _dead_letters() -> None:
    """Inputs that could not be read or used: list them, explain one, and send them again after the fix."""


@dead_letters.command("list", epilog=LIST_EXAMPLES)
def list_command(
    topic: TopicName = None,
    reason: ReasonName = None,
    account: AccountId = None,
    since: Since = None,
    limit: Limit = 50,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """List dead letters, the latest last. Their place, PARTITION@OFFSET, is what the other commands take."""
    selection = _selection(topic, reason, account, since)
    settings = connect(config, broker, prefix, app_id)
    found, total = kafka_broker.run(_list(settings, selection, limit), settings)
    if as_json:
        listed = [_document(letter) for letter in found]
        print_json({"schema_version": 1, "found": total, "shown": len(listed), "dead_letters": listed})
        return
    if not found:
        say("no dead letter" + (" of these" if selection != Selection() else ""))
        return
    table = plain_table()
    for heading in ("Place", "Published", "Reason", "Input", "Account"):
        table.add_column(heading, no_wrap=heading != "Account", min_width=len(heading), overflow="fold")
    table.add_column("Detail", overflow="fold")
    for letter in found:
        table.add_row(
            Text(str(letter.place), style="bold"),
            moment(letter.at_ms),
            Text(letter.reason, style="yellow"),
            str(letter.source),
            Text(letter.account_id or "–"),
            Text(shortened(_one_line(letter.body["detail"]))),
        )
    stdout().print(table)
    more = f", the latest {len(found)} shown" if total > len(found) else ""
    say(Text(f"\n{total} found{more}; `tidegate dead-letters show PLACE` explains one", style="dim"))


@dead_letters.command("show", epilog=SHOW_EXAMPLES)
def show_command(
    place: Annotated[
        str, typer.Argument(metavar="PLACE", help="2@17 as listed, or its input's place: signals/2@40311.")
    ],
    raw: Annotated[
        bool, typer.Option("--raw", help="Only the original bytes, to standard output; to be edited or kept.")
    ] = False,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Explain one dead letter: what its reason means, which field, what helps, and the original as it was sent.

    The original is read again from its topic, whole; where retention has deleted it, the letter's excerpt is shown.

    Status 1: there is no such dead letter (or, with --raw, no original any more).
    """
    wanted = _place(place)
    if raw and as_json:
        raise CommandError("--raw and --json are two answers; use one of them", ExitStatus.USAGE)
    settings = connect(config, broker, prefix, app_id)
    letter, original, again = kafka_broker.run(_show(settings, wanted), settings)
    if raw:
        if original.record is None or original.record.value is None:
            raise CommandError(f"{letter.source}: {original.why_not or 'the value is absent'}", ExitStatus.REFUSED)
        sys.stdout.buffer.write(original.record.value)
        sys.stdout.buffer.flush()
        return
    if as_json:
        print_json(_shown_document(letter, original, again))
        return
    _tell(letter, original, again)


@dead_letters.command("resubmit", epilog=RESUBMIT_EXAMPLES)
def resubmit_command(
    places: Annotated[
        list[str] | None,
        typer.Argument(metavar="PLACE", help="2@17 as listed, or signals/2@40311; else the options below."),
    ] = None,
    topic: TopicName = None,
    reason: ReasonName = None,
    account: AccountId = None,
    since: Since = None,
    limit: Limit = 50,
    key: Annotated[
        str | None,
        typer.Option("--key", metavar="TEXT", help="Another key than the payload's account.", rich_help_panel=WHAT),
    ] = None,
    edit: Annotated[
        str | None,
        typer.Option(
            "--edit",
            metavar="FILE",
            help="A repaired payload for one PLACE; - is standard input.",
            rich_help_panel=WHAT,
        ),
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Also what was resubmitted before.", rich_help_panel=WHAT)
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Send. Without it nothing is published.")] = False,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Send dead letters' originals again, after the fix. Without --yes it only says what would be sent.

    Each original is read from its topic, partition and offset, held against the letter's SHA-256, and sent to its
    topic with the key that belongs to it and the header [bold]tidegate-resubmitted-from[/bold]. A signal that is
    decided at last is decided on the state of now, or rejected as stale. What was decided already stays so: a
    repeated id is dead-lettered as a duplicate, and refused here as far as the state tells.

    Status 0: all that was asked for was sent (or would be). Status 1: something was refused; the table says why.
    """
    selection = _selection(topic, reason, account, since)
    wanted = [_place(one) for one in places or []]
    if bool(wanted) == (selection != Selection()):
        raise CommandError("name places, or select with --topic, --reason, --account, --since", ExitStatus.USAGE)
    if (edit is not None or key is not None) and len(wanted) != 1:
        raise CommandError("--edit and --key repair one dead letter; name its place", ExitStatus.USAGE)
    payload = None if edit is None else _read(edit)
    rules = rules_in(config)
    settings = connect(config, broker, prefix, app_id)
    choice = _Choice(wanted, selection, limit, payload, key, again)
    plans = kafka_broker.run(_resubmit(settings, rules, choice, send=yes), settings)
    if as_json:
        print_json({"schema_version": 1, "sent": yes, "dead_letters": [_plan_document(plan) for plan in plans]})
    else:
        _tell_plans(plans, sent=yes)
    if not plans or any(plan.refusal is not None for plan in plans):
        raise typer.Exit(ExitStatus.REFUSED)


# -- what was asked for --------------------------------------------------------------------------------------------


class _Choice(NamedTuple):
    places: Sequence[Place]
    selection: Selection
    limit: int
    payload: bytes | None
    key: str | None
    again: bool


def _selection(topic: str | None, reason: str | None, account: str | None, since: str | None) -> Selection:
    """Raises CommandError for a name that is none."""
    for option, given, known in (("--topic", topic, (*INPUTS, POLICIES)), ("--reason", reason, REASONS)):
        if given is not None and given not in known:
            raise CommandError(f"{option} {given!r} is unknown", ExitStatus.USAGE, f"use one of {', '.join(known)}")
    return Selection(topic, reason, account, None if since is None else since_ms(since, clock.now_ms()))


def since_ms(text: str, now_ms: int) -> int:
    """A duration back from now, or a time. Raises CommandError."""
    try:
        return now_ms - read_duration(text)
    except ValueError:
        pass
    try:
        return read_time(text)
    except ValueError:
        remedy = "write a duration such as 2h, or a time such as 2017-12-19T11:00:00Z"
        raise CommandError(f"--since {text!r} is neither a duration nor a time", ExitStatus.USAGE, remedy) from None


def _place(text: str) -> Place:
    try:
        return read_place(text)
    except ValueError as error:
        raise CommandError(f"{text!r} {error}", ExitStatus.USAGE) from None


def _read(path: str) -> bytes:
    if path == "-":
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        remedy = "give the path of a JSON file, or - for standard input"
        raise CommandError(f"--edit {path}: {error.strerror}", ExitStatus.USAGE, remedy) from None


# -- reading -------------------------------------------------------------------------------------------------------


async def _list(settings: Settings, selection: Selection, limit: int) -> tuple[list[Letter], int]:
    layout = await kafka_broker.layout_of(settings)
    async with kafka_broker.reader(settings) as consumer:
        return await LetterReader(settings, layout, consumer).letters(selection, limit)


async def _layout_with(settings: Settings, places: Iterable[Place]) -> Layout:
    """The topics as they are. Raises CommandError where they lack the partition of a place."""
    layout = await kafka_broker.layout_of(settings)
    for place in places:
        if place.partition >= layout.counts[place.topic or DEAD_LETTERS]:
            raise no_letter(place)
    return layout


async def _show(settings: Settings, wanted: Place) -> tuple[Letter, Original, Place | None]:
    layout = await _layout_with(settings, [wanted])
    async with kafka_broker.reader(settings) as consumer:
        reader = LetterReader(settings, layout, consumer)
        letter = await reader.letter_at(wanted)
        original = await reader.original(letter)
        return letter, original, (await reader.resubmitted([letter])).get(letter.source)


# -- sending again -------------------------------------------------------------------------------------------------


async def _resubmit(settings: Settings, rules: Rules, choice: _Choice, *, send: bool) -> list[Plan]:
    layout = await _layout_with(settings, choice.places)
    async with kafka_broker.reader(settings) as consumer:
        reader = LetterReader(settings, layout, consumer)
        if choice.places:
            letters = [await reader.letter_at(place) for place in choice.places]
        else:
            letters, _ = await reader.letters(choice.selection, choice.limit)
        # One input may have several letters (a resubmission of an edited record has its own place): each source once.
        letters = list({letter.source: letter for letter in letters}.values())
        before = await reader.resubmitted(letters)
        plans = [await _plan(reader, rules, letter, choice, before) for letter in letters]
        plans = await _without_decided(reader, plans)
    return await _send(settings, layout, plans) if send else plans


async def _plan(
    reader: LetterReader, rules: Rules, letter: Letter, choice: _Choice, before: Mapping[Place, Place]
) -> Plan:
    earlier = before.get(letter.source)
    if earlier is not None and not choice.again:
        return Plan(letter, None, f"it was resubmitted before, as {earlier}; --again sends it once more")
    original = await reader.original(letter)
    if original.record is None and choice.payload is None:
        return Plan(letter, None, f"{original.why_not}; what it meant can be sent with --edit FILE")
    source = letter.source
    record = original.record or Record(letter.topic, source.partition, source.offset, letter.at_ms, None, None)
    _, original_id = account_and_id(record)
    edited = choice.payload is not None
    draft = replace(
        record, value=choice.payload if edited else record.value, headers=headers_for(letter, record.headers)
    )
    draft = replace(draft, key=key_of(draft) if choice.key is None else choice.key.encode())
    refusal = objection(letter, Draft(draft, edited, original_id), rules)
    return Plan(letter, draft, refusal, caution(draft, rules, clock.now_ms()))


async def _without_decided(reader: LetterReader, plans: list[Plan]) -> list[Plan]:
    """The plans, those refused whose id the state still remembers: dedup would answer them with a duplicate."""
    keys: dict[int, bytes] = {}
    partitions: dict[bytes, int] = {}
    for number, plan in enumerate(plans):
        if plan.draft is None or plan.refusal is not None or plan.draft.topic not in _KINDS:
            continue
        account_id, one_id = account_and_id(plan.draft)
        account_id = account_id or plan.letter.account_id
        if account_id is None or one_id is None:
            continue
        keys[number] = remembered_key(account_id, _KINDS[plan.draft.topic], one_id)
        partitions[keys[number]] = reader.layout.partition_of(account_id)
    known = await reader.remembered(partitions)
    checked: list[Plan] = []
    for number, plan in enumerate(plans):
        memory = known.get(keys.get(number, b""))
        if memory is not None and memory.expires_ms >= clock.now_ms():
            used = f"its id was used already (first: {memory.first_id}): the gate would dead-letter it as a duplicate"
            checked.append(plan._replace(refusal=used))
        else:
            checked.append(plan)
    return checked


async def _send(settings: Settings, layout: Layout, plans: list[Plan]) -> list[Plan]:
    """Send what may be sent, one after the other: a failure stops, and says how far it came."""
    names = TopicNames.of(settings)
    done = list(plans)
    producer = kafka.producer(settings)
    await producer.start()
    try:
        for number, plan in enumerate(plans):
            if plan.refusal is not None or plan.draft is None:
                continue
            draft = plan.draft
            count = layout.counts[draft.topic]
            # Without a key it goes where it was: the gate forwards it from any partition.
            partition = draft.partition if draft.key is None else kafka.partition_of_key(draft.key, count)
            try:
                sent = await producer.send_and_wait(
                    names.physical(draft.topic),
                    draft.value,
                    draft.key,
                    partition=partition,
                    headers=list(draft.headers),
                )
            except KafkaError as error:
                done[number] = plan._replace(refusal=f"the broker refused it: {error}")
                continue
            done[number] = plan._replace(sent=Place(draft.topic, sent.partition, sent.offset))
    finally:
        await producer.stop()
    return done


# -- what is shown -------------------------------------------------------------------------------------------------


def shortened(text: str) -> str:
    """A detail as far as a list shows it; `show` has the whole."""
    return text if len(text) <= _DETAIL_SHOWN else text[: _DETAIL_SHOWN - 1] + "…"


def _one_line(text: str) -> str:
    """A detail on one line, whatever was echoed in it."""
    return " ".join(text.split())


def _document(letter: Letter) -> dict[str, Any]:
    return {"place": str(letter.place), "published_at": write_time(letter.at_ms), **letter.body}


def _shown_document(letter: Letter, original: Original, again: Place | None) -> dict[str, Any]:
    remedy = remedy_of(letter.reason)
    record = original.record
    return {
        "dead_letter": _document(letter),
        "meaning": remedy.meaning,
        "remedy": remedy.remedy,
        "aftermath": aftermath_of(letter),
        "resubmitted_as": None if again is None else str(again),
        "retained": record is not None,
        "why_not": original.why_not or None,
        "original": None
        if record is None
        else {
            "timestamp": write_time(record.timestamp_ms),
            "key": text_of(record.key),
            "value": text_of(record.value),
            "headers": {name: value.decode(errors="replace") for name, value in record.headers},
        },
        "schema_version": 1,
    }


def _tell(letter: Letter, original: Original, again: Place | None) -> None:
    body, remedy = letter.body, remedy_of(letter.reason)
    say(
        Text.assemble(
            (letter.reason, "bold yellow"), f"  {letter.source}, published {moment(letter.at_ms)} at {letter.place}"
        )
    )
    say(f"{_one_line(body['detail'])}")
    say(Text(f"\n{remedy.meaning}"), Text(f"→ {remedy.remedy}", style="green"))
    if (aftermath := aftermath_of(letter)) is not None:
        say(Text(f"! {aftermath}", style="yellow"))
    if again is not None:
        say(Text(f"It was resubmitted as {again}.", style="dim"))
    table = plain_table()
    table.show_header = False
    for name, value in (
        ("Account", letter.account_id),
        ("First id", body["first_id"]),
        ("Key", body["key"]),
        ("Timestamp", body["timestamp"]),
        ("Size", f"{body['payload_size']} bytes"),
        ("SHA-256", body["payload_sha256"]),
    ):
        if value is not None:
            table.add_row(Text(name, style="dim"), Text(value))
    record = original.record
    for name, header in record.headers if record is not None else ():
        table.add_row(Text("Header", style="dim"), Text(f"{name}: {header.decode(errors='replace')}"))
    say("")
    stdout().print(table)
    if record is not None:
        say(Text("\nThe original, read again from its topic\n", style="bold"))
        say(Text(repr(record.value) if text_of(record.value) is None else text_of(record.value) or ""))
    else:
        say(Text(f"\nThe original cannot be read: {original.why_not}. What the letter kept of it\n", style="bold"))
        say(Text(body["payload"] or "an absent value"))


def _plan_document(plan: Plan) -> dict[str, Any]:
    draft = plan.draft
    return {
        "place": str(plan.letter.place),
        "source": str(plan.letter.source),
        "reason": plan.letter.reason,
        "refusal": plan.refusal,
        "caution": plan.caution,
        "key": None if draft is None else text_of(draft.key),
        "payload_size": None if draft is None else len(draft.value or b""),
        "sent_as": None if plan.sent is None else str(plan.sent),
    }


def _tell_plans(plans: Sequence[Plan], *, sent: bool) -> None:
    if not plans:
        say("no dead letter of these")
        return
    table = plain_table()
    for heading in ("Place", "Reason", "Input", "Key"):
        table.add_column(heading, no_wrap=heading != "Key", overflow="fold")
    table.add_column("", overflow="fold")
    for plan in plans:
        if plan.refusal is not None:
            outcome = Text(f"refused: {plan.refusal}", style="red")
        else:
            outcome = Text(f"sent as {plan.sent}" if plan.sent is not None else "would be sent", style="green")
            if plan.caution is not None:
                outcome.append(f"\n! {plan.caution}", style="yellow")
        key = "–" if plan.draft is None or plan.draft.key is None else text_of(plan.draft.key) or repr(plan.draft.key)
        table.add_row(
            Text(str(plan.letter.place), style="bold"), plan.letter.reason, str(plan.letter.source), Text(key), outcome
        )
    stdout().print(table)
    able = sum(plan.refusal is None for plan in plans)
    if sent:
        say(Text(f"\n{able} of {len(plans)} sent; their answers come on the gate's topics", style="dim"))
    else:
        note(f"\n{able} of {len(plans)} would be sent; nothing was published{'. Send with --yes' if able else ''}")
