"""One steward process: runs until it is told to stop, or until anything fails."""

import asyncio
import logging
import os
import signal
import threading

from schemas.config import ConfigFile
from streams.runtime.settings import Settings
from streams.steward.app import Steward

log = logging.getLogger("tidegate.steward")

EXIT_STOPPED = 0
EXIT_FAILED = 1


def run_steward(settings: Settings, config: ConfigFile) -> int:
    """Run a steward until SIGTERM or SIGINT (0), or until anything fails (1). The last line of the log says which."""
    return asyncio.run(_run(settings, config))


async def _run(settings: Settings, config: ConfigFile) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for one in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(one, stop.set)
    steward = Steward(settings, config)
    serving, stopping = asyncio.create_task(_serve(steward)), asyncio.create_task(stop.wait())
    reason: BaseException | None = None
    try:
        await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if serving.done():
            reason = serving.result()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is reported below
        reason = error
    for task in (serving, stopping):
        task.cancel()
    await asyncio.wait({serving, stopping})
    _exit_anyway_after(1.5 * settings.stop_deadline_ms / 1000)
    try:
        async with asyncio.timeout(settings.stop_deadline_ms / 1000):
            await steward.stop()
    except Exception as error:  # noqa: BLE001 - as above; the first failure is the reason
        reason = reason or error
    if reason is not None:
        log.critical("steward failed: %s: %s", type(reason).__name__, reason)
        return EXIT_FAILED
    log.info("steward stopped")
    return EXIT_STOPPED


async def _serve(steward: Steward) -> BaseException:
    await steward.start()
    return await steward.wait() or RuntimeError("the app stopped by itself")


def _exit_anyway_after(seconds: float) -> None:
    """Faust's consumer runs in a thread: one that hangs must not keep a failed steward from being replaced."""

    def give_up() -> None:
        log.critical("steward failed: it did not stop within %.0f s", seconds)
        os._exit(EXIT_FAILED)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
