"""A TCP proxy that misbehaves on purpose, to put between a client and a server on loopback.

Only the bytes from the server to the client are tampered with; counts of bytes are per connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Coroutine
from dataclasses import dataclass
from types import TracebackType
from typing import Any


@dataclass(frozen=True, slots=True)
class Faults:
    """``*_after``: at that many bytes, stop sending (stall), send RST (reset) or close cleanly (truncate).

    ``delay_s``: before the first byte. ``piece``: at most that many bytes per write. ``rate``: bytes per second.
    """

    delay_s: float = 0.0
    stall_after: int | None = None
    reset_after: int | None = None
    truncate_after: int | None = None
    piece: int | None = None
    rate: float | None = None

    @property
    def last_byte(self) -> int | None:
        limits = [n for n in (self.stall_after, self.reset_after, self.truncate_after) if n is not None]
        return min(limits, default=None)


class FaultProxy:
    """Listens on a free loopback port while entered. ``faults`` may be changed; new connections take the new ones."""

    def __init__(self, upstream_port: int, faults: Faults | None = None) -> None:
        self.faults = faults or Faults()
        self.port = 0
        self.connections = 0
        self.client_left = asyncio.Event()
        """Set when a client closed or reset its side of any connection."""
        self.stalled = asyncio.Event()
        self._upstream_port = upstream_port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> FaultProxy:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for writer in self._writers:
            writer.transport.abort()
        await self._server.wait_closed()
        await asyncio.sleep(0)  # an aborted transport closes its socket on the loop's next turn

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._spawn(self._serve(reader, writer))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._upstream_port)
        self._writers.append(upstream_writer)
        back = self._spawn(self._tamper(upstream_reader, writer, self.faults))
        await _copy(reader, upstream_writer)
        self.client_left.set()
        back.cancel()
        upstream_writer.transport.abort()
        writer.transport.abort()

    async def _tamper(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, faults: Faults) -> None:
        passed = 0
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                if not passed:
                    await asyncio.sleep(faults.delay_s)
                allowed = data if faults.last_byte is None else data[: faults.last_byte - passed]
                passed += len(allowed)
                await _write(writer, allowed, faults)
                if passed == faults.last_byte:
                    self._break(writer, faults)
                    return
        writer.close()

    def _break(self, writer: asyncio.StreamWriter, faults: Faults) -> None:
        if faults.last_byte == faults.stall_after:
            self.stalled.set()
        elif faults.last_byte == faults.truncate_after:
            writer.close()
        else:
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


async def _write(writer: asyncio.StreamWriter, data: bytes, faults: Faults) -> None:
    step = faults.piece or max(1, len(data))
    for start in range(0, len(data), step):
        piece = data[start : start + step]
        writer.write(piece)
        await writer.drain()
        await asyncio.sleep(len(piece) / faults.rate if faults.rate else 0)
