"""``tidegate policy …``: rules for everyone. Verbs for a desk's every day, and ``set`` and ``clear`` beside them."""

import json
from typing import Annotated, Any, Literal

import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from schemas.config import ProfileName
from schemas.types import write_time
from streams.core.decode import parse_object
from streams.core.rules import HALTED, REDUCING, Rules
from streams.ops import policy_edits, policy_history
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import (
    ACCOUNTABILITY,
    AppId,
    Broker,
    Config,
    Json,
    Operator,
    Prefix,
    Reason,
    connect,
    examples,
    operator_or_login,
    second_operator,
)
from streams.ops.policy_change import Course, Terms, plain, policy_value, read_expiry
from streams.ops.policy_making import editing, make, read_policies, replacing
from streams.ops.snapshot import PolicyLine
from streams.ops.terminal import listed, moment, plain_table, print_json, say, stdout
from streams.runtime import clock

SET_HELP = escape("""Put a rule in force, in place of the former one of that name.

It is checked as the gate checks it before anything is published; an unusable one is refused (status 2).

Names and their rules:
  state/global, state/venue/V, state/strategy/S  {"state": "ACTIVE" | "REDUCING" | "HALTED"}
  venue/V                                        {"up": true | false}
  profile/P                                      any keys of [profiles.P] in tidegate.toml
  strategies, strategies/P                       {"whitelist": […], "blacklist": […]}
  rollout                                        {"phase": …, "accounts": […], "profiles": […], "venues": […]}
""")

SET_EXAMPLES = examples(
    "# Whole rules, for what has no verb of its own:",
    "tidegate policy set strategies/micro '{\"whitelist\": [\"trend_follow_btc\"]}' -r 'first week of the desk'",
    "",
    "# Until a time; then the rule that holds now comes back by itself:",
    "tidegate policy set state/global '{\"state\": \"REDUCING\"}' -r 'payrolls' --expires 2h",
)
CLEAR_EXAMPLES = examples("tidegate policy clear state/global --reason 'exchange is back'")
LIST_EXAMPLES = examples(
    "tidegate policy list",
    "tidegate policy list --json | jq -r '.policies[] | select(.name == \"state/global\").rule.state'",
)
HISTORY_EXAMPLES = examples(
    "# Who changed what, when and why, newest last:",
    "tidegate policy history",
    "tidegate policy history profile/normal",
    "tidegate policy history --json | jq '.changes[] | select(.operator == \"ann\")'",
)
ALLOW_EXAMPLES = examples(
    "tidegate policy strategy allow trend_follow_btc --reason 'backtest corrected' --approved-by bob",
    "tidegate policy strategy allow trend_follow_btc --profile micro -r 'first real trades'",
)
BLOCK_EXAMPLES = examples(
    "# No new risk from it in any profile; exits pass. To stop exits too: tidegate policy halt --strategy",
    "tidegate policy strategy block trend_follow_btc --reason 'orders every second'",
    "tidegate policy strategy block mean_reversion_eth --profile aggressive -r 'too fast for it' --expires 1d",
)
LIMIT_EXAMPLES = examples(
    "# A tighter day for everyone on a profile:",
    "tidegate policy limit normal max_daily_drawdown=0.01 max_open_positions=3 -r 'CPI day' --expires 8h",
    "",
    "# Back to what tidegate.toml says; above the present limit, so somebody else agrees where two_person is on:",
    "tidegate policy limit normal max_daily_drawdown=configured -r 'CPI is out' --approved-by bob",
)
VENUE_EXAMPLES = examples(
    "# Entries go to the accounts' next venue:",
    "tidegate policy venue binance down --reason 'maintenance' --expires 2026-12-01T14:00:00Z",
    "tidegate policy venue binance up --reason 'maintenance ended early' --approved-by bob",
)
HALT_EXAMPLES = examples(
    "# The kill switch. Nothing passes, not even exits:",
    "tidegate policy halt --reason 'wrong prices everywhere'",
    "tidegate policy halt --venue binance --reason 'it fills at wrong prices'",
    "tidegate policy halt --strategy trend_follow_btc -r 'runs away'",
)
REDUCE_EXAMPLES = examples(
    "# No new risk; exits pass:",
    "tidegate policy reduce --reason 'payrolls at 13:30' --expires 1h",
    "tidegate policy reduce --strategy trend_follow_btc -r 'backtest was wrong'",
)
RESUME_EXAMPLES = examples(
    "tidegate policy resume --reason 'prices are right again' --approved-by bob",
    "tidegate policy resume --venue binance -r 'venue confirmed'",
)

