"""Responses of models that an upstream serves: asked over chat completions, made and kept here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from serve_app.api.attempts import Reading
from serve_app.api.directory import UpstreamRoute
from serve_app.protocol import Delta, Done, Event, Json, Relay, Relayed, Started, TokenLogprob, ToolCallDelta, Usage
from tests.api.responding import house
from tests.fakes import FakeBackend, card

DONE = Done(Usage(5, 3))


def chunk(delta: Json, finish: str | None = None, **choice: Any) -> Relayed:
    body = {"id": "theirs", "choices": [{"index": 0, "delta": delta, "finish_reason": finish, **choice}]}
    return Relayed(orjson.dumps(body))


def cloud(*chunks: Relayed) -> FakeBackend:
    steps: list[list[Event]] = [[Started()], *[[one] for one in chunks], [DONE]]
    return FakeBackend(*steps, cards=[card("gpt-x")])


async def test_an_upstreams_model_is_asked_over_chat_and_its_response_is_ours(tmp_path: Path) -> None:
    model = cloud(chunk({"role": "assistant", "content": ""}), chunk({"content": "Hello"}), chunk({}, "stop"))
    async with house(tmp_path / "u.db", {}, upstreams={"cloud": UpstreamRoute(model)}) as home:
        client = home.client()
        image: Any = [{"type": "input_text", "text": "See"}, {"type": "input_image", "image_url": "data:image/png,x"}]
        first = await client.responses.create(
            model="gpt-x", input=[{"role": "user", "content": image}], instructions="Be kind.", max_output_tokens=50
        )
        second = await client.responses.create(model="gpt-x", input="More", previous_response_id=first.id)
        assert (await client.responses.retrieve(second.id)).output_text == "Hello"
    assert (first.output_text, first.status) == ("Hello", "completed")
    asked, again = (orjson.loads(request.body) for request in model.requests if isinstance(request, Relay))
    assert asked == {
        "model": "gpt-x",
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 50,
        "messages": [
            {"role": "developer", "content": "Be kind."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See"},
                    {"type": "image_url", "image_url": {"url": "data:image/png,x", "detail": "auto"}},
                ],
            },
        ],
    }
    assert [message["role"] for message in again["messages"]] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    ("relayed", "read"),
    [
        (chunk({"content": "a"}), Delta(0, "a")),
        (chunk({"refusal": "no"}), Delta(0, "no")),
        (chunk({"reasoning_content": "r"}), Delta(0, reasoning="r")),
        (chunk({"reasoning": "r"}), Delta(0, reasoning="r")),
        (chunk({}, "tool_calls"), Delta(0, finish="tool_calls")),
        (chunk({}, "eos"), Delta(0, finish="stop")),
        (
            chunk({"tool_calls": [{"index": 1, "id": "c", "function": {"name": "f", "arguments": ""}}]}),
            Delta(0, tool_calls=(ToolCallDelta(1, "", "c", "f"),)),
        ),
        (
            chunk({"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]}),
            Delta(0, tool_calls=(ToolCallDelta(0, "{}", "c", "f"),)),
        ),
        (
            chunk({"content": "é"}, logprobs={"content": [{"token": "é", "logprob": -0.5, "bytes": None}]}),
            Delta(0, "é", logprobs=(TokenLogprob("é", -0.5, "é".encode()),)),
        ),
        (chunk({"role": "assistant", "content": ""}), None),
        (Relayed(b'{"choices":[],"usage":{}}'), None),
    ],
)
async def test_a_chunk_of_an_upstream_is_read_as_what_a_local_model_would_say(
    relayed: Relayed, read: Delta | None
) -> None:
    batches = [
        batch async for batch in Reading(cloud(relayed)).generate(Relay("r", "t", "m", "chat/completions", b"", True))
    ]
    assert [event for batch in batches for event in batch] == [Started(), *([read] if read else []), DONE]
