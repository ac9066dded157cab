"""A real Redis or Valkey for each test that asks, and a real broker for those that need one."""

import secrets
from collections.abc import AsyncIterator, Iterator

import pytest
from redis.asyncio import Redis

from streams.mirror.settings import MirrorSettings
from tests.integration.conftest import kafka, topics
from tests.mirror.servers import Server, server

__all__ = ["kafka", "topics"]


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[Server]:
    """One server for all tests that neither stop nor wipe it."""
    with server() as one:
        yield one


@pytest.fixture
def own_redis() -> Iterator[Server]:
    """A server of the test's own."""
    with server() as one:
        yield one


@pytest.fixture
def mirror_settings(shared_redis: Server) -> MirrorSettings:
    """A corner of the shared server that no other test uses."""
    return MirrorSettings(url=shared_redis.url, prefix=f"test-{secrets.token_hex(4)}:")


@pytest.fixture
async def redis(shared_redis: Server) -> AsyncIterator[Redis]:
    """A plain client of the shared server."""
    client: Redis = Redis.from_url(shared_redis.url, decode_responses=True)
    yield client
    await client.aclose()
