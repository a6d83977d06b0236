"""The application, served to a test: in memory, or by a real server on a free port."""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pydantic
import uvicorn
from starlette.types import ASGIApp

from serve_app.api.admission import Admission
from serve_app.api.app import create_app
from serve_app.api.blobs import Blobs
from serve_app.api.context import Context
from serve_app.api.directory import Alias, Directory, UpstreamRoute
from serve_app.api.ledger import Ledger
from serve_app.api.limits import Limits
from serve_app.api.pending import Rhythm
from serve_app.protocol import Backend, Store
from tests.fakes import FakeClock, MemoryStore

KEY = "sk-test-0123456789abcdef"


def make_context(
    *,
    local: Mapping[str, Backend] | None = None,
    aliases: Mapping[str, Alias] | None = None,
    upstreams: Mapping[str, UpstreamRoute] | None = None,
    store: Store | None = None,
    keys: tuple[str, ...] = (),
    limits: Limits | None = None,
    blobs: Blobs | None = None,
    clock: FakeClock | None = None,
    rhythm: Rhythm | None = None,
) -> Context:
    """Without ``blobs`` there is no disk to keep files on."""
    store = store or MemoryStore()
    numbers = itertools.count(1)
    return Context(
        directory=Directory(local or {}, aliases or {}, upstreams or {}),
        store=store,
        blobs=blobs or Blobs(Path("/dev/null/files")),
        ledger=Ledger(store, "writer-1", store_timeout_s=(limits or Limits()).store_timeout_s, rhythm=rhythm),
        admission=Admission(keys),
        limits=limits or Limits(),
        new_id=lambda: f"{next(numbers):032x}",
        clock=clock or FakeClock(),
    )


@asynccontextmanager
async def in_memory(
    app: ASGIApp, *, key: str | None = None, peer: tuple[str, int] = ("127.0.0.1", 40000)
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an ASGI app; an exception that leaves the app fails the test."""
    headers = {"authorization": f"Bearer {key}"} if key else {}
    transport = httpx.ASGITransport(app, client=peer)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", headers=headers) as client:
        yield client


@asynccontextmanager
async def serving(
    context: Context, *, key: str | None = None, peer: tuple[str, int] = ("127.0.0.1", 40000)
) -> AsyncIterator[httpx.AsyncClient]:
    """The whole application with its lifespan, in memory."""
    gate = create_app(context, own_request_id=True)
    async with gate.app.router.lifespan_context(gate.app), in_memory(gate, key=key, peer=peer) as client:
        yield client


@asynccontextmanager
async def listening(app: ASGIApp) -> AsyncIterator[str]:
    """The app behind uvicorn on loopback; the base URL."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="on", timeout_graceful_shutdown=1))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


def strictly(shape: type[pydantic.BaseModel], body: Any, *, extras: frozenset[str] = frozenset()) -> Any:
    """``body`` as one of the SDK's types: no coercion, and no key beside those the type and ``extras`` know."""
    parsed = shape.model_validate(body, strict=True)
    assert set(parsed.model_extra or {}) <= extras
    return parsed


def failure(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer that keeps to OpenAI's envelope."""
    assert response.headers["content-type"] == "application/json"
    assert list(response.json()) == ["error"]
    error: dict[str, Any] = response.json()["error"]
    assert list(error) == ["message", "type", "param", "code"]
    assert isinstance(error["code"], str)
    assert "\n" not in error["message"]
    return error
