"""Ollama's own client, served by the same core as OpenAI's."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import ollama
import pytest

from serve_app.api.dialects.ollama_chat import messages
from serve_app.api.wire.ollama import Message
from serve_app.protocol import Chat, Delta, Done, Embed, Embedded, Failed, FailureCode, Generate, Started, Text, Usage
from tests.api.serving import KEY
from tests.api.speaking import CALLING, Speaking, speaking
from tests.upstream_server import JSON, Reply

HI = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
VECTORS = [Started(5), Embedded(((0, b"\0\0\x80?\0\0\0\0"), (1, b"\0\0\0\0\0\0\x80?"))), Done(Usage(5))]


def client(at: Speaking, key: str = KEY) -> ollama.AsyncClient:
    return ollama.AsyncClient(at.url, headers={"authorization": f"Bearer {key}"}, verify=False)


@pytest.mark.parametrize("model", ["llama", "llama:latest", "up-1"])
async def test_a_chat_of_a_local_model_and_of_an_upstreams_is_ollamas(model: str) -> None:
    async with speaking() as at, client(at) as their:
        reply = await their.chat(model, HI)
    assert reply.model == model.removesuffix(":latest")
    assert (reply.message.role, reply.message.content) == ("assistant", "Hello")
    assert (reply.done, reply.done_reason, reply.prompt_eval_count, reply.eval_count) == (True, "stop", 9, 4)
    durations = (reply.total_duration, reply.load_duration, reply.prompt_eval_duration, reply.eval_duration)
    assert all(isinstance(duration, int) and duration >= 0 for duration in durations)


@pytest.mark.parametrize("model", ["llama", "up-1"])
async def test_a_stream_adds_up_to_the_answer_and_ends_with_the_figures(model: str) -> None:
    async with speaking() as at, client(at) as their:
        parts = [part async for part in await their.chat(model, HI, stream=True)]
    assert [part.message.content for part in parts] == ["Hel", "lo", ""]
    assert [part.done for part in parts] == [False, False, True]
    assert parts[-1].eval_count == 4


async def test_a_stream_is_the_default_and_one_object_a_line() -> None:
    async with speaking() as at:
        answer = await at.http.post("/api/chat", json={"model": "llama", "messages": HI})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert [json.loads(line)["done"] for line in answer.text.splitlines()] == [False, False, True]


@pytest.mark.parametrize("stream", [True, False])
async def test_thinking_and_calls_of_tools_are_told(stream: bool) -> None:
    async with speaking(*CALLING) as at, client(at) as their:
        reply = await their.chat("llama", HI, tools=[TOOL], stream=stream)
        parts = [part async for part in reply] if stream else [reply]
    assert "".join(part.message.thinking or "" for part in parts) == "Hm. "
    calls = [call.function for part in parts for call in part.message.tool_calls or ()]
    assert [(call.name, call.arguments) for call in calls] == [("weather", {"city": "Oslo"}), ("time", {})]
    assert parts[-1].done_reason == "stop"


async def test_a_prompt_goes_through_the_template_and_a_raw_one_does_not() -> None:
    options = {"num_predict": 7, "temperature": 0.5, "stop": ["END"], "num_ctx": 2048, "top_k": 3}
    async with speaking() as at, client(at) as their:
        told = await their.generate("llama", "Hi", system="Be brief.", options=options, think=False)
        parts = [part async for part in await their.generate("llama", "Hi", raw=True, stream=True)]
        templated, raw = at.backend.requests
    assert told.response == "Hello"
    assert "".join(part.response for part in parts) == "Hello"
    assert isinstance(templated, Generate)
    assert isinstance(raw, Generate)
    (chat,) = templated.prompts
    assert isinstance(chat, Chat)
    assert [(one["role"], one["content"]) for one in chat.messages] == [("system", "Be brief."), ("user", "Hi")]
    assert chat.template_options["enable_thinking"] is False
    sampling = templated.sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.stop, sampling.top_k) == (7, 0.5, ("END",), 3)
    assert raw.prompts == (Text("Hi"),)
    assert raw.sampling.max_tokens is None


@pytest.mark.parametrize("wanted", ["json", {"type": "object", "properties": {"a": {"type": "string"}}}])
async def test_a_format_constrains_the_answer(wanted: Any) -> None:
    async with speaking() as at, client(at) as their:
        await their.chat("llama", HI, format=wanted)
        (work,) = at.backend.requests
    assert isinstance(work, Generate)
    assert work.constraint is not None
    assert json.loads(work.constraint.source) == ({"type": "object"} if wanted == "json" else wanted)


async def test_nothing_to_say_loads_the_model() -> None:
    async with speaking() as at, client(at) as their:
        chat, prompt = await their.chat("llama"), await their.generate("llama")
        assert (chat.done_reason, prompt.done_reason) == ("load", "load")
        assert at.backend.requests == []


async def test_texts_become_vectors_here_and_at_an_upstream() -> None:
    theirs = {"data": [{"index": 0, "embedding": [0.5, 0.25]}], "usage": {"prompt_tokens": 3}}
    async with speaking(VECTORS) as at, client(at) as their:
        ours = await their.embed("llama", ["a", "b"])
        one = await their.embeddings("llama", "a")
        at.cloud.script.append(Reply(headers=JSON, pieces=(json.dumps(theirs).encode(),)))
        upstreams = await their.embed("up-1", "a")
        work = at.backend.requests[0]
    assert isinstance(work, Embed)
    assert work.inputs == ("a", "b")
    assert (ours.embeddings, ours.prompt_eval_count) == ([[1.0, 0.0], [0.0, 1.0]], 5)
    assert one.embedding == [1.0, 0.0]
    assert upstreams.embeddings == [[0.5, 0.25]]


async def test_what_clients_ask_first_is_answered() -> None:
    async with speaking() as at, client(at) as their:
        listed, shown, running = await asyncio.gather(their.list(), their.show("llama:latest"), their.ps())
        version = await at.http.get("/api/version")
    assert [model.model for model in listed.models] == ["llama", "up-1"]
    assert shown.modelinfo["llama.context_length"] == 4096
    assert "tools" in shown.capabilities
    assert [(model.name, model.context_length) for model in running.models] == [("llama", 4096), ("up-1", 0)]
    assert version.json() == {"version": "0.12.0"}


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("chat", {"model": "none", "messages": HI}, 404, "does not exist"),
        ("show", {"model": "none"}, 404, "does not exist"),
        ("chat", {"model": "llama", "messages": [{"role": "user", "images": ["AA=="]}]}, 400, "text only"),
        ("generate", {"model": "llama", "prompt": "x", "context": [1]}, 400, "context"),
        ("generate", {"model": "llama", "prompt": "x", "template": "{{x}}"}, 400, "template"),
        ("generate", {"model": "up-1", "prompt": "x", "raw": True}, 501, "local model"),
        ("pull", {"model": "llama"}, 501, "operator"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_in_ollamas_words(path, body, status: int, words: str) -> None:
    async with speaking() as at:
        answer = await at.http.post(f"/api/{path}", json=body)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


async def test_a_stream_that_fails_ends_with_an_error_the_client_raises() -> None:
    async with (
        speaking([Started(9)], [Delta(0, "Hel")], [Failed(FailureCode.ENGINE_LOST, "Lost.")]) as at,
        client(at) as their,
    ):
        with pytest.raises(ollama.ResponseError, match="Lost"):
            [part async for part in await their.chat("llama", HI, stream=True)]


def test_a_result_belongs_to_the_first_call_of_its_name_that_waits_for_one() -> None:
    calls = [{"function": {"name": name, "arguments": {"n": at}}} for at, name in enumerate(("a", "b", "a"))]
    said = [
        {"role": "assistant", "tool_calls": calls},
        *({"role": "tool", "content": content, "tool_name": name} for name, content in (("a", "1"), ("b", "2"))),
        {"role": "tool", "content": "3"},
    ]
    found = messages([Message.model_validate(one) for one in said])
    ids = [call["id"] for call in found[0]["tool_calls"]]
    assert len(set(ids)) == 3
    assert [one["tool_call_id"] for one in found[1:]] == ids
    assert found[0]["tool_calls"][2]["function"] == {"name": "a", "arguments": '{"n":2}'}
