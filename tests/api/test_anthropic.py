"""Anthropic's own client, served by the same core as OpenAI's."""

from __future__ import annotations

import json
from typing import Any

import anthropic
import httpx2
import pytest

from serve_app.api.dialects.anthropic_chat import chat_body
from serve_app.api.limits import Limits
from serve_app.api.wire.anthropic import MessagesRequest
from serve_app.api.wire.shape import read
from serve_app.protocol import Chat, Delta, Done, Failed, FailureCode, Generate, Started, Usage
from tests.api.serving import KEY
from tests.api.speaking import CALLING, Speaking, speaking

HI = [{"role": "user", "content": "Hi"}]
TOOLS = [
    {"name": "weather", "description": "d", "input_schema": {"type": "object", "properties": {"city": {}}}},
    {"name": "time", "input_schema": {"type": "object"}},
]


def client(at: Speaking, key: str = KEY) -> anthropic.AsyncAnthropic:
    bare = httpx2.AsyncClient(verify=False)
    return anthropic.AsyncAnthropic(base_url=at.url, api_key=key, max_retries=0, http_client=bare)


@pytest.mark.parametrize("model", ["llama", "up-1"])
async def test_a_message_of_a_local_model_and_of_an_upstreams_is_anthropics(model: str) -> None:
    async with speaking() as at, client(at) as claude:
        message = await claude.messages.create(model=model, max_tokens=9, messages=HI)
    assert message.type == "message"
    assert message.id.startswith("msg_")
    assert message.model == model
    assert [block.to_dict() for block in message.content] == [{"type": "text", "text": "Hello"}]
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    usage = message.usage
    assert (usage.input_tokens, usage.cache_read_input_tokens, usage.output_tokens) == (7, 2, 4)


@pytest.mark.parametrize("model", ["llama", "up-1"])
async def test_a_stream_adds_up_to_the_message(model: str) -> None:
    async with speaking() as at, client(at) as claude:
        streaming = claude.messages.stream(model=model, max_tokens=9, messages=HI)
        async with streaming as stream:
            texts = [text async for text in stream.text_stream]
            message = await stream.get_final_message()
    assert texts == ["Hel", "lo"]
    assert message.content[0].to_dict()["text"] == "Hello"
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 4


async def test_every_event_is_named_and_blocks_follow_each_other() -> None:
    async with speaking(*CALLING) as at:
        body = {"model": "llama", "max_tokens": 9, "messages": HI, "tools": TOOLS, "stream": True}
        answer = await at.http.post("/v1/messages", json=body)
    events = [part.split("\n") for part in answer.text.strip().split("\n\n")]
    named = [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in events]
    assert all(name == data["type"] for name, data in named)
    assert [(name, data.get("index")) for name, data in named] == [
        ("message_start", None),
        ("content_block_start", 0),
        ("content_block_delta", 0),
        ("content_block_stop", 0),
        ("content_block_start", 1),
        ("content_block_delta", 1),
        ("content_block_stop", 1),
        ("content_block_start", 2),
        ("content_block_delta", 2),
        ("content_block_delta", 2),
        ("content_block_stop", 2),
        ("content_block_start", 3),
        ("content_block_delta", 3),
        ("content_block_stop", 3),
        ("message_delta", None),
        ("message_stop", None),
    ]


@pytest.mark.parametrize("streamed", [True, False])
async def test_thinking_and_calls_of_tools_are_blocks(streamed: bool) -> None:
    options: dict[str, Any] = {"model": "llama", "max_tokens": 9, "messages": HI, "tools": TOOLS}
    async with speaking(*CALLING) as at, client(at) as claude:
        if streamed:
            async with claude.messages.stream(**options) as stream:
                message = await stream.get_final_message()
        else:
            message = await claude.messages.create(**options)
    assert message.stop_reason == "tool_use"
    assert [block.type for block in message.content] == ["thinking", "text", "tool_use", "tool_use"]
    calls = [(block.id, block.name, block.input) for block in message.content if block.type == "tool_use"]
    assert calls == [("call_a", "weather", {"city": "Oslo"}), ("b", "time", {})]


