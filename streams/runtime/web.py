"""A process's own small HTTP server: ``/health``, ``/ready`` and ``/metrics``, for probes and scrapers.

Off unless ``TIDEGATE_HTTP=host:port`` names where to listen: what it shows (accounts, positions, reasons) is not for
everyone, and there is no authentication. It answers from the process's event loop, so that a probe without an answer
means a process that does nothing else either. Nothing here decides: the reports are asked for at each request.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import orjson
from aiohttp import web
from mode import Service

from streams.runtime.settings import Settings, SettingsError

log = logging.getLogger(__name__)

_SHUTDOWN_TIMEOUT_S = 1.0
_UNAVAILABLE = 503


class Report(NamedTuple):
    """The answer to a probe, in words."""

    ok: bool
    reasons: tuple[str, ...] = ()
    """Why not, a sentence each; empty if all is well."""
    facts: Mapping[str, object] = {}
    """What else the process says of itself: numbers, lists and texts, under their own names."""

    @classmethod
    def of(cls, reasons: tuple[str, ...], **facts: object) -> "Report":
        """All is well unless there is a reason."""
        return cls(not reasons, reasons, facts)

    @classmethod
    def unless_ending(cls, reason: BaseException | None) -> "Report":
        """All is well unless something has crashed the process, which is about to end for that reason."""
        return cls.of(() if reason is None else (f"it ends: {reason}",))


Probe = Callable[[], Report]
Exposition = Callable[[], tuple[bytes, str]]
"""The metrics and their content type."""


class Web(Service):
    """Serves ``/health``, ``/ready`` (200, or 503 with reasons) and, where there are any, ``/metrics``."""

    def __init__(self, host: str, port: int, *, health: Probe, ready: Probe, metrics: Exposition | None = None) -> None:
        """``port`` 0: any that is free; ``port`` tells which once it is started."""
        super().__init__()
        self.host = host
        self.port = port
        app = web.Application()
        app.router.add_get("/health", _probing(health))
        app.router.add_get("/ready", _probing(ready))
        if metrics is not None:
            app.router.add_get("/metrics", _exposing(metrics))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=_SHUTDOWN_TIMEOUT_S)

    async def on_start(self) -> None:
        """Listen. Raises SettingsError if the address cannot be had."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, self.host, self.port).start()
        except OSError as error:
            await self._runner.cleanup()
            raise SettingsError(
                f"TIDEGATE_HTTP={self.host}:{self.port} cannot be listened on: {error.strerror or error}; "
                "give every process of a machine an address of its own"
            ) from error
        self.port = self._runner.addresses[0][1]
        log.info("http on %s:%d", self.host, self.port)

    async def on_stop(self) -> None:
        """Answer what was asked, and close."""
        await self._runner.cleanup()


def web_for(settings: Settings, *, health: Probe, ready: Probe, metrics: Exposition | None = None) -> Web | None:
    """The server that ``TIDEGATE_HTTP`` asks for, not yet started; None if it asks for none."""
    address = settings.http_address
    return None if address is None else Web(*address, health=health, ready=ready, metrics=metrics)


def _probing(probe: Probe) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_request: web.Request) -> web.Response:
        report = probe()
        said = {"ok": report.ok, "reasons": report.reasons, **report.facts}
        return web.Response(
            body=orjson.dumps(said, option=orjson.OPT_APPEND_NEWLINE),
            status=web.HTTPOk.status_code if report.ok else _UNAVAILABLE,
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )

    return answer


def _exposing(metrics: Exposition) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_request: web.Request) -> web.Response:
        body, content_type = metrics()
        return web.Response(body=body, headers={"Content-Type": content_type})

    return answer
