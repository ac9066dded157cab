"""Who gets which partitions on real Kafka: what its disk knows, beside earlier releases, under a fixed name."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
import pytest

from infra.brokers import Broker
from streams.core.records import APPROVED, SIGNALS
from streams.runtime.topics import TopicNames, create_topics
from tests.integration.support import Names, produce, read_topic, wait_for
from tests.integration.workers import WorkerProcess, settings_for, workers

PARTITIONS = 6
DEADLINE_S = 60.0


class Group:
    """A test's gate, and workers of it by name. A name is a data directory."""

    def __init__(self, kafka: Broker, topics: Names, directory: Path) -> None:
        self._kafka, self._topics, self._directory = kafka, topics, directory
        self.settings = settings_for(kafka, topics, directory / "any")
        self._sent = 0

    async def create(self) -> None:
        await create_topics(self.settings, partitions=PARTITIONS)

    def worker(self, name: str, *, core: str = "standin", **values: Any) -> WorkerProcess:
        return WorkerProcess(settings_for(self._kafka, self._topics, self._directory / name, **values), core=core)

    async def decide(self) -> None:
        """Send signals for all partitions, and see each decided once."""
        names = TopicNames.of(self.settings)
        first, self._sent = self._sent, self._sent + 30
        records = [(b"account-%d" % n, orjson.dumps({"id": f"s-{n}"})) for n in range(first, self._sent)]
        await produce(self._kafka.bootstrap, names.physical(SIGNALS), records)

        async def decided() -> list[str]:
            values = await read_topic(self._kafka.bootstrap, names.physical(APPROVED))
            ids = [orjson.loads(one.value)["id"] for one in values]
            return ids if len(ids) >= self._sent else []

        ids = await wait_for(decided, DEADLINE_S, f"{self._sent} decisions")
        assert Counter(ids) == Counter(f"s-{n}" for n in range(self._sent))


@pytest.fixture
async def group(kafka: Broker, topics: Names, tmp_path: Path) -> Group:
    one = Group(kafka, topics, tmp_path)
    await one.create()
    return one


async def split(*members: WorkerProcess) -> list[set[int]]:
    """What each serves, as soon as they serve all partitions evenly."""

    def served() -> list[set[int]]:
        for member in members:
            assert member.exit_status is None, member.log
        shares = [member.serving() for member in members]
        even = {len(share) for share in shares} == {PARTITIONS // len(members)}
        return shares if even and set().union(*shares) == set(range(PARTITIONS)) else []

    return await wait_for(served, DEADLINE_S, "an even split")


@pytest.mark.timeout(180)
async def test_a_worker_that_comes_back_gets_its_own_partitions_and_restores_next_to_nothing(group: Group) -> None:
    one, two = group.worker("one"), group.worker("two")
    with workers(one, two):
        before = await split(one, two)
        for _ in range(4):
            await group.decide()
        assert one.terminate() == 0
        await split(two)
        await group.decide()
        one.start()
        assert await split(one, two) == before
        await group.decide()
        # Its disk holds what it had decided: only what the other decided meanwhile is restored.
        restored = [
            int(line.rpartition(", ")[2].split()[0])
            for line in one.log.splitlines()[-len(before[0]) :]
            if "serving partition" in line
        ]
        assert one.terminate() == 0
    assert len(restored) == len(before[0])
    assert sum(restored) < 3 * 30


@pytest.mark.timeout(240)
async def test_workers_of_an_earlier_release_are_replaced_one_by_one(group: Group) -> None:
    earlier = [group.worker(f"earlier-{n}", core="earlier") for n in range(2)]
    newer = [group.worker(f"newer-{n}") for n in range(2)]
    with workers(earlier[0]):
        await split(earlier[0])
        with workers(earlier[1]):
            await split(*earlier)
            await group.decide()
            # The leader is of the earlier release.
            with workers(newer[0]):
                await split(*earlier, newer[0])
                await group.decide()
                assert earlier[0].terminate() == 0
                await split(earlier[1], newer[0])
                with workers(newer[1]):
                    await split(earlier[1], *newer)
                    await group.decide()
                    assert earlier[1].terminate() == 0
                    await split(*newer)
                    # Now the leader is of this release. Back again: a downgrade is a rolling one too.
                    with workers(earlier[0]):
                        await split(earlier[0], *newer)
                        await group.decide()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("clean", [True, False], ids=["sigterm", "sigkill"])
async def test_a_worker_with_a_name_that_is_back_in_time_disturbs_nobody(group: Group, clean: bool) -> None:
    one, two = (group.worker(name, instance_id=name, session_timeout_ms=30_000) for name in ("one", "two"))
    with workers(one, two):
        before = await split(one, two)
        await group.decide()
        rebalances = two.log.count("assigned partitions")
        if clean:
            assert one.terminate() == 0
        else:
            one.kill()
        one.start()
        serves = one.log.count("serving partition") + len(before[0])
        await wait_for(lambda: one.log.count("serving partition") == serves, DEADLINE_S, "its partitions")
        await group.decide()
        assert [one.serving(), two.serving()] == before
        assert two.log.count("assigned partitions") == rebalances


@pytest.mark.timeout(180)
async def test_a_worker_with_a_name_that_does_not_come_back_is_replaced(group: Group) -> None:
    one, two = (group.worker(name, instance_id=name) for name in ("one", "two"))
    with workers(one, two):
        await split(one, two)
        one.kill()
        await split(two)
        await group.decide()
        one.start()
        await split(one, two)
        await asyncio.to_thread(one.terminate)
