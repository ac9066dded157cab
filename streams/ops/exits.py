"""How a command ends: statuses that a script can branch on, and the error that carries one."""

from enum import IntEnum


class ExitStatus(IntEnum):
    """The exit status of every ``tidegate`` command."""

    DONE = 0
    REFUSED = 1
    USAGE = 2
    BROKER = 3
    UNANSWERED = 4
    INTERRUPTED = 130


MEANINGS = {
    ExitStatus.DONE: "done",
    ExitStatus.REFUSED: "refused, failed or not found; the message says why",
    ExitStatus.USAGE: "wrong usage or configuration; nothing was started or published",
    ExitStatus.BROKER: "the broker is away or refuses, or its topics are missing",
    ExitStatus.UNANSWERED: "published, but no worker has answered in time",
    ExitStatus.INTERRUPTED: "interrupted (Ctrl-C)",
}


class CommandError(Exception):
    """Ends a command: ``message`` says what is wrong, ``remedy`` what to do about it."""

    def __init__(self, message: str, status: ExitStatus, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.remedy = remedy
