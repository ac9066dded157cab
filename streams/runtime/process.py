"""A process that runs one service until it is told to stop, or until anything fails: its exit status says which."""

import asyncio
import logging
import os
import signal
import threading
from typing import Any, Protocol

log = logging.getLogger("tidegate")

EXIT_STOPPED = 0
EXIT_FAILED = 1


class Service(Protocol):
    """What is started, waited for and stopped."""

    async def start(self) -> None:
        """Raises what stops the start."""

    async def wait(self) -> BaseException | None:
        """Wait until it ends or crashes by itself; what crashed it."""

    async def stop(self) -> None:
        """Finish what is under way and let go."""


async def run_until_stopped(name: str, service: Service, stop_deadline_ms: int) -> int:
    """Run until SIGTERM or SIGINT (0), or until anything fails (1). The last line of the log says which."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop.set)
    try:
        reason = await _first_of(service, stop)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported below
        reason = error
    _exit_anyway_after(name, 1.5 * stop_deadline_ms / 1000)
    try:
        async with asyncio.timeout(stop_deadline_ms / 1000):
            await service.stop()
    except Exception as error:  # noqa: BLE001 - as above; the first failure is the reason
        reason = reason or error
    if reason is not None:
        return failed(name, reason)
    log.info("%s stopped", name)
    return EXIT_STOPPED


def failed(name: str, reason: BaseException) -> int:
    """Say why it ends, and the status that it ends with."""
    log.critical("%s failed: %s: %s", name, type(reason).__name__, reason)
    return EXIT_FAILED


async def crash_of(app: Any) -> BaseException | None:
    """Wait until a Faust app stops or crashes by itself; what crashed it."""
    await app.wait()
    reason: BaseException | None = app.crash_reason
    return reason


async def _first_of(service: Service, stop: asyncio.Event) -> BaseException | None:
    """Serve until the stop; the failure that came first, if one did."""
    server, stopper = asyncio.create_task(_serve(service)), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait({server, stopper}, return_when=asyncio.FIRST_COMPLETED)
        return server.result() if server.done() else None
    finally:
        for task in (server, stopper):
            task.cancel()
        await asyncio.wait({server, stopper})


async def _serve(service: Service) -> BaseException:
    await service.start()
    return await service.wait() or RuntimeError("the app stopped by itself")


def _exit_anyway_after(name: str, seconds: float) -> None:
    """A client that hangs while it is closed must not keep a failed process from being replaced."""

    def give_up() -> None:
        log.critical("%s failed: it did not stop within %.0f s", name, seconds)
        os._exit(EXIT_FAILED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
