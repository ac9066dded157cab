"""The unlock workflow: ``tidegate unlock --dry-run``, ``unlock --request`` → ``approve`` or ``reject``, ``requests``.

Every step is a record on the topic ``requests`` (:mod:`streams.ops.requests`). The unlock itself is an ordinary
command with the requester as operator, the approver as ``approved_by`` and the request's id as its own, so that an
approval that is repeated unlocks once. A request holds for the very locks that it was made for: locks that came since
need a request of their own.
"""

import secrets
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from schemas.types import TEXT_BYTES_MAX, write_time
from streams.core.rules import Rules
from streams.core.state import Account
from streams.ops import broker as kafka_broker
from streams.ops import requests
from streams.ops.answers import in_words
from streams.ops.commanding import Outcome, give, given_before, new_command
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.forecast import SOMEBODY_ELSE, Forecast, forecast, lasting_fault
from streams.ops.options import (
    ACCOUNTABILITY,
    AppId,
    Broker,
    Config,
    Json,
    Operator,
    Prefix,
    Reason,
    Timeout,
    connect,
    examples,
    operator_or_login,
    rules_in,
)
from streams.ops.overview import Overview, document, overview
from streams.ops.requests import APPROVED, OPEN, UnlockRequest
from streams.ops.snapshot import Snapshot, SnapshotReader
from streams.ops.tables import account_page
from streams.ops.telling import tell
from streams.ops.terminal import moment, plain_table, print_json, say, stdout
from streams.runtime import clock
from streams.runtime.settings import Settings

REQUESTS_EXAMPLES = examples(
    "tidegate requests",
    "",
    "# What waits for a decision?",
    "tidegate requests --json | jq -r '.requests[] | select(.state == \"open\").request_id'",
)
APPROVE_EXAMPLES = examples(
    "# Look first: what is held, and would the gate do it?",
    "tidegate accounts main_binance",
    "tidegate approve u-1f0c22d9 --operator bob",
)
REJECT_EXAMPLES = examples("tidegate reject u-1f0c22d9 --reason 'positions are not reconciled yet'")

RequestId = Annotated[str, typer.Argument(metavar="REQUEST_ID", help="As in `tidegate requests`: u-…")]


# -- dry run and request -------------------------------------------------------------------------------------------


def try_unlock(settings: Settings, rules: Rules, command: Mapping[str, Any], *, as_json: bool) -> None:
    """Say what the gate would answer now, and what holds the account. Ends with status 0 (would be done) or 1."""
    snapshot = kafka_broker.run(_snapshot(settings, rules), settings)
    account_id, now_ms = command["account_id"], clock.now_ms()
    account = _known(snapshot, account_id)
    expected = forecast(account, snapshot.rules, command, now_ms)
    other = "now" if command.get("rebase") != "now" else "keep"
    agreed = {**command, "rebase": other, "approved_by": command.get("approved_by") or SOMEBODY_ELSE}
    instead = forecast(account, snapshot.rules, agreed, now_ms)
    one = overview(account_id, account, snapshot.rules, now_ms)
    if as_json:
        print_json(
            {
                "account_id": account_id,
                "result": "would be done" if expected.done else "would be refused",
                "refusals": list(expected.refusals),
                "outputs": [{"topic": topic, "value": dict(body)} for topic, body in expected.outputs],
                f"with_rebase_{other}": {"done": instead.done, "refusals": list(instead.refusals)},
                "account": document(one),
                "policy_version": snapshot.rules.version,
            }
        )
    else:
        say(*_forecast_in_words(one, expected, other, instead))
        console = stdout()
        console.print()
        console.print(account_page(one, policy_version=snapshot.rules.version, now_ms=now_ms))
    raise typer.Exit(ExitStatus.DONE if expected.done else ExitStatus.REFUSED)


