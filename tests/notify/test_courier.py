"""A courier over a service that fails as the test asks: once, in order, together when many, given up when old."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from schemas.config import NotifySection
from streams.notify import courier as couriers
from streams.notify.app import NotAlone, Pulse
from streams.notify.courier import Courier, Fate
from streams.notify.messages import Message
from streams.runtime import clock
from tests.integration.support import wait_for
from tests.notify.records import locked_message


class Service:
    """What a route leads to: ``up`` says whether it takes messages, ``busy`` when it answers."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.refused = 0
        self.up = True
        self.busy = asyncio.Event()
        self.busy.set()

    async def send(self, message: Message) -> bool:
        await self.busy.wait()
        if not self.up:
            self.refused += 1
            return False
        self.taken.append(message)
        return True

    @property
    def titles(self) -> list[str]:
        return [one.title for one in self.taken]


class Notes:
    """Where fates are kept."""

    def __init__(self) -> None:
        self.fates: list[tuple[str, Fate]] = []

    async def note(self, route: str, messages: Sequence[Message], fate: Fate) -> None:
        assert route == "desk"
        self.fates += [(one.account_id, fate) for one in messages]


@asynccontextmanager
async def courier(service: Service, notes: Notes, **terms: str | int) -> AsyncIterator[Courier]:
    section = NotifySection.model_validate({"digest_window": "20ms", "digest_at": 3} | terms)
    one = Courier("desk", service.send, notes.note, section, retry_min_s=0.02)
    running = asyncio.create_task(one.run())
    yield one
    running.cancel()
    await asyncio.wait({running})


async def settled(notes: Notes, count: int) -> None:
    await wait_for(lambda: len(notes.fates) >= count, 10, f"{count} fates")


async def test_each_message_is_told_once_and_noted() -> None:
    service, notes = Service(), Notes()
    async with courier(service, notes) as one:
        one.offer(locked_message("a", clock.now_ms()))
        await settled(notes, 1)
        one.offer(locked_message("b", clock.now_ms()))
        await settled(notes, 2)
    assert [title.split()[0] for title in service.titles] == ["a", "b"]
    assert notes.fates == [("a", "sent"), ("b", "sent")]


async def test_many_at_once_become_one() -> None:
    service, notes = Service(), Notes()
    async with courier(service, notes) as one:
        for name in "abcde":
            one.offer(locked_message(name, clock.now_ms()))
        await settled(notes, 5)
    assert service.titles == ["5 accounts locked: a, b, c, d, e"]
    assert notes.fates == [(name, "sent") for name in "abcde"]
    assert (one.metrics.sent, one.metrics.digests, one.metrics.waiting) == (5, 1, 0)


async def test_what_fails_is_tried_again_with_what_came_meanwhile() -> None:
    service, notes = Service(), Notes()
    service.up = False
    async with courier(service, notes) as one:
        one.offer(locked_message("a", clock.now_ms()))
        await wait_for(lambda: service.refused >= 2, 10, "two refusals")
        assert notes.fates == []
        for name in "bc":
            one.offer(locked_message(name, clock.now_ms()))
        service.up = True
        await settled(notes, 3)
    assert service.titles == ["3 accounts locked: a, b, c"]
    assert one.metrics.failures >= 2


async def test_what_is_too_old_is_given_up_and_noted() -> None:
    service, notes = Service(), Notes()
    async with courier(service, notes, give_up="1m") as one:
        one.offer(locked_message("old", clock.now_ms() - 61_000))
        one.offer(locked_message("new", clock.now_ms()))
        await settled(notes, 2)
    assert notes.fates == [("old", "given_up"), ("new", "sent")]
    assert len(service.taken) == 1


async def test_the_queue_is_bounded_and_loses_its_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(couriers, "QUEUE_MAX", 2)
    service, notes = Service(), Notes()
    async with courier(service, notes) as one:
        for name in "abcd":
            one.offer(locked_message(name, clock.now_ms()))
        await settled(notes, 4)
    assert notes.fates == [("a", "given_up"), ("b", "given_up"), ("c", "sent"), ("d", "sent")]


async def test_what_comes_while_a_message_is_on_its_way_is_not_lost() -> None:
    service, notes = Service(), Notes()
    service.busy.clear()
    async with courier(service, notes) as one:
        one.offer(locked_message("a", clock.now_ms()))
        await asyncio.sleep(0)
        one.offer(locked_message("b", clock.now_ms()))
        service.busy.set()
        await settled(notes, 2)
    assert [title.split()[0] for title in service.titles] == ["a", "b"]


async def test_who_cannot_remember_does_not_go_on_telling() -> None:
    service = Service()

    async def forgetful(_route: str, _messages: Sequence[Message], _fate: Fate) -> None:
        raise OSError("the topic is away")

    one = Courier("desk", service.send, forgetful, NotifySection())
    one.offer(locked_message("a", clock.now_ms()))
    with pytest.raises(OSError, match="the topic is away"):
        await asyncio.wait_for(one.run(), 10)
    assert len(service.taken) == 1


async def test_one_that_is_never_taken_holds_up_no_other() -> None:
    service, notes = Service(), Notes()

    async def send(message: Message) -> bool:
        return message.account_id != "refused" and await service.send(message)

    one = Courier("desk", send, notes.note, NotifySection(), retry_min_s=0.02)
    running = asyncio.create_task(one.run())
    one.offer(locked_message("refused", clock.now_ms()))
    one.offer(locked_message("other", clock.now_ms()))
    await settled(notes, 1)
    running.cancel()
    await asyncio.wait({running})
    assert notes.fates == [("other", "sent")]
    assert one.metrics.waiting == 1


async def test_who_may_not_be_alone_tells_nothing() -> None:
    service, notes = Service(), Notes()

    def paused() -> None:
        raise NotAlone("the process was paused")

    one = Courier("desk", service.send, notes.note, NotifySection(), check_alone=paused)
    one.offer(locked_message("a", clock.now_ms()))
    with pytest.raises(NotAlone):
        await asyncio.wait_for(one.run(), 10)
    assert service.taken == []


def test_a_pulse_notices_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    pulse = Pulse(session_timeout_ms=6_000)
    pulse.check()
    later = time.monotonic() + 6.1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    with pytest.raises(NotAlone, match="was paused"):
        pulse.check()
