"""A child process that cannot outlive its parent.

Every server that Tidegate starts for a test, a demo or a benchmark is a `Child`. Between the two runs a small
supervisor (this file, run as a script) that holds the read end of a pipe. The kernel closes the write end when
the parent is gone for whatever reason, SIGKILL included; the supervisor then kills the server and removes its
data directory. Nothing is found by name.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path


class Child:
    """A server process: `command` run with its output appended to `log`.

    Args:
        command: program and arguments.
        log: file that receives standard output and standard error.
        scratch: directory to remove should the parent die first; its files are throw-away.
        env: environment of the server, the parent's by default.

    Raises:
        OSError: when the program cannot be started; the message names it.
    """

    def __init__(
        self, command: Sequence[str], *, log: Path, scratch: Path, env: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        with log.open("ab") as output:
            # Isolated (-I) and without site packages (-S) it is up in 15 ms, whatever the caller's environment.
            # Its own session keeps a terminal's Ctrl-C away from the server, which its owner stops in order.
            self._supervisor = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, str(scratch), *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                env=env,
                start_new_session=True,
            )
        assert self._supervisor.stdout is not None
        with self._supervisor.stdout as report:
            first_line = report.readline().strip()
        if not first_line:
            self._close()
            raise OSError(f"cannot run {command[0]}: {self.log_tail()}")
        self.pid = int(first_line)
        """Process id of the server itself, not of its supervisor."""

    @property
    def running(self) -> bool:
        return self._supervisor.poll() is None

    def kill(self) -> None:
        """SIGKILL, and wait until the process is gone. Safe to call twice."""
        self._signal(signal.SIGKILL)
        self._close()

    def terminate(self, deadline_s: float) -> None:
        """SIGTERM, then SIGKILL after `deadline_s`. Safe to call twice."""
        self._signal(signal.SIGTERM)
        try:
            self._supervisor.wait(deadline_s)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
        self._close()

    def output(self) -> str:
        """What the server has logged since it was started."""
        return self.log.read_bytes()[self._log_start :].decode(errors="replace")

    def log_tail(self, lines: int = 25) -> str:
        """The last lines of it."""
        return "\n".join(self.output().splitlines()[-lines:])

    def _signal(self, number: signal.Signals) -> None:
        # The supervisor ends as soon as it has reaped the server: while it runs, the id is not yet another process's.
        if self.running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def _close(self) -> None:
        self._supervisor.wait()
        if self._supervisor.stdin is not None:
            self._supervisor.stdin.close()


def supervise(scratch: str, command: Sequence[str]) -> int:
    """Run `command`, report its process id, and kill it when standard input reaches its end."""
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=2, stderr=2)
    orphaned = threading.Event()

    def kill_when_orphaned() -> None:
        sys.stdin.buffer.read()
        orphaned.set()
        server.kill()

    threading.Thread(target=kill_when_orphaned, daemon=True).start()
    # A parent that died in this instant is noticed by the thread.
    with contextlib.suppress(BrokenPipeError):
        os.write(sys.stdout.fileno(), f"{server.pid}\n".encode())
    os.close(sys.stdout.fileno())
    exit_status = server.wait()
    if orphaned.is_set():
        shutil.rmtree(scratch, ignore_errors=True)
    return exit_status


if __name__ == "__main__":
    exit_status = supervise(sys.argv[1], sys.argv[2:])
    # Not sys.exit: the thread sits in a read of standard input, whose lock the interpreter's end would wait for.
    os._exit(exit_status & 0xFF)
