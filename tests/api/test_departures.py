from __future__ import annotations

import asyncio

import pytest

from serve_app.api.context import Context
from serve_app.api.directory import UpstreamRoute
from serve_app.api.limits import Limits
from serve_app.api.sse import ClientTooSlow
from serve_app.protocol import Delta, Usage
from tests.api.conversation import DONE, STARTED, Books, Client, asking, chunk
from tests.api.serving import make_context
from tests.fakes import FakeBackend, Step

FAST = Limits(silence_s=5, keep_alive_s=0.05, write_timeout_s=0.2, resume_s=0.01)
WORDS = ("Hel", "lo", " there")


def house(backend: FakeBackend, limits: Limits = FAST) -> tuple[Context, Books]:
    store = Books()
    upstreams = {"openai": UpstreamRoute(backend)}
    return make_context(local={"llama": backend}, upstreams=upstreams, store=store, limits=limits), store


def script(model: str, words: int) -> list[Step]:
    """So many words, and then a hang. None: not even a start."""
    if words < 0:
        return [asyncio.Event()]
    said = [[Delta(0, word)] if model == "llama" else chunk(word) for word in WORDS[:words]]
    return [[STARTED], *said, asyncio.Event()]


async def leave(how: str, client: Client, task: asyncio.Task[None]) -> None:
    """Both ways in which a server tells that its client is gone."""
    if how == "disconnect":
        client.leave()
    else:
        task.cancel()
    async with asyncio.timeout(5):
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("how", ["disconnect", "cancel"])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", ["llama", "gpt-4o"])
@pytest.mark.parametrize("words", [-1, 0, 1, 2, 3])
async def test_a_client_that_leaves_frees_its_backend_and_closes_its_entry_once(
    how: str, stream: bool, model: str, words: int
) -> None:
    """At once; a stored stream, which can be resumed, only when nobody came back in time: see ``resume_s``."""
    if not stream and model == "gpt-4o":
        words = min(words, 0)
    backend = FakeBackend(*script(model, words))
    context, memory = house(backend)
    async with asking(context, stream=stream, store=True, model=model) as (client, task):
        await backend.started.wait()
        if stream and words > 0:
            await client.has(words + (model == "llama"))
        await leave(how, client, task)
        if stream:
            await backend.closed.wait()
        assert backend.running == 0
        assert backend.closed.is_set()
        entry = await memory.closed()
    assert entry.status == "cancelled"
    if stream:
        said = "".join(WORDS[: max(words, 0)])
        assert entry.usage == Usage(7 if words >= 0 else 0, max(words, 0), 3 if words >= 0 else 0)
        kept = entry.completion and entry.completion["choices"][0]["message"]["content"]
        assert kept == (said or None)


async def test_an_answer_that_was_complete_stays_complete_however_often_its_client_leaves() -> None:
    go_on, storing, stored = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slow(call: str) -> None:
        if call == "write":
            storing.set()
            await stored.wait()

    backend = FakeBackend([STARTED], go_on, [Delta(0, "Hello", finish="stop")], [DONE])
    context, memory = house(backend, Limits(store_timeout_s=5))
    async with asking(context, stream=True, store=True) as (client, task):
        await memory.opened()
        memory.fault = slow
        go_on.set()
        await storing.wait()
        for _ in range(3):
            client.leave()
            task.cancel()
            await asyncio.sleep(0)
        stored.set()
        await asyncio.gather(task, return_exceptions=True)
        assert (await memory.closed()).status == "completed"
    assert task.cancelled()


class Stubborn(FakeBackend):
    """Takes its time to stop."""

    async def generate(self, request: object) -> object:  # type: ignore[override]
        try:
            yield [STARTED]
            await asyncio.Event().wait()
        finally:
            await asyncio.Event().wait()


async def test_a_backend_that_does_not_stop_does_not_hold_up_the_ledger() -> None:
    context, memory = house(Stubborn())
    async with asking(context, stream=True) as (client, task):
        await client.wrote.wait()
        client.leave()
        assert (await memory.closed()).status == "cancelled"
        async with asyncio.timeout(5):
            await task


@pytest.mark.parametrize("store", [True, False])
async def test_a_client_that_stops_reading_is_cut_and_its_work_cancelled(store: bool) -> None:
    backend = FakeBackend([STARTED], [Delta(0, "Hel")], *([[Delta(0, "lo")]] * 1000), asyncio.Event())
    context, memory = house(backend)
    async with asking(context, stream=True, store=store) as (client, task):
        client.reading.clear()
        async with asyncio.timeout(5):
            with pytest.raises(ClientTooSlow):
                await task
            await backend.closed.wait()
        assert (await memory.closed()).status == "cancelled"
    assert not client.complete


async def test_a_client_that_stops_reading_comments_is_cut_too() -> None:
    backend = FakeBackend([STARTED], [Delta(0, "Hel")], asyncio.Event())
    context, memory = house(backend)
    async with asking(context, stream=True) as (client, task):
        await client.has(2)
        client.reading.clear()
        async with asyncio.timeout(5):
            with pytest.raises(ClientTooSlow):
                await task
        assert (await memory.closed()).usage == Usage(7, 1, 3)


async def test_a_slow_reader_does_not_hold_up_the_others() -> None:
    context, _ = house(FakeBackend([STARTED], *([[Delta(0, "x")]] * 50), [DONE]))
    async with asking(context, stream=True) as (slow, _), asking(context, stream=True) as (fast, task):
        slow.reading.clear()
        async with asyncio.timeout(5):
            await task
        assert fast.text == "x" * 50
        assert slow.frames == []
