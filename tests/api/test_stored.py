from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionDeleted

from serve_app.api.app import create_app
from serve_app.api.limits import Limits
from serve_app.protocol import Closed, Opened, Turn, Usage
from tests.api.serving import failure, listening, make_context, serving, strictly
from tests.fakes import MemoryStore

MINE, THEIRS = "sk-mine", "sk-theirs"
ROOT = "/v1/chat/completions"
PARTS = [
    {"type": "text", "text": "Hello "},
    {"type": "image_url", "image_url": {"url": "data:,"}},
    {"type": "text", "text": "there"},
]
MESSAGES = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": PARTS})


def tenant(key: str) -> str:
    return sha256(key.encode()).hexdigest()[:16]


def kept(number: int, key: str = MINE, **metadata: str) -> Closed:
    completion_id = f"chatcmpl-{number}"
    turn = Turn(completion_id, MESSAGES, metadata)
    model = "llama" if number % 2 else "gpt-4"
    opened = Opened(
        f"entry-{number}", "writer-1", tenant(key), "r", model, "chat/completions", "local", float(number), turn=turn
    )
    message = {"role": "assistant", "content": "Hi.", "refusal": None}
    completion = {
        "id": completion_id,
        "object": "chat.completion",
        "created": number,
        "model": model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }
    return Closed(opened, "completed", Usage(3, 1), 0.5, completion=completion)


@pytest.fixture
async def store() -> MemoryStore:
    store = MemoryStore()
    await store.write([*(kept(n, topic="even" if n % 2 == 0 else "odd") for n in range(1, 26)), kept(99, THEIRS)])
    return store


@pytest.fixture
async def client(store: MemoryStore) -> AsyncIterator[httpx.AsyncClient]:
    async with serving(make_context(store=store, keys=(MINE, THEIRS)), key=MINE) as client:
        yield client


def ids(response: httpx.Response) -> list[int]:
    return [int(item["id"].removeprefix("chatcmpl-")) for item in response.json()["data"]]


async def test_the_list_is_openai_s_shape_twenty_to_a_page_oldest_first(client: httpx.AsyncClient) -> None:
    response = await client.get(ROOT)
    body = response.json()
    assert ids(response) == list(range(1, 21))
    assert list(body) == ["object", "data", "first_id", "last_id", "has_more"]
    assert (body["object"], body["first_id"], body["last_id"]) == ("list", "chatcmpl-1", "chatcmpl-20")
    assert body["has_more"] is True
    for item in body["data"]:
        strictly(ChatCompletion, item)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"after": "chatcmpl-20"}, [21, 22, 23, 24, 25]),
        ({"limit": "2", "order": "desc"}, [25, 24]),
        ({"limit": "2", "order": "desc", "after": "chatcmpl-24"}, [23, 22]),
        ({"limit": "3", "model": "llama"}, [1, 3, 5]),
        ({"limit": "3", "metadata[topic]": "even"}, [2, 4, 6]),
        ({"metadata[topic]": "even", "metadata[other]": "x"}, []),
        ({"model": "none", "unknown": "ignored"}, []),
    ],
)
async def test_a_page_is_what_was_asked_for(
    client: httpx.AsyncClient, query: dict[str, str], expected: list[int]
) -> None:
    assert ids(await client.get(ROOT, params=query)) == expected


async def test_an_empty_list_has_no_first_and_no_last(client: httpx.AsyncClient) -> None:
    body = (await client.get(ROOT, params={"model": "none"})).json()
    assert body == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "101"}, "limit"),
        ({"limit": "-1"}, "limit"),
        ({"limit": "ten"}, "limit"),
        ({"limit": "٣"}, "limit"),
        ({"limit": "9" * 5000}, "limit"),
        ({"order": "up"}, "order"),
        ({"after": "chatcmpl-none"}, "after"),
        ({"after": "chatcmpl-99"}, "after"),
        ({"after": ""}, "after"),
        ({"after": "a b"}, "after"),
        ({"model": "a\x00"}, None),
        ({f"metadata[{'k' * 65}]": "v"}, "metadata"),
        ({"metadata[k]": "v" * 513}, "metadata"),
        ({f"metadata[k{n}]": "v" for n in range(17)}, "metadata"),
    ],
)
@pytest.mark.parametrize("path", [ROOT, f"{ROOT}/chatcmpl-1/messages"])
async def test_a_wrong_query_is_400_and_names_its_parameter(
    client: httpx.AsyncClient, path: str, query: dict[str, str], param: str | None
) -> None:
    response = await client.get(path, params=query)
    assert (response.status_code, failure(response)["param"]) == (400, param)


