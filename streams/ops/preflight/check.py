"""What a check is, and how a list of them is run. Pure, but for what a check itself may await."""

import inspect
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from typing import NamedTuple

from aiokafka.errors import KafkaError

from streams.ops.exits import CommandError
from streams.ops.preflight.context import Context, NotRead


class Status(StrEnum):
    """How a check came out. Only a failure keeps a desk from going live."""

    PASS = "pass"
    WARN = "warn"
    FAIL = "fail"


class Finding(NamedTuple):
    """What a check saw and, unless it passed, what to do about it."""

    status: Status
    seen: str
    fix: str = ""


Run = Callable[[Context], Finding | Awaitable[Finding]]


class Check(NamedTuple):
    """One line of the checklist. ``name`` is unique; ``title`` is what holds when it passes."""

    group: str
    name: str
    title: str
    run: Run


class Result(NamedTuple):
    """A check that was run."""

    check: Check
    finding: Finding


def check(group: str, name: str) -> Callable[[Run], Check]:
    """Make a function a check; the first line of its docstring is the title."""

    def wrap(run: Run) -> Check:
        return Check(group, name, (inspect.getdoc(run) or name).splitlines()[0].rstrip("."), run)

    return wrap


def passed(seen: str) -> Finding:
    """It is as it has to be."""
    return Finding(Status.PASS, seen)


def warned(seen: str, fix: str) -> Finding:
    """It will do for now, or could not be settled."""
    return Finding(Status.WARN, seen, fix)


def failed(seen: str, fix: str) -> Finding:
    """Not ready to go live."""
    return Finding(Status.FAIL, seen, fix)


async def run_checks(checks: Iterable[Check], context: Context) -> list[Result]:
    """Run every check, in order. One that cannot look fails and says why; the others go on."""
    return [Result(check, await _run(check, context)) for check in checks]


async def _run(check: Check, context: Context) -> Finding:
    try:
        outcome = check.run(context)
        return await outcome if inspect.isawaitable(outcome) else outcome
    except NotRead as error:
        return failed(f"could not be looked at: {error}", error.remedy)
    except CommandError as error:
        return failed(error.message, error.remedy)
    except (KafkaError, OSError, ValueError) as error:
        return failed(f"could not be looked at: {error or type(error).__name__}", "mend what it names and run it again")


def some(names: Iterable[str], most: int = 5) -> str:
    """A few names of many, for a line that people read."""
    listed = sorted(names)
    more = f" and {len(listed) - most} more" if len(listed) > most else ""
    return ", ".join(listed[:most]) + more
