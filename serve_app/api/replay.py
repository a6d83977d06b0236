"""A recorded stream, sent again: what a client missed, and what is still to come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Annotated

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.api.context import Context, context_of
from serve_app.api.framing import framing_of
from serve_app.api.limits import Limits
from serve_app.api.recording import StreamLost, StreamUnknown, follow
from serve_app.api.sse import ClientGone, ClientTooSlow, EventStream, client_left
from serve_app.api.wire.shape import Shape, read
from serve_app.errors import RequestError
from serve_app.protocol import Failed, FailureCode, StoreError

_LOST = Failed(FailureCode.STREAM_LOST, "The server that generated this stream is gone; its end is not known.")
_AWAY = Failed(FailureCode.STORAGE_UNAVAILABLE, "The rest of the stream cannot be read now. Try again.")
_UNKNOWN = "There is no stream of this id; events are kept until ten minutes after the end. Ask without `stream`."
_BY_HEADER = "last-event-id"

Events = AsyncGenerator[list[tuple[int, bytes]], None]


def _number(text: object) -> object:
    """Digits as the number they spell; anything else as it is, for the type to refuse."""
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= 18 else text


class Resume(Shape):
    """The part of a query string that asks for a stream."""

    stream: Annotated[bool, BeforeValidator(lambda it: {"true": True, "false": False}.get(it, it))] = False
    starting_after: Annotated[int, BeforeValidator(_number), Field(ge=0)] | None = None


def position_asked(request: Request) -> int | None:
    """The position after which a GET wants the events of its object, -1 for all; None: it wants the object.

    A client that reconnects by itself repeats its first address: ``Last-Event-ID`` is newer than what stands in there.
    """
    asked = dict(request.query_params)
    if _BY_HEADER in request.headers:
        asked["starting_after"] = request.headers[_BY_HEADER]
    wanted = read(Resume, asked, context_of(request).limits)
    if not wanted.stream:
        return None
    return -1 if wanted.starting_after is None else wanted.starting_after


async def replay(context: Context, tenant: str, stream_id: str, after: int) -> Response:
    """The events after the position, as they come; ``RequestError`` when there is no such stream."""
    events = follow(context.store.streams, tenant, stream_id, after, wait_s=context.limits.keep_alive_s)
    try:
        first = await anext(events)
    except StreamUnknown:
        raise RequestError(FailureCode.NOT_FOUND, _UNKNOWN) from None
    return Replay(_all(first, events), context.limits)


async def _all(first: list[tuple[int, bytes]], events: Events) -> Events:
    async with aclosing(events):
        yield first
        async for pairs in events:
            yield pairs


class Replay(Response):
    """Sends events that come in their frames, and comments while there are none."""

    def __init__(self, events: Events, limits: Limits) -> None:
        super().__init__()
        self._events = events
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        stream = EventStream(send, asyncio.get_running_loop().time, framing_of(scope))
        tasks = asyncio.create_task(self._tell(stream)), asyncio.create_task(client_left(receive))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            stream.abandon()
        if tasks[0] in done:
            tasks[0].result()

    async def _tell(self, stream: EventStream) -> None:
        with suppress(ClientGone):
            await stream.begin()
            try:
                async with aclosing(self._events) as events:
                    async for pairs in events:
                        await self._pass_on([event for _, event in pairs], stream)
            except StreamLost:
                await stream.fail(_LOST)
            except StoreError:
                await stream.fail(_AWAY)
            else:
                await stream.close()

    async def _pass_on(self, frames: list[bytes], stream: EventStream) -> None:
        if not frames and stream.writing_since_s is None:
            stream.keep_alive()
        try:
            async with asyncio.timeout(self._limits.write_timeout_s):
                for frame in frames:
                    await stream.relay(frame)
        except TimeoutError:
            raise ClientTooSlow from None
