"""Programs that tests run in processes of their own: started, listened to, and ended by a signal."""

import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from streams.runtime.settings import Settings
from tests.integration.support import poll

DEADLINE_S = 40.0


def tidegate_command(*arguments: str) -> list[str]:
    """The command line of ``tidegate …``."""
    return [sys.executable, "-m", "streams.ops.cli", *arguments]


def environment_of(settings: Settings) -> dict[str, str]:
    """What tells a command which gate is meant."""
    return {
        "TIDEGATE_BROKER": settings.broker,
        "TIDEGATE_TOPIC_PREFIX": settings.topic_prefix,
        "TIDEGATE_APP_ID": settings.app_id,
    }


class Program:
    """One program in a process of its own, killed at the end of a ``with``; what it says is added to a file."""

    def __init__(
        self,
        command: Sequence[str],
        path: Path,
        environment: Mapping[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        """``environment``: all of it; None: this process's own."""
        self.path = path
        self._command = command
        self._environment = environment
        self._directory = directory
        self._log_start = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with self.path.open("ab") as file:
            self._log_start = file.tell()
            self._process = subprocess.Popen(
                self._command, stdout=file, stderr=file, env=self._environment, cwd=self._directory
            )
        return self

    @property
    def log(self) -> str:
        """What it has said since it was started."""
        return self.path.read_bytes()[self._log_start :].decode(errors="replace")

    @property
    def address(self) -> str:
        """Where it said that it listens."""
        return str(re.findall(r"http on (\S+)", self.log)[-1])

    def wait_for(self, words: str, times: int = 1) -> None:
        """Wait until it has said something so often. Fails at once if it ended."""

        def said() -> bool:
            assert self.exit_status is None, self.log
            return self.log.count(words) >= times

        try:
            poll(said, DEADLINE_S, f"a process that says {words!r}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log}") from None

    @property
    def pid(self) -> int:
        return self._started.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs, or was not started."""
        return None if self._process is None else self._process.poll()

    def send(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self.exit_status is None:
            self._started.send_signal(number)

    def wait_exit(self) -> int:
        """Wait until it ends by itself; its exit status."""
        return self._started.wait(DEADLINE_S)

    def end(self, number: signal.Signals) -> int:
        """Send a signal and wait for the end; the exit status."""
        self.send(number)
        return self.wait_exit()

    @property
    def _started(self) -> "subprocess.Popen[bytes]":
        assert self._process is not None, "it was not started"
        return self._process

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.end(signal.SIGKILL)
