"""``tidegate lock | unlock | halt | resume``, ``profile set``, ``order release``: commands for one account."""

from typing import Annotated, Any, Literal

import typer

from schemas.config import ProfileName
from streams.ops import broker as kafka_broker
from streams.ops import unlocking
from streams.ops.commanding import give, new_command
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import (
    ANSWER,
    AppId,
    Broker,
    Config,
    Json,
    Operator,
    Prefix,
    Reason,
    ReasonIfAny,
    Timeout,
    connect,
    examples,
    operator_or_login,
    rules_in,
    second_operator,
)
from streams.ops.telling import tell
from streams.runtime.settings import Settings

Account = Annotated[str, typer.Argument(metavar="ACCOUNT", help="Account id, as in `tidegate accounts`.")]
ApprovedBy = Annotated[str | None, second_operator("Second operator, where controls.two_person asks for one.")]
CommandId = Annotated[
    str | None,
    typer.Option(
        "--command-id",
        metavar="ID",
        help="Id of the command. A repeat of the same id changes nothing and tells what became of the first.",
        show_default="random",
        rich_help_panel=ANSWER,
    ),
]
NoWait = Annotated[
    bool, typer.Option("--no-wait", help="Publish only; its answer comes on the topics.", rich_help_panel=ANSWER)
]

LOCK_EXAMPLES = examples(
    "tidegate lock main_binance --reason 'odd fills, checking with the venue'",
    "",
    "# In a script: the id makes a retry harmless, the status says what happened:",
    "tidegate lock main_binance -r 'kill switch' --command-id ks-20171222-1 --json || page-the-desk",
)
UNLOCK_EXAMPLES = examples(
    "# Equity is above every floor again:",
    "tidegate unlock main_binance --reason 'reviewed with desk'",
    "",
    "# Start anew from present equity, one rung down, with a second operator:",
    "tidegate unlock main_binance --rebase now --profile micro --approved-by bob -r 'agreed with risk'",
    "",
    "# What would the gate say? Then ask a colleague, who approves from another desk:",
    "tidegate unlock main_binance --rebase now --dry-run",
    "tidegate unlock main_binance --rebase now --request -r 'feed glitch, positions reconciled'",
    "tidegate approve u-1f0c22d9",
)
HALT_EXAMPLES = examples("tidegate halt main_binance --reason 'venue migration, no orders at all'")
RESUME_EXAMPLES = examples("tidegate resume main_binance --reason 'positions reconciled'")
PROFILE_EXAMPLES = examples(
    "# Down as far as you like, up one rung at a time (micro, low, normal, aggressive):",
    "tidegate profile set main_binance low --reason 'four quiet weeks' --approved-by bob",
)
RELEASE_EXAMPLES = examples(
    "# Which orders are open?",
    "tidegate accounts main_binance",
    "# The venue says that this one is gone: give back what it reserves.",
    "tidegate order release main_binance o-0b1c7f32a1d94c7a8b5e6f708192a3b4 --reason 'cancelled at venue, no report'",
)

profile = typer.Typer(no_args_is_help=True)
order = typer.Typer(no_args_is_help=True)


@profile.callback()
def _profile() -> None:
    """The capital profile of an account."""


@order.callback()
def _order() -> None:
    """The open orders of an account."""


