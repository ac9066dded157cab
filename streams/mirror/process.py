"""One mirror process; and a rebuild, which ends when the model is whole."""

import asyncio

from streams.core.rules import Rules
from streams.mirror.app import Mirror
from streams.mirror.settings import MirrorSettings
from streams.runtime.process import run_until_stopped
from streams.runtime.settings import Settings

_LOOK_INTERVAL_S = 0.05


def run_mirror(settings: Settings, mirror: MirrorSettings, rules: Rules) -> int:
    """Run a mirror until SIGTERM or SIGINT (0), or until anything fails (1). The last line of the log says which."""
    return asyncio.run(run_until_stopped("mirror", Mirror(settings, mirror, rules), settings.stop_deadline_ms))


async def rebuild(settings: Settings, mirror: MirrorSettings, rules: Rules) -> int:
    """Make the model anew; the records that it took. Raises what ended it before it was whole.

    A mirror that runs meanwhile does its share, and goes on with what was made.
    """
    one = Mirror(settings, mirror, rules, rebuild=True)
    try:
        await one.start()
        ended = asyncio.ensure_future(one.wait())
        try:
            while not one.is_whole:
                if ended.done():
                    raise ended.result() or RuntimeError("the mirror stopped by itself")
                await asyncio.sleep(_LOOK_INTERVAL_S)
        finally:
            ended.cancel()
        return one.metrics.records
    finally:
        await one.stop()
