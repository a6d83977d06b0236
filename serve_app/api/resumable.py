"""Stored streams: recorded while they are sent, and generated on for a while when their client's connection is lost.

A server cannot tell a client that left from one whose connection broke. Without ``store`` it is taken to have left: its
slot is free at once. With ``store`` it may come back: the work goes on as long as somebody reads, here or on any other
ingress, and ``resume_s`` longer. Then it is given up as if the client had left.
"""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from functools import partial

import orjson
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.calls import Call
from serve_app.api.framing import Framing, framing_of
from serve_app.api.outlive import outlive
from serve_app.api.recording import Recorder
from serve_app.protocol import Failed, FailureCode

_CUT = Failed(FailureCode.STREAM_LOST, "The stream was ended: nobody was reading it, or the server was stopped.")


class Resumable(Response):
    """An answer whose events carry their position as their id, and can be read again from there."""

    def __init__(self, answer: ASGIApp, call: Call, stream_id: str, stopped: asyncio.Event | None = None) -> None:
        """``stopped``: nothing else gives the answer up, however long nobody reads it."""
        super().__init__()
        self._stopped = stopped
        self._answer = answer
        self._call = call
        self._stream_id = stream_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = self._call.context
        timeout_s, name = context.limits.write_timeout_s, f"stream {self._stream_id}"
        work = partial(self._record, scope)
        await outlive(work, context.background, (receive, send), write_timeout_s=timeout_s, name=name)

    async def _record(self, scope: Scope, send: Send, gone: asyncio.Event) -> None:
        context = self._call.context
        recorder = Recorder(context.store.streams, self._call.tenant, self._stream_id, context.background)
        tape = _Tape(recorder, send, framing_of(scope))

        async def given_up() -> Message:
            if self._stopped is not None:
                await self._stopped.wait()
            else:
                await _deserted(recorder, gone, context.limits.resume_s)
            return {"type": "http.disconnect"}

        try:
            await self._answer(scope, given_up, tape.send)
        finally:
            tape.end()


class _Tape:
    """Numbers the events of an answer and notes them, if it is a stream, and sends all on."""

    def __init__(self, recorder: Recorder, send: Send, framing: Framing) -> None:
        self._recorder = recorder
        self._send = send
        self._framing = framing
        self._running = False

    async def send(self, message: MutableMapping[str, object]) -> None:
        if message["type"] == "http.response.start":
            self._running = message["status"] == 200
        elif self._running:
            body = message["body"]
            assert isinstance(body, bytes)  # noqa: S101  # ASGI's own type
            if body and body != self._framing.keep_alive:
                message = {**message, "body": self._noted(body)}
            self._running = bool(message["more_body"])
        await self._send(message)

    def end(self) -> None:
        """A recorded stream has an end that says what it is, like any other."""
        if self._running:
            self._noted(self._framing.frame(orjson.dumps(self._framing.failure(_CUT))))
        self._recorder.end()

    def _noted(self, frame: bytes) -> bytes:
        event = b"id: %d\n" % self._recorder.following + frame
        self._recorder.note(event)
        return event


async def _deserted(recorder: Recorder, gone: asyncio.Event, patience_s: float) -> None:
    """Returns once the client is gone and nobody has read along for so long."""
    clock = asyncio.get_running_loop().time
    await gone.wait()
    left_s = clock()
    # A deadline that readers move.
    while (remaining_s := max(left_s, recorder.followed_s) + patience_s - clock()) > 0:  # noqa: ASYNC110
        await asyncio.sleep(remaining_s)
