"""Clients of other servers' APIs, against the application on a real port."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from serve_app.api.app import create_app
from serve_app.api.directory import UpstreamRoute
from serve_app.protocol import Delta, Done, Event, Started, ToolCallDelta, Usage
from serve_app.upstream.client import OpenAIUpstream
from tests.api.serving import KEY, listening, make_context
from tests.fakes import FakeBackend, MemoryStore, card
from tests.upstream_server import UpstreamServer

USAGE = Usage(9, 4, cached_tokens=2)
HELLO: tuple[list[Event], ...] = (
    [Started(9, 2)],
    [Delta(0, "Hel")],
    [Delta(0, "lo"), Delta(0, finish="stop"), Done(USAGE)],
)
CALLING: tuple[list[Event], ...] = (
    [Started(9)],
    [Delta(0, reasoning="Hm. "), Delta(0, "I look.")],
    [
        Delta(0, tool_calls=(ToolCallDelta(0, "", "call_a", "weather"),)),
        Delta(0, tool_calls=(ToolCallDelta(0, '{"ci'),)),
    ],
    [
        Delta(0, tool_calls=(ToolCallDelta(0, 'ty":"Oslo"}'),)),
        Delta(0, tool_calls=(ToolCallDelta(1, "{}", "b", "time"),)),
    ],
    [Delta(0, finish="tool_calls"), Done(USAGE)],
)


@dataclass(frozen=True, slots=True)
class Speaking:
    """``backend`` is the local model ``llama``, ``cloud`` what stands behind ``up-1``."""

    url: str
    http: httpx.AsyncClient
    backend: FakeBackend
    cloud: UpstreamServer
    store: MemoryStore


@asynccontextmanager
async def speaking(*steps: Sequence[Event]) -> AsyncIterator[Speaking]:
    """``steps``: what the local model says."""
    backend = FakeBackend(*(list(step) for step in steps or HELLO), cards=[card("llama", 4096)])
    store = MemoryStore()
    async with UpstreamServer() as cloud:
        upstream = OpenAIUpstream("up", "sk-up", cloud.url, models=("up-1",))
        context = make_context(
            local={"llama": backend}, upstreams={"up": UpstreamRoute(upstream)}, store=store, keys=(KEY,)
        )
        try:
            async with (
                listening(create_app(context, own_request_id=True)) as url,
                httpx.AsyncClient(base_url=url, headers={"api-key": KEY}, verify=False) as http,
            ):
                yield Speaking(url, http, backend, cloud, store)
        finally:
            await upstream.close()
