"""Every route's good answers, whole and streamed, are exactly what OpenAI's SDK and specification say."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import orjson
import pydantic
import pytest
from openai.types import Completion, CreateEmbeddingResponse, Model
from openai.types.chat import (
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionDeleted,
    ChatCompletionStoreMessage,
)

from serve_app.api.gate import Gate
from tests.api.contract import SPEC, conforms, typed
from tests.api.everything import MODEL, open_house
from tests.api.serving import in_memory
from tests.api.spec import operations, schema_of

CHAT = "/v1/chat/completions"
ELSEWHERE = {
    "/v1/files": "tests/api/test_files.py",
    "/v1/uploads": "tests/api/test_uploads.py",
    "/v1/responses": "tests/api/test_responses.py",
    "/v1/conversations": "tests/api/test_conversations.py",
    "/v1/batches": "tests/api/test_batches.py",
    "/v1/organization": "tests/api/test_organization.py",
    "/v1/messages": "tests/api/test_anthropic.py",
    "/api": "tests/api/test_ollama.py",
    "/v1/rerank": "tests/api/test_azure_and_rerank.py",
    "/v2/rerank": "tests/api/test_azure_and_rerank.py",
    "/rerank": "tests/api/test_azure_and_rerank.py",
    "/openai/deployments": "tests/api/test_azure_and_rerank.py",
}
"""Resources whose own tests hold every answer against both."""

OURS = ("/health", "/ready")
"""Routes that OpenAI has not."""


UNSPECIFIED = ("/v1/completions", "text/event-stream")
"""What OpenAI answers and does not specify."""


EXTRAS = {ChatCompletionStoreMessage: frozenset({"name"})}
"""What OpenAI answers and its SDK has no field for."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. ``shape``: the SDK's type of the body, of each chunk, or of each item of a list."""

    method: str
    path: str
    shape: type[pydantic.BaseModel]
    body: dict[str, Any] | None = None
    values: dict[str, str] = field(default_factory=dict)

    @property
    def operation(self) -> tuple[str, str]:
        return self.method, self.path


def chat(**more: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]} | more


def asks(completion_id: str) -> list[Ask]:
    mine = {"completion_id": completion_id}
    one, stream = CHAT + "/{completion_id}", {"stream": True, "stream_options": {"include_usage": True}}
    return [
        *(
            Ask("POST", CHAT, ChatCompletionChunk if "stream" in more else ChatCompletion, chat(**more))
            for more in (
                {},
                {"n": 2, "logprobs": True, "top_logprobs": 1},
                {"store": True, "metadata": {"k": "v"}},
                {"stream": True},
                {**stream, "n": 2, "logprobs": True, "top_logprobs": 1},
                {**stream, "store": True},
                {"stream": True, "stream_options": {"include_obfuscation": True}},
            )
        ),
        *(
            Ask("POST", "/v1/completions", Completion, {"model": MODEL, "prompt": "Hi"} | more)
            for more in ({}, {"n": 2, "logprobs": 1}, {"stream": True}, {**stream, "logprobs": 1})
        ),
        Ask("POST", "/v1/embeddings", CreateEmbeddingResponse, {"model": MODEL, "input": ["a", "b"]}),
        Ask("GET", "/v1/models", Model),
        Ask("GET", "/v1/models/{model}", Model, values={"model": MODEL}),
        Ask("GET", CHAT, ChatCompletion),
        Ask("GET", one, ChatCompletion, values=mine),
        Ask("GET", one + "/messages", ChatCompletionStoreMessage, values=mine),
        Ask("POST", one, ChatCompletion, {"metadata": {"k": "w"}}, values=mine),
        Ask("DELETE", one, ChatCompletionDeleted, values=mine),
    ]


@pytest.fixture
async def house(tmp_path: Path) -> AsyncGenerator[tuple[Gate, httpx.AsyncClient]]:
    async with open_house(tmp_path) as gate, gate.app.router.lifespan_context(gate.app), in_memory(gate) as client:
        yield gate, client


def objects(answer: httpx.Response) -> list[Any]:
    """The JSON of a body, or of each of a stream's events."""
    if answer.headers["content-type"] == "application/json":
        return [answer.json()]
    lines = answer.text.splitlines()
    assert lines[-2] == "data: [DONE]"
    return [orjson.loads(line[6:]) for line in lines if line.startswith("data: {")]


def is_page(body: Any) -> bool:
    """A list of objects; embeddings are one object."""
    return body["object"] == "list" and "usage" not in body


def items(body: Any) -> list[Any]:
    """What has a type of its own in the SDK: the body, or each item of a list.

    In two places the SDK's types are narrower than OpenAI's own answers: they know no stored message but the
    assistant's, and no chunk of a completion that is not its last.
    """
    if is_page(body):
        return [{**one, "role": "assistant"} if "role" in one else one for one in body["data"]]
    if body["object"] == "text_completion":
        return [
            body | {"choices": [one | {"finish_reason": one["finish_reason"] or "stop"} for one in body["choices"]]}
        ]
    return [body]


async def test_every_answer_of_every_route_is_what_the_sdk_and_the_specification_say(
    house: tuple[Gate, httpx.AsyncClient],
) -> None:
    _, client = house
    kept = (await client.post(CHAT, json=chat(store=True, metadata={"a": "b"}))).json()["id"]
    for ask in asks(kept):
        answer = await client.request(ask.method, ask.path.format(**ask.values), json=ask.body)
        assert answer.status_code == 200, (ask, answer.text)
        media_type = answer.headers["content-type"].partition(";")[0]
        name = schema_of(*ask.operation, media_type) if SPEC.exists() else None
        assert name or not SPEC.exists() or (ask.path, media_type) == UNSPECIFIED, ask
        for one in objects(answer):
            for item in items(one):
                typed(ask.shape, item, extras=EXTRAS.get(ask.shape, frozenset()))
            if name:
                conforms(name, one | {"data": items(one)} if is_page(one) else one)


async def test_no_route_is_left_out(house: tuple[Gate, httpx.AsyncClient]) -> None:
    asked = {ask.operation for ask in asks("id")}
    served = operations(house[0].app)
    left = [(method, path) for method, path in served if (method, path) not in asked and path not in OURS]
    root = Path(__file__).parents[2]
    left = [
        one
        for one in left
        if not any(one[1].startswith(path) and (root / file).exists() for path, file in ELSEWHERE.items())
    ]
    left = [one for one in left if not SPEC.exists() or schema_of(*one, "application/json")]
    assert not left, "OpenAI has these routes; nothing holds their answers against its SDK and specification"
