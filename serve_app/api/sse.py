"""A stream on its way to a client: one frame per write, and exactly one end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress

import orjson
from starlette.types import Message, Receive, Send

from serve_app.api.framing import Framing
from serve_app.protocol import Failed


class ClientGone(Exception):
    """The server cannot write to this client any more."""


class ClientTooSlow(Exception):
    """A client stopped reading. Raised to the server, which cuts the connection: half an answer must not look whole."""


async def client_left(receive: Receive) -> None:
    """Returns when the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream:
    """One client's stream. Writes never overlap, whoever makes them.

    ``begun``: the headers are out. ``writing_since_s``: since when a write has been waiting for its client, None when
    none is; ``wrote_s``: when the last one ended. Both by ``clock``, a monotonic one, in seconds.
    """

    def __init__(self, send: Send, clock: Callable[[], float], framing: Framing) -> None:
        self._send = send
        self._clock = clock
        self._framing = framing
        self._lock = asyncio.Lock()
        self._comment: asyncio.Task[None] | None = None
        self.begun = False
        self.writing_since_s: float | None = None
        self.wrote_s = clock()

    async def begin(self) -> None:
        self.begun = True
        headers = [
            (b"content-type", self._framing.media_type.encode()),
            (b"cache-control", b"no-cache"),
            (b"x-accel-buffering", b"no"),
        ]
        await self._put({"type": "http.response.start", "status": 200, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._body(self._framing.frame(data))

    async def relay(self, frame: bytes) -> None:
        """An event that comes in its frame."""
        await self._body(frame)

    def keep_alive(self) -> None:
        """Writes a comment, without waiting for it: whoever watches over the stream must not wait for its client."""
        self._comment = asyncio.create_task(self._remark())

    async def complete(self, last: Sequence[bytes]) -> None:
        """The good end: the last chunks, then what says that there are no more."""
        for data in last:
            await self.write(data)
        if self._framing.done:
            await self._body(self._framing.done)
        await self.close()

    async def fail(self, failed: Failed, last: Sequence[bytes] = ()) -> None:
        """The bad end: the reply's own words for it, or one error; nothing that could be taken for a good one."""
        for data in last or (orjson.dumps(self._framing.failure(failed)),):
            await self.write(data)
        await self.close()

    async def close(self) -> None:
        """After the last event."""
        await self._body(b"", more=False)

    def abandon(self) -> None:
        """Nothing more will be written: lets go of a comment that still waits for its client."""
        if self._comment is not None:
            self._comment.cancel()

    async def _remark(self) -> None:
        with suppress(ClientGone):
            await self._body(self._framing.keep_alive)

    async def _body(self, data: bytes, *, more: bool = True) -> None:
        await self._put({"type": "http.response.body", "body": data, "more_body": more})

    async def _put(self, message: Message) -> None:
        async with self._lock:
            self.writing_since_s = self._clock()
            try:
                await self._send(message)
            except OSError as error:
                raise ClientGone from error
            self.wrote_s = self._clock()
            self.writing_since_s = None
