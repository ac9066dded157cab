"""One steward process."""

import asyncio

from schemas.config import ConfigFile
from streams.runtime.process import run_until_stopped
from streams.runtime.settings import Settings
from streams.steward.app import Steward


def run_steward(settings: Settings, config: ConfigFile) -> int:
    """Run a steward until SIGTERM or SIGINT (0), or until anything fails (1). The last line of the log says which."""
    return asyncio.run(_run(settings, config))


async def _run(settings: Settings, config: ConfigFile) -> int:
    return await run_until_stopped("steward", Steward(settings, config), settings.stop_deadline_ms)
