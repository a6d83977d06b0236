"""The application over a real database, for tests of what it keeps: asked by the official client over real HTTP."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import httpx
import openai
import orjson
import pydantic
from openai.types.responses import ResponseStreamEvent

from serve_app.api.admission import Admission
from serve_app.api.app import create_app
from serve_app.api.blobs import Blobs
from serve_app.api.context import Context
from serve_app.api.directory import Directory, UpstreamRoute
from serve_app.api.enduring import Watch
from serve_app.api.ledger import Ledger
from serve_app.api.limits import Limits
from serve_app.protocol import Backend, Delta, Done, Event, Json, Started, Usage
from serve_app.store import SqlStore
from tests.api.contract import conforms, typed
from tests.api.serving import listening
from tests.fakes import FakeBackend

RESPONSE_EXTRAS = frozenset({"store", "presence_penalty", "frequency_penalty", "status", "cache_write_tokens"})
"""What the specification and OpenAI's own answers have, and the SDK's types do not name."""

STARTED: list[Event] = [Started(7, 3)]
DONE: list[Event] = [Done(Usage(7, 2, 3, 1))]
QUICK = Watch(look_s=0.05, claim_s=0.05, silent_s=0.5)


def saying(*texts: str) -> FakeBackend:
    """A model that says this and stops."""
    deltas: list[Event] = [Delta(0, text) for text in texts]
    return FakeBackend(STARTED, *[[delta] for delta in deltas], [Delta(0, finish="stop")], DONE)


@dataclass
class House:
    """One ingress over a database. ``client`` is the official one, ``http`` plain."""

    url: str
    context: Context
    keys: tuple[str, ...] = ()
    clients: list[openai.AsyncOpenAI] = field(default_factory=list)

    def client(self, key: str = "none") -> openai.AsyncOpenAI:
        self.clients.append(openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0))
        return self.clients[-1]


@asynccontextmanager
async def house(
    database: Path,
    local: Mapping[str, Backend],
    *,
    upstreams: Mapping[str, UpstreamRoute] | None = None,
    keys: tuple[str, ...] = (),
    writer: str = "writer-1",
    limits: Limits | None = None,
    watch: Watch | None = None,
) -> AsyncIterator[House]:
    store = await SqlStore.open(f"sqlite:///{database}")
    context = Context(
        directory=Directory(local, {}, upstreams or {}),
        store=store,
        blobs=Blobs(database.parent / "files"),
        ledger=Ledger(store, writer),
        admission=Admission(keys),
        limits=limits or Limits(),
        new_id=lambda: uuid.uuid4().hex,
        clock=time.time,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        url = await stack.enter_async_context(listening(create_app(context, own_request_id=True, watch=watch)))
        built = House(url, context, keys)
        try:
            yield built
        finally:
            for client in built.clients:
                await client.close()


async def events_of(response: httpx.Response) -> list[Json]:
    """The events of a stream, each held against what the protocol says of all of them."""
    events = []
    lines = [line async for line in response.aiter_lines() if line and not line.startswith((":", "id:"))]
    for name, data in zip(lines[::2], lines[1::2], strict=True):
        event = orjson.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def lawful(events: list[Json]) -> list[Json]:
    """The events, each of which is what the SDK's type and the specification say."""
    for event in events:
        shape = _EVENTS[event["type"]]
        typed(shape, event, extras=RESPONSE_EXTRAS | {"name", "obfuscation"})
        conforms(shape.__name__, _specified(event))
    return events


def _specified(event: Json) -> Json:
    """OpenAI's own streams say ``usage: null`` until the end; its specification knows only the key's absence."""
    if "response" not in event or event["response"]["usage"] is not None:
        return event
    return event | {"response": {name: value for name, value in event["response"].items() if name != "usage"}}


def _event_types() -> dict[str, type[pydantic.BaseModel]]:
    union = get_args(ResponseStreamEvent)[0]
    return {get_args(shape.model_fields["type"].annotation)[0]: shape for shape in get_args(union)}


_EVENTS = _event_types()
