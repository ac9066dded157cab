"""Worker processes that tests start, stop and kill; and the settings that keep a test's topics to itself."""

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from infra.brokers import Broker
from streams.runtime.settings import Settings
from tests.integration.processes import Program
from tests.integration.support import Names, poll

START_DEADLINE_S = 40.0


def settings_for(kafka: Broker, topics: Names, data_dir: Path, **values: Any) -> Settings:
    """A test's own gate on the shared broker, with a quick eye for dead members."""
    quick: dict[str, Any] = {"broker": kafka.url, "session_timeout_ms": 6_000, "lag_commit_interval_ms": 300}
    return Settings(app_id=topics.app_id, topic_prefix=topics.prefix, data_dir=data_dir, **(quick | values))


class WorkerProcess(Program):
    """One ``run_worker`` in a process of its own; its log is in ``log``."""

    def __init__(self, settings: Settings, *, core: str = "standin", rules: Mapping[str, Any] | None = None) -> None:
        arguments = [settings_argument(settings), json.dumps(rules or {}), core]
        command = [sys.executable, "-m", "tests.integration.worker_process", *arguments]
        super().__init__(command, settings.data_dir.with_suffix(".log"))

    @property
    def log(self) -> str:
        """What it has said, and what others have before it with the same settings."""
        return self.path.read_text() if self.path.exists() else ""

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

    def terminate(self) -> int:
        """SIGTERM; its exit status."""
        return self.end(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.end(signal.SIGKILL)

    def pause(self) -> None:
        """SIGSTOP: a process that is swapped out, or a virtual machine that is moved."""
        self.send(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self.send(signal.SIGCONT)


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
