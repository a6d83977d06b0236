"""LangChain's ChatOpenAI talks to this server as it talks to OpenAI."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI

from serve_app.api.app import create_app
from serve_app.protocol import Chat, Delta, Generate, ToolCallDelta
from tests.api.conversation import DONE, STARTED
from tests.api.serving import listening, make_context
from tests.fakes import FakeBackend, Step

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL: list[Step] = [
    [STARTED],
    [Delta(0, tool_calls=(ToolCallDelta(0, '{"city":', "call_1", "weather"),))],
    [Delta(0, tool_calls=(ToolCallDelta(0, '"Rome"}'),), finish="tool_calls")],
    [DONE],
]
WORDS: list[Step] = [[STARTED], [Delta(0, "Sun")], [Delta(0, "ny.", finish="stop")], [DONE]]


@asynccontextmanager
async def talking(*steps: Step, **more: Any) -> AsyncGenerator[tuple[FakeBackend, ChatOpenAI]]:
    backend = FakeBackend(*steps)
    async with listening(create_app(make_context(local={"llama": backend}), own_request_id=True)) as url:
        yield backend, ChatOpenAI(model="llama", base_url=f"{url}/v1", api_key="none", max_retries=0, **more)


async def off_loop(call: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.to_thread(call, *arguments)


async def test_invoke_stream_and_batch_bring_text_usage_and_the_reason_of_the_end() -> None:
    async with talking(*WORDS) as (_, model):
        answer = await model.ainvoke("How is the weather?")
        assert (answer.content, answer.response_metadata["finish_reason"]) == ("Sunny.", "stop")
        assert answer.usage_metadata is not None
        assert (answer.usage_metadata["input_tokens"], answer.usage_metadata["output_tokens"]) == (7, 2)
        chunks = [chunk async for chunk in model.astream("How is the weather?", stream_usage=True)]
        assert "".join(str(chunk.content) for chunk in chunks) == "Sunny."
        assert [chunk.usage_metadata["total_tokens"] for chunk in chunks if chunk.usage_metadata] == [9]
        assert [one.content for one in await model.abatch(["a", "b", "c"])] == ["Sunny."] * 3
        assert (await off_loop(model.invoke, "Hi")).content == "Sunny."


async def test_tools_are_called_and_their_results_sent_back() -> None:
    async with talking(*CALL) as (backend, model):
        bound = model.bind_tools([WEATHER])
        asked: AIMessage = await bound.ainvoke("Rome?")
        assert [(call["name"], call["args"]) for call in asked.tool_calls] == [("weather", {"city": "Rome"})]
        gathered: Any = None
        async for chunk in bound.astream("Rome?"):
            gathered = chunk if gathered is None else gathered + chunk
        assert gathered.tool_calls[0]["args"] == {"city": "Rome"}
        backend.steps = tuple(WORDS)
        history = [HumanMessage("Rome?"), asked, ToolMessage("sun", tool_call_id=asked.tool_calls[0]["id"])]
        assert (await bound.ainvoke(history)).content == "Sunny."
    request = backend.requests[-1]
    assert isinstance(request, Generate)
    assert isinstance(request.prompts[0], Chat)
    assert [message["role"] for message in request.prompts[0].messages] == ["user", "assistant", "tool"]


async def test_structured_output_is_a_schema_for_the_model_and_a_value_for_the_caller() -> None:
    schema = {"title": "City", "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
    said = orjson.dumps({"name": "Rome"}).decode()
    async with talking([STARTED], [Delta(0, said, finish="stop")], [DONE]) as (backend, model):
        value = await model.with_structured_output(schema, method="json_schema").ainvoke("A city.")
    assert value == {"name": "Rome"}
    request = backend.requests[-1]
    assert isinstance(request, Generate)
    assert request.constraint is not None
