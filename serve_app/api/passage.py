"""The life of one request that is passed on: its row in the ledger, its bytes in both directions, and one end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable
from contextlib import aclosing
from typing import Protocol

import orjson
from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from serve_app import errors
from serve_app.api.background import settled, through
from serve_app.api.context import Context
from serve_app.api.framing import OPENAI
from serve_app.api.refusals import INTERNAL, respond
from serve_app.api.sse import ClientTooSlow, client_left
from serve_app.errors import RequestError
from serve_app.protocol import (
    Closed,
    Done,
    Failed,
    FailureCode,
    Opened,
    RawBody,
    RawEvent,
    RawHead,
    RawRequest,
    Upstream,
    Usage,
)

log = logging.getLogger(__name__)

_NO_END = Failed(FailureCode.ENGINE_LOST, "The upstream's proxy stopped before its answer was complete.")
_SILENT = Failed(FailureCode.TIMEOUT, "The upstream's proxy did not answer in time.")

End = Done | Failed | None
"""How a passage ended. None: nobody is there to read it."""


class AnswerCut(Exception):
    """The rest of an answer will not come. Raised to the server, which cuts the connection: no other sign is left."""


class IncomingBody(AsyncIterable[bytes], Protocol):
    """The client's body. ``over``: nothing more will be read of it. ``broken``: what its reading raised."""

    over: asyncio.Event
    broken: Exception | None


class Passage(Response):
    """An ASGI response that makes the exchange it answers with; one entry in the ledger, closed exactly once."""

    def __init__(
        self, context: Context, opened: Opened, upstream: Upstream, request: RawRequest, body: IncomingBody
    ) -> None:
        super().__init__()
        self._context = context
        self._opened = opened
        self._upstream = upstream
        self._request = request
        self._body = body
        self._head: RawHead | None = None
        self._first_s: float | None = None
        self._clock = asyncio.get_running_loop().time
        self._began_s = self._heard_s = self._clock()
        self._writing_since_s: float | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._context.ledger.open(self._opened)
        telling = asyncio.create_task(self._tell(send))
        leaving = asyncio.create_task(self._left(receive))
        end: End = None
        try:
            end = await self._watch(telling, leaving)
        finally:
            await through(asyncio.create_task(self._close(end, telling, leaving)))
        if isinstance(end, Failed):
            await self._fail(end, scope, receive, send)
        elif isinstance(end, Done):
            await send(_piece(b"", more=False))

    # --- work ---------------------------------------------------------------------------------------------------

    async def _tell(self, send: Send) -> End:
        """Passes the upstream's answer on until it ends."""
        end: End = _NO_END
        try:
            async with aclosing(self._upstream.forward(self._request, self._body)) as batches:
                async for batch in batches:
                    for event in batch:
                        if isinstance(event, Done | Failed):
                            end = event
                        else:
                            await self._pass_on(event, send)
                    self._heard_s = self._clock()
        except OSError:
            return None
        except Exception as error:
            if error is not self._body.broken:
                log.exception("request %s failed", self._opened.request_id)
            end = INTERNAL
        return self._judged(end)

    async def _pass_on(self, event: RawEvent, send: Send) -> None:
        if isinstance(event, RawHead):
            self._head, self._first_s = event, self._clock() - self._began_s
            headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in event.headers]
            await self._write({"type": "http.response.start", "status": event.status, "headers": headers}, send)
        elif isinstance(event, RawBody):
            await self._write(_piece(event.data), send)

    async def _write(self, message: Message, send: Send) -> None:
        self._writing_since_s = self._clock()
        await send(message)
        self._writing_since_s = None

    def _judged(self, end: End) -> End:
        """Where the client's own body was at fault, that is the end, whatever the upstream made of it."""
        match self._body.broken:
            case ClientDisconnect():
                return None
            case RequestError(failed=failed):
                return failed
        return end

    # --- watch --------------------------------------------------------------------------------------------------

    async def _left(self, receive: Receive) -> None:
        await self._body.over.wait()
        await client_left(receive)

    async def _watch(self, telling: asyncio.Task[End], leaving: asyncio.Task[None]) -> End:
        limits = self._context.limits
        look_again_s = min(limits.silence_s, limits.write_timeout_s) / 2
        while True:
            await asyncio.wait((telling, leaving), timeout=look_again_s, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                return telling.result()
            if leaving.done():
                return None
            if self._writing_since_s is not None:
                if self._clock() - self._writing_since_s >= limits.write_timeout_s:
                    raise ClientTooSlow
            elif self._body.over.is_set() and self._clock() - self._heard_s >= limits.silence_s:
                return _SILENT

    # --- end ----------------------------------------------------------------------------------------------------

    async def _close(self, end: End, telling: asyncio.Task[End], leaving: asyncio.Task[None]) -> bool:
        """Stops what still runs and closes the entry."""
        tasks = [task for task in (telling, leaving) if not task.done()]
        for task in tasks:
            task.cancel()
        kept, _ = await asyncio.gather(self._context.ledger.close(self._closed(end)), settled(tasks))
        return kept

    def _closed(self, end: End) -> Closed:
        refused = self._refused()
        failure = end.code if isinstance(end, Failed) else refused
        return Closed(
            opened=self._opened,
            status="cancelled" if end is None else "failed" if failure else "completed",
            usage=end.usage if end is not None else Usage(),
            duration_s=self._clock() - self._began_s,
            first_token_s=self._first_s,
            failure=failure if end is not None else None,
        )

    def _refused(self) -> FailureCode | None:
        if self._head is None or self._head.status < 400:
            return None
        return FailureCode.UPSTREAM_ERROR if self._head.status >= 500 else FailureCode.UPSTREAM_REFUSED

    async def _fail(self, failed: Failed, scope: Scope, receive: Receive, send: Send) -> None:
        """Before the answer began: a plain refusal. Within a stream: its error event. Else the connection must tell."""
        if self._head is None:
            await respond(failed, scope)(scope, receive, send)
            return
        if not dict(self._head.headers).get("content-type", "").startswith("text/event-stream"):
            raise AnswerCut
        await send(_piece(OPENAI.frame(orjson.dumps(errors.envelope(failed)))))
        await send(_piece(b"", more=False))


def _piece(data: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
