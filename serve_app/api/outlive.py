"""Answers that are finished whether or not their client waits for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from starlette.types import Message, Receive, Send

from serve_app.api.background import Background
from serve_app.api.sse import ClientTooSlow, client_left

log = logging.getLogger(__name__)

Work = Callable[[Send, asyncio.Event], Awaitable[None]]
"""Sends an answer. Its ``send`` never waits for the client; the event is set when nobody is there any more."""


async def outlive(
    work: Work, background: Background, asgi: tuple[Receive, Send], *, write_timeout_s: float, name: str
) -> None:
    """Runs the work in the background and passes on what it sends, for as long as somebody reads it.

    Raises what the work raised. Returns early when the client leaves; raises ``ClientTooSlow`` when it does not read.
    """
    receive, send = asgi
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    gone = asyncio.Event()

    async def put(message: Message) -> None:
        if not gone.is_set():
            messages.put_nowait(message)

    working = background.start(_watched(work(put, gone), gone, name), name)
    leaving = asyncio.create_task(client_left(receive))
    for task in (working, leaving):
        task.add_done_callback(lambda _: messages.put_nowait(None))
    try:
        while (message := await messages.get()) is not None:
            await _pass_on(message, send, write_timeout_s)
    except OSError:
        return  # The server cannot write to this client any more.
    finally:
        gone.set()
        leaving.cancel()
    if working.done() and (error := working.result()) is not None:
        raise error


async def _watched(work: Awaitable[None], gone: asyncio.Event, name: str) -> Exception | None:
    """What the work raised is the request's to answer, while there is one."""
    try:
        await work
    except Exception as error:
        if gone.is_set():
            log.exception("%s failed after its client had left", name)
        return error
    return None


async def _pass_on(message: Message, send: Send, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await send(message)
    except TimeoutError:
        raise ClientTooSlow from None
