"""What ``/health`` and ``/ready`` say of a worker on real Kafka, and what the watchdog ends: each is made to happen."""

import os
import re
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiokafka import AIOKafkaProducer

from infra.brokers import Broker, KafkaCluster
from streams.core.records import SIGNALS
from streams.core.rules import Rules
from streams.runtime import kafka as clients
from streams.runtime.log import FencedError
from streams.runtime.settings import Settings
from streams.runtime.topics import STATE, TopicNames, create_topics
from streams.runtime.worker import Worker
from tests.integration import standin
from tests.integration.support import Names, produce, require_local_kafka, wait_for
from tests.integration.workers import WorkerProcess, settings_for

DEADLINE_S = 30.0
ANYWHERE = "127.0.0.1:0"


async def ask(url: str, path: str) -> tuple[int, dict[str, Any]]:
    """The status and the report of a probe."""
    async with aiohttp.ClientSession() as session, session.get(url + path) as answer:
        return answer.status, orjson.loads(await answer.read())


async def url_of(worker: WorkerProcess) -> str:
    """Where it said that it listens."""
    found = await wait_for(lambda: re.findall(r"http on (\S+)", worker.log), DEADLINE_S, "its address")
    return f"http://{found[-1]}"


async def put_signal(settings: Settings, **value: Any) -> None:
    topic = TopicNames.of(settings).physical(SIGNALS)
    await produce(settings.bootstrap, topic, [(b"a", orjson.dumps({"id": "s", **value}))])


@pytest.fixture
async def hanging(kafka: Broker) -> AsyncIterator[AIOKafkaProducer]:
    """Another application's transaction. What it writes holds up who reads committed records."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, transactional_id=os.urandom(8).hex())
    await producer.start()
    await producer.begin_transaction()
    yield producer
    await producer.stop()


async def test_it_is_ready_only_when_everything_is_restored(
    kafka: Broker, topics: Names, tmp_path: Path, hanging: AIOKafkaProducer
) -> None:
    settings = settings_for(kafka, topics, tmp_path / "one", http=ANYWHERE)
    await create_topics(settings, partitions=2)
    await hanging.send_and_wait(TopicNames.of(settings).physical(STATE), b"{}", b"accounts\0a", partition=1)
    with WorkerProcess(settings) as worker:
        url = await url_of(worker)

        async def serves_the_other() -> bool:
            _, report = await ask(url, "/ready")
            return report.get("serving") == [0] and report["restoring"] == [1]

        await wait_for(serves_the_other, DEADLINE_S, "partition 0")
        status, report = await ask(url, "/ready")
        assert (status, report["reasons"]) == (503, ["partition 1 is being taken over"])
        assert await ask(url, "/health") == (200, {"ok": True, "reasons": []})
        await hanging.abort_transaction()

        async def is_ready() -> bool:
            return (await ask(url, "/ready")) == (200, {"ok": True, "reasons": [], "serving": [0, 1], "restoring": []})

        await wait_for(is_ready, DEADLINE_S, "readiness")
        assert worker.terminate() == 0


async def test_a_restore_that_does_not_advance_ends_the_worker(
    kafka: Broker, topics: Names, tmp_path: Path, hanging: AIOKafkaProducer
) -> None:
    settings = settings_for(
        kafka, topics, tmp_path / "one", http=ANYWHERE, unhealthy_after_ms=1_000, stall_deadline_ms=4_000
    )
    await create_topics(settings, partitions=1)
    state = TopicNames.of(settings).physical(STATE)
    await produce(kafka.bootstrap, state, [(b"accounts\0a", b"{}")])
    await hanging.send_and_wait(state, b"{}", b"accounts\0b", partition=0)
    with WorkerProcess(settings) as worker:
        assert worker.wait_exit() == 1
    assert re.search(r"unhealthy: partition 0 is being restored, at 1 of 2 and has not advanced for \d s", worker.log)
    assert orjson.loads((settings.data_dir / "ends.json").read_bytes())["ends"]["stuck"] == 1
    last = worker.log.splitlines()[-1]
    assert re.search(
        r"CRITICAL tidegate:? worker failed: stuck: partition 0 is being restored, at 1 of 2 and has", last
    )


async def test_a_blocked_event_loop_ends_the_worker(kafka: Broker, topics: Names, tmp_path: Path) -> None:
    settings = settings_for(kafka, topics, tmp_path / "one", stall_deadline_ms=3_000)
    await create_topics(settings, partitions=1)
    with WorkerProcess(settings) as worker:
        worker.wait_serving(1)
        await put_signal(settings, block=True)
        assert worker.wait_exit() == 1
    assert "time.sleep(_BLOCKED_S)" in worker.log
    assert "worker failed: stuck: the event loop has been blocked for 3 s" in worker.log.splitlines()[-1]


async def test_a_fenced_worker_says_so_and_ends(kafka: Broker, topics: Names, tmp_path: Path) -> None:
    settings = settings_for(kafka, topics, tmp_path / "one", http=ANYWHERE)
    await create_topics(settings, partitions=1)
    worker = Worker(settings, Rules(), core=standin.CORE)
    try:
        await worker.start()
        await wait_for(lambda: worker.ready().ok, DEADLINE_S, "readiness")
        thief = clients.producer(settings, transactional_id=f"{settings.topic_prefix}{settings.app_id}-0")
        await thief.start()
        await put_signal(settings)
        reason = await worker.wait()
        assert isinstance(reason, FencedError)
        for report in (worker.health(), worker.ready()):
            assert report.reasons == (
                "it ends: fenced: another worker has taken partition 0 over; this one was cut off or paused",
            )
        await thief.stop()
    finally:
        await worker.stop()


@pytest.fixture
def cluster() -> Iterator[KafkaCluster]:
    require_local_kafka()
    with KafkaCluster() as one:
        yield one


@pytest.mark.parametrize("away", [signal.SIGSTOP, signal.SIGKILL])
@pytest.mark.timeout(180)
async def test_without_a_broker_it_is_unhealthy_and_well_again_with_one(
    cluster: KafkaCluster, topics: Names, tmp_path: Path, away: signal.Signals
) -> None:
    settings = settings_for(
        Broker(cluster.bootstrap, "kafka", ""),
        topics,
        tmp_path / "one",
        http=ANYWHERE,
        unhealthy_after_ms=2_000,
        stall_deadline_ms=4_000,
    )
    await create_topics(settings, partitions=2)
    with WorkerProcess(settings) as worker:
        worker.wait_serving(2)
        url = await url_of(worker)

        async def is_unhealthy() -> bool:
            status, report = await ask(url, "/health")
            return status == 503 and report["reasons"][0].startswith("no broker has answered for")

        async def is_well() -> bool:
            assert worker.exit_status is None, worker.log
            return (await ask(url, "/health"))[0] == 200 and (await ask(url, "/ready"))[0] == 200

        await wait_for(is_well, DEADLINE_S, "health")
        pid = cluster.pid()
        assert pid is not None
        if away is signal.SIGSTOP:
            os.kill(pid, signal.SIGSTOP)
        else:
            cluster.kill()
        await wait_for(is_unhealthy, DEADLINE_S, "the complaint")
        assert (await ask(url, "/ready"))[0] == 503
        if away is signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)
        else:
            cluster.restart()
        await wait_for(is_well, 60, "health again")
        assert worker.terminate() == 0
