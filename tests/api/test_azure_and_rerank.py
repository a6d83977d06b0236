"""Azure's addresses by the official client, and documents put in order."""

from __future__ import annotations

import json

import httpx2
import openai
import pytest

from serve_app.protocol import Done, Embed, Embedded, Started, Usage
from tests.api.serving import KEY, failure
from tests.api.speaking import Speaking, speaking
from tests.upstream_server import JSON, Reply

HI = [{"role": "user", "content": "Hi"}]
ONE, HALF, NONE = b"\0\0\x80?\0\0\0\0", b"\x9a\x99\x19?\xcd\xcc\x4c?", b"\0\0\0\0\0\0\x80?"
RANKED = [Started(7), Embedded(((0, ONE), (1, NONE), (2, ONE), (3, HALF))), Done(Usage(7))]
DOCUMENTS = ["far", {"text": "same"}, "near"]


def azure(at: Speaking) -> openai.AsyncAzureOpenAI:
    return openai.AsyncAzureOpenAI(
        azure_endpoint=at.url,
        api_key=KEY,
        api_version="2024-10-21",
        max_retries=0,
        http_client=httpx2.AsyncClient(verify=False),
    )


@pytest.mark.parametrize("model", ["llama", "up-1"])
async def test_azures_client_chats_and_streams(model: str) -> None:
    async with speaking() as at, azure(at) as client:
        chunks = [c async for c in await client.chat.completions.create(model=model, messages=HI, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"


async def test_the_model_is_the_one_in_azures_address() -> None:
    async with speaking() as at:
        path = "/openai/deployments/llama/chat/completions?api-version=2024-10-21"
        answer = await at.http.post(path, json={"model": "gpt-none", "messages": HI})
    assert answer.json()["model"] == "llama"
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"


async def test_azures_client_completes_and_embeds_and_speaks() -> None:
    async with speaking() as at, azure(at) as client:
        text = await client.completions.create(model="llama", prompt="Hi")
        at.backend.steps = ([Started(1), Embedded(((0, ONE),)), Done(Usage(1))],)
        vectors = await client.embeddings.create(model="llama", input="Hi")
        at.cloud.script.append(Reply(headers={"content-type": "audio/mpeg"}, pieces=(b"\x00sound",)))
        sound = await client.audio.speech.create(model="up-1", voice="alloy", input="Hi")
        asked = at.cloud.asked[-1]
    assert text.choices[0].text == "Hello"
    assert vectors.data[0].embedding == [1.0, 0.0]
    assert sound.content == b"\x00sound"
    assert asked.path == "/v1/audio/speech"
    assert "api-key" not in asked.headers


async def test_documents_come_back_by_how_near_they_are() -> None:
    async with speaking(RANKED) as at:
        body = {"model": "llama", "query": "q", "documents": DOCUMENTS, "return_documents": True}
        answer = (await at.http.post("/v1/rerank", json=body)).json()
        two = (await at.http.post("/v2/rerank", json=body | {"top_n": 2, "return_documents": False})).json()
        work = at.backend.requests[0]
    assert isinstance(work, Embed)
    assert work.inputs == ("q", "far", "same", "near")
    assert [(one["index"], one["document"]["text"]) for one in answer["results"]] == [
        (1, "same"),
        (2, "near"),
        (0, "far"),
    ]
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx([1.0, 0.6, 0.0])
    assert answer["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert [list(one) for one in two["results"]] == [["index", "relevance_score"]] * 2


async def test_an_upstreams_model_ranks_for_itself() -> None:
    ranked = b'{"results":[{"index":0,"relevance_score":0.9}]}'
    async with speaking() as at:
        at.cloud.script.append(Reply(headers=JSON, pieces=(ranked,)))
        body = {"model": "up-1", "query": "q", "documents": ["a"]}
        answer = await at.http.post("/v1/rerank", json=body)
        asked = at.cloud.asked[-1]
    assert answer.content == ranked
    assert (asked.path, json.loads(asked.body)) == ("/v1/rerank", body)


@pytest.mark.parametrize(
    "wrong", [{"documents": []}, {"documents": [""]}, {"documents": [{}]}, {"top_n": 0}, {"query": ""}]
)
async def test_what_cannot_be_ranked_is_refused(wrong) -> None:
    async with speaking() as at:
        body = {"model": "llama", "query": "q", "documents": ["a"]} | wrong
        answer = await at.http.post("/v1/rerank", json=body)
    assert answer.status_code == 400
    assert next(iter(wrong)) in failure(answer)["param"]
