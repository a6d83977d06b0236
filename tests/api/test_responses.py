"""``/v1/responses`` over a real database, by the official client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response, ResponseItemList

from serve_app.protocol import Chat, Constraint, Delta, Failed, FailureCode, Generate, Json, ToolCallDelta
from tests.api.contract import conforms, typed
from tests.api.responding import DONE, RESPONSE_EXTRAS, STARTED, House, events_of, house, lawful, saying
from tests.api.serving import failure
from tests.fakes import FakeBackend

TOOL: Json = {"type": "function", "name": "add", "parameters": {"type": "object", "properties": {}}, "strict": False}


@pytest.fixture
def model() -> FakeBackend:
    return saying("Hello", " there")


@pytest.fixture
async def home(tmp_path: Path, model: FakeBackend) -> AsyncIterator[House]:
    async with house(tmp_path / "r.db", {"llama": model}, keys=("sk-mine-000000000", "sk-theirs-00000000")) as built:
        yield built


@pytest.fixture
def client(home: House) -> openai.AsyncOpenAI:
    return home.client("sk-mine-000000000")


def chat_of(model: FakeBackend) -> Chat:
    """What the model was asked last."""
    request = model.requests[-1]
    assert isinstance(request, Generate)
    chat = request.prompts[0]
    assert isinstance(chat, Chat)
    return chat


def given(model: FakeBackend) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in chat_of(model).messages]


async def ask(home: House, body: Json, path: str = "") -> httpx.Response:
    async with httpx.AsyncClient(headers={"api-key": "sk-mine-000000000"}) as http:
        return await http.post(f"{home.url}/v1/responses{path}", json={"model": "llama", **body})


async def stream(home: House, **body: Any) -> list[Json]:
    async with (
        httpx.AsyncClient(headers={"api-key": "sk-mine-000000000"}) as http,
        http.stream("POST", f"{home.url}/v1/responses", json={"model": "llama", "stream": True, **body}) as response,
    ):
        assert response.status_code == 200
        return lawful(await events_of(response))


async def test_a_response_is_answered_kept_and_forgotten(client: openai.AsyncOpenAI, model: FakeBackend) -> None:
    made = await client.responses.create(model="llama", input="Hi", instructions="Be kind.", metadata={"a": "b"})
    assert made.output_text == "Hello there"
    assert (made.status, made.usage.total_tokens if made.usage else 0) == ("completed", 9)
    assert given(model) == [("system", "Be kind."), ("user", "Hi")]
    found = await client.responses.retrieve(made.id)
    assert found.to_dict() == made.to_dict()
    typed(Response, found.to_dict(), extras=RESPONSE_EXTRAS)
    conforms("Response", found.to_dict())
    await client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.delete(made.id)


async def test_a_stream_has_openais_events_in_order_and_ends_with_the_response_that_is_kept(
    home: House, client: openai.AsyncOpenAI
) -> None:
    events = await stream(home, input="Hi", stream_options={"include_obfuscation": True})
    assert [event["type"] for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    kept = await client.responses.retrieve(events[-1]["response"]["id"])
    assert kept.to_dict() == events[-1]["response"]
    async with client.responses.stream(model="llama", input="Hi") as read:
        final = await read.get_final_response()
    assert final.output_text == "Hello there"


async def test_a_chain_gives_the_model_everything_before_but_not_earlier_instructions(
    client: openai.AsyncOpenAI, model: FakeBackend
) -> None:
    first = await client.responses.create(model="llama", input="One", instructions="Old.")
    second = await client.responses.create(model="llama", input="Two", previous_response_id=first.id)
    third = await client.responses.create(
        model="llama", input="Three", previous_response_id=second.id, instructions="New."
    )
    said = ("assistant", "Hello there")
    assert given(model) == [("system", "New."), ("user", "One"), said, ("user", "Two"), said, ("user", "Three")]
    await client.responses.delete(second.id)
    await client.responses.create(model="llama", input="Four", previous_response_id=third.id)
    assert [text for role, text in given(model) if role == "user"] == ["One", "Two", "Three", "Four"]
    with pytest.raises(openai.BadRequestError) as refused:
        await client.responses.create(model="llama", input="Five", previous_response_id=second.id)
    assert (refused.value.code, refused.value.param) == ("previous_response_not_found", "previous_response_id")


async def test_input_items_are_paged_newest_first_and_are_nobody_elses(home: House, client: openai.AsyncOpenAI) -> None:
    first = await client.responses.create(model="llama", input=[{"role": "user", "content": str(n)} for n in range(3)])
    second = await client.responses.create(model="llama", input="more", previous_response_id=first.id)
    listed = [item async for item in client.responses.input_items.list(second.id, limit=2)]
    texts = [item.content[0].text for item in listed]  # type: ignore[union-attr]
    assert texts == ["more", "Hello there", "2", "1", "0"]
    page = await client.responses.input_items.list(second.id, order="asc")
    typed(ResponseItemList, {"object": "list", **page.to_dict()})
    conforms("ResponseItemList", {"object": "list", **page.to_dict()})
    stranger = home.client("sk-theirs-00000000")
    for refused in (
        stranger.responses.retrieve(first.id),
        stranger.responses.delete(first.id),
        stranger.responses.cancel(first.id),
        stranger.responses.input_items.list(first.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await refused
    with pytest.raises(openai.BadRequestError):
        await stranger.responses.create(model="llama", input="x", previous_response_id=first.id)


async def test_a_call_of_a_function_is_an_item_and_its_result_goes_back_to_the_model(tmp_path: Path) -> None:
    pieces = [ToolCallDelta(0, '{"a":', "call_1", "add"), ToolCallDelta(0, "1}")]
    deltas = [[Delta(0, reasoning="Well.")], *[[Delta(0, tool_calls=(piece,))] for piece in pieces]]
    model = FakeBackend(STARTED, *deltas, [Delta(0, finish="tool_calls")], DONE)
    async with house(tmp_path / "r.db", {"llama": model}, keys=("sk-mine-000000000",)) as home:
        events = await stream(home, input="1+1?", tools=[TOOL], tool_choice={"type": "function", "name": "add"})
        assert chat_of(model).tool_choice == "function:add"
        thought, call = events[-1]["response"]["output"]
        assert (thought["type"], thought["content"][0]["text"]) == ("reasoning", "Well.")
        assert (call["type"], call["call_id"], call["arguments"]) == ("function_call", "call_1", '{"a":1}')
        result = {"type": "function_call_output", "call_id": "call_1", "output": "2"}
        previous = events[-1]["response"]["id"]
        await ask(home, {"input": [result], "previous_response_id": previous, "tools": [TOOL]})
    question, called, answer = chat_of(model).messages
    assert question["content"] == "1+1?"
    assert called["reasoning_content"] == "Well."
    assert called["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a":1}'}
    assert (answer["role"], answer["tool_call_id"], answer["content"]) == ("tool", "call_1", "2")


async def test_a_custom_tool_is_called_with_text_and_goes_back_as_what_it_was(tmp_path: Path) -> None:
    piece = ToolCallDelta(0, '{"input":"print(1)"}', "call_1", "run")
    model = FakeBackend(STARTED, [Delta(0, tool_calls=(piece,), finish="tool_calls")], DONE)
    tool = {"type": "custom", "name": "run", "description": "Runs code."}
    async with house(tmp_path / "r.db", {"llama": model}, keys=("sk-mine-000000000",)) as home:
        events = await stream(home, input="Run it", tools=[tool])
        (call,) = events[-1]["response"]["output"]
        assert (call["type"], call["input"]) == ("custom_tool_call", "print(1)")
        assert "response.custom_tool_call_input.delta" in [event["type"] for event in events]
        result = {"type": "custom_tool_call_output", "call_id": "call_1", "output": "1"}
        answer = await ask(home, {"input": ["x", call, result][1:], "tools": [tool], "store": False})
        assert answer.status_code == 200
    called = chat_of(model).messages[0]["tool_calls"][0]["function"]
    assert called == {"name": "run", "arguments": '{"input":"print(1)"}'}


async def test_an_item_that_is_kept_can_be_sent_by_reference(client: openai.AsyncOpenAI, model: FakeBackend) -> None:
    first = await client.responses.create(model="llama", input="One")
    said: Any = {"type": "item_reference", "id": first.output[0].id}
    await client.responses.create(model="llama", input=[said, {"role": "user", "content": "Two"}])
    assert given(model) == [("assistant", "Hello there"), ("user", "Two")]
    with pytest.raises(openai.NotFoundError):
        await client.responses.create(model="llama", input=[{"type": "item_reference", "id": "msg_none"}])


async def test_a_response_that_is_not_stored_is_not_found_later(client: openai.AsyncOpenAI) -> None:
    made = await client.responses.create(model="llama", input="Hi", store=False)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(made.id)


async def test_an_answer_that_is_cut_is_incomplete(tmp_path: Path) -> None:
    model = FakeBackend(STARTED, [Delta(0, "Hel", finish="length")], DONE)
    async with house(tmp_path / "r.db", {"llama": model}, keys=("sk-mine-000000000",)) as home:
        events = await stream(home, input="Hi", max_output_tokens=16)
    assert events[-1]["type"] == "response.incomplete"
    response = events[-1]["response"]
    assert response["incomplete_details"] == {"reason": "max_output_tokens"}
    assert response["output"][0]["status"] == "incomplete"


async def test_a_failure_before_the_first_word_is_plain_http_and_later_ends_the_stream_as_failed(
    tmp_path: Path,
) -> None:
    lost = Failed(FailureCode.ENGINE_LOST, "The model was lost.")
    models = {"dead": FakeBackend([lost]), "dying": FakeBackend(STARTED, [Delta(0, "Hel")], [lost])}
    async with house(tmp_path / "r.db", models, keys=("sk-mine-000000000",)) as home:
        for streamed in (True, False):
            answer = await ask(home, {"model": "dead", "input": "Hi", "stream": streamed})
            assert (answer.status_code, failure(answer)["code"]) == (503, "engine_lost")
        events = await stream(home, model="dying", input="Hi")
        assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
        kept = await home.client("sk-mine-000000000").responses.retrieve(events[-1]["response"]["id"])
    assert kept.to_dict() == events[-1]["response"]
    assert (kept.status, kept.output_text) == ("failed", "Hel")
    assert kept.error
    assert kept.error.code == "server_error"


async def test_a_format_is_a_constraint_and_options_reach_the_model(home: House, model: FakeBackend) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    text = {"format": {"type": "json_schema", "name": "it", "schema": schema}, "verbosity": "low"}
    body = {"input": "Hi", "text": text, "temperature": 0.5, "max_output_tokens": 20, "seed": 7}
    answer = await ask(
        home, body | {"reasoning": {"effort": "low"}, "tools": [TOOL, {"type": "custom", "name": "run"}]}
    )
    typed(Response, answer.json(), extras=RESPONSE_EXTRAS)
    conforms("Response", answer.json())
    assert answer.json()["text"]["format"]["schema"] == schema
    request = model.requests[-1]
    assert isinstance(request, Generate)
    assert request.constraint == Constraint("json_schema", '{"type":"object","properties":{"a":{"type":"string"}}}')
    sampling = request.sampling
    assert (sampling.temperature, sampling.max_tokens, sampling.seed) == (0.5, 20, 7)
    assert chat_of(model).template_options["reasoning_effort"] == "low"


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({}, "input", "missing_required_parameter"),
        ({"input": "x", "previous_response_id": "resp_a", "conversation": "conv_a"}, "previous_response_id", None),
        ({"input": "x", "background": True, "store": False}, "background", None),
        ({"input": "x", "max_output_tokens": 15}, "max_output_tokens", "integer_below_min_value"),
        ({"input": "x", "tools": [{"type": "web_search"}]}, "tools[0].type", "unsupported_parameter"),
        ({"input": "x", "tool_choice": {"type": "file_search"}}, "tool_choice.type", "unsupported_parameter"),
        ({"input": "x", "tools": [TOOL], "tool_choice": {"type": "function", "name": "b"}}, "tool_choice", None),
        ({"input": "x", "tools": [TOOL, TOOL]}, "tools", None),
        ({"input": "x", "prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0]", "unsupported_parameter"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:x"}]}]},
            "input",
            "unsupported_parameter",
        ),
        ({"input": "x", "n": 2}, "n", "unsupported_parameter"),
        ({"input": "x", "truncation": "maybe"}, "truncation", None),
        ({"input": [{"type": "compaction", "encrypted_content": "bm90IG91cnM="}]}, "input", None),
        ({"input": "x", "conversation": "conv_none"}, None, "not_found"),
    ],
)
async def test_what_cannot_be_honoured_is_refused_by_name(home: House, body: Json, param: str, code: str) -> None:
    answer = await ask(home, body)
    assert answer.status_code in (400, 404)
    error = failure(answer)
    assert (error["param"], error["code"]) == (param, code or "invalid_value")


async def test_the_oldest_messages_go_when_a_conversation_is_too_long_and_may_be_cut(tmp_path: Path) -> None:
    class Small(FakeBackend):
        async def generate(self, request: Any) -> Any:
            if len(request.prompts[0].messages) > 3:
                self.steps = ([Failed(FailureCode.CONTEXT_LENGTH, "Too long.")],)
            else:
                self.steps = (STARTED, [Delta(0, "ok", finish="stop")], DONE)
            async for batch in super().generate(request):
                yield batch

    model = Small()
    items = [{"role": "user", "content": str(n)} for n in range(20)]
    async with house(tmp_path / "r.db", {"llama": model}, keys=("sk-mine-000000000",)) as home:
        refused = await ask(home, {"input": items, "instructions": "Be kind."})
        assert failure(refused)["code"] == "context_length_exceeded"
        answer = await ask(home, {"input": items, "instructions": "Be kind.", "truncation": "auto"})
    assert answer.json()["status"] == "completed"
    assert given(model) == [("system", "Be kind."), ("user", "18"), ("user", "19")]


async def test_a_client_that_leaves_an_unstored_stream_frees_the_model(tmp_path: Path) -> None:
    model = FakeBackend(STARTED, [Delta(0, "Hel")], asyncio.Event())
    async with house(tmp_path / "r.db", {"llama": model}) as home:
        body = {"model": "llama", "stream": True, "input": "Hi", "store": False}
        async with (
            httpx.AsyncClient() as http,
            http.stream("POST", f"{home.url}/v1/responses", json=body) as response,
        ):
            await anext(response.aiter_lines())
        async with asyncio.timeout(5):
            await model.closed.wait()
