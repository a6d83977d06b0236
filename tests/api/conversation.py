"""One answer as a test sees it: asked over raw ASGI, so that every write, cut and departure is in the test's hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import orjson
from starlette.types import Message

from serve_app.api.app import create_app
from serve_app.api.context import Context
from serve_app.protocol import Closed, Done, Event, Json, Opened, Relayed, Started, Usage
from tests.fakes import MemoryStore

CHAT = "/v1/chat/completions"
HELLO: Json = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}]}
STARTED = Started(prompt_tokens=7, cached_tokens=3)
EntryT = TypeVar("EntryT", Opened, Closed)
DONE = Done(Usage(7, 2, 3))


class Client:
    """Reads until it leaves or stops reading. ``frames`` are the writes of the body, without the ``ids`` of events.

    ``wrote`` is set by each write.
    """

    def __init__(self, body: Json, path: str) -> None:
        self._request: list[Message] = [{"type": "http.request", "body": orjson.dumps(body), "more_body": False}]
        self._gone = asyncio.Event()
        self.reading = asyncio.Event()
        self.reading.set()
        self.wrote = asyncio.Event()
        self.status: int | None = None
        self.headers: dict[bytes, bytes] = {}
        self.frames: list[bytes] = []
        self.ids: list[int] = []
        self.complete = False
        self.scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": [(b"host", b"localhost")],
            "client": ("127.0.0.1", 40000),
            "server": ("127.0.0.1", 8000),
            "scheme": "http",
        }

    def leave(self) -> None:
        self._gone.set()

    async def receive(self) -> Message:
        if self._request:
            return self._request.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.reading.wait()
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.frames += [self._without_id(message["body"])] if message["body"] else []
            self.complete = not message["more_body"] if "more_body" in message else True
        self.wrote.set()

    def _without_id(self, frame: bytes) -> bytes:
        """Notes the position that an event of a stored stream carries."""
        if not frame.startswith(b"id: "):
            return frame
        line, _, rest = frame.partition(b"\n")
        self.ids.append(int(line.removeprefix(b"id: ")))
        return rest

    async def has(self, frames: int) -> None:
        """Waits until that many frames were read."""
        while len(self.frames) < frames:
            self.wrote.clear()
            await self.wrote.wait()

    @property
    def chunks(self) -> list[Any]:
        """The JSON of the frames; comments and ``[DONE]`` left out."""
        data = [one.removeprefix(b"data: ") for one in self.frames if one.startswith(b"data: {")]
        return [orjson.loads(one) for one in data]

    @property
    def text(self) -> str:
        said = [choice["delta"].get("content") or "" for chunk in self.chunks for choice in chunk.get("choices", [])]
        return "".join(said)

    @property
    def error(self) -> Json:
        """The one error of the answer, in its body or as its last event."""
        if self.status == 200:
            assert b"data: [DONE]\n\n" not in self.frames
            assert [("error" in chunk) for chunk in self.chunks].count(True) == 1
            last: Json = self.chunks[-1]
        else:
            last = orjson.loads(b"".join(self.frames))
        error: Json = last["error"]
        return error


@asynccontextmanager
async def asking(
    context: Context, *, path: str = CHAT, **more: Any
) -> AsyncIterator[tuple[Client, asyncio.Task[None]]]:
    """A client and the task that answers it; a task still running in the end is cancelled."""
    app = create_app(context, own_request_id=True)
    client = Client(HELLO | more, path)
    async with app.app.router.lifespan_context(app.app):
        task = asyncio.create_task(app(client.scope, client.receive, client.send))
        try:
            yield client, task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


class Books(MemoryStore):
    """A store whose writes can be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.written = asyncio.Event()

    async def write(self, entries: Sequence[Opened | Closed]) -> frozenset[str]:
        refused = await super().write(entries)
        self.written.set()
        return refused

    async def opened(self) -> Opened:
        """The one opening entry, waited for."""
        return await self._only(Opened)

    async def closed(self) -> Closed:
        """The one closing entry, waited for. It was written once."""
        return await self._only(Closed)

    async def _only(self, kind: type[EntryT]) -> EntryT:
        async with asyncio.timeout(5):
            while not (found := [entry for batch in self.writes for entry in batch if isinstance(entry, kind)]):
                self.written.clear()
                await self.written.wait()
        (only,) = found
        return only


def chunk(text: str | None = None, finish: str | None = None) -> list[Event]:
    """A chunk of an upstream's stream."""
    delta = {} if text is None else {"content": text}
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    head = {"id": "theirs", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    return [Relayed(orjson.dumps(head | {"choices": [choice]}))]
