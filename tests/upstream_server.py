"""A real OpenAI-compatible HTTP server with a script: what it answers, and what it was asked, are the test's to say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import uvicorn

SSE = {"content-type": "text/event-stream"}
JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer: ``pieces`` are written one by one. ``hold``: then nothing more, until the client leaves."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pieces: tuple[bytes, ...] = ()
    hold: bool = False


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it arrived; header names in lower case."""

    path: str
    headers: dict[str, str]
    body: bytes
    method: str = "POST"
    query: str = ""


def event(chunk: Any) -> bytes:
    """One server-sent event of a JSON value."""
    return b"data: " + json.dumps(chunk, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


def chat_chunk(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A chunk in OpenAI's shape; ``usage`` stands in every chunk of a stream that was asked for it."""
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1700000000, "model": "up-1"}
    tail = {"service_tier": "default", "system_fingerprint": "fp_1"}
    return head | tail | {"choices": choices, "usage": None} | more


def chat_events(*texts: str, choices: int = 1) -> tuple[bytes, ...]:
    """A golden stream: role chunks, text chunks, finish chunks, usage, ``[DONE]``."""

    def of(index: int, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return event(chat_chunk([{"index": index, "delta": delta, "logprobs": None, "finish_reason": finish}]))

    every = range(choices)
    events = [of(i, {"role": "assistant", "content": "", "refusal": None}) for i in every]
    events += [of(i, {"content": text}) for text in texts for i in every]
    events += [of(i, {}, "stop") for i in every]
    return (*events, event(chat_chunk([], usage=USAGE)), b"data: [DONE]\n\n")


USAGE = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
WHOLE = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "up-1",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
        "usage": USAGE,
    },
    indent=1,
).encode()
MODELS = b'{"object":"list","data":[{"id":"up-1","object":"model","created":7,"owned_by":"them"}]}'


def stream(*texts: str, hold: bool = False) -> Reply:
    """A golden stream, written event by event."""
    return Reply(headers=SSE, pieces=chat_events(*texts), hold=hold)


def error(status: int, code: str | None = None, message: str = "no", **headers: str) -> Reply:
    """An error in OpenAI's envelope; ``retry_after="1"`` becomes the header."""
    body = {"error": {"message": message, "type": "an_error", "param": None, "code": code}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, JSON | named, (json.dumps(body).encode(),))


class _Quiet(uvicorn.Server):
    """Leaves the process's signal handlers alone, and stops when told, not at its next tick."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.stop = asyncio.Event()

    async def main_loop(self) -> None:
        await self.stop.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Cut every connection at once; uvicorn's own way waits a tenth of a second each time."""
        for server in self.servers:
            server.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        for task in (tasks := list(self.server_state.tasks)):
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.sleep(0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class UpstreamServer:
    """Serves on a free loopback port, in the running loop, while entered.

    Each request takes the next reply of ``script``; when none is left, a golden one that fits what was asked.
    """

    def __init__(self) -> None:
        self.script: deque[Reply] = deque()
        self.asked: list[Asked] = []
        self.holding = asyncio.Event()
        """A reply was written and is being held."""
        self.client_left = asyncio.Event()
        """The client closed the connection of a reply that was being written or held."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def calls(self, path: str) -> int:
        """How often ``path`` (under ``/v1``) was asked."""
        return sum(asked.path == f"/v1{path}" for asked in self.asked)

    async def __aenter__(self) -> UpstreamServer:
        listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = listener.getsockname()[1]
        config = uvicorn.Config(
            self._app, lifespan="off", log_config=None, access_log=False, ws="none", interface="asgi3"
        )
        self._server = _Quiet(config)
        self._serving = asyncio.create_task(self._server.serve([listener]))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop.set()
        await self._serving

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body = bytearray()
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        query = scope["query_string"].decode()
        self.asked.append(Asked(scope["path"], headers, bytes(body), scope["method"], query))
        reply = self.script.popleft() if self.script else _golden(scope["path"], bytes(body))
        leaving = asyncio.create_task(self._watch(receive))
        try:
            await self._write(reply, send, leaving)
        finally:
            leaving.cancel()

    async def _watch(self, receive: Any) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self.client_left.set()

    async def _write(self, reply: Reply, send: Any, leaving: asyncio.Task[None]) -> None:
        headers = [(name.encode(), value.encode()) for name, value in reply.headers.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        for piece in reply.pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
        if reply.hold:
            self.holding.set()
            await leaving
        leaving.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _golden(path: str, body: bytes) -> Reply:
    if path == "/v1/models":
        return Reply(headers=JSON, pieces=(MODELS,))
    if path not in ("/v1/chat/completions", "/v1/completions"):
        return error(404, "not_found")
    if not json.loads(body).get("stream"):
        return Reply(headers=JSON, pieces=(WHOLE,))
    if path == "/v1/chat/completions":
        return stream("Hel", "lo")
    chunk = {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": "up-1"}
    texts = [{"index": 0, "text": text, "logprobs": None, "finish_reason": None} for text in ("Hel", "lo")]
    end = {"index": 0, "text": "", "logprobs": None, "finish_reason": "stop"}
    chunks = [chunk | {"choices": [choice], "usage": None} for choice in (*texts, end)]
    events = map(event, [*chunks, chunk | {"choices": [], "usage": USAGE}])
    return Reply(headers=SSE, pieces=(*events, b"data: [DONE]\n\n"))
