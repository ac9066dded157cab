"""The proxy is a mere wire until it is told otherwise; what it then does to connections is seen from both ends."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from infra.cluster import HOST, free_ports
from tests.chaos.proxy import Proxy


@asynccontextmanager
async def _echo_behind_proxy() -> AsyncIterator[tuple[Proxy, int, list[asyncio.StreamWriter]]]:
    """A proxy before a server that sends everything back: the proxy, its port, the server's side of each connection."""
    front, behind = free_ports(2)
    accepted: list[asyncio.StreamWriter] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(echo, HOST, behind)
    proxy = await Proxy({front: behind}).start()
    try:
        yield proxy, front, accepted
    finally:
        await proxy.stop()
        server.close()
        await server.wait_closed()


async def test_bytes_pass_as_they_are() -> None:
    async with _echo_behind_proxy() as (proxy, port, _):
        reader, writer = await asyncio.open_connection(HOST, port)
        sent = bytes(range(256)) * 4_000
        writer.write(sent)
        assert await reader.readexactly(len(sent)) == sent
        assert proxy.connections == 1
        assert proxy.delayed_bytes == 0
        writer.close()


async def test_a_cut_resets_both_ends_and_counts() -> None:
    async with _echo_behind_proxy() as (proxy, port, accepted):
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"up")
        assert await reader.readexactly(2) == b"up"
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        with contextlib.suppress(ConnectionError):
            await accepted[0].wait_closed()
        assert proxy.cut_count == 1
        again_reader, again_writer = await asyncio.open_connection(HOST, port)
        again_writer.write(b"again")
        assert await again_reader.readexactly(5) == b"again"
        again_writer.close()


async def test_while_it_refuses_nobody_gets_through() -> None:
    async with _echo_behind_proxy() as (proxy, port, accepted):
        assert proxy.refuse() == 0
        reader, _ = await asyncio.open_connection(HOST, port)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
        assert proxy.refused_count == 1
        assert not accepted
        proxy.restore()
        reader, writer = await asyncio.open_connection(HOST, port)
        writer.write(b"thanks")
        assert await reader.readexactly(6) == b"thanks"
        writer.close()


async def test_slowed_bytes_come_late_and_whole() -> None:
    async with _echo_behind_proxy() as (proxy, port, _):
        reader, writer = await asyncio.open_connection(HOST, port)
        proxy.slow(0.05)
        loop = asyncio.get_running_loop()
        started = loop.time()
        writer.write(b"slow")
        assert await reader.readexactly(4) == b"slow"
        # Both ways: a lower bound that no load can break.
        assert loop.time() - started >= 0.1
        assert proxy.delayed_bytes == 8
        writer.close()


async def test_a_broker_that_is_down_is_a_reset() -> None:
    front, behind = free_ports(2)
    proxy = await Proxy({front: behind}).start()
    try:
        reader, _ = await asyncio.open_connection(HOST, front)
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await reader.readexactly(1)
    finally:
        await proxy.stop()
