"""``Idempotency-Key``: one generation, one turn, one answer, however often and however broken the request comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from serve_app.api.app import create_app
from serve_app.api.context import Context
from serve_app.protocol import Delta, Event, Failed, FailureCode
from serve_app.store import SqlStore
from tests.api.conversation import CHAT, DONE, HELLO, STARTED
from tests.api.serving import failure, listening, make_context, serving
from tests.fakes import FakeBackend
from tests.store.entries import count

SAID: list[Event] = [Delta(0, "Hello", finish="stop")]
KEYED = {"idempotency-key": "key-1"}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncGenerator[SqlStore]:
    opened = await SqlStore.open(f"sqlite:///{tmp_path}/once.db")
    yield opened
    await opened.close()


def house(store: SqlStore, backend: FakeBackend, **more: Any) -> Context:
    return make_context(local={"llama": backend}, store=store, **more)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kept", [False, True])
async def test_eight_at_once_are_one_generation_one_turn_and_one_answer(
    store: SqlStore, stream: bool, kept: bool
) -> None:
    go_on = asyncio.Event()
    backend = FakeBackend([STARTED], go_on, SAID, [DONE])
    async with serving(house(store, backend)) as client:
        body = HELLO | {"stream": stream, "store": kept}
        asked = [asyncio.create_task(client.post(CHAT, json=body, headers=KEYED)) for _ in range(8)]
        await backend.started.wait()
        go_on.set()
        answers = await asyncio.gather(*asked)
        answers.append(await client.post(CHAT, json=body, headers=KEYED))
    assert [answer.status_code for answer in answers] == [200] * 9
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["x-request-id"] for answer in answers}) == 9
    assert [answer.headers.get("idempotent-replayed") for answer in answers].count("true") == 8
    assert len({answer.headers["content-type"] for answer in answers}) == 1
    assert len(backend.requests) == 1
    assert await count(store, "turns") == kept


async def test_another_request_under_the_key_is_422_and_another_tenant_has_keys_of_its_own(store: SqlStore) -> None:
    backend = FakeBackend([STARTED], SAID, [DONE])
    async with serving(house(store, backend, keys=("a", "b")), key="a") as client:
        first = await client.post(CHAT, json=HELLO, headers=KEYED)
        other = await client.post(CHAT, json=HELLO | {"n": 2}, headers=KEYED)
        elsewhere = await client.post("/v1/completions", json={"model": "llama", "prompt": "Hi"}, headers=KEYED)
        theirs = await client.post(CHAT, json=HELLO, headers=KEYED | {"authorization": "Bearer b"})
    for refused in (other, elsewhere):
        assert (refused.status_code, failure(refused)["code"]) == (422, "idempotency_key_reused")
        assert failure(refused)["param"] == "Idempotency-Key"
    assert theirs.json()["id"] != first.json()["id"]
    assert len(backend.requests) == 2


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_is_finished_without_its_client_which_finds_the_answer_when_it_comes_again(
    store: SqlStore, stream: bool
) -> None:
    go_on = asyncio.Event()
    backend = FakeBackend([STARTED], [Delta(0, "Hel")], go_on, [Delta(0, "lo", finish="stop")], [DONE])
    async with listening(create_app(house(store, backend), own_request_id=True)) as url, httpx.AsyncClient() as client:
        body = HELLO | {"stream": stream}
        lost = asyncio.create_task(client.post(url + CHAT, json=body, headers=KEYED))
        await backend.started.wait()
        lost.cancel()
        await asyncio.gather(lost, return_exceptions=True)
        again = asyncio.create_task(client.post(url + CHAT, json=body, headers=KEYED))
        go_on.set()
        answer = await again
    assert b"lo" in answer.content
    assert len(backend.requests) == 1


@pytest.mark.parametrize("path", [CHAT, "/v1/messages", "/api/chat"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("code", [FailureCode.ENGINE_LOST, FailureCode.QUEUE_FULL, FailureCode.CONTEXT_LENGTH])
async def test_a_request_that_failed_can_be_made_again_under_its_key(
    store: SqlStore, path: str, stream: bool, code: FailureCode
) -> None:
    """Also one whose stream broke when some of it had been shown."""
    backend = FakeBackend([STARTED], [Delta(0, "Hel")], [Failed(code, "Failed.")])
    async with serving(house(store, backend)) as client:
        body = HELLO | {"stream": stream, "store": stream, "max_tokens": 5}
        assert b'"Failed."' in (await client.post(path, json=body, headers=KEYED)).content
        backend.steps = ([STARTED], SAID, [DONE])
        answer = await client.post(path, json=body, headers=KEYED)
        assert (answer.status_code, b"Hello" in answer.content) == (200, True)
        assert (await client.post(path, json=body, headers=KEYED)).content == answer.content
    assert len(backend.requests) == 2


async def test_a_key_whose_ingress_died_is_taken_up_by_whoever_asks_next(store: SqlStore) -> None:
    never = FakeBackend([STARTED], asyncio.Event())
    backend = FakeBackend([STARTED], SAID, [DONE])
    dead = house(store, never)
    async with serving(dead) as client:
        lost = asyncio.create_task(client.post(CHAT, json=HELLO, headers=KEYED))
        await never.started.wait()
        async with serving(house(store, backend)) as other:
            waiting = asyncio.create_task(other.post(CHAT, json=HELLO, headers=KEYED))
            dead.ledger.writer = "nobody"
            await dead.background.stop()
            assert (await waiting).json()["choices"][0]["message"]["content"] == "Hello"
        lost.cancel()


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "k\u00e9y"])
async def test_a_key_that_is_none_is_refused(store: SqlStore, key: str) -> None:
    async with serving(house(store, FakeBackend())) as client:
        answer = await client.post(CHAT, json=HELLO, headers={"idempotency-key": key.encode()})
    assert (answer.status_code, failure(answer)["param"]) == (400, "Idempotency-Key")


async def test_without_the_store_a_keyed_request_is_503_and_any_other_is_answered(tmp_path: Path) -> None:
    store = await SqlStore.open(f"sqlite:///{tmp_path}/once.db")
    async with serving(house(store, FakeBackend([STARTED], SAID, [DONE]))) as client:
        await store._queue.close()
        answer = await client.post(CHAT, json=HELLO, headers=KEYED)
        assert (answer.status_code, failure(answer)["code"]) == (503, "storage_unavailable")
        assert (await client.post(CHAT, json=HELLO)).status_code == 200
    await store.close()


async def test_the_sdk_retries_a_lost_answer_and_gets_it(store: SqlStore) -> None:
    """It sends the key again with each of its retries: the first answer of this server never arrives."""
    backend = FakeBackend([STARTED], SAID, [DONE])
    gate = create_app(house(store, backend), own_request_id=True)
    lost = []

    async def losing(scope: Any, receive: Any, send: Any) -> None:
        async def nothing(message: Any) -> None:
            if message["type"] == "http.response.start":
                lost.append(scope["path"])
                await send({"type": "http.response.start", "status": 502, "headers": []})
            elif not message.get("more_body"):
                await send({"type": "http.response.body", "body": b""})

        first = scope["type"] == "http" and not lost
        await gate(scope, receive, nothing if first else send)

    async with listening(losing) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=2) as sdk:
        answer = await sdk.chat.completions.create(**HELLO, extra_headers={"Idempotency-Key": "key-2"})
        with pytest.raises(openai.UnprocessableEntityError):
            await sdk.chat.completions.create(**HELLO, n=2, extra_headers={"Idempotency-Key": "key-2"})
    assert answer.choices[0].message.content == "Hello"
    assert lost == [CHAT]
    assert len(backend.requests) == 1
