"""``tidegate rollout show | start | advance | accounts | sign``: the phases of a rollout, from the command line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.table import Table
from rich.text import Text

from schemas.types import TEXT_BYTES_MAX, write_amount, write_time
from streams.core.records import POLICIES
from streams.core.rules import Rules
from streams.ops import broker as kafka_broker
from streams.ops import policy_change, requests
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import (
    CONNECTION,
    AppId,
    Broker,
    Config,
    Json,
    Operator,
    Prefix,
    Reason,
    ReasonIfAny,
    connect,
    examples,
    operator_or_login,
    rules_in,
    second_operator,
)
from streams.ops.overview import Overview, breach_document, overview
from streams.ops.policy_change import Terms
from streams.ops.rollout.course import POLICY, Course, course_of, labels_ever
from streams.ops.rollout.criteria import Criterion, criteria, signable, weeks
from streams.ops.rollout.evidence import dead_letter_ends, read_evidence
from streams.ops.rollout.phases import Phase, Phases, load_phases
from streams.ops.rollout.scope import Scope, capital, members, scope_for
from streams.ops.snapshot import Snapshot, SnapshotReader
from streams.ops.tables import breach_in_words
from streams.ops.terminal import listed, moment, money, note, plain_table, print_json, say, stdout
from streams.runtime import clock
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames

SHOW_EXAMPLES = examples(
    "tidegate rollout show",
    "",
    "# What is missing for the next phase?",
    "tidegate rollout show --json | jq -r '.criteria[] | select(.met | not) | \"\\(.name): \\(.remedy)\"'",
)
START_EXAMPLES = examples(
    "# Testnet only, every account that has a testnet venue:",
    "tidegate rollout start --reason 'go-live plan of 2018'",
    "",
    "# Back to one account after a bad week:",
    "tidegate rollout start --phase 2 --account main_binance --reason 'two breaches in a week'",
    "",
    "# The desk trades already; nobody checks what the phases before ask, so two operators answer for it:",
    "tidegate rollout start --phase 4 --approved-by bob --reason 'live for a year before Tidegate'",
)
ADVANCE_EXAMPLES = examples(
    "# What would happen, and what is missing:",
    "tidegate rollout advance --dry-run --account main_binance",
    "",
    "tidegate rollout advance --account main_binance --approved-by bob --reason 'all criteria met'",
)
ACCOUNTS_EXAMPLES = examples(
    "# The accounts of the phase from now on, all of them:",
    "tidegate rollout accounts main_binance friend1_firi --approved-by bob --reason 'second account joins'",
)
SIGN_EXAMPLES = examples(
    "tidegate rollout sign reconciled --reason 'statements of week 3 agree to the cent'",
    "",
    "# Dead letters up to now were looked into:",
    "tidegate rollout sign dead-letters --reason 'feed sent two marks out of order, fixed in 1.4'",
)

PhasesFile = Annotated[
    Path | None,
    typer.Option(
        "--phases",
        envvar="TIDEGATE_ROLLOUT_PHASES",
        metavar="FILE",
        help="Phases of your own, in place of the defaults (streams/ops/rollout/phases.toml).",
        rich_help_panel=CONNECTION,
    ),
]
Accounts = Annotated[
    list[str] | None,
    typer.Option("--account", "-a", metavar="ACCOUNT", help="An account of the phase; give it once for each."),
]
ApprovedBy = Annotated[
    str | None, second_operator("Second operator, where controls.two_person or this command asks for one.")
]

rollout = typer.Typer(no_args_is_help=True)


@rollout.callback()
def _rollout() -> None:
    """Take accounts from testnet to full capital, phase by phase; what a phase does not name is refused."""


class Desk(NamedTuple):
    """What every rollout command looks at."""

    settings: Settings
    rules: Rules
    snapshot: Snapshot
    phases: Phases
    course: Course | None
    applied: Mapping[int, Mapping[str, int]]

    @property
    def overviews(self) -> dict[str, Overview]:
        now_ms = clock.now_ms()
        in_force = self.snapshot.rules
        return {name: overview(name, self.snapshot.account(name), in_force, now_ms) for name in in_force.accounts}

    def present(self) -> tuple[Course, Phase]:
        """The phase in force. Raises CommandError where there is none of these phases."""
        if self.course is None:
            raise CommandError(
                "no rollout is in force: every account may enter",
                ExitStatus.REFUSED,
                "begin one: `tidegate rollout start`",
            )
        phase = self.phases.labelled(self.course.label)
        if phase is None:
            labels = [one.label for one in self.phases.phases]
            raise CommandError(
                f"phase {self.course.label!r} is in force, which is none of {listed(labels)}",
                ExitStatus.REFUSED,
                "give the --phases that it came from, or put one of these in force: `tidegate rollout start --phase N`",
            )
        return self.course, phase


@rollout.command("show", epilog=SHOW_EXAMPLES)
def show(
    as_json: Json = False,
    phases: PhasesFile = None,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Show the phase in force, its accounts beside its capital limit, and what is missing for the next one."""
    desk = _desk(config, broker, prefix, app_id, phases)
    if desk.course is None:
        if as_json:
            print_json({"phase": None, "policy_version": desk.snapshot.rules.version})
        else:
            say("no rollout is in force: every account may enter; begin one with `tidegate rollout start`")
        return
    course, phase = desk.present()
    following = desk.phases.after(phase)
    found = [] if following is None else _missing(desk, course, phase, following, None)[0]
    if as_json:
        print_json(_document(desk, course, phase, following, found))
    else:
        _print_phase(desk, course, phase)
        _print_criteria(following, found)


