"""Worker processes that tests start, stop and kill; and the settings that keep a test's topics to itself."""

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from infra.brokers import Broker
from streams.runtime.settings import Settings
from tests.integration.support import Names, poll

START_DEADLINE_S = 40.0
STOP_DEADLINE_S = 40.0


def settings_for(kafka: Broker, topics: Names, data_dir: Path, **values: Any) -> Settings:
    """A test's own gate on the shared broker, with a quick eye for dead members."""
    quick: dict[str, Any] = {"broker": kafka.url, "session_timeout_ms": 6_000, "lag_commit_interval_ms": 300}
    return Settings(app_id=topics.app_id, topic_prefix=topics.prefix, data_dir=data_dir, **(quick | values))


class WorkerProcess:
    """One ``run_worker`` in a process of its own; its log is in ``log``."""

    def __init__(self, settings: Settings, *, core: str = "standin", rules: Mapping[str, Any] | None = None) -> None:
        self._settings = settings
        self._arguments = [settings_argument(settings), json.dumps(rules or {}), core]
        self._log_path = settings.data_dir.with_suffix(".log")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        return self._log_path.read_text() if self._log_path.exists() else ""

    def start(self) -> Self:
        with self._log_path.open("ab") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.integration.worker_process", *self._arguments], stdout=file, stderr=file
            )
        return self

    def serving(self) -> set[int]:
        """Partitions that it has said to serve since the last assignment."""
        lines = self.log.splitlines()
        since = max((n for n, line in enumerate(lines) if "assigned partitions" in line), default=len(lines))
        return {
            int(line.split("serving partition ")[1].split(",")[0])
            for line in lines[since:]
            if "serving partition" in line
        }

    def wait_serving(self, count: int) -> set[int]:
        """Wait until it serves ``count`` partitions. Fails at once if it ended."""

        def serves() -> set[int]:
            if self.exit_status is not None:
                raise AssertionError(f"the worker ended with status {self.exit_status}:\n{self.log}")
            served = self.serving()
            return served if len(served) == count else set()

        try:
            return poll(serves, START_DEADLINE_S, f"a worker that serves {count} partitions")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.log}") from None

    @property
    def exit_status(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def wait_exit(self) -> int:
        if self._process is None:
            raise RuntimeError("the worker was not started")
        return self._process.wait(STOP_DEADLINE_S)

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        self._send(signal.SIGTERM)
        return self.wait_exit()

    def kill(self) -> None:
        """SIGKILL."""
        self._send(signal.SIGKILL)
        self.wait_exit()

    def pause(self) -> None:
        """SIGSTOP: a process that is swapped out, or a virtual machine that is moved."""
        self._send(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()


def settings_argument(settings: Settings) -> str:
    """The settings as JSON: what a process can be given. Only plain fields differ in tests."""
    plain = ("broker", "app_id", "topic_prefix", "data_dir", "http", "instance_id")
    tuned = {
        name: value
        for name in Settings.__dataclass_fields__
        if isinstance(value := getattr(settings, name), int | bool) and name not in plain
    }
    return json.dumps({name: str(getattr(settings, name)) for name in plain} | tuned)


@contextlib.contextmanager
def workers(*processes: WorkerProcess) -> Iterator[None]:
    """Start some, and kill what is left of them."""
    with contextlib.ExitStack() as stack:
        for process in processes:
            stack.enter_context(process)
        yield
