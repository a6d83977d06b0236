"""How these tests put a request to an upstream and read what comes back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from serve_app.protocol import Done, Event, Failed, FailureCode, Relay, Relayed, Started
from serve_app.upstream.client import OpenAIUpstream
from serve_app.upstream.deadlines import Deadlines

KEY = "sk-canary-0123456789abcdef"
QUICK = Deadlines(connect_s=1.0, pool_s=0.1, first_byte_s=0.3, whole_s=0.3, idle_s=0.3, beat_s=0.05)


def relay(
    *, stream: bool = True, route: Literal["chat/completions", "completions"] = "chat/completions", **more: Any
) -> Relay:
    body = b'{"model":"up-1","stream":true}' if stream else b'{"model":"up-1"}'
    return Relay("req-1", "tenant-1", "model-1", route, more.pop("body", body), stream, **more)


@asynccontextmanager
async def upstream(port: int, **options: Any) -> AsyncIterator[OpenAIUpstream]:
    """An upstream that does not wait between attempts, with its client closed in the end."""

    async def no_wait(_: float) -> None: ...

    settings: dict[str, Any] = {"api_key": KEY, "sleep": no_wait} | options
    backend = OpenAIUpstream("up", base_url=f"http://127.0.0.1:{port}/v1", **settings)
    try:
        yield backend
    finally:
        await backend.close()


async def collect(backend: OpenAIUpstream, request: Relay) -> list[Event]:
    return [event async for events in backend.generate(request) for event in events]


def check_contract(events: list[Event]) -> Event:
    """``Started`` first unless it failed before; one terminal, last. Returns the terminal."""
    terminal = events[-1]
    assert isinstance(terminal, Done | Failed)
    assert not any(isinstance(event, Done | Failed) for event in events[:-1])
    assert isinstance(events[0], Started) or events == [terminal]
    assert all(isinstance(event, Relayed) for event in events[1:-1])
    return terminal


def failure(events: list[Event]) -> Failed:
    terminal = check_contract(events)
    assert isinstance(terminal, Failed)
    return terminal


def chunks(events: list[Event]) -> list[bytes]:
    return [event.data for event in events if isinstance(event, Relayed)]


def code(events: list[Event]) -> FailureCode:
    return failure(events).code
