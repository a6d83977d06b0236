from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types import CreateEmbeddingResponse

from serve_app.api.app import create_app
from serve_app.api.directory import UpstreamRoute
from serve_app.protocol import Done, Embed, Embedded, Failed, FailureCode, Relay, Relayed, Started, Usage
from tests.api.contract import conforms, typed
from tests.api.serving import failure, listening, make_context
from tests.fakes import FakeBackend, MemoryStore, Step, card

ROUTE = "/v1/embeddings"
STARTED = Started(prompt_tokens=7)
DONE = Done(Usage(prompt_tokens=7))
VECTORS = [np.array([at, 0.1, -0.25], dtype="<f4") for at in range(3)]


@asynccontextmanager
async def house(
    *script: Step, upstream: bool = False, store: MemoryStore | None = None
) -> AsyncIterator[tuple[FakeBackend, httpx.AsyncClient, AsyncOpenAI]]:
    backend = FakeBackend(*script, cards=[card("text-embedding-3-small")])
    upstreams = {"openai": UpstreamRoute(backend)} if upstream else {}
    context = make_context(local={} if upstream else {"mini": backend}, upstreams=upstreams, store=store)
    async with listening(create_app(context, own_request_id=True)) as base:
        raw = httpx.AsyncClient(base_url=base)
        sdk = AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
        async with raw, sdk:
            yield backend, raw, sdk


def answer(count: int) -> list[Step]:
    """The last text first, each in a batch of its own."""
    return [[STARTED], *([Embedded(((at, VECTORS[at].tobytes()),))] for at in reversed(range(count))), [DONE]]


async def test_an_answer_is_openais_object_in_the_order_of_the_texts() -> None:
    async with house(*answer(3)) as (backend, raw, _):
        body = (await raw.post(ROUTE, json={"model": "mini", "input": ["a", "b", "c"]})).json()
        typed(CreateEmbeddingResponse, body)
        conforms("CreateEmbeddingResponse", body)
        assert [item["index"] for item in body["data"]] == [0, 1, 2]
        assert body["data"][2] == {"object": "embedding", "index": 2, "embedding": [2, 0.1, -0.25]}
        assert body["model"] == "mini"
        assert body["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
        asked = backend.requests[0]
        assert isinstance(asked, Embed)
        assert asked.inputs == ("a", "b", "c")


async def test_openais_client_reads_what_it_asks_for_by_default() -> None:
    """It asks for base64 and decodes it."""
    async with house(*answer(2)) as (_, _, sdk):
        found = await sdk.embeddings.create(model="mini", input=["a", "b"])
        assert [item.embedding for item in found.data] == [vector.tolist() for vector in VECTORS[:2]]


async def test_base64_is_the_little_endian_floats_themselves() -> None:
    async with house(*answer(1)) as (_, raw, _):
        body = (await raw.post(ROUTE, json={"model": "mini", "input": "a", "encoding_format": "base64"})).json()
        assert base64.b64decode(body["data"][0]["embedding"]) == VECTORS[0].tobytes()


@pytest.mark.parametrize(
    ("sent", "inputs"),
    [
        ("one", ("one",)),
        (["one", "two"], ("one", "two")),
        ([1, 2], ((1, 2),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
async def test_texts_come_in_four_forms(sent: Any, inputs: tuple[Any, ...]) -> None:
    async with house(*answer(len(inputs))) as (backend, raw, _):
        assert (await raw.post(ROUTE, json={"model": "mini", "input": sent, "user": None})).status_code == 200
        assert backend.requests[0].inputs == inputs  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("sent", "truncate_to"),
    [
        ({}, None),
        ({"truncate": False}, None),
        ({"truncate": True}, 2**31 - 1),
        ({"truncate_prompt_tokens": -1}, 2**31 - 1),
        ({"truncate_prompt_tokens": 64}, 64),
    ],
)
async def test_texts_are_cut_only_where_that_was_asked_for(sent: dict[str, Any], truncate_to: int | None) -> None:
    async with house(*answer(1)) as (backend, raw, _):
        await raw.post(ROUTE, json={"model": "mini", "input": "a", "dimensions": 2, **sent})
        asked = backend.requests[0]
        assert isinstance(asked, Embed)
        assert (asked.truncate_to, asked.dimensions) == (truncate_to, 2)


@pytest.mark.parametrize(
    ("change", "param", "code"),
    [
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": ""}, "input", "string_below_min_length"),
        ({"input": []}, "input", "array_below_min_length"),
        ({"input": ["a", ""]}, "input[1]", "string_below_min_length"),
        ({"input": [[1], []]}, "input[1]", "array_below_min_length"),
        ({"input": ["a", 1]}, "input[1]", "invalid_type"),
        ({"input": [1, -1]}, "input[1]", "integer_below_min_value"),
        ({"input": ["a"] * 2049}, "input", "array_above_max_length"),
        ({"input": 5}, "input", "invalid_type"),
        ({"encoding_format": "int8"}, "encoding_format", "invalid_value"),
        ({"dimensions": 0}, "dimensions", "integer_below_min_value"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "integer_below_min_value"),
        ({"stream": True}, "stream", "unsupported_parameter"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(change: dict[str, Any], param: str, code: str) -> None:
    async with house(*answer(1)) as (backend, raw, _):
        refused = await raw.post(ROUTE, json={"model": "mini", "input": "a", **change})
        assert refused.status_code == 400
        error = failure(refused)
        assert (error["param"], error["code"]) == (param, code)
        assert not backend.requests


async def test_a_failure_has_its_status() -> None:
    failed = Failed(FailureCode.CONTEXT_LENGTH, "Too long.", param="input[1]")
    async with house([failed]) as (_, raw, _):
        refused = await raw.post(ROUTE, json={"model": "mini", "input": ["a", "b"]})
        assert refused.status_code == 400
        assert failure(refused)["code"] == "context_length_exceeded"


async def test_a_failure_after_the_first_vectors_has_its_status_too() -> None:
    half: list[Step] = [[STARTED], [Embedded(((0, VECTORS[0].tobytes()),))]]
    async with house(*half, [Failed(FailureCode.ENGINE_LOST, "Lost.")]) as (_, raw, _):
        refused = await raw.post(ROUTE, json={"model": "mini", "input": ["a", "b"]})
        assert failure(refused)["code"] == "engine_lost"
        assert refused.status_code >= 500


async def test_every_request_is_in_the_books() -> None:
    store = MemoryStore()
    async with house(*answer(1), store=store) as (_, raw, _):
        await raw.post(ROUTE, json={"model": "mini", "input": "a", "user": "ann"})
        await store.until(lambda: any(row.closed for row in store.rows.values()))
    (row,) = store.rows.values()
    assert row.closed is not None
    assert (row.opened.route, row.opened.user, row.closed.status) == ("embeddings", "ann", "completed")
    assert (row.closed.usage.prompt_tokens, row.closed.usage.completion_tokens) == (7, 0)


async def test_an_upstream_gets_the_clients_own_request_and_its_answer_is_passed_on() -> None:
    body = orjson.dumps({"object": "list", "data": [], "model": "text-embedding-3-small", "usage": {}})
    async with house([Started()], [Relayed(body), DONE], upstream=True) as (backend, raw, _):
        sent = {"model": "text-embedding-3-small", "input": ["a", ""], "dimensions": 5, "new": 1}
        assert (await raw.post(ROUTE, json=sent)).content == body
        asked = backend.requests[0]
        assert isinstance(asked, Relay)
        assert (asked.route, asked.stream) == ("embeddings", False)
        assert orjson.loads(asked.body) == sent
