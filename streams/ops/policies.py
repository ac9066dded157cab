"""``tidegate policy set | clear | list``: rules for everyone."""

import json
import time
from typing import Annotated, Any

import orjson
import typer
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from schemas.types import TEXT_BYTES_MAX, write_time
from streams.core.decode import parse_object
from streams.core.records import POLICIES, Record
from streams.core.rules import HALTED, Rules, apply_policy
from streams.ops import broker as kafka_broker
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import (
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
)
from streams.ops.snapshot import PolicyLine, Snapshot, SnapshotReader
from streams.ops.terminal import moment, plain_table, print_json, say, stdout
from streams.runtime.settings import Settings
from streams.runtime.topics import TopicNames

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
    "# Stop everything, exits too:",
    "tidegate policy set state/global '{\"state\": \"HALTED\"}' --reason 'exchange outage'",
    "",
    "# No new risk from one strategy; exits pass:",
    "tidegate policy set state/strategy/trend_follow_btc '{\"state\": \"REDUCING\"}' -r 'backtest was wrong'",
    "",
    "# A venue is down, failover takes its entries; a tighter limit for everyone on a profile:",
    "tidegate policy set venue/binance '{\"up\": false}' -r 'maintenance until 14:00'",
    "tidegate policy set profile/normal '{\"max_daily_drawdown\": \"0.01\"}' -r 'CPI day'",
)
CLEAR_EXAMPLES = examples("tidegate policy clear state/global --reason 'exchange is back'")
LIST_EXAMPLES = examples(
    "tidegate policy list",
    "tidegate policy list --json | jq -r '.policies[] | select(.name == \"state/global\").rule.state'",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the policy, for instance state/global.")]

policy = typer.Typer(no_args_is_help=True)


@policy.callback()
def _policy() -> None:
    """Rules for everyone: they override configuration, at once and on every worker."""


@policy.command("set", help=SET_HELP, epilog=SET_EXAMPLES)
def set_policy(
    name: Name,
    rule: Annotated[str, typer.Argument(metavar="RULE", help="The rule as a JSON object.")],
    reason: Reason,
    operator: Operator = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Put a rule in force, if the gate can use it."""
    settings = connect(config, broker, prefix, app_id)
    raw, fault = parse_object(rule.encode(errors="surrogateescape"))
    if raw is None:
        raise CommandError(f"RULE {fault}", ExitStatus.USAGE, 'quote it for the shell: \'{"state": "HALTED"}\'')
    _publish(settings, name, rule, operator_or_login(operator), reason, as_json=as_json)


@policy.command("clear", epilog=CLEAR_EXAMPLES)
def clear(
    name: Name,
    reason: Reason,
    operator: Operator = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Remove a rule: configuration counts again. Status 1 if no such rule is in force."""
    settings = connect(config, broker, prefix, app_id)
    snapshot = kafka_broker.run(_read(settings, Rules()), settings)
    if name not in snapshot.policies and name not in snapshot.unusable:
        names = ", ".join(sorted(snapshot.policies)) or "none"
        raise CommandError(f"policy {name!r} is not in force", ExitStatus.REFUSED, f"in force: {names}")
    _publish(settings, name, None, operator_or_login(operator), reason, as_json=as_json)


@policy.command("list", epilog=LIST_EXAMPLES)
def list_policies(
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Show the rules in force: since which version, by whom, when and why."""
    settings = connect(config, broker, prefix, app_id)
    snapshot = kafka_broker.run(_read(settings, Rules()), settings)
    lines = sorted(snapshot.policies.values(), key=lambda line: line.name or "")
    unusable = sorted(snapshot.unusable.values(), key=lambda line: line.version)
    if as_json:
        print_json(
            {
                "version": snapshot.rules.version,
                "policies": [_document(line) for line in lines],
                "unusable": [_document(line) | {"fault": line.fault} for line in unusable],
            }
        )
        return
    if lines:
        stdout().print(_table(lines))
    else:
        say("no rule is in force: configuration alone counts")
    say(Text(f"\npolicy version {snapshot.rules.version}", style="dim"))
    for line in unusable:
        halted = line.name is not None and snapshot.rules.states.get(line.name) == HALTED
        effect = f"its scope is {HALTED}" if halted else "the rule before it holds"
        say(Text(f"version {line.version} cannot be used, {effect}: {line.fault}", style="bold red"))


async def _read(settings: Settings, rules: Rules) -> Snapshot:
    reader = SnapshotReader(settings, rules, with_state=False)
    async with kafka_broker.reader(settings) as consumer:
        await reader.read(consumer)
    return reader.snapshot


def _publish(settings: Settings, name: str, rule: str | None, operator: str, reason: str, *, as_json: bool) -> None:
    value = policy_value(name, rule, operator, reason, time.time_ns() // 1_000_000)

    version = kafka_broker.run(_append(settings, name, value), settings) + 1
    if as_json:
        print_json({"name": name, "version": version, "value": orjson.loads(value)})
    else:
        done = "is in force" if rule is not None else "is removed"
        say(f"{name} {done} for every decision with policy_version {version} or above")


async def _append(settings: Settings, name: str, value: bytes) -> int:
    """Publish a record of ``policies``; its offset."""
    await kafka_broker.layout_of(settings)
    written = await kafka_broker.publish(settings, TopicNames.of(settings).physical(POLICIES), name, value)
    return int(written.offset)


def policy_value(name: str, rule: str | None, operator: str, reason: str, now_ms: int) -> bytes:
    """The value of a ``policies`` record, its rule exactly as it was typed. Raises CommandError if it is unusable."""
    for option, text in (("--reason", reason), ("--operator", operator)):
        if not text.strip() or len(text.encode(errors="replace")) > TEXT_BYTES_MAX:
            raise CommandError(f"{option} has 1 to {TEXT_BYTES_MAX} bytes, not {text[:40]!r}", ExitStatus.USAGE)
    fields: dict[str, Any] = {
        "name": name,
        "rule": None if rule is None else orjson.Fragment(rule),
        "operator": operator,
        "reason": reason,
        "issued_at": write_time(now_ms),
    }
    value = orjson.dumps(fields)
    _, letter = apply_policy(Rules(), Record(POLICIES, 0, 0, now_ms, name.encode(), value))
    if letter is not None:
        fault = str(orjson.loads(letter.value)["detail"])
        raise CommandError(fault, ExitStatus.USAGE, "nothing was published; see `tidegate policy set --help`")
    return value


def _document(line: PolicyLine) -> dict[str, Any]:
    return {
        "name": line.name,
        "rule": _plain(line.rule),
        "version": line.version,
        "operator": line.operator,
        "reason": line.reason,
        "issued_at": line.issued_at,
        "published_at": write_time(line.timestamp_ms),
    }


def _table(lines: list[PolicyLine]) -> Table:
    table = plain_table()
    table.add_column("Name", style="bold", overflow="fold")
    table.add_column("Rule", overflow="fold")
    table.add_column("Version", justify="right")
    table.add_column("Since", no_wrap=True)
    table.add_column("By")
    table.add_column("Why", overflow="fold")
    for line in lines:
        table.add_row(
            Text(line.name or ""),
            Text(json.dumps(_plain(line.rule), ensure_ascii=False)),
            str(line.version),
            moment(line.timestamp_ms),
            Text(line.operator or "–"),
            Text(line.reason or "–"),
        )
    return table


def _plain(rule: Any) -> Any:
    """A rule as JSON; decimals are strings, as Tidegate writes them."""
    return orjson.loads(orjson.dumps(rule, default=str))
