"""Routes: who is told of what; and addresses, which are secrets."""

import asyncio
from pathlib import Path
from typing import Any

import apprise
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from schemas.config import NotifySection
from streams.notify.routes import Route, routes_of
from streams.notify.sender import sender_of
from streams.runtime.settings import SettingsError
from tests.notify.records import EVENTS, LOCKED, event, lock, message, warning

CANARY = "canary-token"


def section(**route: Any) -> NotifySection:
    return NotifySection.model_validate({"routes": {"desk": route}})


@pytest.mark.parametrize(
    ("severity", "told"),
    [("info", ["info", "warning", "critical"]), ("warning", ["warning", "critical"]), ("critical", ["critical"])],
)
def test_a_route_is_told_of_what_is_grave_enough(severity: Any, told: list[str]) -> None:
    route = Route("desk", "json://host", severity)
    messages = [message(EVENTS, event("UNLOCKED")), message(EVENTS, warning()), message(LOCKED, lock())]

    assert [one.severity for one in messages if route.wants(one)] == told


@pytest.mark.parametrize(
    ("accounts", "wanted"),
    [
        ((), True),
        (("main",), True),
        (("ma*",), True),
        (("other", "main"), True),
        (("other",), False),
        (("MAIN",), False),
    ],
)
def test_a_route_is_told_of_its_accounts(accounts: tuple[str, ...], wanted: bool) -> None:
    assert Route("desk", "json://host", "info", accounts).wants(message(LOCKED, lock("main"))) is wanted


def test_an_address_comes_from_the_environment_or_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("json://from-file\n")

    (by_value,) = routes_of(section(), {"TIDEGATE_NOTIFY_DESK": "json://host"})
    (by_file,) = routes_of(section(), {"TIDEGATE_NOTIFY_DESK_FILE": str(tmp_path / "secret")})

    assert (by_value.address, by_file.address) == ("json://host", "json://from-file")


def test_a_route_without_an_address_names_its_variable() -> None:
    with pytest.raises(SettingsError, match=r"notify\.routes\.desk has no address: set TIDEGATE_NOTIFY_DESK"):
        routes_of(section(), {})


def test_an_address_is_never_told() -> None:
    route = Route("desk", f"nonsense://{CANARY}")

    with pytest.raises(SettingsError, match="TIDEGATE_NOTIFY_DESK is no address that apprise can read") as error:
        sender_of(route)

    assert CANARY not in str(error.value)
    assert CANARY not in repr(route)


@pytest.mark.parametrize(
    "address",
    [
        f"slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ/#risk/#{CANARY}",
        f"json://one/{CANARY}, json://two/{CANARY}",
    ],
)
def test_a_route_has_one_recipient(address: str) -> None:
    with pytest.raises(SettingsError, match="TIDEGATE_NOTIFY_DESK names 2 recipients") as error:
        sender_of(Route("desk", address))

    assert CANARY not in str(error.value)


async def test_a_service_that_answers_late_has_taken_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would be told again and again: it took it each time."""
    monkeypatch.setattr(apprise.URLBase, "socket_read_timeout", 0.05)
    taken = []

    async def answer(request: web.Request) -> web.Response:
        taken.append(await request.json())
        await asyncio.sleep(0.3)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", answer)
    async with TestServer(app) as server:
        send = sender_of(Route("desk", f"json://127.0.0.1:{server.port}/"))
        assert await send(message(LOCKED, lock()))
    assert len(taken) == 1


@pytest.mark.parametrize("name", ["", "1st", "two words", "a-b", "ä", "x" * 33])
def test_a_route_s_name_must_fit_into_a_variable_s(name: str) -> None:
    with pytest.raises(ValueError, match="should match pattern"):
        NotifySection.model_validate({"routes": {name: {}}})


@pytest.mark.parametrize(
    ("names", "why"),
    [(["desk", "Desk"], "'desk' and 'Desk' would have one variable"), (["desk_file"], "'desk_file' ends as")],
)
def test_a_route_s_variable_is_its_own(names: list[str], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        NotifySection.model_validate({"routes": {name: {} for name in names}})


def test_giving_up_later_than_after_two_days_is_refused() -> None:
    with pytest.raises(ValueError, match="must be at most '2d'"):
        NotifySection.model_validate({"give_up": "3d"})
