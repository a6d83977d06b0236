"""Whoever stops listening stops the upstream too, at once and without a trace."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from tests.fault_proxy import FaultProxy, Faults
from tests.upstream.driving import collect, relay, upstream
from tests.upstream_server import SSE, Reply, UpstreamServer, chat_events

EVENTS = chat_events("a", "b", "c")[:-2]


def tasks() -> set[asyncio.Task[object]]:
    return asyncio.all_tasks() - {asyncio.current_task()}  # type: ignore[arg-type]


@pytest.mark.parametrize("index", range(len(EVENTS) + 1))
@pytest.mark.parametrize("how", ["close", "cancel"])
async def test_leaving_at_any_event_closes_the_upstreams_connection(
    server: UpstreamServer, index: int, how: str
) -> None:
    """``index`` 0: before the first event."""
    seen = asyncio.Event()

    async def listen() -> None:
        count = 0
        if not index:
            seen.set()
        async for events in answer:
            count += len(events)
            if count > index:  # the first is Started
                seen.set()

    async with FaultProxy(server.port) as proxy, upstream(proxy.port) as backend:
        await backend.models()  # connections, threads and tasks that outlive one request exist by now
        server.script.append(Reply(headers=SSE, pieces=EVENTS[:index], hold=True))
        before = tasks()
        answer = backend.generate(relay())
        listener = asyncio.create_task(listen())
        await seen.wait()
        await server.holding.wait()
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
        if how == "close":
            await answer.aclose()
        async with asyncio.timeout(1.0):
            await proxy.client_left.wait()
            await server.client_left.wait()
            for task in tasks() - before:
                await asyncio.wait((task,))


async def test_closing_between_two_events_closes_the_connection(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=SSE, pieces=EVENTS, hold=True))
    async with upstream(server.port) as backend:
        answer = backend.generate(relay())
        while not await anext(answer):
            pass
        await answer.aclose()
        async with asyncio.timeout(1.0):
            await server.client_left.wait()


async def test_leaving_while_connecting_or_waiting_to_retry_leaves_nothing(server: UpstreamServer) -> None:
    waiting = asyncio.Event()

    async def wait_forever(_: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    async with (
        FaultProxy(server.port, Faults(reset_after=0)) as proxy,
        upstream(proxy.port, sleep=wait_forever) as backend,
    ):
        listener = asyncio.create_task(collect(backend, relay()))
        await waiting.wait()
        listener.cancel()
        with suppress(asyncio.CancelledError):
            await listener
        assert not any("OpenAIUpstream" in repr(task) for task in tasks())


async def test_an_answer_never_listened_to_is_never_asked_for(server: UpstreamServer) -> None:
    async with upstream(server.port) as backend:
        await backend.generate(relay()).aclose()
    assert server.asked == []


async def test_closing_the_upstream_ends_its_streams_with_a_failure(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=SSE, pieces=EVENTS, hold=True))
    async with upstream(server.port) as backend:
        listener = asyncio.create_task(collect(backend, relay()))
        await server.holding.wait()
        await backend.close()
        async with asyncio.timeout(1.0):
            await server.client_left.wait()
            assert (await listener)[-1].code == "upstream_truncated"
