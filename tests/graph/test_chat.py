"""The main job on real Ray: official client, local models, the cloud, the database."""

from __future__ import annotations

import asyncio
import sqlite3

import httpx
import openai
import psutil
import pytest

from tests.graph.conftest import CLOUD_KEY
from tests.running import Graph, wait_for

pytestmark = pytest.mark.graph

HELLO = [{"role": "user", "content": "Say hello."}]


def test_models_merges_local_models_aliases_and_the_cloud(graph: Graph) -> None:
    ids = [model.id for model in graph.client().models.list()]
    assert ids == ["embedder", "llama", "second/model", "gpt-4", "far-model", "cloud-model"]
    assert graph.client().models.retrieve("second/model").id == "second/model"


def test_a_model_that_cannot_load_leaves_the_others_serving_and_says_why(graph: Graph) -> None:
    assert "The model broken is not served: its file does not exist." in graph.process.text
    with pytest.raises(openai.InternalServerError) as refused:
        graph.client().chat.completions.create(model="broken", messages=HELLO)
    assert refused.value.status_code == 503
    assert "broken" in refused.value.message


@pytest.mark.parametrize("model", ["llama", "second/model", "gpt-4", "cloud-model"])
def test_every_listed_model_chats(graph: Graph, model: str) -> None:
    reply = graph.client().chat.completions.create(model=model, messages=HELLO, max_tokens=8, temperature=0)
    assert reply.choices[0].message.content
    assert reply.model == model
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 0


@pytest.mark.parametrize("model", ["llama", "cloud-model"])
def test_a_stream_says_what_the_whole_answer_says(graph: Graph, model: str) -> None:
    options = {"model": model, "messages": HELLO, "max_tokens": 16, "temperature": 0}
    whole = graph.client().chat.completions.create(**options)
    chunks = list(graph.client().chat.completions.create(**options, stream=True))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert chunks[-1].choices[0].finish_reason == whole.choices[0].finish_reason


@pytest.mark.parametrize("model", ["llama", "cloud-model"])
def test_a_stored_turn_is_in_the_database_when_its_stream_ends(graph: Graph, model: str) -> None:
    stream = graph.client().chat.completions.create(
        model=model, messages=HELLO, max_tokens=8, temperature=0, stream=True, store=True, metadata={"who": model}
    )
    chunks = list(stream)
    kept = graph.client().chat.completions.retrieve(chunks[0].id)
    assert kept.choices[0].message.content == "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    listed = list(graph.client().chat.completions.list(metadata={"who": model}))
    assert chunks[0].id in [each.id for each in listed]
    messages = list(graph.client().chat.completions.messages.list(chunks[0].id))
    assert [message.content for message in messages] == ["Say hello."]
    assert graph.client().chat.completions.delete(chunks[0].id).deleted


def rows(graph: Graph, request_id: str) -> list[tuple[str, str, int, int]]:
    with sqlite3.connect(f"file:{graph.database}?mode=ro", uri=True) as database:
        query = "select status, served_by, prompt_tokens, completion_tokens from usage where request_id = ?"
        return database.execute(query, (request_id,)).fetchall()


@pytest.mark.parametrize(("model", "served_by"), [("llama", "local"), ("cloud-model", "upstream")])
def test_a_request_leaves_one_usage_row(graph: Graph, model: str, served_by: str) -> None:
    raw = graph.client().chat.completions.with_raw_response.create(model=model, messages=HELLO, max_tokens=4)
    usage = raw.parse().usage
    assert usage is not None
    expected = [("completed", served_by, usage.prompt_tokens, usage.completion_tokens)]
    wait_for(lambda: rows(graph, raw.headers["x-request-id"]) == expected, 5, "the usage row")


def test_a_client_that_leaves_frees_its_slot_and_leaves_a_cancelled_row(graph: Graph) -> None:
    stream = graph.client().chat.completions.create(
        model="llama", messages=HELLO, max_tokens=1500, stream=True, extra_body={"ignore_eos": True}
    )
    request_id = stream.response.headers["x-request-id"]
    next(iter(stream))
    stream.close()
    wait_for(lambda: [row[0] for row in rows(graph, request_id)] == ["cancelled"], 5, "the cancelled row")


def test_errors_come_in_the_envelope_whoever_raises_them(graph: Graph) -> None:
    client = graph.client()
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="gpt-17", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="second/model", messages=[{"role": "user", "content": "word " * 600}])
    assert long.value.code == "context_length_exceeded"
    assert "512" in long.value.message
    with pytest.raises(openai.BadRequestError) as cloud:
        client.chat.completions.create(model="cloud-model", messages=[{"role": "user", "content": "word " * 5000}])
    assert cloud.value.code == "context_length_exceeded"
    for method, path, status in (("GET", "/nope", 404), ("DELETE", "/v1/models", 405), ("POST", "/v1/nope", 404)):
        answer = httpx.request(method, f"{graph.url}{path}", json={} if method == "POST" else None)
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
        assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]


def test_200_chats_in_a_row_and_16_at_once_leak_nothing(graph: Graph) -> None:
    replica = graph.replicas("LocalModel-llama")[0]
    client = graph.client()

    def chat(number: int) -> None:
        content = f"What is {number} plus {number}?"
        reply = client.chat.completions.create(
            model="llama", messages=[{"role": "user", "content": content}], max_tokens=4
        )
        assert reply.choices[0].message.content is not None

    for number in range(20):
        chat(number)
    before = (replica.num_fds(), replica.num_threads())
    for number in range(180):
        chat(number)

    async def at_once() -> None:
        async with graph.async_client() as crowd:
            await asyncio.gather(
                *(crowd.chat.completions.create(model="llama", messages=HELLO, max_tokens=16, n=1) for _ in range(16))
            )

    asyncio.run(at_once())
    wait_for(lambda: (replica.num_fds(), replica.num_threads()) <= (before[0] + 4, before[1] + 4), 10, "no leak")


def test_the_clouds_key_is_in_no_process_but_its_own(graph: Graph) -> None:
    own = {process.pid for process in graph.replicas("UpstreamModel-openai")}
    assert own
    for process in graph.processes():
        if process.pid not in own:
            try:
                environment = " ".join(process.environ().values())
            except psutil.Error:
                continue
            assert CLOUD_KEY not in environment, process.name()


def test_a_replicas_own_port_answers_nobody_without_a_key(graph: Graph) -> None:
    """Replicas listen on every interface: only what the local HAProxy forwards from loopback is answered."""
    ingress = graph.replicas("Ingress")[0]
    ports = {c.laddr.port for c in ingress.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    answered = []
    for port in ports:
        try:
            answer = httpx.get(f"http://127.0.0.1:{port}/v1/models", timeout=2)
        except httpx.HTTPError:
            continue
        answered.append(answer.status_code)
        assert answer.status_code == 403
        assert "LLM_BACKEND_API_KEY" in answer.json()["error"]["message"]
    assert answered
