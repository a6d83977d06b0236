from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types import Completion

from serve_app.api.app import create_app
from serve_app.api.directory import UpstreamRoute
from serve_app.protocol import Delta, Done, Relay, Relayed, Text, TokenLogprob, Usage
from tests.api.contract import conforms, typed
from tests.api.conversation import DONE, STARTED
from tests.api.serving import failure, listening, make_context
from tests.fakes import FakeBackend, Step, card

ROUTE = "/v1/completions"


@asynccontextmanager
async def house(
    *script: Step, upstream: bool = False
) -> AsyncIterator[tuple[FakeBackend, httpx.AsyncClient, AsyncOpenAI]]:
    backend = FakeBackend(*script, cards=[card("davinci-002")])
    upstreams = {"openai": UpstreamRoute(backend)} if upstream else {}
    context = make_context(local={} if upstream else {"llama": backend}, upstreams=upstreams)
    async with listening(create_app(context, own_request_id=True)) as base:
        raw = httpx.AsyncClient(base_url=base)
        sdk = AsyncOpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0)
        async with raw, sdk:
            yield backend, raw, sdk


def texts(count: int) -> list[Step]:
    return [[STARTED], [Delta(i, f"text {i}", finish="stop") for i in reversed(range(count))], [DONE]]


async def test_a_whole_completion_is_openais_object() -> None:
    async with house(*texts(1)) as (backend, raw, _):
        body = (await raw.post(ROUTE, json={"model": "llama", "prompt": "Say"})).json()
        typed(Completion, body)
        conforms("CreateCompletionResponse", body)
        assert body["id"].startswith("cmpl-")
        assert body["choices"] == [{"text": "text 0", "index": 0, "logprobs": None, "finish_reason": "stop"}]
        assert backend.requests[0].prompts == (Text("Say"),)  # type: ignore[union-attr]


async def test_several_prompts_stream_side_by_side() -> None:
    async with house(*texts(4)) as (backend, _, sdk):
        options: Any = {"stream_options": {"include_usage": True}}
        stream = await sdk.completions.create(model="llama", prompt=["a", "b"], n=2, stream=True, **options)
        *chunks, last = [chunk async for chunk in stream]
        for index in range(4):
            mine = [chunk.choices[0] for chunk in chunks if chunk.choices[0].index == index]
            assert [choice.text for choice in mine] == [f"text {index}", ""]
            assert [choice.finish_reason for choice in mine] == [None, "stop"]
        assert last.usage is not None
        assert last.usage.completion_tokens == 2
        assert backend.requests[0].choices == 2  # type: ignore[union-attr]


async def test_the_best_of_many_is_answered() -> None:
    said = [Delta(i, f"text {i}", logprobs=(TokenLogprob("t", at, b"t"),)) for i, at in enumerate((-3.0, -1.0, -2.0))]
    async with house([STARTED], list(said), [DONE]) as (_, _, sdk):
        answer = await sdk.completions.create(model="llama", prompt="a", best_of=3, n=2)
        assert [choice.text for choice in answer.choices] == ["text 1", "text 2"]
        assert [choice.logprobs for choice in answer.choices] == [None, None]


async def test_an_upstreams_completion_passes_untouched() -> None:
    data = b'{ "id" : "cmpl-theirs" }'
    async with house([Relayed(data)], [Done(Usage(1, 1))], upstream=True) as (backend, raw, _):
        response = await raw.post(ROUTE, json={"model": "davinci-002", "prompt": {"odd": 1}})
        assert response.content == data
        asked = backend.requests[0]
        assert isinstance(asked, Relay)
        assert (asked.route, orjson.loads(asked.body)["prompt"]) == ("completions", {"odd": 1})


@pytest.mark.parametrize(
    ("more", "param"), [({"logprobs": 6}, "logprobs"), ({"best_of": 2, "stream": True}, "best_of")]
)
async def test_a_bad_request_is_refused_in_the_envelope(more: dict[str, Any], param: str) -> None:
    async with house(*texts(1)) as (_, raw, _):
        response = await raw.post(ROUTE, json={"model": "llama", "prompt": "a", **more})
        assert response.status_code == 400
        assert failure(response)["param"] == param