async def test_one_completion_is_read_relabelled_and_forgotten(client: httpx.AsyncClient) -> None:
    path = f"{ROOT}/chatcmpl-7"
    assert strictly(ChatCompletion, (await client.get(path)).json()).metadata == {"topic": "odd"}
    updated = await client.post(path, json={"metadata": {"k": "v"}})
    assert strictly(ChatCompletion, updated.json()).metadata == {"k": "v"}
    assert (await client.get(path)).json() == updated.json()
    assert (await client.post(path, json={"metadata": None})).json()["metadata"] == {}
    deleted = strictly(ChatCompletionDeleted, (await client.delete(path)).json())
    assert (deleted.id, deleted.deleted) == ("chatcmpl-7", True)
    assert (await client.get(path)).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"metadata": "text"},
        {"metadata": ["k"]},
        {"metadata": {"k": 1}},
        {"metadata": {"k": None}},
        {"metadata": {"k" * 65: "v"}},
        {"metadata": {"k": "v" * 513}},
        {"metadata": {str(n): "v" for n in range(17)}},
    ],
)
async def test_metadata_out_of_bounds_is_refused(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    response = await client.post(f"{ROOT}/chatcmpl-1", json=body)
    assert (response.status_code, failure(response)["param"]) == (400, "metadata")


@pytest.mark.parametrize("completion_id", ["chatcmpl-none", "chatcmpl-99", "a%00b", "x" * 200, "%F0%9F%98%80"])
@pytest.mark.parametrize(
    ("method", "suffix"), [("GET", ""), ("POST", ""), ("DELETE", ""), ("GET", "/messages")], ids=str
)
async def test_what_is_not_mine_does_not_exist(
    client: httpx.AsyncClient, store: MemoryStore, method: str, suffix: str, completion_id: str
) -> None:
    body = {"metadata": {}} if method == "POST" else None
    response = await client.request(method, f"{ROOT}/{completion_id}{suffix}", json=body)
    assert (response.status_code, failure(response)["code"]) == (404, "not_found")
    assert len(store.rows) == 26


async def test_messages_are_listed_with_ids_and_their_text_beside_their_parts(client: httpx.AsyncClient) -> None:
    body = (await client.get(f"{ROOT}/chatcmpl-3/messages")).json()
    assert list(body) == ["object", "data", "first_id", "last_id", "has_more"]
    system, user = body["data"]
    assert (system["role"], system["content"], system["content_parts"]) == ("system", "Be brief.", None)
    assert (user["role"], user["content"], user["content_parts"]) == ("user", "Hello there", PARTS)
    assert {"id", "role", "content", "refusal", "name", "content_parts"} == set(system) == set(user)
    page = await client.get(f"{ROOT}/chatcmpl-3/messages", params={"after": system["id"], "limit": "1"})
    assert (page.json()["data"], page.json()["has_more"]) == ([user], False)


@pytest.mark.parametrize("suffix", ["", "/chatcmpl-1", "/chatcmpl-1/messages"])
@pytest.mark.parametrize("hung", [False, True])
async def test_a_store_that_does_not_answer_is_503_with_advice_to_retry(
    store: MemoryStore, hung: bool, suffix: str
) -> None:
    async with serving(make_context(store=store, limits=Limits(store_timeout_s=0.05))) as client:
        store.down, store.hold = not hung, asyncio.Event() if hung else None
        response = await client.get(f"{ROOT}{suffix}")
        store.down, store.hold = False, None
    assert (response.status_code, failure(response)["code"]) == (503, "storage_unavailable")
    assert int(response.headers["retry-after"]) >= 1


async def test_the_sdk_pages_filters_relabels_and_deletes_over_a_real_connection(store: MemoryStore) -> None:
    gate = create_app(make_context(store=store, keys=(MINE, THEIRS)), own_request_id=True)
    async with listening(gate) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key=MINE, max_retries=0) as sdk:
        everything = [completion.created async for completion in sdk.chat.completions.list(limit=10)]
        odd = [one.created async for one in sdk.chat.completions.list(metadata={"topic": "odd"}, order="desc")]
        relabelled = await sdk.chat.completions.update("chatcmpl-5", metadata={"seen": "yes"})
        messages = [message.content async for message in sdk.chat.completions.messages.list("chatcmpl-5")]
        await sdk.chat.completions.delete("chatcmpl-5")
    assert everything == list(range(1, 26))
    assert odd == list(range(25, 0, -2))
    assert relabelled.metadata == {"seen": "yes"}
    assert messages == ["Be brief.", "Hello there"]
    assert len(store.rows) == 25
