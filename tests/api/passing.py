"""The application with a real upstream behind it: real HTTP on both sides, a scripted server at the end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2
import openai

from serve_app.api.app import create_app
from serve_app.api.directory import UpstreamRoute
from serve_app.upstream.client import OpenAIUpstream
from tests.api.serving import KEY, listening, make_context
from tests.fakes import MemoryStore, Row
from tests.upstream_server import UpstreamServer

THEIR_KEY = "sk-upstream-canary-89abcdef"


@dataclass(frozen=True, slots=True)
class Passing:
    """``http`` and ``client`` speak to us with our key; ``cloud`` is what we pass on to."""

    http: httpx.AsyncClient
    client: openai.AsyncOpenAI
    cloud: UpstreamServer
    store: MemoryStore

    async def row(self) -> Row:
        """The one request in the ledger, closed."""
        await self.store.until(lambda: any(row.closed for row in self.store.rows.values()))
        (row,) = self.store.rows.values()
        return row


@asynccontextmanager
async def passing(
    *, port: int | None = None, route: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Passing]:
    """``port``: what stands between us and the cloud. ``route`` and ``options``: of the route and of the context."""
    async with AsyncExitStack() as stack:
        cloud = await stack.enter_async_context(UpstreamServer())
        upstream = OpenAIUpstream("up", THEIR_KEY, f"http://127.0.0.1:{port or cloud.port}/v1", models=("up-1",))
        stack.push_async_callback(upstream.close)
        store = MemoryStore()
        upstreams = options.pop("upstreams", {}) | {"up": UpstreamRoute(upstream, **(route or {}))}
        context = make_context(upstreams=upstreams, store=store, keys=(KEY,), **options)
        url = await stack.enter_async_context(listening(create_app(context, own_request_id=True)))
        headers = {"authorization": f"Bearer {KEY}"}
        http = await stack.enter_async_context(httpx.AsyncClient(base_url=url, headers=headers, verify=False))
        client = openai.AsyncOpenAI(
            base_url=f"{url}/v1", api_key=KEY, max_retries=0, http_client=httpx2.AsyncClient(verify=False)
        )
        stack.push_async_callback(client.close)
        yield Passing(http, client, cloud, store)
