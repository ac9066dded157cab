"""One notifier process."""

import asyncio
import os
from collections.abc import Mapping

from schemas.config import NotifySection
from streams.notify.app import Notifier
from streams.notify.routes import routes_of
from streams.runtime.process import failed, run_until_stopped
from streams.runtime.settings import Settings, SettingsError


def run_notifier(settings: Settings, section: NotifySection, environ: Mapping[str, str] | None = None) -> int:
    """Run a notifier until SIGTERM or SIGINT (0), or until anything fails (1). The last line of the log says which."""
    return asyncio.run(_run(settings, section, os.environ if environ is None else environ))


async def _run(settings: Settings, section: NotifySection, environ: Mapping[str, str]) -> int:
    try:
        notifier = Notifier(settings, section, {route.name: route for route in routes_of(section, environ)})
    except SettingsError as error:
        return failed("notifier", error)
    return await run_until_stopped("notifier", notifier, settings.stop_deadline_ms)