def lock(
    account: Account,
    reason: Reason,
    operator: Operator = None,
    command_id: CommandId = None,
    timeout: Timeout = 10,
    no_wait: NoWait = False,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Lock an account by hand: from now on only orders that reduce pass.

    The lock outlives midnights and restarts, until `tidegate unlock`.
    The record on account-locked lists the open entries; executors cancel them.
    """
    _give(
        connect(config, broker, prefix, app_id),
        new_command("lock", account, operator_or_login(operator), reason, command_id=command_id),
        None if no_wait else timeout,
        as_json=as_json,
    )


def unlock(
    account: Account,
    reason: ReasonIfAny = None,
    rebase: Annotated[
        Literal["keep", "now"],
        typer.Option(
            "--rebase",
            help="[bold]keep[/bold]: drawdowns are measured as before, refused while one is breached. "
            "[bold]now[/bold]: the held limits start anew from present equity.",
        ),
    ] = "keep",
    to_profile: Annotated[
        ProfileName | None, typer.Option("--profile", help="Go on with a lower profile.", show_default="as it is")
    ] = None,
    operator: Operator = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what the gate would answer now, and why; publish nothing.")
    ] = False,
    request: Annotated[
        bool, typer.Option("--request", help="Ask another operator for it: `tidegate approve` unlocks.")
    ] = False,
    approved_by: ApprovedBy = None,
    command_id: CommandId = None,
    timeout: Timeout = 10,
    no_wait: NoWait = False,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Unlock an account: clear every reason that holds it, or be told why not.

    [bold]--dry-run[/bold] needs no reason. It and [bold]--request[/bold] read the workers' configuration (--config).
    """
    if dry_run and request:
        raise CommandError("--dry-run tries, --request asks; use one of them", ExitStatus.USAGE)
    if request and (approved_by or command_id):
        raise CommandError(
            "--approved-by and --command-id do not go with --request",
            ExitStatus.USAGE,
            "the second operator approves with `tidegate approve REQUEST_ID`",
        )
    if not reason and not dry_run:
        raise CommandError("--reason is missing; every command names one", ExitStatus.USAGE)
    settings = connect(config, broker, prefix, app_id)
    command = new_command(
        "unlock",
        account,
        operator_or_login(operator),
        reason or "dry run",
        rebase=rebase,
        profile=to_profile,
        approved_by=approved_by,
        command_id=command_id,
    )
    if dry_run:
        unlocking.try_unlock(settings, rules_in(config), command, as_json=as_json)
    elif request:
        unlocking.request_unlock(settings, rules_in(config), command, as_json=as_json)
    else:
        _give(settings, command, None if no_wait else timeout, as_json=as_json)


def halt(
    account: Account,
    reason: Reason,
    operator: Operator = None,
    command_id: CommandId = None,
    timeout: Timeout = 10,
    no_wait: NoWait = False,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Halt an account: nothing passes, not even an exit.

    To forbid new risk only, use `tidegate lock`. To halt a venue, a strategy or everything, use `tidegate policy halt`.
    """
    _give(
        connect(config, broker, prefix, app_id),
        new_command("halt", account, operator_or_login(operator), reason, command_id=command_id),
        None if no_wait else timeout,
        as_json=as_json,
    )


def resume(
    account: Account,
    reason: Reason,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    command_id: CommandId = None,
    timeout: Timeout = 10,
    no_wait: NoWait = False,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """End a halt, or the state that a fill left which could not be used. Never ends a lock."""
    _give(
        connect(config, broker, prefix, app_id),
        new_command(
            "resume", account, operator_or_login(operator), reason, approved_by=approved_by, command_id=command_id
        ),
        None if no_wait else timeout,
        as_json=as_json,
    )


@profile.command("set", epilog=PROFILE_EXAMPLES)
def set_profile(
    account: Account,
    name: Annotated[ProfileName, typer.Argument(metavar="PROFILE", help="micro, low, normal or aggressive.")],
    reason: Reason,
    operator: Operator = None,
    approved_by: ApprovedBy = None,
    command_id: CommandId = None,
    timeout: Timeout = 10,
    no_wait: NoWait = False,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Give an account another capital profile; it outlives configuration and restarts.

    Its limits are tested at once: an account that breaches them is locked.
    """
    _give(
        connect(config, broker, prefix, app_id),
        new_command(
            "set_profile",
            account,
            operator_or_login(operator),
            reason,
            profile=name,
            approved_by=approved_by,
            command_id=command_id,
        ),
        None if no_wait else timeout,
        as_json=as_json,
    )


@order.command("release", epilog=RELEASE_EXAMPLES)
def release_order(
    account: Account,
    order_id: Annotated[str, typer.Argument(metavar="ORDER_ID", help="As in approved-orders: o-…")],
    reason: Reason,
    operator: Operator = None,
    command_id: CommandId = None,
    timeout: Timeout = 10,
    no_wait: NoWait = False,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Give back what an open order reserves, when no report will come any more.

    A fill that comes all the same still moves the position, and raises LATE_FILL or UNKNOWN_ORDER.
    """
    _give(
        connect(config, broker, prefix, app_id),
        new_command(
            "release_order", account, operator_or_login(operator), reason, order_id=order_id, command_id=command_id
        ),
        None if no_wait else timeout,
        as_json=as_json,
    )


def _give(settings: Settings, command: dict[str, Any], timeout_s: float | None, *, as_json: bool) -> None:
    outcome = kafka_broker.run(give(settings, command, timeout_s), settings)
    tell(outcome, str(command["type"]), timeout_s, as_json=as_json)