def _forecast_in_words(one: Overview, expected: Forecast, other: str, instead: Forecast) -> list[str]:
    if expected.done:
        kinds = ", ".join(str(body.get("type", topic)) for topic, body in expected.outputs)
        return [f"{one.account_id}: would be unlocked now ({kinds}); nothing was published"]
    lines = [f"{one.account_id}: would be refused; nothing was published"]
    lines += [f"  • {refusal}" for refusal in expected.refusals]
    if instead.done:
        lines.append(f"  with --rebase {other}, and a second operator where one is needed, it would be done")
    return lines


def request_unlock(settings: Settings, rules: Rules, command: Mapping[str, Any], *, as_json: bool) -> None:
    """File a request for a second operator. Raises CommandError where it could never be granted, or one is open."""
    request_id, expected = kafka_broker.run(_request(settings, rules, command), settings)
    if as_json:
        print_json(
            {"request_id": request_id, "account_id": command["account_id"], "refused_now": list(expected.refusals)}
        )
        return
    say(f"{command['account_id']}: request {request_id} is filed; approve it with `tidegate approve {request_id}`")
    say(*(f"  not yet: {refusal}" for refusal in expected.refusals))


async def _request(settings: Settings, rules: Rules, command: Mapping[str, Any]) -> tuple[str, Forecast]:
    account_id, now_ms = command["account_id"], clock.now_ms()
    filed = requests.unlock_requests(await requests.read_entries(settings))
    snapshot = await _snapshot(settings, rules)
    account = snapshot.account(account_id)
    fault = lasting_fault(account_id, account, snapshot.rules, command.get("profile"))
    if fault is not None:
        raise CommandError(fault, ExitStatus.REFUSED, "nothing was filed; see `tidegate accounts`")
    held = _held(account)
    for one in filed.values():
        if one.account_id == account_id and one.state in (OPEN, APPROVED) and one.held == held:
            raise CommandError(
                f"request {one.request_id} of {one.requested.operator} is {one.state} already for these locks",
                ExitStatus.REFUSED,
                f"`tidegate approve {one.request_id}`, or reject it and file another",
            )
    request_id = _new_id(filed)
    await requests.append(
        settings,
        requests.UNLOCK_REQUESTED,
        key=request_id,
        operator=command["operator"],
        reason=command["reason"],
        now_ms=now_ms,
        request_id=request_id,
        account_id=account_id,
        rebase=command.get("rebase") or "keep",
        profile=command.get("profile"),
        locks=[{"reason": reason, "locked_at": at} for reason, at in held],
    )
    # With a second operator's agreement: what is left is what the account itself stands in the way with.
    agreed = {**command, "approved_by": SOMEBODY_ELSE}
    return request_id, forecast(account, snapshot.rules, agreed, now_ms)


def _new_id(filed: Mapping[str, UnlockRequest]) -> str:
    while (request_id := f"u-{secrets.token_hex(4)}") in filed:
        pass
    return request_id


# -- decisions -----------------------------------------------------------------------------------------------------


