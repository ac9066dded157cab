"""``tidegate accounts``: what the gate knows of accounts, read from its topics without any worker's help."""

import sys
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.live import Live

from schemas.types import write_time
from streams.ops import broker as kafka_broker
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.options import AppId, Broker, Config, Json, Prefix, connect, examples, rules_in
from streams.ops.overview import Overview, by_urgency, document, overview
from streams.ops.snapshot import Snapshot, SnapshotReader
from streams.ops.tables import account_page, accounts_table
from streams.ops.terminal import note, print_json, stdout
from streams.runtime import clock
from streams.runtime.settings import Settings

_WATCH_INTERVAL_S = 1.0

EXAMPLES = examples(
    "# All accounts; everything about one; a view that follows:",
    "tidegate accounts",
    "tidegate accounts main_binance",
    "tidegate accounts --watch",
    "",
    "# Which accounts are locked, and by what?",
    "tidegate accounts --json | jq -r '.accounts[] | select(.locks != []) | \"\\(.account_id) \\(.locks[].reason)\"'",
)


def accounts_command(
    account: Annotated[
        str | None, typer.Argument(metavar="[ACCOUNT]", help="One account, with its positions and open orders.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow changes until Ctrl-C.")] = False,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Show accounts: state, profile, locks, drawdowns beside their limits, positions, open orders.

    Read from the state changelog and the policies, so it works while every worker is down.
    Limits and time zones come from the configuration: give the workers' own, or limits are not shown.
    Status 1: there is no such account.
    """
    if watch and as_json:
        raise CommandError("--watch is for people, --json for scripts; use one of them", ExitStatus.USAGE)
    if watch and not sys.stdout.isatty():
        raise CommandError("--watch needs a terminal", ExitStatus.USAGE, "leave it out, or ask for --json")
    rules = rules_in(config)
    settings = connect(config, broker, prefix, app_id)
    reader = SnapshotReader(settings, rules, with_state=True)
    if watch:
        try:
            kafka_broker.run(_watch(settings, reader, account), settings)
        except KeyboardInterrupt:
            return  # The way to end it.
    kafka_broker.run(_read(settings, reader), settings)
    if as_json:
        print_json(_document(reader.snapshot, account, clock.now_ms()))
        return
    if not reader.snapshot.account_ids:
        note("no account is configured here, and none has state yet; give the workers' --config")
        return
    console = stdout()
    console.print(_page(reader.snapshot, account, clock.now_ms(), console.width))


async def _read(settings: Settings, reader: SnapshotReader) -> None:
    async with kafka_broker.reader(settings) as consumer:
        await reader.read(consumer)


async def _watch(settings: Settings, reader: SnapshotReader, account: str | None) -> None:
    async with kafka_broker.reader(settings) as consumer:
        await reader.read(consumer)
        console = stdout()
        with Live(console=console, screen=True, auto_refresh=False) as live:
            while True:
                page = _page(reader.snapshot, account, clock.now_ms(), console.width, urgent_first=True)
                live.update(page, refresh=True)
                await reader.follow(consumer, _WATCH_INTERVAL_S)


def _page(
    snapshot: Snapshot, account: str | None, now_ms: int, columns: int, *, urgent_first: bool = False
) -> RenderableType:
    version = snapshot.rules.version
    if account is not None:
        return account_page(_one(snapshot, account, now_ms), policy_version=version, now_ms=now_ms)
    accounts = _all(snapshot, now_ms)
    if urgent_first:
        # The screen cuts off what does not fit.
        accounts.sort(key=by_urgency)
    return accounts_table(accounts, policy_version=version, now_ms=now_ms, columns=columns)


def _document(snapshot: Snapshot, account: str | None, now_ms: int) -> dict[str, Any]:
    head = {"schema_version": 1, "read_at": write_time(now_ms), "policy_version": snapshot.rules.version}
    if account is not None:
        return head | document(_one(snapshot, account, now_ms))
    return head | {"accounts": [document(one) for one in _all(snapshot, now_ms)]}


def _all(snapshot: Snapshot, now_ms: int) -> list[Overview]:
    return [overview(one, snapshot.account(one), snapshot.rules, now_ms) for one in snapshot.account_ids]


def _one(snapshot: Snapshot, account: str, now_ms: int) -> Overview:
    if account not in snapshot.account_ids:
        known = ", ".join(snapshot.account_ids[:10]) or "none"
        raise CommandError(f"there is no account {account!r}", ExitStatus.REFUSED, f"known here: {known}")
    return overview(account, snapshot.account(account), snapshot.rules, now_ms)
