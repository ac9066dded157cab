"""The changelog topics of Faust's tables, made before it starts.

Faust makes them itself, but compares their partitions with what its consumer knew before that: an agent that writes a
table too early then ends.
"""

import asyncio
from collections.abc import Sequence

from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.benchmarks.peers.setup import Setup


def create(setup: Setup, app_id: str, tables: Sequence[str]) -> None:
    """Make them, compacted as Faust would."""
    asyncio.run(_create(setup, app_id, tables))


async def _create(setup: Setup, app_id: str, tables: Sequence[str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=setup.bootstrap)
    await admin.start()
    try:
        topics = [
            NewTopic(f"{app_id}-{table}-changelog", setup.partitions, 1, topic_configs={"cleanup.policy": "compact"})
            for table in tables
        ]
        await admin.create_topics(topics)
    finally:
        await admin.close()