def approve(
    request_id: RequestId,
    reason: Annotated[
        str,
        typer.Option(
            "--reason", "-r", metavar="TEXT", help="Why, where there is more to say.", rich_help_panel=ACCOUNTABILITY
        ),
    ] = "approved",
    operator: Operator = None,
    timeout: Timeout = 10,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Approve a request: the account is unlocked, with its requester as operator and you as the second one.

    Nothing happens while the gate would refuse it, or if other locks hold the account than when it was requested: the
    request stays open. With controls.two_person nobody approves what they requested.
    """
    rules, settings = rules_in(config), connect(config, broker, prefix, app_id)
    outcome = kafka_broker.run(
        _approve(settings, rules, request_id, operator_or_login(operator), _text(reason), timeout), settings
    )
    tell(outcome, "unlock", timeout, as_json=as_json, request_id=request_id)


async def _approve(
    settings: Settings, rules: Rules, request_id: str, operator: str, reason: str, timeout_s: float
) -> Outcome:
    request = _found(requests.unlock_requests(await requests.read_entries(settings)), request_id)
    if request.state not in (OPEN, APPROVED):
        raise _decided(request)
    if request.decided is not None:
        # An earlier approval was not answered in time, or ended half way.
        before = await given_before(settings, request.account_id, request_id)
        if before is not None:
            await _record_answer(settings, request, request.decided.operator, before)
            return before
    snapshot = await _snapshot(settings, rules)
    account = _known(snapshot, request.account_id)
    if _held(account) != request.held:
        raise CommandError(
            f"{request.account_id} is not held by the locks any more that {request_id} was made for; nothing was done",
            ExitStatus.REFUSED,
            "see `tidegate accounts`; if it is still locked, ask anew with `tidegate unlock --request`",
        )
    approver = operator if request.decided is None else request.decided.operator
    command = new_command(
        "unlock",
        request.account_id,
        request.requested.operator,
        request.requested.reason,
        rebase=request.rebase,
        profile=request.profile,
        approved_by=approver,
        command_id=request_id,
    )
    if request.decided is None:
        _check_approval(request, forecast(account, snapshot.rules, command, clock.now_ms()), operator, rules)
        await _decide(settings, request, requests.UNLOCK_APPROVED, operator, reason)
    outcome = await give(settings, command, timeout_s)
    await _record_answer(settings, request, approver, outcome)
    return outcome


async def _record_answer(settings: Settings, request: UnlockRequest, approver: str, outcome: Outcome) -> None:
    answer = outcome.telling
    if answer is None or answer.repeats:
        return  # It says nothing of what became of the unlock.
    await requests.append(
        settings,
        requests.UNLOCK_ANSWERED,
        key=request.request_id,
        operator=approver,
        reason=in_words(answer),
        now_ms=clock.now_ms(),
        request_id=request.request_id,
        account_id=request.account_id,
        done=answer.done,
    )


def _check_approval(request: UnlockRequest, expected: Forecast, operator: str, rules: Rules) -> None:
    if rules.two_person and operator.strip().casefold() == request.requested.operator.strip().casefold():
        raise CommandError(
            f"{request.request_id} was requested by {operator}; with controls.two_person somebody else approves it",
            ExitStatus.REFUSED,
            "give --operator NAME or set TIDEGATE_OPERATOR, if you are somebody else",
        )
    if not expected.done:
        raise CommandError(
            f"the gate would refuse it now: {'; '.join(expected.refusals)}",
            ExitStatus.REFUSED,
            f"nothing was done, {request.request_id} stays open",
        )


def reject(
    request_id: RequestId,
    reason: Reason,
    operator: Operator = None,
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Reject a request, or take back your own: it can not be approved any more."""
    settings = connect(config, broker, prefix, app_id)
    kafka_broker.run(_reject(settings, request_id, operator_or_login(operator), _text(reason)), settings)
    if as_json:
        print_json({"request_id": request_id, "state": requests.REJECTED})
    else:
        say(f"{request_id} is rejected")


async def _reject(settings: Settings, request_id: str, operator: str, reason: str) -> None:
    request = _found(requests.unlock_requests(await requests.read_entries(settings)), request_id)
    if request.state != OPEN:
        raise _decided(request)
    await _decide(settings, request, requests.UNLOCK_REJECTED, operator, reason)


async def _decide(settings: Settings, request: UnlockRequest, kind: str, operator: str, reason: str) -> None:
    """Append a decision. Raises CommandError if another one came first: that one stands."""
    offset = await requests.append(
        settings,
        kind,
        key=request.request_id,
        operator=operator,
        reason=reason,
        now_ms=clock.now_ms(),
        request_id=request.request_id,
        account_id=request.account_id,
    )
    now = requests.unlock_requests(await requests.read_entries(settings))[request.request_id]
    if now.decided is None or now.decided.offset != offset:
        raise _decided(now)


def _decided(request: UnlockRequest) -> CommandError:
    by = request.decided
    who = f" by {by.operator} at {moment(by.at_ms)}" if by is not None else ""
    said = f": {request.answered.reason}" if request.answered is not None else f": {by.reason}" if by else ""
    return CommandError(
        f"{request.request_id} is {request.state} already{who}{said}",
        ExitStatus.REFUSED,
        "nothing was done; a new request needs `tidegate unlock ACCOUNT --request`",
    )


# -- list ----------------------------------------------------------------------------------------------------------


def list_requests(
    as_json: Json = False,
    config: Config = None,
    broker: Broker = None,
    prefix: Prefix = None,
    app_id: AppId = None,
) -> None:
    """Show the requests to unlock: who asked for what and why, and what became of them."""
    settings = connect(config, broker, prefix, app_id)
    entries = kafka_broker.run(requests.read_entries(settings), settings)
    filed = list(requests.unlock_requests(entries).values())
    if as_json:
        print_json({"requests": [_document(one) for one in filed]})
    elif filed:
        stdout().print(_table(filed))
    else:
        say("nothing was requested yet; see `tidegate unlock --help`")


def _document(request: UnlockRequest) -> dict[str, Any]:
    decided, answered = request.decided, request.answered
    return {
        "request_id": request.request_id,
        "account_id": request.account_id,
        "state": request.state,
        "rebase": request.rebase,
        "profile": request.profile,
        "locks": [{"reason": reason, "locked_at": at} for reason, at in request.held],
        "requested_by": request.requested.operator,
        "reason": request.requested.reason,
        "requested_at": write_time(request.requested.at_ms),
        "decided_by": decided.operator if decided else None,
        "decision_reason": decided.reason if decided else None,
        "decided_at": write_time(decided.at_ms) if decided else None,
        "answer": answered.reason if answered else None,
    }


def _table(filed: list[UnlockRequest]) -> Table:
    styles = {OPEN: "bold yellow", APPROVED: "yellow", requests.DONE: "green", requests.REFUSED: "red"}
    table = plain_table()
    table.add_column("Request", style="bold", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Account", overflow="fold")
    table.add_column("Held by", overflow="fold")
    table.add_column("Rebase", no_wrap=True)
    table.add_column("Profile", no_wrap=True)
    table.add_column("Asked", overflow="fold")
    table.add_column("Decided", overflow="fold")
    for one in filed:
        table.add_row(
            one.request_id,
            Text(one.state, style=styles.get(one.state, "dim")),
            Text(one.account_id),
            Text(", ".join(reason for reason, _ in one.held)),
            one.rebase,
            one.profile or "as it is",
            _who(one.requested),
            Text("–") if one.decided is None else _who(one.decided),
        )
    return table


def _who(entry: requests.Entry) -> Text:
    return Text(f"{entry.operator}, {moment(entry.at_ms)}: {entry.reason}")


# -- shared --------------------------------------------------------------------------------------------------------


async def _snapshot(settings: Settings, rules: Rules) -> Snapshot:
    reader = SnapshotReader(settings, rules, with_state=True)
    async with kafka_broker.reader(settings) as consumer:
        await reader.read(consumer)
    return reader.snapshot


def _known(snapshot: Snapshot, account_id: str) -> Account | None:
    if account_id not in snapshot.rules.accounts:
        known = ", ".join(sorted(snapshot.rules.accounts)) or "none"
        raise CommandError(
            f"account {account_id!r} is not in the configuration that was read here",
            ExitStatus.REFUSED,
            f"give the workers' --config; known here: {known}",
        )
    return snapshot.account(account_id)


def _held(account: Account | None) -> tuple[tuple[str, str], ...]:
    locks = account.standing.locks if account is not None else ()
    return tuple((lock.reason, write_time(lock.at_ms)) for lock in locks)


def _found(filed: Mapping[str, UnlockRequest], request_id: str) -> UnlockRequest:
    request = filed.get(request_id)
    if request is None:
        waiting = ", ".join(one.request_id for one in filed.values() if one.state == OPEN) or "none"
        raise CommandError(f"there is no request {request_id!r}", ExitStatus.REFUSED, f"open requests: {waiting}")
    return request


def _text(reason: str) -> str:
    if not reason.strip() or len(reason.encode(errors="replace")) > TEXT_BYTES_MAX:
        raise CommandError(f"--reason has 1 to {TEXT_BYTES_MAX} bytes, not {reason[:40]!r}", ExitStatus.USAGE)
    return reason
