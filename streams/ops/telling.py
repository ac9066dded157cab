"""How a command that was given tells what became of it: in words, as JSON, as an exit status."""

from typing import Any

import typer

from streams.ops.answers import in_words, lock_in_words
from streams.ops.commanding import Outcome
from streams.ops.exits import CommandError, ExitStatus
from streams.ops.terminal import print_json, say


def tell(outcome: Outcome, kind: str, timeout_s: float | None, *, as_json: bool, **beside: Any) -> None:
    """Say it, and end with its status; ``beside`` goes into the JSON too.

    Raises CommandError where no worker has answered within ``timeout_s``, typer.Exit otherwise.
    """
    if as_json:
        print_json(beside | _document(outcome))
    elif outcome.telling is not None:
        if outcome.first is not None:
            say(f"command {outcome.sent.command_id} was given before; nothing was done again")
        say(in_words(outcome.telling), *map(lock_in_words, outcome.locks))
    elif timeout_s is None:
        say(f"{outcome.sent.account_id}: {kind} published as command {outcome.sent.command_id}")
    status = _status(outcome, waited=timeout_s is not None)
    if status == ExitStatus.UNANSWERED:
        raise CommandError(
            f"command {outcome.sent.command_id} is published, but no worker has answered within {timeout_s:g} s",
            status,
            "is a worker running? It will obey when it runs; to ask again without doing it twice, "
            + (
                f"repeat `tidegate approve {beside['request_id']}`"
                if "request_id" in beside
                else f"repeat with --command-id {outcome.sent.command_id}"
            ),
        )
    raise typer.Exit(status)


def _status(outcome: Outcome, *, waited: bool) -> ExitStatus:
    answer = outcome.telling
    if answer is None:
        return ExitStatus.UNANSWERED if waited else ExitStatus.DONE
    return ExitStatus.DONE if answer.done else ExitStatus.REFUSED


def _document(outcome: Outcome) -> dict[str, Any]:
    sent, answer = outcome.sent, outcome.telling
    result = "published" if answer is None else "done" if answer.done else "refused"
    return {
        "command_id": sent.command_id,
        "account_id": sent.account_id,
        "partition": sent.partition,
        "offset": sent.offset,
        "result": result,
        "repeated": outcome.answer is not None and outcome.answer.repeats,
        "answer": None if answer is None else {"topic": answer.topic, "value": dict(answer.body)},
        "locks": [dict(body) for body in outcome.locks],
    }