OVERDUE = "overdue: is `tidegate steward` running?"

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the policy, for instance state/global.")]
Strategy = Annotated[str, typer.Argument(metavar="STRATEGY", help="Its strategy_id, as in its signals.")]
OfProfile = Annotated[
    ProfileName | None, typer.Option("--profile", metavar="PROFILE", help="In this profile only.", show_default="all")
]
VenueScope = Annotated[str | None, typer.Option("--venue", metavar="V", help="One venue only.")]
StrategyScope = Annotated[str | None, typer.Option("--strategy", metavar="S", help="One strategy only.")]
ApprovedBy = Annotated[
    str | None, second_operator("Second operator of a change that loosens, where controls.two_person asks for one.")
]
Expires = Annotated[
    str | None,
    typer.Option(
        "--expires",
        metavar="WHEN",
        help="Until when: 30m, 2h, 1d or 2026-01-05T18:00:00Z. Then `tidegate steward` puts back what holds now.",
        show_default="for good",
        rich_help_panel=ACCOUNTABILITY,
    ),
]

policy = typer.Typer(no_args_is_help=True)
strategy = typer.Typer(no_args_is_help=True)


@policy.callback()
def _policy() -> None:
    """Rules for everyone: they override configuration, within a second and on every worker.

    Where controls.two_person is on, whatever loosens needs a second operator; whatever restricts never does.
    """


@strategy.callback()
def _strategy() -> None:
    """Which strategies may open positions."""


policy.add_typer(strategy, name="strategy")


# -- changes -------------------------------------------------------------------------------------------------------


