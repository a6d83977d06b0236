"""The life of one answer, from the ledger's opening entry to the last byte.

What must be true of every request, however it ends: its backend's generator is closed, its entry in the ledger is
closed exactly once, and its client reads at most one end. The closing entry comes before the finish chunk, the usage
and ``[DONE]``: a client that read the end of a stored answer can read the answer itself, always.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing, suppress
from dataclasses import replace
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from serve_app.api.background import settled, through
from serve_app.api.calls import Call
from serve_app.api.framing import framing_of
from serve_app.api.refusals import INTERNAL, respond
from serve_app.api.reply import Reply
from serve_app.api.sse import ClientGone, ClientTooSlow, EventStream, client_left
from serve_app.errors import RequestError
from serve_app.protocol import (
    Closed,
    Delta,
    Done,
    Embedded,
    Event,
    Failed,
    FailureCode,
    Opened,
    Relayed,
    ResponseTurn,
    Started,
    Usage,
    Work,
)

log = logging.getLogger(__name__)

_NO_END = Failed(FailureCode.ENGINE_LOST, "The model stopped before its answer was complete.")
_SILENT = Failed(FailureCode.TIMEOUT, "The model did not answer in time.")
_TOO_LONG = Failed(FailureCode.TIMEOUT, "The request took longer than it may.")
_NOT_KEPT = Failed(FailureCode.STORAGE_UNAVAILABLE, "The answer is complete, but could not be stored in time.")

_LOST = (FailureCode.ENGINE_LOST, FailureCode.SHUTTING_DOWN)
"""Failures that are no answer to what was asked: a model went away while it was at it."""

End = Done | Failed | None
"""How an answer ended. None: nobody is there to read it."""


class Answer(Response):
    """An ASGI response that runs the request it answers."""

    def __init__(self, call: Call, opened: Opened, request: Work, reply: Reply[Any]) -> None:
        super().__init__()
        self._call = call
        self._opened = opened
        self._request = request
        self._reply = reply

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A model of ours begins its work while the entry is written; nothing is shown before that is done."""
        opening = asyncio.create_task(self.begin())
        if not self._call.local:
            await opening
        await self.run(scope, receive, send, opening)

    async def begin(self) -> None:
        """Opens its entry in the ledger, which ``run`` closes; ``RequestError`` when that cannot be."""
        await self._call.context.ledger.open(self._opened)

    async def run(self, scope: Scope, receive: Receive, send: Send, opening: asyncio.Task[None] | None = None) -> None:
        """Once it has begun, or while it does. Ends early when ``receive`` says that nobody waits for it any more."""
        stream = EventStream(send, asyncio.get_running_loop().time, framing_of(scope))
        run = _Run(self._call, self._opened, opening, self._request, self._reply, stream)
        end, last = await run.to_its_end(receive)
        async with asyncio.timeout(self._call.context.limits.write_timeout_s):
            with suppress(ClientGone):
                await self._finish(end, last, stream, (scope, receive, send))

    async def _finish(
        self, end: End, last: list[bytes], stream: EventStream, asgi: tuple[Scope, Receive, Send]
    ) -> None:
        if isinstance(end, Failed):
            await (stream.fail(end, last) if stream.begun else respond(end, asgi[0])(*asgi))
        elif isinstance(end, Done) and self._call.called.stream:
            await stream.complete(last)
        elif isinstance(end, Done):
            await Response(b"".join(last), media_type="application/json")(*asgi)


