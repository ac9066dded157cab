"""Options that commands share, and what they add up to: the settings of a Kafka client, the operator, the rules."""

import getpass
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from streams.config import ConfigError, load_config, load_rules, refuse_misspelt_routes
from streams.core.rules import Rules
from streams.ops.exits import CommandError, ExitStatus
from streams.runtime.logs import Level, Style
from streams.runtime.settings import Settings, SettingsError

CONNECTION = "Connection"
ACCOUNTABILITY = "Who and why"
ANSWER = "Answer"

Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        metavar="FILE",
        help="Configuration; by default [bold]tidegate.toml[/bold] of this directory, if there is one.",
        rich_help_panel=CONNECTION,
    ),
]
Broker = Annotated[
    str | None,
    typer.Option(
        "--broker",
        envvar="TIDEGATE_BROKER",
        metavar="URL",
        help="kafka://host:port[,host:port]; else [bold]broker[/bold] of the configuration.",
        rich_help_panel=CONNECTION,
    ),
]
Prefix = Annotated[
    str | None,
    typer.Option(
        "--prefix",
        envvar="TIDEGATE_TOPIC_PREFIX",
        metavar="TEXT",
        help="Put before every topic's name, where several gates share a broker.",
        rich_help_panel=CONNECTION,
    ),
]
AppId = Annotated[
    str | None,
    typer.Option(
        "--app-id",
        envvar="TIDEGATE_APP_ID",
        metavar="NAME",
        help="Name of the gate; its state is in the topic NAME-state.",
        show_default="tidegate",
        rich_help_panel=CONNECTION,
    ),
]
Operator = Annotated[
    str | None,
    typer.Option(
        "--operator",
        envvar="TIDEGATE_OPERATOR",
        metavar="NAME",
        help="Who gives the command; else your login name.",
        rich_help_panel=ACCOUNTABILITY,
    ),
]
_REASON = typer.Option(
    "--reason", "-r", metavar="TEXT", help="Why; it is kept with the record.", rich_help_panel=ACCOUNTABILITY
)
Reason = Annotated[str, _REASON]
# Where some ways of giving the command need none.
ReasonIfAny = Annotated[str | None, _REASON]
Timeout = Annotated[
    float,
    typer.Option("--timeout", "-t", metavar="SECONDS", min=0.1, help="How long to wait.", rich_help_panel=ANSWER),
]
LogLevel = Annotated[
    Level,
    typer.Option(
        "--log-level", envvar="TIDEGATE_LOG_LEVEL", help="What goes to standard error; debug tells every decision."
    ),
]
LogStyle = Annotated[
    Style, typer.Option("--log", envvar="TIDEGATE_LOG", help="Lines for a person, or one JSON object a line.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on standard output, for scripts.", rich_help_panel=ANSWER)]


def second_operator(help_text: str) -> Any:
    """The option ``--approved-by``; its help says when a command asks for it."""
    return typer.Option("--approved-by", metavar="NAME", help=help_text, rich_help_panel=ACCOUNTABILITY)


def examples(*lines: str) -> str:
    """The epilog of a command: lines to copy, and what they are for where they start with ``#``."""
    return "[bold]Examples[/bold]\n" + "\n".join(map(_example, lines))


def _example(line: str) -> str:
    if not line:
        return " "
    return f"  [dim]{escape(line)}[/dim]" if line.startswith("#") else f"  $ {escape(line)}"


def connect(
    config: Path | None,
    broker: str | None,
    prefix: str | None,
    app_id: str | None,
    environ: Mapping[str, str] | None = None,
    **overrides: Any,
) -> Settings:
    """The settings of this command's Kafka clients.

    The configuration is only read where it is needed: a lock must not wait for somebody else's spelling mistake.
    Raises CommandError that names the option, variable or key.
    """
    env = os.environ if environ is None else environ
    if broker is None or config is not None:
        broker = broker or configured(config, env).broker
    if not broker:
        raise CommandError(
            "no broker is named",
            ExitStatus.USAGE,
            'give --broker kafka://host:port, or set TIDEGATE_BROKER, or write broker = "kafka://host:port" in '
            "tidegate.toml",
        )
    try:
        return Settings.from_environment(env, broker=broker, topic_prefix=prefix, app_id=app_id, **overrides)
    except SettingsError as error:
        raise CommandError(str(error), ExitStatus.USAGE) from None


def configured(path: Path | None, environ: Mapping[str, str] | None = None) -> Any:
    """The checked configuration. Raises CommandError with every faulty key."""
    try:
        return load_config(path, os.environ if environ is None else environ)
    except ConfigError as error:
        raise _refused(error) from None


def rules_in(path: Path | None, environ: Mapping[str, str] | None = None) -> Rules:
    """The rules of the configuration, before any policy. Raises CommandError with every faulty key."""
    try:
        return load_rules(path, os.environ if environ is None else environ)
    except ConfigError as error:
        raise _refused(error) from None


def rules_to_run(path: Path | None) -> Rules:
    """``rules_in`` for a worker: also refused where an approval could reach no exchange."""
    rules = rules_in(path)
    try:
        refuse_misspelt_routes(rules)
    except ConfigError as error:
        raise _refused(error) from None
    return rules


def operator_or_login(operator: str | None) -> str:
    """Who answers for a command. Raises CommandError where not even a login name is known."""
    if operator:
        return operator
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        raise CommandError(
            "no operator is named, and this process has no login name",
            ExitStatus.USAGE,
            "give --operator NAME or set TIDEGATE_OPERATOR",
        ) from None


def _refused(error: ConfigError) -> CommandError:
    faults = str(error).splitlines()
    if len(faults) == 1:
        return CommandError(f"configuration: {faults[0]}", ExitStatus.USAGE)
    return CommandError("configuration:\n" + "\n".join(f"  {fault}" for fault in faults), ExitStatus.USAGE)