@policy.command("set", help=SET_HELP, epilog=SET_EXAMPLES)
def set_policy(
    name: Name,
    rule: Annotated[str, typer.Argument(metavar="RULE", help="The rule as a JSON object.")],
    reason: Reason,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    expires: Expires = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Put a rule in force, if the gate can use it."""
    settings = connect(config, broker, prefix, app_id)
    terms = _terms(operator, reason, approved_by, expires)
    parsed, fault = parse_object(rule.encode(errors="surrogateescape"))
    if parsed is None:
        raise CommandError(f"RULE {fault}", ExitStatus.USAGE, 'quote it for the shell: \'{"state": "HALTED"}\'')
    # Refused before Kafka is asked: a typo must not need a broker to be found.
    policy_value(name, Course(parsed), terms, 0, rule)
    make(settings, config, replacing(name, parsed, terms, typed=rule), as_json=as_json)


@policy.command("clear", epilog=CLEAR_EXAMPLES)
def clear(
    name: Name,
    reason: Reason,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    expires: Expires = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Remove a rule: configuration counts again. Status 1 if no such rule is in force."""
    settings = connect(config, broker, prefix, app_id)
    terms = _terms(operator, reason, approved_by, expires)
    make(settings, config, replacing(name, None, terms, lifts=True), as_json=as_json)


@strategy.command("block", epilog=BLOCK_EXAMPLES)
def block(
    name: Strategy,
    reason: Reason,
    profile: OfProfile = None,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    expires: Expires = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Put a strategy on the blacklist: its entries are rejected, its exits pass."""
    settings = connect(config, broker, prefix, app_id)
    terms = _terms(operator, reason, approved_by, expires)
    scope = profile or ""
    make(
        settings,
        config,
        editing(_lists_name(scope), lambda rules: policy_edits.block(rules, scope, name), terms),
        as_json=as_json,
    )


@strategy.command("allow", epilog=ALLOW_EXAMPLES)
def allow(
    name: Strategy,
    reason: Reason,
    profile: OfProfile = None,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    expires: Expires = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Take a strategy off the blacklist, and put it on the whitelist if there is one.

    Status 1 if that is so already. Both the lists for all profiles and those of the account's profile count.
    """
    settings = connect(config, broker, prefix, app_id)
    terms = _terms(operator, reason, approved_by, expires)
    scope = profile or ""
    change = editing(_lists_name(scope), lambda rules: policy_edits.allow(rules, scope, name), terms, lifts=True)
    make(settings, config, change, as_json=as_json)


@policy.command("limit", epilog=LIMIT_EXAMPLES)
def limit(
    profile: Annotated[ProfileName, typer.Argument(metavar="PROFILE", help="micro, low, normal or aggressive.")],
    pairs: Annotated[
        list[str], typer.Argument(metavar="KEY=VALUE…", help="As in \\[profiles.P]; KEY=configured gives it back.")
    ],
    reason: Reason,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    expires: Expires = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Change limits of a capital profile; the others stay as they are.

    Fractions are written as such (0.02 is 2 %). An account whose drawdown is above a tighter limit is locked with its
    next pnl update.
    """
    settings = connect(config, broker, prefix, app_id)
    terms = _terms(operator, reason, approved_by, expires)
    values = policy_edits.read_limits(pairs)
    name = f"profile/{profile}"
    policy_value(name, Course(policy_edits.limits(values)(None)), terms, 0)
    make(settings, config, editing(name, lambda _rules: policy_edits.limits(values), terms), as_json=as_json)


@policy.command("venue", epilog=VENUE_EXAMPLES)
def venue(
    name: Annotated[str, typer.Argument(metavar="VENUE", help="As in exchange or failover of an account.")],
    state: Annotated[Literal["up", "down"], typer.Argument(help="Whether orders may go there.")],
    reason: Reason,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    expires: Expires = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Say that a venue is up or down. While it is down entries fail over, and its own exits are rejected.

    Status 1 for a venue that no account knows, and for `up` where it is up.
    """
    settings = connect(config, broker, prefix, app_id)
    terms = _terms(operator, reason, approved_by, expires)
    up = state == "up"
    make(
        settings,
        config,
        replacing(f"venue/{name}", {"up": up}, terms, lifts=up, venue=name),
        as_json=as_json,
    )


@policy.command("halt", epilog=HALT_EXAMPLES)
def halt(
    reason: Reason,
    of_venue: VenueScope = None,
    of_strategy: StrategyScope = None,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    expires: Expires = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """The kill switch: nothing passes, not even an exit. For everyone, or one venue or strategy.

    To stop one account only: `tidegate halt ACCOUNT`.
    """
    settings = connect(config, broker, prefix, app_id)
    terms = _terms(operator, reason, approved_by, expires)
    change = replacing(_state_name(of_venue, of_strategy), {"state": HALTED}, terms, venue=of_venue)
    make(settings, config, change, as_json=as_json)


@policy.command("reduce", epilog=REDUCE_EXAMPLES)
def reduce(
    reason: Reason,
    of_venue: VenueScope = None,
    of_strategy: StrategyScope = None,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    expires: Expires = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Let only orders pass that reduce a position. For everyone, or one venue or strategy."""
    settings = connect(config, broker, prefix, app_id)
    terms = _terms(operator, reason, approved_by, expires)
    change = replacing(_state_name(of_venue, of_strategy), {"state": REDUCING}, terms, venue=of_venue)
    make(settings, config, change, as_json=as_json)


@policy.command("resume", epilog=RESUME_EXAMPLES)
def resume(
    reason: Reason,
    of_venue: VenueScope = None,
    of_strategy: StrategyScope = None,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    expires: Expires = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """End `policy halt` or `policy reduce` of the same scope. Locks of accounts stay. Status 1 if there is nothing."""
    settings = connect(config, broker, prefix, app_id)
    terms = _terms(operator, reason, approved_by, expires)
    change = replacing(_state_name(of_venue, of_strategy), None, terms, lifts=True)
    make(settings, config, change, as_json=as_json)


def _terms(operator: str | None, reason: str, approved_by: str | None, expires: str | None) -> Terms:
    until_ms = None if expires is None else read_expiry(expires, clock.now_ms())
    return Terms(operator_or_login(operator), reason, approved_by, until_ms)


def _lists_name(scope: str) -> str:
    return f"strategies/{scope}" if scope else "strategies"


def _state_name(of_venue: str | None, of_strategy: str | None) -> str:
    if of_venue is not None and of_strategy is not None:
        raise CommandError("--venue and --strategy are two scopes", ExitStatus.USAGE, "give them in two commands")
    if of_venue is not None:
        return f"state/venue/{of_venue}"
    return "state/global" if of_strategy is None else f"state/strategy/{of_strategy}"


# -- looking -------------------------------------------------------------------------------------------------------


@policy.command("list", epilog=LIST_EXAMPLES)
def list_policies(
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Show the rules in force: since which version, by whom, when, why and until when.

    A rule that is in force after its end is marked as overdue: `tidegate steward` is what ends it.
    """
    settings = connect(config, broker, prefix, app_id)
    snapshot = read_policies(settings, Rules())
    lines = sorted(snapshot.policies.values(), key=lambda line: line.name or "")
    unusable = sorted(snapshot.unusable.values(), key=lambda line: line.version)
    at_ms = clock.now_ms()
    if as_json:
        print_json(
            {
                "version": snapshot.rules.version,
                "policies": [_document(line) | {"overdue": _is_overdue(line, at_ms)} for line in lines],
                "unusable": [_document(line) | {"fault": line.fault} for line in unusable],
            }
        )
        return
    if lines:
        stdout().print(_table(lines, at_ms))
    else:
        say("no rule is in force: configuration alone counts")
    say(Text(f"\npolicy version {snapshot.rules.version}", style="dim"))
    for line in unusable:
        halted = line.name is not None and snapshot.rules.states.get(line.name) == HALTED
        effect = f"its scope is {HALTED}" if halted else "the rule before it holds"
        say(Text(f"version {line.version} cannot be used, {effect}: {line.fault}", style="bold red"))


@policy.command("history", epilog=HISTORY_EXAMPLES)
def history(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One policy only.", show_default="all")] = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Show every change of the rules, newest last: who, with whose approval, why, and what it changed.

    Status 1 for a name that was never ruled on.
    """
    settings = connect(config, broker, prefix, app_id)
    snapshot = read_policies(settings, Rules())
    changes = [one for one in policy_history.changes(snapshot.history) if name is None or one.line.name == name]
    if name is not None and not changes:
        names = listed(sorted({line.name for line in snapshot.history if line.name is not None})) or "none yet"
        raise CommandError(f"policy {name!r} was never set", ExitStatus.REFUSED, f"names with a history: {names}")
    if as_json:
        documents = [
            _document(one.line) | {"before": plain(one.before), "diff": list(one.diff), "effect": one.effect}
            for one in changes
        ]
        print_json({"version": snapshot.rules.version, "changes": documents})
    elif changes:
        stdout().print(policy_history.table(changes))
    else:
        say("no rule was ever set: configuration alone has counted")


def _document(line: PolicyLine) -> dict[str, Any]:
    return {
        "name": line.name,
        "rule": plain(line.rule),
        "version": line.version,
        "operator": line.operator,
        "approved_by": line.approved_by,
        "reason": line.reason,
        "issued_at": line.issued_at,
        "published_at": write_time(line.timestamp_ms),
        "expires_at": None if line.expires_at_ms is None else write_time(line.expires_at_ms),
        "then": plain(line.then),
    }


def _is_overdue(line: PolicyLine, at_ms: int) -> bool:
    """Whether a rule in force should have ended by now."""
    return line.expires_at_ms is not None and line.expires_at_ms <= at_ms


def _until(line: PolicyLine, at_ms: int) -> Text:
    if line.expires_at_ms is None:
        return Text("–")
    end = moment(line.expires_at_ms)
    return Text(f"{end}\n{OVERDUE}", style="bold red") if _is_overdue(line, at_ms) else Text(end)


def _table(lines: list[PolicyLine], at_ms: int) -> Table:
    table = plain_table()
    table.add_column("Name", style="bold", overflow="fold")
    table.add_column("Rule", overflow="fold")
    table.add_column("Version", justify="right")
    table.add_column("Since", no_wrap=True)
    until = any(line.expires_at_ms is not None for line in lines)
    if until:
        table.add_column("Until", no_wrap=True)
    table.add_column("By", overflow="fold")
    table.add_column("Why", overflow="fold")
    for line in lines:
        table.add_row(
            Text(line.name or ""),
            Text(json.dumps(plain(line.rule), ensure_ascii=False)),
            str(line.version),
            moment(line.timestamp_ms),
            *([_until(line, at_ms)] if until else []),
            Text(policy_history.people(line)),
            Text(line.reason or "–"),
        )
    return table
