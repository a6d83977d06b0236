from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from serve_app.api.context import Context
from serve_app.api.directory import UpstreamRoute
from serve_app.api.limits import Limits
from serve_app.protocol import Delta, Event, Failed, FailureCode, Usage, Work
from tests.api.conversation import DONE, STARTED, Books, asking, chunk
from tests.api.serving import make_context
from tests.fakes import FakeBackend, Step

FAST = Limits(silence_s=0.4, keep_alive_s=0.05, timeout_s=5, write_timeout_s=0.2, store_timeout_s=0.3)
HEL, LO = Delta(0, "Hel"), Delta(0, "lo", finish="stop")
SCRIPT: tuple[Step, ...] = ([STARTED], [HEL], [LO], [DONE])
RELAYED: tuple[Step, ...] = ([STARTED], chunk("Hel"), chunk("lo"), chunk(finish="stop"), [DONE])


def house(backend: FakeBackend, limits: Limits = FAST) -> tuple[Context, Books]:
    store = Books()
    upstreams = {"openai": UpstreamRoute(backend)}
    return make_context(local={"llama": backend}, upstreams=upstreams, store=store, limits=limits), store


async def ended(task: asyncio.Task[None]) -> None:
    async with asyncio.timeout(5):
        await task


@pytest.mark.parametrize("store", [True, False])
@pytest.mark.parametrize(("model", "script"), [("llama", SCRIPT), ("gpt-4o", RELAYED)])
async def test_one_frame_is_one_write_and_the_ledger_closes_before_the_end(
    model: str, script: tuple[Step, ...], store: bool
) -> None:
    context, memory = house(FakeBackend(*script))
    async with asking(context, stream=True, store=store, model=model) as (client, task):
        await ended(task)
    assert client.status == 200
    assert client.headers[b"content-type"].startswith(b"text/event-stream")
    assert client.headers[b"cache-control"] == b"no-cache"
    assert client.headers[b"x-accel-buffering"] == b"no"
    assert all(frame.startswith(b"data: ") and frame.count(b"\n\n") == 1 for frame in client.frames)
    assert client.text == "Hello"
    assert client.frames[-1] == b"data: [DONE]\n\n"
    assert client.complete
    entry = await memory.closed()
    assert (entry.status, entry.usage) == ("completed", DONE.usage)
    assert entry.first_token_s is not None


async def test_nothing_says_the_answer_is_complete_before_it_is_stored() -> None:
    for model, script in (("llama", SCRIPT), ("gpt-4o", RELAYED)):
        backend = FakeBackend(*script)
        context, memory = house(backend, replace(FAST, store_timeout_s=5))
        async with asking(context, stream=True, store=True, model=model) as (client, task):
            await client.has(1)
            memory.hold = asyncio.Event()
            await backend.closed.wait()
            await asyncio.sleep(0.05)
            assert not any(choice["finish_reason"] for one in client.chunks for choice in one["choices"])
            memory.hold.set()
            await ended(task)
        assert client.frames[-1] == b"data: [DONE]\n\n"
        assert (await memory.closed()).completion is not None


async def test_a_stored_answer_that_cannot_be_stored_ends_in_an_error() -> None:
    for stream in (True, False):
        last = asyncio.Event()
        context, memory = house(FakeBackend([STARTED], [HEL], last, [LO], [DONE]))
        async with asking(context, stream=stream, store=True) as (client, task):
            await memory.opened()
            memory.down = True
            last.set()
            await ended(task)
            assert client.error["code"] == "storage_unavailable"
            assert client.status == (200 if stream else 503)
            memory.down = False
            assert (await memory.closed()).status == "completed"


@pytest.mark.parametrize("model", ["llama", "gpt-4o"])
@pytest.mark.parametrize("script", [SCRIPT, [[STARTED], asyncio.Event()]], ids=["answers", "hangs"])
async def test_a_refused_opening_shows_nothing_stops_the_model_and_never_asks_an_upstream(
    script: list[Step], model: str
) -> None:
    backend = FakeBackend(*script)
    context, memory = house(backend)
    memory.down = True
    async with asking(context, stream=True, store=True, model=model) as (client, task):
        await ended(task)
        memory.down = False
    assert client.status == 503
    assert client.error["code"] == "storage_unavailable"
    assert backend.running == 0
    assert len(backend.requests) == (model == "llama")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("before", [[[]], [[STARTED]], [[], [STARTED, HEL]]])
