"""What is passed on to an upstream arrives as it was sent, and what comes back arrives as it came."""

from __future__ import annotations

import asyncio
import json
import os

import openai
import pytest
import yaml
from fastapi import FastAPI
from starlette.routing import Match

from serve_app.api.app import create_app
from serve_app.api.passthrough import model_of
from serve_app.api.surface import surface
from tests.api.contract import SPEC
from tests.api.passing import THEIR_KEY, passing
from tests.api.serving import KEY, failure, make_context, serving
from tests.fakes import FakeBackend
from tests.upstream_server import JSON, SSE, Reply, error, event

SOUND = os.urandom(300_000)
METHODS = {"get", "post", "put", "patch", "delete", "head", "options", "trace"}


def test_the_surface_is_what_openais_specification_lists() -> None:
    if not SPEC.exists():
        pytest.skip("OpenAI's specification is not at hand")
    with SPEC.open("rb") as file:
        paths = yaml.load(file, Loader=yaml.CSafeLoader)["paths"]
    specified = {(path.partition("?")[0], name.upper()) for path, item in paths.items() for name in METHODS & set(item)}
    assert {(path, method) for path, methods in surface() for method in methods} == specified


def test_every_address_of_openais_api_has_somebody_who_answers() -> None:
    gate = create_app(make_context(), own_request_id=True)
    assert isinstance(gate.app, FastAPI)
    for path, methods in surface():
        for method in methods:
            scope = {"type": "http", "path": f"/v1{path}".replace("{", "").replace("}", ""), "method": method}
            assert any(route.matches(scope)[0] is Match.FULL for route in gate.app.routes), (path, method)


async def test_a_binary_answer_passes_byte_for_byte() -> None:
    async with passing() as at:
        at.cloud.script.append(Reply(headers={"content-type": "audio/mpeg"}, pieces=(SOUND[:7], SOUND[7:])))
        speech = await at.client.audio.speech.create(model="up-1", voice="alloy", input="Hi")
        assert speech.content == SOUND
        assert speech.response.headers["content-type"] == "audio/mpeg"


async def test_a_form_with_a_large_file_passes_byte_for_byte() -> None:
    file = os.urandom(12 * 1024 * 1024)
    async with passing() as at:
        at.cloud.script.append(Reply(headers=JSON, pieces=(b'{"text":"heard"}',)))
        heard = await at.client.audio.transcriptions.create(model="up-1", file=("a.wav", file))
        assert heard.text == "heard"
        asked = at.cloud.asked[-1]
        assert file in asked.body
        assert len(asked.body) == int(asked.headers["content-length"])
        assert asked.body.startswith(b"--" + asked.headers["content-type"].partition("boundary=")[2].encode())
        assert (await at.row()).opened.model == "up-1"


async def test_a_body_of_unknown_length_passes_as_it_comes() -> None:
    async def pieces():
        for _ in range(40):
            yield SOUND[:100_000]

    async with passing() as at:
        at.cloud.script.append(Reply(headers=JSON, pieces=(b"{}",)))
        headers = {"content-type": "application/sdp"}
        answer = await at.http.post("/v1/realtime/calls", content=pieces(), headers=headers)
        assert answer.content == b"{}"
        assert at.cloud.asked[-1].body == SOUND[:100_000] * 40


async def test_a_stream_of_events_passes_byte_for_byte_and_its_usage_is_counted() -> None:
    told = {"type": "transcript.text.done", "text": "Hi", "usage": {"input_tokens": 5, "output_tokens": 2}}
    raw = b": hello\n\n" + event({"type": "transcript.text.delta", "delta": "Hi"}) + event(told)
    async with passing() as at:
        at.cloud.script.append(Reply(headers=SSE, pieces=(raw[:30], raw[30:31], raw[31:])))
        answer = await at.http.post("/v1/audio/transcriptions", files={"file": b"x"}, data={"stream": "true"})
        assert answer.content == raw
        closed = (await at.row()).closed
    assert closed is not None
    assert (closed.status, closed.usage.prompt_tokens, closed.usage.completion_tokens) == ("completed", 5, 2)


async def test_method_query_and_the_headers_that_matter_pass_and_no_other() -> None:
    async with passing() as at:
        at.cloud.script.append(
            Reply(headers=JSON | {"set-cookie": "a=b", "openai-organization": "us"}, pieces=(b"{}",))
        )
        headers = {"openai-beta": "assistants=v2", "cookie": "a=b", "x-api-key": KEY, "openai-organization": "evil"}
        answer = await at.http.delete("/v1/assistants/asst%5F1?a=b%20c&a=%2F", headers=headers)
        asked = at.cloud.asked[-1]
    assert (asked.method, asked.path, asked.query) == ("DELETE", "/v1/assistants/asst_1", "a=b%20c&a=%2F")
    assert asked.headers["openai-beta"] == "assistants=v2"
    assert asked.headers["authorization"] == f"Bearer {THEIR_KEY}"
    assert not {"cookie", "x-api-key", "openai-organization"} & set(asked.headers)
    assert not {"set-cookie", "openai-organization"} & set(answer.headers)
    assert KEY not in json.dumps(asked.headers)