async def test_the_conversation_reaches_the_model_as_a_chat_with_its_results_and_thoughts() -> None:
    messages = [
        *HI,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": ""},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "Rain"}]},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    async with speaking() as at, client(at) as claude:
        await claude.messages.create(
            model="llama",
            max_tokens=9,
            messages=messages,
            tools=TOOLS,
            system=[{"type": "text", "text": "Be brief."}],
            stop_sequences=["END"],
            extra_body={"temperature": 0.5, "top_k": 7},
            tool_choice={"type": "tool", "name": "weather"},
        )
        (work,) = at.backend.requests
    assert isinstance(work, Generate)
    (prompt,) = work.prompts
    assert isinstance(prompt, Chat)
    assert [(one["role"], one["content"]) for one in prompt.messages] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "I look."),
        ("tool", "Rain"),
        ("user", "And now?"),
    ]
    assert prompt.messages[2]["reasoning_content"] == "Hm."
    assert prompt.messages[2]["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"Oslo"}'}
    assert prompt.messages[3]["tool_call_id"] == "t1"
    assert prompt.tool_choice == "function:weather"
    sampling = work.sampling
    assert (sampling.max_tokens, sampling.stop, sampling.temperature, sampling.top_k) == (9, ("END",), 0.5, 7)


async def test_an_upstream_is_asked_in_openais_words_and_its_row_is_in_the_ledger() -> None:
    async with speaking() as at, client(at) as claude:
        await claude.messages.create(
            model="up-1",
            max_tokens=9,
            messages=HI,
            thinking={"type": "enabled", "budget_tokens": 8000},
            metadata={"user_id": "u1"},
        )
        asked = json.loads(at.cloud.asked[-1].body)
        await at.store.until(lambda: any(row.closed for row in at.store.rows.values()))
        (row,) = at.store.rows.values()
    assert (asked["max_completion_tokens"], asked["reasoning_effort"], asked["stream"]) == (9, "medium", True)
    assert (row.opened.route, row.opened.user, row.closed.usage.completion_tokens) == ("messages", "u1", 4)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model": "none"}, anthropic.NotFoundError, "does not exist"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "max_tokens"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, anthropic.BadRequestError, "tools[0].type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {
                "type": "base64", "media_type": "image/png", "data": "AA=="}}]}]},
            anthropic.BadRequestError,
            "text only",
        ),
    ],
)  # fmt: skip
async def test_what_cannot_be_honoured_is_refused_in_anthropics_words(change, error, words: str) -> None:
    options = {"model": "llama", "max_tokens": 9, "messages": HI} | change
    async with speaking() as at, client(at) as claude:
        with pytest.raises(error) as refused:
            await claude.messages.create(**options)
    assert refused.value.body["type"] == "error"
    assert words in refused.value.body["error"]["message"]


async def test_a_wrong_key_and_a_full_queue_are_errors_the_client_knows() -> None:
    async with speaking([Failed(FailureCode.QUEUE_FULL, "Full.")]) as at:
        async with client(at, "sk-wrong") as stranger:
            with pytest.raises(anthropic.AuthenticationError):
                await stranger.messages.create(model="llama", max_tokens=9, messages=HI)
        async with client(at) as claude:
            with pytest.raises(anthropic.RateLimitError) as refused:
                await claude.messages.create(model="llama", max_tokens=9, messages=HI, stream=True)
    assert refused.value.body == {"type": "error", "error": {"type": "rate_limit_error", "message": "Full."}}


async def test_a_stream_that_fails_ends_with_an_error_the_client_raises() -> None:
    steps = [Started(9)], [Delta(0, "Hel")], [Failed(FailureCode.ENGINE_LOST, "Lost.")]
    async with speaking(*steps) as at, client(at) as claude:
        stream = await claude.messages.create(model="llama", max_tokens=9, messages=HI, stream=True)
        with pytest.raises(anthropic.APIStatusError) as failed:
            [event async for event in stream]
    assert failed.value.body["error"] == {"type": "overloaded_error", "message": "Lost."}


async def test_tokens_are_counted_without_generating_any() -> None:
    async with speaking() as at, client(at) as claude:
        count = await claude.messages.count_tokens(model="llama", messages=HI, tools=TOOLS)
        with pytest.raises(anthropic.APIStatusError) as refused:
            await claude.messages.count_tokens(model="up-1", messages=HI)
        assert at.backend.closed.is_set()
        assert at.backend.finished == 0
    assert count.input_tokens == 9
    assert refused.value.status_code == 501


@pytest.mark.parametrize(
    ("finish", "reason"), [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal")]
)
async def test_why_it_ended_is_said_in_anthropics_words(finish, reason: str) -> None:
    steps = [Started(9)], [Delta(0, "x", finish=finish), Done(Usage(1, 1))]
    async with speaking(*steps) as at, client(at) as claude:
        message = await claude.messages.create(model="llama", max_tokens=9, messages=HI)
    assert message.stop_reason == reason


def test_an_image_goes_on_to_an_upstream_and_a_failed_tool_says_so() -> None:
    content = [
        {"type": "tool_result", "tool_use_id": "t", "content": "no net", "is_error": True},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
    ]
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": content}]}
    chat = chat_body(read(MessagesRequest, body, Limits()), local=False)
    assert chat["messages"] == [
        {"role": "tool", "tool_call_id": "t", "content": "Error: no net"},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/y.png"}}]},
    ]