class _Run:
    """One answer under way. ``_tell`` works, ``_watch`` looks at the clock and at the client, ``_close`` tidies up."""

    def __init__(
        self,
        call: Call,
        opened: Opened,
        opening: asyncio.Task[None] | None,
        request: Work,
        reply: Reply[Any],
        stream: EventStream,
    ) -> None:
        self._call = call
        self._opened = opened
        self._opening = opening
        self._request = request
        self._reply = reply
        self._limits = call.context.limits
        self._clock = asyncio.get_running_loop().time
        self._began_s = self._heard_s = self._clock()
        self._first_token_s: float | None = None
        self._prompt = Started()
        self._tokens = 0
        self._last: list[bytes] = []
        self._stream = stream

    async def to_its_end(self, receive: Receive) -> tuple[End, list[bytes]]:
        """The end, closed in the ledger, and the JSON that goes with it; ``RequestError`` when it was not opened."""
        telling = asyncio.create_task(self._tell())
        leaving = asyncio.create_task(client_left(receive))
        end: End = None
        try:
            end = await self._watch(telling, leaving)
            if isinstance(end, Failed):
                self._last = self._reply.fail(end)
        finally:
            kept = await through(asyncio.create_task(self._close(end, telling, leaving)))
        if isinstance(end, Done) and self._opened.turn is not None and not kept:
            return _NOT_KEPT, self._reply.fail(_NOT_KEPT)
        return end, self._last

    # --- work ---------------------------------------------------------------------------------------------------

    async def _tell(self) -> End:
        """Passes the backend's events on until one of them is an end."""
        try:
            async with aclosing(self._call.target.backend.generate(self._request)) as events:
                async for batch in events:
                    if batch:
                        await self._opened_by_now()
                    end = await self._pass_on(batch)
                    if end is not None:
                        return end
                    self._heard_s = self._clock()
        except ClientGone:
            return None
        except RequestError:
            raise  # The ledger refused the entry.
        except Exception:
            log.exception("request %s: the backend raised", self._opened.request_id)
            return INTERNAL
        log.error("request %s: the backend stopped without an end", self._opened.request_id)
        return _NO_END

    async def _opened_by_now(self) -> None:
        """Waits for the ledger; raises what it refuses with. A cancelled caller does not cancel the writing."""
        if self._opening is not None:
            if not self._opening.done():
                await asyncio.wait({self._opening})
            self._opening.result()

    async def _pass_on(self, batch: list[Event]) -> End:
        chunks: list[bytes] = []
        end: End = None
        for event in batch:
            match event:
                case Delta() | Embedded() | Relayed():
                    self._count(event)
                    chunks += self._reply.take(event)
                case Started():
                    self._prompt = event
                    chunks += self._reply.start(event)
                case Done() | Failed():
                    end = event
                    break
        if isinstance(end, Done):
            self._last = self._reply.end(end.usage)
        if batch and self._call.called.stream:
            await self._show(chunks, end)
        return end

    def _count(self, event: Delta | Embedded | Relayed) -> None:
        """Tokens, for an answer that is cut before its backend could tell: one for each delta that names no tokens."""
        if self._first_token_s is None:
            self._first_token_s = self._clock() - self._began_s
        if isinstance(event, Delta):
            self._tokens += len(event.logprobs) or bool(event.text or event.reasoning or event.tool_calls)
        elif isinstance(event, Relayed):
            self._tokens += self._call.called.stream

    async def _show(self, chunks: list[bytes], end: End) -> None:
        """A failure that comes before anything was shown is left to be a plain HTTP error."""
        if not self._stream.begun:
            if isinstance(end, Failed):
                return
            await self._stream.begin()
        for chunk in chunks:
            await self._stream.write(chunk)

    # --- watch --------------------------------------------------------------------------------------------------

    async def _watch(self, telling: asyncio.Task[End], leaving: asyncio.Task[None]) -> End:
        while True:
            # Looked at once in every keep-alive at least: what is late may have become so by a write in between.
            patience_s = min(max(self._due_s() - self._clock(), 0), self._limits.keep_alive_s)
            await asyncio.wait((telling, leaving), timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
            if telling.done():
                return telling.result()
            if leaving.done():
                return None
            if late := self._late():
                return late

    def _due_s(self) -> float:
        """The soonest moment at which something could be late."""
        limits, stream = self._limits, self._stream
        dues = [self._began_s + limits.timeout_s]
        if stream.writing_since_s is not None:
            return min(*dues, stream.writing_since_s + limits.write_timeout_s)
        if stream.begun:
            dues.append(stream.wrote_s + limits.keep_alive_s)
        return min(*dues, self._heard_s + limits.silence_s)

    def _late(self) -> Failed | None:
        """What has to be done by now: give up, or tell the client that we are still here.

        A comment is no sign of life from the backend, and a backend is not silent while its client does not read.
        """
        limits, stream, now_s = self._limits, self._stream, self._clock()
        if now_s >= self._began_s + limits.timeout_s:
            return _TOO_LONG
        if stream.writing_since_s is not None:
            if now_s >= stream.writing_since_s + limits.write_timeout_s:
                raise ClientTooSlow
        elif now_s >= self._heard_s + limits.silence_s:
            return _SILENT
        elif stream.begun and now_s >= stream.wrote_s + limits.keep_alive_s:
            stream.keep_alive()
        return None

    # --- end ----------------------------------------------------------------------------------------------------

    async def _close(self, end: End, telling: asyncio.Task[End], leaving: asyncio.Task[None]) -> bool:
        """Stops what still runs and closes the entry; whether it is durable."""
        tasks = [task for task in (telling, leaving) if not task.done()]
        for task in tasks:
            task.cancel()
        if end is None:
            self._stream.abandon()
        stored, _ = await asyncio.gather(self._close_entry(end), settled(tasks))
        return stored

    async def _close_entry(self, end: End) -> bool:
        """What was never opened is not closed."""
        try:
            await self._opened_by_now()
        except RequestError:
            return False
        return await self._call.context.ledger.close(self._closed(end))

    def _closed(self, end: End) -> Closed:
        usage = end.usage if end is not None and end.usage != Usage() else self._so_far()
        turn, left = self._opened.turn, self._is_left(end)
        return Closed(
            opened=replace(self._opened, turn=None) if left else self._opened,
            status="completed" if isinstance(end, Done) else "failed" if isinstance(end, Failed) else "cancelled",
            usage=usage,
            duration_s=self._clock() - self._began_s,
            first_token_s=self._first_token_s,
            failure=end.code if isinstance(end, Failed) else None,
            completion=self._reply.kept(usage, whole=isinstance(end, Done)) if turn and not left else None,
        )

    def _is_left(self, end: End) -> bool:
        """Whether the turn stays open: it outlives its writer, and somebody, maybe the same, will begin it again.

        Unless it was streamed: who read that has seen how it ended.
        """
        turn = self._opened.turn
        if not isinstance(turn, ResponseTurn) or not turn.background:
            return False
        lost = isinstance(end, Failed) and end.code in _LOST and not self._call.called.stream
        return end is None or lost

    def _so_far(self) -> Usage:
        return Usage(self._prompt.prompt_tokens, self._tokens, self._prompt.cached_tokens)
