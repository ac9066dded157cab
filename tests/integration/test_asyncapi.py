"""The topics that ``tidegate topics create`` makes are those that the AsyncAPI document describes."""

from pathlib import Path
from typing import Any

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from infra.brokers import Broker
from schemas.asyncapi import document
from streams.runtime import kafka as clients
from streams.runtime.topics import TopicNames, create_topics
from tests.integration.support import Names
from tests.integration.workers import settings_for

PARTITIONS = 3


async def test_topics_are_as_the_document_says(kafka: Broker, topics: Names, tmp_path: Path) -> None:
    settings = settings_for(kafka, topics, tmp_path)
    await create_topics(settings, partitions=PARTITIONS)
    names = TopicNames.of(settings)
    channels = document()["channels"]
    admin = clients.admin(settings)
    await admin.start()
    try:
        described = await admin.describe_topics([names.physical(name) for name in channels])
        configs = await admin.describe_configs(
            [ConfigResource(ConfigResourceType.TOPIC, topic["topic"]) for topic in described]
        )
    finally:
        await admin.close()
    counts = {names.logical(topic["topic"]): len(topic["partitions"]) for topic in described}
    told: dict[str, dict[str, str]] = {
        names.logical(name): {entry[0]: entry[1] for entry in entries}
        for response in configs
        for _, _, _, name, entries, *_ in response.resources
    }
    for name, channel in channels.items():
        binding: dict[str, Any] = channel["bindings"]["kafka"]
        assert counts[name] == binding.get("partitions", PARTITIONS)
        for key, value in binding["topicConfiguration"].items():
            wanted = ",".join(value) if isinstance(value, list) else str(value)
            assert told[name][key] == wanted, f"{name}: {key}"
        shared = {counts[other] for other in binding.get("x-co-partitioned-with", ())}
        assert shared <= {counts[name]}