async def test_a_failure_before_anything_was_shown_is_a_plain_http_error(
    stream: bool, before: list[list[Event]]
) -> None:
    failed = Failed(FailureCode.QUEUE_FULL, "The queue is full.", retry_after_s=2.2)
    script = [*before[:-1], [*before[-1], failed]]
    context, memory = house(FakeBackend(*script))
    async with asking(context, stream=stream) as (client, task):
        await ended(task)
        entry = await memory.closed()
    assert client.status == 429
    assert client.headers[b"retry-after"] == b"3"
    assert client.error["code"] == "slow_down"
    assert (entry.status, entry.failure) == ("failed", "slow_down")


async def test_a_failure_in_the_middle_is_an_error_event_and_no_done() -> None:
    failed = Failed(FailureCode.ENGINE_LOST, "Lost.", usage=Usage(7, 1))
    context, memory = house(FakeBackend([STARTED], [HEL], [LO, failed]))
    async with asking(context, stream=True, store=True) as (client, task):
        await ended(task)
        entry = await memory.closed()
    assert client.error == {"message": "Lost.", "type": "server_error", "param": None, "code": "engine_lost"}
    assert client.complete
    assert (entry.status, entry.failure, entry.usage) == ("failed", "engine_lost", Usage(7, 1))
    assert entry.completion is not None
    assert entry.completion["choices"][0]["message"]["content"] == "Hello"


async def test_a_whole_answer_that_fails_in_the_middle_is_a_plain_http_error() -> None:
    context, memory = house(FakeBackend([STARTED], [HEL], [Failed(FailureCode.ENGINE_LOST, "Lost.")]))
    async with asking(context) as (client, task):
        await ended(task)
        assert client.status == 503
        assert (await memory.closed()).usage == Usage(7, 1, 3)


class Broken(FakeBackend):
    """Breaks its promise never to raise."""

    async def generate(self, request: Work) -> Any:
        async for batch in super().generate(request):
            yield batch
        raise ValueError("/secret/path")


@pytest.mark.parametrize(
    ("backend", "code"), [(Broken([STARTED], [HEL]), "internal_error"), (FakeBackend([STARTED], [HEL]), "engine_lost")]
)
async def test_a_backend_that_breaks_its_promise_still_gives_the_client_one_end(
    backend: FakeBackend, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    context, memory = house(backend)
    async with asking(context, stream=True) as (client, task):
        await ended(task)
        assert client.error["code"] == code
        assert "secret" not in client.error["message"]
        assert (await memory.closed()).status == "failed"
    assert "backend" in caplog.text


@pytest.mark.parametrize("script", [[], [[]], [[STARTED]], [[STARTED], [HEL]]])
async def test_a_silent_backend_is_given_up(script: list[Step]) -> None:
    backend = FakeBackend(*script, asyncio.Event())
    context, memory = house(backend)
    async with asking(context, stream=True) as (client, task):
        await ended(task)
        assert client.error["code"] == "timeout"
        assert client.status == (200 if STARTED in [event for step in script for event in step] else 504)  # type: ignore[union-attr]
        assert backend.closed.is_set()
        assert (await memory.closed()).failure == "timeout"


async def test_comments_keep_a_quiet_stream_alive_and_are_no_sign_of_life() -> None:
    loop = asyncio.get_running_loop()
    context, _ = house(FakeBackend([STARTED], asyncio.Event()))
    began = loop.time()
    async with asking(context, stream=True) as (client, task):
        await ended(task)
    assert client.frames.count(b": keep-alive\n\n") >= 2
    assert 0.4 <= loop.time() - began < 3


class Waiting(FakeBackend):
    """Has nothing to tell for longer than a silence may be, and says so."""

    async def generate(self, request: Work) -> Any:
        yield [STARTED]
        for _ in range(12):
            await asyncio.sleep(0.05)
            yield []
        yield [HEL, LO, DONE]


async def test_a_backend_that_says_it_is_alive_is_waited_for() -> None:
    context, _ = house(Waiting())
    async with asking(context, stream=True) as (client, task):
        await ended(task)
    assert client.text == "Hello"
    assert client.frames.count(b": keep-alive\n\n") >= 3


async def test_the_whole_request_has_a_deadline_whatever_its_backend_says() -> None:
    context, memory = house(Waiting(), replace(FAST, timeout_s=0.1))
    async with asking(context) as (client, task):
        await ended(task)
        assert client.status == 504
        assert (await memory.closed()).failure == "timeout"
