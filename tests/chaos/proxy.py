"""A TCP proxy between one worker and the brokers, whose connections can be cut, refused and slowed.

Brokers advertise the proxy's ports on a listener that only this worker uses, so nothing is rewritten on the way: bytes
pass as they are, or not at all. Cutting is a reset (RST), as from a host that is gone; bytes under way are lost.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Mapping
from typing import Self

from infra.cluster import HOST

_CHUNK_BYTES = 64 * 1024
# Closing with a zero linger sends RST instead of FIN and drops what was not sent yet.
_RESET = struct.pack("ii", 1, 0)


class Proxy:
    """Listens on ``ports`` and connects each to its target. Start it in a running event loop.

    Args:
        targets: listening port → port of the broker behind it, both on loopback.
    """

    def __init__(self, targets: Mapping[int, int]) -> None:
        self._targets = dict(targets)
        self._servers: list[asyncio.Server] = []
        self._open: set[_Connection] = set()
        self._allowed = asyncio.Event()
        self._allowed.set()
        self._delay_s = 0.0
        self.cut_count = 0
        """Connections that were cut so far."""
        self.refused_count = 0
        """Connections that were refused so far."""
        self.delayed_bytes = 0
        """Bytes that were held back so far."""

    @property
    def connections(self) -> int:
        """Open ones."""
        return len(self._open)

    async def start(self) -> Self:
        """Raises OSError if a port is taken."""
        for port, target in self._targets.items():
            self._servers.append(await asyncio.start_server(self._accept_to(target), HOST, port))
        return self

    async def stop(self) -> None:
        """Cut what is open and listen no more."""
        for server in self._servers:
            server.close()
        self._cut()
        for server in self._servers:
            await server.wait_closed()

    def cut(self) -> int:
        """Reset every open connection; how many there were."""
        count = self._cut()
        self.cut_count += count
        return count

    def refuse(self) -> int:
        """Cut, and reset whoever connects until ``restore``; how many were cut."""
        self._allowed.clear()
        return self.cut()

    def slow(self, delay_s: float) -> None:
        """Hold every chunk of up to 64 KiB back for this long, in both directions, until ``restore``."""
        self._delay_s = delay_s

    def restore(self) -> None:
        """Be a mere wire again."""
        self._delay_s = 0.0
        self._allowed.set()

    def _cut(self) -> int:
        count = len(self._open)
        for connection in list(self._open):
            connection.reset()
        return count

    def _accept_to(self, target: int):  # type: ignore[no-untyped-def]
        async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._serve(target, reader, writer)

        return accept

    async def _serve(self, target: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._allowed.is_set():
            self.refused_count += 1
            _reset(writer)
            return
        try:
            broker_reader, broker_writer = await asyncio.open_connection(HOST, target)
        except OSError:
            _reset(writer)
            return
        connection = _Connection(writer, broker_writer)
        self._open.add(connection)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, broker_writer))
                both.create_task(self._pump(broker_reader, writer))
        except* OSError:
            pass  # One side is gone; the other is told below.
        finally:
            self._open.discard(connection)
            connection.reset()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(_CHUNK_BYTES):
            if self._delay_s:
                self.delayed_bytes += len(data)
                await asyncio.sleep(self._delay_s)
            writer.write(data)
            await writer.drain()
        raise ConnectionAbortedError


class _Connection:
    """Both sides of a connection through the proxy."""

    def __init__(self, *sides: asyncio.StreamWriter) -> None:
        self._sides = sides

    def reset(self) -> None:
        for side in self._sides:
            _reset(side)


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.transport.is_closing():
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
