"""Sending by apprise. What goes wrong is said in words that hold no address."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

import apprise

from schemas.config import Severity
from streams.notify.messages import Message
from streams.notify.routes import Route, variable_of
from streams.runtime.settings import SettingsError

Send = Callable[[Message], Awaitable[bool]]
"""Tell one message; whether the service took it. Never raises."""

log = logging.getLogger(__name__)

_DEADLINE_S = 60.0
# A service that takes a message and answers later than this is told again.
_ANSWER_TIMEOUT_S = 30.0
_KINDS: dict[Severity, apprise.NotifyType] = {
    "info": apprise.NotifyType.INFO,
    "warning": apprise.NotifyType.WARNING,
    "critical": apprise.NotifyType.FAILURE,
}


def sender_of(route: Route) -> Send:
    """What sends on a route. Raises SettingsError if apprise cannot read its address, or finds several recipients."""
    asset = apprise.AppriseAsset(app_id="Tidegate", app_desc="Tidegate", secure_logging=True)
    service = apprise.Apprise(asset=asset)
    if not service.add(route.address):
        raise SettingsError(
            f"{variable_of(route.name)} is no address that apprise can read; see the list of services in apprise's "
            "documentation"
        )
    if (recipients := sum(len(one) for one in service)) > 1:
        raise SettingsError(
            f"{variable_of(route.name)} names {recipients} recipients: while one fails, the others would be told again "
            "and again; give each a route of its own"
        )
    for one in service:
        one.socket_read_timeout = max(one.socket_read_timeout, _ANSWER_TIMEOUT_S)

    async def send(message: Message) -> bool:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                told = await service.async_notify(
                    title=message.title,
                    body=message.body,
                    notify_type=_KINDS[message.severity],
                    body_format=apprise.NotifyFormat.TEXT,
                )
        except Exception as error:  # noqa: BLE001 - a service may fail as it likes; it is tried again
            log.warning("route %s: %s", route.name, type(error).__name__)
            return False
        return bool(told)

    return send