async def test_lists_and_pages_of_the_sdk_work() -> None:
    page = {"object": "list", "data": [], "has_more": False}
    async with passing() as at:
        at.cloud.script.append(Reply(headers=JSON, pieces=(json.dumps(page).encode(),)))
        assert (await at.client.fine_tuning.jobs.list(limit=2, after="ftjob-1")).data == []
        assert sorted(at.cloud.asked[-1].query.split("&")) == ["after=ftjob-1", "limit=2"]


async def test_a_refusal_keeps_the_upstreams_own_words_and_status() -> None:
    async with passing() as at:
        at.cloud.script.append(error(429, "slow", f"Your key {THEIR_KEY} is busy", retry_after="7"))
        with pytest.raises(openai.RateLimitError) as refused:
            await at.client.moderations.create(input="x")
        assert refused.value.code == "slow"
        assert refused.value.response.headers["retry-after"] == "7"
        assert THEIR_KEY not in refused.value.message
        closed = (await at.row()).closed
    assert closed is not None
    assert (closed.status, closed.failure) == ("failed", "upstream_refused")


async def test_a_refusal_that_is_no_envelope_gets_one_and_keeps_its_status() -> None:
    async with passing() as at:
        at.cloud.script.append(Reply(404, {"content-type": "text/html"}, (b"<h1>Not found</h1>",)))
        answer = await at.http.get("/v1/evals")
    assert answer.status_code == 404
    assert failure(answer)["code"] == "upstream_refused"


async def test_a_refusal_of_our_own_key_is_not_blamed_on_the_caller() -> None:
    async with passing() as at:
        at.cloud.script.append(error(401, "invalid_api_key", "Incorrect API key provided: sk-upst*******cdef"))
        answer = await at.http.get("/v1/evals")
    assert answer.status_code == 502
    assert failure(answer)["code"] == "upstream_authentication"


async def test_an_upstream_that_is_not_there_is_a_plain_502() -> None:
    async with passing(port=9) as at:
        answer = await at.http.post("/v1/moderations", json={"input": "x"})
        assert failure(answer)["code"] == "upstream_unreachable"
        assert answer.status_code == 502
        closed = (await at.row()).closed
    assert closed is not None
    assert closed.failure == "upstream_unreachable"


async def test_a_client_that_leaves_ends_the_exchange_and_closes_its_row() -> None:
    async with passing() as at:
        at.cloud.script.append(Reply(headers=SSE, pieces=(event({"a": 1}),), hold=True))
        async with at.http.stream("POST", "/v1/audio/speech", json={"model": "up-1"}) as answer:
            await anext(answer.aiter_raw())
        async with asyncio.timeout(5):
            await at.cloud.client_left.wait()
            closed = (await at.row()).closed
    assert closed is not None
    assert closed.status == "cancelled"


async def test_without_an_upstream_a_known_address_is_501_and_an_unknown_one_404() -> None:
    async with serving(make_context()) as client:
        known = await client.post("/v1/images/edits", files={"image": b"x"})
        unknown = await client.post("/v1/imagess", json={})
        wrong_method = await client.put("/v1/assistants", json={})
    assert (known.status_code, failure(known)["code"]) == (501, "unsupported_endpoint")
    assert known.headers["x-should-retry"] == "false"
    assert (unknown.status_code, failure(unknown)["code"]) == (404, "not_found")
    assert (wrong_method.status_code, wrong_method.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_a_local_model_at_an_address_of_the_upstream_is_a_501_that_says_so() -> None:
    async with passing(local={"llama": FakeBackend()}) as at:
        answer = await at.http.post("/v1/images/generations", json={"model": "llama", "prompt": "x"})
    assert answer.status_code == 501
    assert "served here" in failure(answer)["message"]


@pytest.mark.parametrize(
    ("path", "successor"),
    [
        ("/v1/engines", "/v1/models"),
        ("/v1/engines/davinci/completions", "/v1/completions"),
        ("/v1/edits", "/v1/chat/completions"),
        ("/v1/answers", "/v1/chat/completions"),
        ("/v1/classifications", "/v1/chat/completions"),
        ("/v1/search", "/v1/embeddings"),
        ("/v1/fine-tunes/ft-1/events", "/v1/fine_tuning/jobs"),
    ],
)
async def test_a_retired_address_names_its_successor(path: str, successor: str) -> None:
    async with serving(make_context()) as client:
        answers = [await client.get(path), await client.post(path, json={})]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert all(f"Use {successor} instead." in failure(answer)["message"] for answer in answers)


@pytest.mark.parametrize(
    ("head", "model"),
    [
        (b'{"model": "a", "input": "x"}', "a"),
        (b'{"input": "x"}', None),
        (b'{"model": 7}', None),
        (b"", None),
        (b'{"image": "' + b"x" * 99 + b'", "model" : "a", "rest": "cut o', "a"),
        (b'{"text": "\\"model\\": \\"no\\"", "cut', None),
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\n\r\nwhisper-1\r\n--b', "whisper-1"),
        (b'--b\r\nContent-Disposition: form-data; name="model"\r\nContent-Type: text/plain\r\n\r\na\r\n--b', "a"),
        (b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nname="model"\r\n--b', None),
    ],
)
def test_the_model_is_found_in_json_and_in_forms(head: bytes, model: str | None) -> None:
    assert model_of(head) == model