@rollout.command("start", epilog=START_EXAMPLES)
def start(
    reason: Reason,
    number: Annotated[
        int | None, typer.Option("--phase", min=1, help="Phase to begin with.", show_default="the first")
    ] = None,
    accounts: Accounts = None,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    as_json: Json = False,
    phases: PhasesFile = None,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Begin a rollout, or go back to an earlier phase. From the phase in force forward is `tidegate rollout advance`.

    To begin with a phase after the first that is later than every phase so far skips the exit criteria of the phases
    before it. That always needs --approved-by, also where controls.two_person is off.
    """
    desk = _desk(config, broker, prefix, app_id, phases)
    phase = desk.phases.phases[0] if number is None else desk.phases.labelled(str(number))
    if phase is None:
        known = listed([f"{one.label} ({one.title})" for one in desk.phases.phases])
        raise CommandError(f"there is no phase {number}", ExitStatus.USAGE, f"phases: {known}")
    present = None if desk.course is None else desk.phases.labelled(desk.course.label)
    if present is not None and phase.phase >= present.phase:
        raise CommandError(
            f"phase {present.label} ({present.title}) is in force already",
            ExitStatus.REFUSED,
            "nothing was published; `tidegate rollout advance` goes on, `tidegate rollout accounts` changes accounts",
        )
    terms = Terms(operator_or_login(operator), reason, approved_by)
    unchecked = _unchecked(desk, phase)
    lacking = policy_change.lacks_second_operator(terms)
    if unchecked and lacking is not None:
        raise CommandError(
            f"phase {phase.label} ({phase.title}) is later than every phase so far: {_say_unchecked(unchecked)}, and "
            f"{lacking}",
            ExitStatus.REFUSED,
            policy_change.ASK_SOMEBODY,
        )
    scope = scope_for(phase, desk.phases, desk.rules, desk.overviews, accounts or None)
    _put(desk, phase, scope, terms, (), unchecked, as_json=as_json)


@rollout.command("advance", epilog=ADVANCE_EXAMPLES)
def advance(
    reason: ReasonIfAny = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what is missing and what would be published; publish nothing.")
    ] = False,
    accounts: Accounts = None,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    as_json: Json = False,
    phases: PhasesFile = None,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Go on to the next phase, if every criterion is met; else say what is missing (status 1) and change nothing.

    Criteria are read from the topics; what no topic shows is signed by an operator with `tidegate rollout sign`.
    """
    if not reason and not dry_run:
        raise CommandError("--reason is missing; every change names one", ExitStatus.USAGE)
    desk = _desk(config, broker, prefix, app_id, phases)
    course, phase = desk.present()
    following = desk.phases.after(phase)
    if following is None:
        raise CommandError(f"phase {phase.label} ({phase.title}) is the last one", ExitStatus.REFUSED)
    found, scope = _missing(desk, course, phase, following, accounts or None)
    missing = [one for one in found if not one.met]
    if dry_run:
        if as_json:
            print_json(_document(desk, course, phase, following, found) | {"would_publish": dict(scope.rule)})
        else:
            _print_criteria(following, found)
        raise typer.Exit(ExitStatus.REFUSED if missing else ExitStatus.DONE)
    if missing:
        raise CommandError(
            f"phase {following.label} ({following.title}) must wait:\n"
            + "\n".join(f"  {one.name}: {one.seen}\n    → {one.remedy}" for one in missing),
            ExitStatus.REFUSED,
            "nothing was published",
        )
    _put(desk, following, scope, Terms(operator_or_login(operator), reason or "", approved_by), found, as_json=as_json)


@rollout.command("accounts", epilog=ACCOUNTS_EXAMPLES)
def accounts_of_phase(
    names: Annotated[list[str], typer.Argument(metavar="ACCOUNT...", help="All accounts of the phase from now on.")],
    reason: Reason,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    as_json: Json = False,
    phases: PhasesFile = None,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Change the accounts of the phase in force, within its limits; the time in the phase goes on."""
    desk = _desk(config, broker, prefix, app_id, phases)
    _, phase = desk.present()
    scope = scope_for(phase, desk.phases, desk.rules, desk.overviews, names)
    _put(desk, phase, scope, Terms(operator_or_login(operator), reason, approved_by), (), as_json=as_json)


@rollout.command("sign", epilog=SIGN_EXAMPLES)
def sign(
    criterion: Annotated[str, typer.Argument(metavar="CRITERION", help="As `tidegate rollout show` names it.")],
    reason: Reason,
    operator: Operator = None,
    as_json: Json = False,
    phases: PhasesFile = None,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Answer for a criterion that no topic can show, or for the dead letters up to now. It holds for this phase."""
    desk = _desk(config, broker, prefix, app_id, phases)
    _, phase = desk.present()
    names = signable(phase)
    if criterion not in names:
        raise CommandError(
            f"{criterion!r} is not signed in phase {phase.label}: it is read from the topics, or does not exist",
            ExitStatus.USAGE,
            f"to sign: {listed(sorted(names))}",
        )
    if not reason.strip() or len(reason.encode(errors="replace")) > TEXT_BYTES_MAX:
        raise CommandError(f"--reason has 1 to {TEXT_BYTES_MAX} bytes, not {reason[:40]!r}", ExitStatus.USAGE)
    who = operator_or_login(operator)
    kafka_broker.run(_sign(desk.settings, phase, criterion, who, reason), desk.settings)
    if as_json:
        print_json({"criterion": criterion, "phase": phase.phase, "operator": who})
    else:
        say(f"{criterion} is signed for phase {phase.label}: {names[criterion]}")


# -- reading -------------------------------------------------------------------------------------------------------


def _desk(config: Path | None, broker: str | None, prefix: str | None, app_id: str | None, phases: Path | None) -> Desk:
    rules, known = rules_in(config), load_phases(phases)
    settings = connect(config, broker, prefix, app_id)
    reader = SnapshotReader(settings, rules, with_state=True)

    async def read() -> None:
        async with kafka_broker.reader(settings) as consumer:
            await reader.read(consumer)

    kafka_broker.run(read(), settings)
    return Desk(settings, rules, reader.snapshot, known, course_of(reader.snapshot.history), reader.applied)


def _missing(
    desk: Desk, course: Course, phase: Phase, following: Phase, accounts: Sequence[str] | None
) -> tuple[list[Criterion], Scope]:
    """All criteria for the next phase, what forbids to publish it among them; and what would be published."""
    evidence = kafka_broker.run(read_evidence(desk.settings, course, desk.applied), desk.settings)
    named = course.rule.get("accounts")
    if accounts is None and named is not None and len(named) <= (following.accounts_max or 0):
        accounts = named
    scope = scope_for(following, desk.phases, desk.rules, desk.overviews, accounts)
    found = criteria(phase, following, course, evidence)
    for fault in scope.faults:
        seen, _, remedy = fault.partition("; ")
        found.append(Criterion("scope", False, seen, remedy))
    return found, scope


def _unchecked(desk: Desk, phase: Phase) -> tuple[Phase, ...]:
    """The phases before ``phase``, if it is later than all that were ever in force; else none."""
    earlier = tuple(one for one in desk.phases.phases if one.phase < phase.phase)
    ever = [desk.phases.labelled(label) for label in labels_ever(desk.snapshot.history)]
    return () if any(one is not None and one.phase >= phase.phase for one in ever) else earlier


def _say_unchecked(unchecked: Sequence[Phase]) -> str:
    labels = listed([one.label for one in unchecked])
    return f"the exit criteria of the earlier phases ({labels}) were not checked"


# -- publishing ----------------------------------------------------------------------------------------------------


def _put(
    desk: Desk,
    phase: Phase,
    scope: Scope,
    terms: Terms,
    found: Sequence[Criterion],
    unchecked: Sequence[Phase] = (),
    *,
    as_json: bool,
) -> None:
    """Publish a phase. Raises CommandError where the scope or the two-person rule forbids it; then nothing was.

    ``unchecked``: earlier phases whose exit criteria nobody has looked at.
    """
    if scope.faults:
        raise CommandError("\n  ".join(scope.faults), ExitStatus.REFUSED, "nothing was published")
    now_ms = clock.now_ms()
    before = policy_change.course_of(desk.snapshot.stands(POLICY))
    after = policy_change.Course(scope.rule)
    loosens = policy_change.what_loosens(desk.snapshot.rules, POLICY, before, after, now_ms)
    policy_change.require_second_operator(desk.rules, terms, loosens)
    value = policy_change.policy_value(POLICY, after, terms, now_ms)
    version = kafka_broker.run(_publish(desk.settings, value, phase, scope, terms, found, now_ms), desk.settings)
    if version != desk.snapshot.rules.version + 1:
        note("another policy was published in the same moment; compare with `tidegate policy history`")
    if as_json:
        put = {"phase": phase.phase, "title": phase.title, "version": version, "rule": dict(scope.rule)}
        print_json(put | {"unchecked_phases": [one.phase for one in unchecked]})
        return
    say(f"phase {phase.label} ({phase.title}) is in force for every decision with policy_version {version} or above")
    say(f"  venues {listed(scope.rule['venues'])}; profiles {listed(scope.rule['profiles'])}")
    accounts = scope.rule["accounts"]
    say(f"  accounts {'all' if accounts is None else listed(accounts)}; anything else gets ROLLOUT_PHASE")
    if unchecked:
        say(f"  {_say_unchecked(unchecked)}")


async def _publish(
    settings: Settings,
    value: bytes,
    phase: Phase,
    scope: Scope,
    terms: Terms,
    found: Sequence[Criterion],
    now_ms: int,
) -> int:
    """The policy, then the record of what it was decided on; the policy's version."""
    await requests.topic_of(settings)
    written = await kafka_broker.publish(settings, TopicNames.of(settings).physical(POLICIES), POLICY, value)
    version = int(written.offset) + 1
    await requests.append(
        settings,
        requests.ROLLOUT_CHANGED,
        key=POLICY,
        operator=terms.operator,
        reason=terms.reason,
        now_ms=now_ms,
        phase=phase.label,
        version=version,
        approved_by=terms.approved_by,
        rule=dict(scope.rule),
        criteria=[_criterion(one) for one in found],
    )
    return version


async def _sign(settings: Settings, phase: Phase, criterion: str, operator: str, reason: str) -> None:
    through = {"through": await dead_letter_ends(settings)} if criterion == "dead-letters" else {}
    await requests.append(
        settings,
        requests.CRITERION_SIGNED,
        key=f"{POLICY}/{phase.label}/{criterion}",
        operator=operator,
        reason=reason,
        now_ms=clock.now_ms(),
        phase=phase.label,
        criterion=criterion,
        **through,
    )


# -- telling -------------------------------------------------------------------------------------------------------


def _document(
    desk: Desk, course: Course, phase: Phase, following: Phase | None, found: Sequence[Criterion]
) -> dict[str, Any]:
    lines = capital(phase, desk.overviews, members(course.rule, desk.rules))
    return {
        "phase": phase.phase,
        "title": phase.title,
        "since": write_time(course.since_ms),
        "began_at": write_time(course.began_ms),
        "weeks_in_phase": weeks(clock.now_ms() - course.since_ms),
        "weeks_since_began": weeks(clock.now_ms() - course.began_ms),
        "accounts": course.rule.get("accounts"),
        "profiles": course.rule.get("profiles"),
        "venues": course.rule.get("venues"),
        "capital": [
            {
                "account_id": one.account_id,
                "equity": None if one.equity is None else write_amount(one.equity),
                "limit": None if one.limit is None else write_amount(one.limit),
                "exceeds": one.exceeds,
                "last_breach": breach_document(one.last_breach),
            }
            for one in lines
        ],
        "next": None if following is None else {"phase": following.phase, "title": following.title},
        "criteria": [_criterion(one) for one in found],
        "ready": following is not None and all(one.met for one in found),
        "policy_version": desk.snapshot.rules.version,
    }


def _criterion(one: Criterion) -> Mapping[str, Any]:
    return {"name": one.name, "met": one.met, "seen": one.seen, "remedy": one.remedy, "signed": one.signed}


def _print_phase(desk: Desk, course: Course, phase: Phase) -> None:
    rule = course.rule
    console = stdout()
    in_phase = weeks(clock.now_ms() - course.since_ms)
    console.print(Text.assemble((f"Phase {phase.label}: {phase.title}", "bold"), f"  {in_phase} weeks"))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim")
    grid.add_column(overflow="fold")
    grid.add_row("Since", f"{moment(course.since_ms)}, by {course.line.operator or '–'}")
    grid.add_row("Rollout began", moment(course.began_ms))
    for title, key in (("Venues", "venues"), ("Profiles", "profiles"), ("Accounts", "accounts")):
        grid.add_row(title, "all" if rule.get(key) is None else listed(rule[key]))
    console.print(grid)
    table = plain_table()
    table.add_column("Account", style="bold", overflow="fold")
    table.add_column("Capital", justify="right")
    table.add_column("At most", justify="right")
    table.add_column("Last breach", overflow="fold")
    for one in capital(phase, desk.overviews, members(rule, desk.rules)):
        equity = "not known" if one.equity is None else money(one.equity)
        style = "bold red" if one.exceeds else ""
        table.add_row(
            Text(one.account_id),
            Text(equity, style=style),
            "–" if one.limit is None else money(one.limit),
            "none" if one.last_breach is None else breach_in_words(one.last_breach),
        )
    if table.row_count:
        console.print()
        console.print(table)


def _print_criteria(following: Phase | None, found: Sequence[Criterion]) -> None:
    if following is None:
        say("", "this is the last phase")
        return
    table = plain_table()
    table.add_column("", no_wrap=True)
    table.add_column("Criterion", style="bold", no_wrap=True)
    table.add_column("Seen", overflow="fold")
    table.add_column("What is missing", overflow="fold")
    for one in found:
        mark = Text("met", style="green") if one.met else Text("missing", style="bold red")
        table.add_row(mark, one.name, Text(one.seen), Text("" if one.met else one.remedy))
    missing = sum(not one.met for one in found)
    verdict = "every criterion is met" if not missing else f"{missing} of {len(found)} criteria are missing"
    console = stdout()
    console.print(Text(f"\nFor phase {following.label} ({following.title}): {verdict}", style="bold"))
    console.print(table)
