"""``tidegate``: the command line. Each command is a module; here they are put together and their failures told."""

import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from streams.ops import (
    access,
    accounts,
    controls,
    dead_letters,
    drilling,
    explain,
    mirroring,
    notifying,
    policies,
    replaying,
    stewarding,
    unlocking,
    whatif,
    working,
)
from streams.ops.exits import MEANINGS, CommandError, ExitStatus
from streams.ops.preflight import command as preflight
from streams.ops.rollout import commands as rollout
from streams.ops.terminal import show_error, silence_broken_pipe

RUN, LOOK, OPERATE = "Run", "Look", "Operate"

EPILOG = (
    "[bold]Exit status[/bold]\n"
    + "\n".join(f"  {status.value:>3}  {meaning}" for status, meaning in MEANINGS.items())
    + "\n\n[bold]First steps[/bold]\n"
    "  $ export TIDEGATE_BROKER=kafka://localhost:9092\n"
    "  $ tidegate topics create\n"
    "  $ tidegate worker --config tidegate.toml\n"
    "  [dim]# …and in another terminal:[/dim]\n"
    "  $ tidegate accounts --config tidegate.toml\n"
    "  $ tidegate lock main_binance --reason 'odd fills'"
)


class Commands(TyperGroup):
    """Tells failures in one message and ends with their status."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the line names."""
        try:
            return super().invoke(ctx)
        except CommandError as error:
            show_error(error)
            raise typer.Exit(error.status) from None
        except BrokenPipeError:
            silence_broken_pipe()
            raise typer.Exit(ExitStatus.REFUSED) from None
        except KeyboardInterrupt:
            raise typer.Exit(ExitStatus.INTERRUPTED) from None


app = typer.Typer(
    name="tidegate",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    # A traceback with local variables could show a secret.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=EPILOG,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"tidegate {version('tidegate')}")
        except PackageNotFoundError:
            print("tidegate, from sources that are not installed")
        raise typer.Exit


@app.callback()
def tidegate(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Tidegate, a pre-trade risk gate on Kafka: one decision per signal, one lock per breach.

    Every command has its own --help with examples.
    """


app.command("worker", epilog=working.WORKER_EXAMPLES, rich_help_panel=RUN)(working.worker_command)
app.command("steward", epilog=stewarding.EXAMPLES, rich_help_panel=RUN)(stewarding.steward_command)
app.add_typer(mirroring.mirror, name="mirror", rich_help_panel=RUN)
app.add_typer(notifying.notify, name="notify", rich_help_panel=RUN)
app.add_typer(working.topics, name="topics", rich_help_panel=RUN)
app.add_typer(access.access, name="access", rich_help_panel=RUN)
app.command("replay", epilog=replaying.EXAMPLES, rich_help_panel=RUN)(replaying.replay_command)
app.command("accounts", epilog=accounts.EXAMPLES, rich_help_panel=LOOK)(accounts.accounts_command)
app.command("whatif", epilog=whatif.EXAMPLES, rich_help_panel=LOOK)(whatif.whatif_command)
app.command("explain", epilog=explain.EXAMPLES, rich_help_panel=LOOK)(explain.explain_command)
app.add_typer(dead_letters.dead_letters, name="dead-letters", rich_help_panel=LOOK)
app.command("preflight", epilog=preflight.EXAMPLES, rich_help_panel=LOOK)(preflight.preflight_command)
app.command("lock", epilog=controls.LOCK_EXAMPLES, rich_help_panel=OPERATE)(controls.lock)
app.command("unlock", epilog=controls.UNLOCK_EXAMPLES, rich_help_panel=OPERATE)(controls.unlock)
app.command("requests", epilog=unlocking.REQUESTS_EXAMPLES, rich_help_panel=OPERATE)(unlocking.list_requests)
app.command("approve", epilog=unlocking.APPROVE_EXAMPLES, rich_help_panel=OPERATE)(unlocking.approve)
app.command("reject", epilog=unlocking.REJECT_EXAMPLES, rich_help_panel=OPERATE)(unlocking.reject)
app.command("halt", epilog=controls.HALT_EXAMPLES, rich_help_panel=OPERATE)(controls.halt)
app.command("resume", epilog=controls.RESUME_EXAMPLES, rich_help_panel=OPERATE)(controls.resume)
app.add_typer(drilling.drill, name="drill", rich_help_panel=OPERATE)
app.add_typer(controls.profile, name="profile", rich_help_panel=OPERATE)
app.add_typer(controls.order, name="order", rich_help_panel=OPERATE)
app.add_typer(rollout.rollout, name="rollout", rich_help_panel=OPERATE)
app.add_typer(policies.policy, name="policy", rich_help_panel=OPERATE)


def main() -> None:
    """The entry point ``tidegate``."""
    sys.exit(app())


if __name__ == "__main__":
    main()
