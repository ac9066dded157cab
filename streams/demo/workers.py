"""Tidegate workers as the demo runs them: processes of their own, started, watched and stopped."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from infra.child import Child
from streams.runtime.settings import Settings

STOP_DEADLINE_S = 15.0
LOOK_EVERY_S = 0.25


class WorkerFailedError(RuntimeError):
    """A worker ended by itself. The message ends with the tail of its log."""


@asynccontextmanager
async def running(count: int, settings: Settings, config: Path, scratch: Path) -> AsyncIterator[asyncio.Task[None]]:
    """`count` workers; the task yielded raises WorkerFailedError should one of them end, and never returns."""
    workers: list[Child] = []
    watch: asyncio.Task[None] | None = None
    try:
        for number in range(1, count + 1):
            # One by one: those already started must be stopped if the next one cannot be.
            workers += [_start(number, settings, config, scratch)]
        watch = asyncio.create_task(_watch(workers))
        yield watch
    finally:
        if watch is not None:
            watch.cancel()
        await asyncio.gather(*(asyncio.to_thread(worker.terminate, STOP_DEADLINE_S) for worker in workers))


def _start(number: int, settings: Settings, config: Path, scratch: Path) -> Child:
    directory = scratch / f"worker-{number}"
    directory.mkdir()
    # What a user has set for a gate of their own would change the demo's.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TIDEGATE_LIMITS_")}
    environment = inherited | {
        "TIDEGATE_BROKER": settings.broker,
        "TIDEGATE_APP_ID": settings.app_id,
        "TIDEGATE_TOPIC_PREFIX": settings.topic_prefix,
        "TIDEGATE_DATA_DIR": str(directory),
        "TIDEGATE_CLOCK": "record",
    }
    command = [sys.executable, "-m", "streams.ops.cli", "worker", "--config", str(config)]
    return Child(command, log=scratch / f"worker-{number}.log", scratch=scratch, env=environment)


async def _watch(workers: Sequence[Child]) -> None:
    while True:
        for number, worker in enumerate(workers, 1):
            if not worker.running:
                raise WorkerFailedError(f"worker {number} ended; its log says:\n{worker.log_tail()}")
        await asyncio.sleep(LOOK_EVERY_S)
