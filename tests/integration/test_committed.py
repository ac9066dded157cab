"""Agents of the processes beside the gate, on a real broker: they see what was committed, and nothing else."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from infra.brokers import Broker
from streams.runtime.committed import create_committed_app, or_crash, raw_topic
from tests.integration.support import Names, create_topic, produce, produce_in_transaction, wait_for
from tests.integration.workers import settings_for

DEADLINE_S = 30.0


async def test_an_agent_sees_no_record_of_a_transaction_that_never_happened(
    kafka: Broker, topics: Names, tmp_path: Path
) -> None:
    settings, topic = settings_for(kafka, topics, tmp_path), topics.topic("told")
    await create_topic(kafka.bootstrap, topic)
    seen: list[Any] = []
    app = create_committed_app(settings, "listener")

    @app.agent(raw_topic(app, topic), name="listener")
    async def listen(values: Any) -> None:
        async for value in values:
            seen.append(value)  # noqa: PERF401 - the stream never ends

    await produce_in_transaction(kafka.bootstrap, topic, [(None, b"aborted")], commit=False)
    await produce_in_transaction(kafka.bootstrap, topic, [(None, b"committed")], commit=True)
    await produce(kafka.bootstrap, topic, [(None, b"plain")])
    await app.start()
    try:
        await wait_for(lambda: b"plain" in seen, DEADLINE_S, "the last record")
    finally:
        await app.stop()
    assert seen == [b"committed", b"plain"]
    assert app.conf.id == f"{topics.prefix}{topics.app_id}-listener"


async def test_work_that_fails_crashes_the_app_and_the_next_one_sees_the_record_again(
    kafka: Broker, topics: Names, tmp_path: Path
) -> None:
    settings, topic = settings_for(kafka, topics, tmp_path), topics.topic("told")
    await create_topic(kafka.bootstrap, topic)
    done: list[bytes] = []

    async def fail_on_second(value: bytes) -> None:
        if value == b"second" and done == [b"first"]:
            raise ValueError("the second fails once")
        done.append(value)

    async def live_until(condition: Callable[[], bool]) -> BaseException | None:
        app = create_committed_app(settings, "listener")

        @app.agent(raw_topic(app, topic), name="listener")
        async def listen(values: Any) -> None:
            async for value in values:
                await or_crash(app, fail_on_second(value))

        await app.start()
        try:
            await wait_for(lambda: app.crashed or condition(), DEADLINE_S, "an app that is done")
        finally:
            async with asyncio.timeout(DEADLINE_S):
                await app.stop()
        reason: BaseException | None = app.crash_reason
        return reason

    await produce(kafka.bootstrap, topic, [(None, b"first"), (None, b"second")])
    reason = await live_until(lambda: False)
    assert str(reason) == "the second fails once"
    assert await live_until(lambda: b"second" in done) is None
    assert done[-1] == b"second"
