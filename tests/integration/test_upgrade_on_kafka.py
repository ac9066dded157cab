"""State of an earlier release on a real changelog: restored, decided on identically; a later one's ends the worker."""

import tarfile
from pathlib import Path

import pytest

from infra.brokers import Broker
from streams.config import parse_config
from streams.core.records import OUTPUTS
from streams.core.rules import rules_of
from streams.core.state import OFFSETS_KEY, PARTITION
from streams.runtime import kafka as clients
from streams.runtime.bounds import Looker
from streams.runtime.log import KafkaLog
from streams.runtime.settings import Settings
from streams.runtime.store import RocksEnvironment, RocksStore, changelog_key
from streams.runtime.topics import STATE, TopicNames, create_topics, verify_topics
from tests.integration.support import Names, produce, read_topic, wait_for
from tests.integration.workers import WorkerProcess, settings_for
from tests.upgrade.record import IDENTITY, Dump, Life, expires, read

RECORDED = Path(__file__).parents[1] / "upgrade" / "v1"
ENVIRONMENT = RocksEnvironment(8 << 20)


@pytest.fixture
def dump() -> Dump:
    return read(RECORDED)


async def with_changelog(kafka: Broker, settings: Settings, dump: Dump) -> None:
    """The topics, and the records of the changelog on its own, at the offsets that they had."""
    await create_topics(settings, partitions=1)
    # A transaction's marker takes an offset: a record of nobody's stands for it, so that checkpoints still fit.
    marker = (changelog_key(PARTITION, b"marker"), b"")
    records = [marker if one is None else one for one in dump.changelog]
    await produce(kafka.bootstrap, TopicNames.of(settings).physical(STATE), records)


async def owner(settings: Settings, dump: Dump, directory: Path, looker: Looker) -> Life:
    """This program as the partition's next owner."""
    layout = await verify_topics(settings)
    log = KafkaLog(settings, 0, layout.counts, clients.partition_of_key, looker)
    store = RocksStore(directory / "0", IDENTITY, ENVIRONMENT, expires)
    life = Life(log, store, rules_of(parse_config(dump.config, {})))
    for turn in dump.turns[: dump.cut]:
        if turn.policy is not None:
            life.obey(turn.policy)
    await life.partition.open()
    return life


@pytest.mark.parametrize("with_directory", [False, True], ids=["empty-disk", "recorded-disk"])
async def test_the_state_of_an_earlier_release_is_decided_on_identically(
    kafka: Broker, topics: Names, tmp_path: Path, dump: Dump, with_directory: bool
) -> None:
    settings = settings_for(kafka, topics, tmp_path / "data")
    await with_changelog(kafka, settings, dump)
    if with_directory:
        with tarfile.open(dump.store) as archive:
            archive.extractall(tmp_path, filter="data")
    looker = Looker(settings)
    life = await owner(settings, dump, tmp_path, looker)
    try:
        for turn in dump.turns[dump.cut :]:
            await life.take(turn)
    finally:
        await life.partition.close()
        await looker.close()
    names = TopicNames.of(settings)
    for topic in OUTPUTS:
        wanted = [(key, value) for part in dump.outputs[dump.cut :] for name, key, value in part if name == topic]

        async def are_visible(topic: str = topic, wanted: list[tuple[bytes | None, bytes | None]] = wanted) -> bool:
            return [(one.key, one.value) for one in await read_topic(kafka.bootstrap, names.physical(topic))] == wanted

        await wait_for(are_visible, 20, f"{len(wanted)} records on {topic}, byte for byte")


async def test_the_state_of_a_later_release_ends_the_worker_with_the_remedy(
    kafka: Broker, topics: Names, tmp_path: Path, dump: Dump
) -> None:
    settings = settings_for(kafka, topics, tmp_path / "data")
    await with_changelog(kafka, settings, dump)
    later = (changelog_key(PARTITION, OFFSETS_KEY), b'{"v":2,"offsets":{"pnl":1}}')
    await produce(kafka.bootstrap, TopicNames.of(settings).physical(STATE), [later])
    with WorkerProcess(settings, core="real", rules=dump.config) as worker:
        assert worker.wait_exit() == 1
    last = worker.log.strip().splitlines()[-1]
    assert "unknown version" in last
    assert "this release reads 1. Run the release that wrote it, or a later one" in last
