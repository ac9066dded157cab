"""Who is told of what, and where: the routes of ``[notify]``, and their addresses, which are secrets.

An address is an apprise URL (``slack://…``, ``pover://…``, ``mailtos://…``). It holds tokens, so it stands in
``TIDEGATE_NOTIFY_<ROUTE>`` or in the file that ``TIDEGATE_NOTIFY_<ROUTE>_FILE`` names, never in ``tidegate.toml``, and
no error repeats it. A route has one address and one recipient: were there two, a failure of one would tell the other
again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from schemas.config import NotifySection, Severity
from streams.notify.messages import SEVERITIES, Message
from streams.runtime.settings import SettingsError, secret


@dataclass(frozen=True, slots=True)
class Route:
    """One way to tell people. ``accounts``: names or shell patterns; empty for all."""

    name: str
    address: str = field(repr=False)
    severity: Severity = "info"
    accounts: tuple[str, ...] = ()

    def wants(self, message: Message) -> bool:
        """Whether the message is grave enough and of its accounts."""
        if SEVERITIES.index(message.severity) < SEVERITIES.index(self.severity):
            return False
        return not self.accounts or any(fnmatchcase(message.account_id, one) for one in self.accounts)


def variable_of(route: str) -> str:
    """The variable that holds a route's address."""
    return f"TIDEGATE_NOTIFY_{route.upper()}"


def routes_of(section: NotifySection, environ: Mapping[str, str]) -> tuple[Route, ...]:
    """The configured routes with their addresses. Raises SettingsError that names the variable."""
    return tuple(route_of(name, section, environ) for name in section.routes)


def route_of(name: str, section: NotifySection, environ: Mapping[str, str]) -> Route:
    """One route. Raises SettingsError that names the variable."""
    variable = variable_of(name)
    address = (secret(environ, variable) or "").strip()
    if not address:
        raise SettingsError(
            f"notify.routes.{name} has no address: set {variable} (or {variable}_FILE) to an apprise URL"
        )
    terms = section.routes[name]
    return Route(name, address, terms.severity, terms.accounts)
