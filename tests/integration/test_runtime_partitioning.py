"""What changelogs on a real broker say of the number of partitions that state was made with."""

from pathlib import Path

import pytest

from infra.brokers import Broker
from streams.core.state import Change
from streams.runtime import partitioning
from streams.runtime.partitioning import PartitionsChanged, refuse_changed
from streams.runtime.settings import Settings
from streams.runtime.store import state_record
from streams.runtime.topics import STATE, TopicNames, create_topics, verify_topics
from tests.integration.support import Names, produce_in_transaction
from tests.integration.workers import settings_for

pytestmark = pytest.mark.integration

ACCOUNT = Change("drawdown", b"main", b"{}")


@pytest.fixture
async def settings(kafka: Broker, topics: Names, tmp_path: Path) -> Settings:
    found = settings_for(kafka, topics, tmp_path)
    await create_topics(found, partitions=3)
    return found


async def write(settings: Settings, partition: int, *changes: Change, commit: bool = True) -> None:
    """One transaction on a changelog."""
    topic = TopicNames.of(settings).physical(STATE)
    records = map(state_record, changes)
    await produce_in_transaction(settings.bootstrap, topic, records, commit=commit, partition=partition)


async def test_any_partition_that_tells_answers_for_all(settings: Settings) -> None:
    """Partition 0 has no state, 1 that of a release that wrote no number, 2 begins with an aborted transaction."""
    await write(settings, 1, ACCOUNT, partitioning.beginning(3))
    await write(settings, 2, partitioning.beginning(3), commit=False)
    await write(settings, 2, partitioning.beginning(2), ACCOUNT)
    layout = await verify_topics(settings)
    with pytest.raises(PartitionsChanged, match="partition 2: its state was made with 2 partitions, and the inputs"):
        await refuse_changed(settings, layout)


async def test_the_number_that_state_was_made_with_is_not_refused(settings: Settings) -> None:
    await write(settings, 2, partitioning.beginning(3), ACCOUNT)
    await refuse_changed(settings, await verify_topics(settings))


async def test_without_a_number_nothing_is_refused(settings: Settings) -> None:
    await refuse_changed(settings, await verify_topics(settings))
    await write(settings, 0, partitioning.beginning(9), commit=False)
    await write(settings, 1, ACCOUNT)
    await refuse_changed(settings, await verify_topics(settings))
