"""``tidegate steward``: run what an operator would otherwise do by the clock or by rote."""

import typer

from streams.ops import broker as kafka_broker
from streams.ops.options import AppId, Broker, Config, LogLevel, LogStyle, Prefix, configured, connect, examples
from streams.ops.terminal import note
from streams.runtime.logs import configure_logging

EXAMPLES = examples(
    "# Beside the workers, with the same configuration:",
    "tidegate steward --config tidegate.toml",
    "",
    "# In tidegate.toml, what it does besides ending temporary policies:",
    "#   [venue_watch]",
    "#   orders = 5",
    '#   window = "60s"',
    '#   cool_down = "5m"',
    "#   [controls]",
    "#   auto_downgrade = true",
    "",
    "# What it has done; its operator is tidegate:",
    "tidegate policy list",
)


def steward_command(
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
    log_level: LogLevel = "info",
    log_style: LogStyle = "console",
) -> None:
    """Run the steward until SIGTERM or Ctrl-C: it ends temporary policies, and watches venues and breaches.

    Policies with an expiry end within a second of it. With a table venue_watch, a venue that fails too many orders is
    marked down for the cool-down. With controls.auto_downgrade, a breach moves the account one rung down.

    It publishes policies and commands like an operator, named tidegate; it never undoes what an operator has set
    meanwhile. The gate does not wait for it, but a temporary policy that expires while none runs stays in force until
    one does: have it restarted. A second one waits until the first has gone (status 1 if it fails).
    """
    checked = configured(config)
    settings = connect(config, broker, prefix, app_id)
    if checked.clock == "record":
        note("clock = 'record': the steward goes by the wall clock all the same")
    # What would end the steward at once is told here in words, before its machinery starts.
    kafka_broker.run(kafka_broker.ready_for("steward", settings), settings)
    configure_logging(log_level, log_style)
    # Faust is slow to import; the other commands do without it.
    from streams.steward.process import run_steward  # noqa: PLC0415

    raise typer.Exit(run_steward(settings, checked))
