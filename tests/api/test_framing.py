"""How each API frames its streams and words its refusals, wherever on the way in they are raised."""

from __future__ import annotations

import pytest
from starlette.types import Message

from serve_app.api.framing import ANTHROPIC, OLLAMA, OPENAI, Framing
from serve_app.api.sse import EventStream
from serve_app.protocol import Failed, FailureCode
from tests.api.serving import make_context, serving

FAILED = Failed(FailureCode.QUEUE_FULL, "Too\nmany.")


@pytest.mark.parametrize(
    ("framing", "frames"),
    [
        (
            OPENAI,
            [b'data: {"error":{"message":"Too many.","type":"rate_limit_error","param":null,"code":"slow_down"}}\n\n'],
        ),
        (
            ANTHROPIC,
            [b'event: error\ndata: {"type":"error","error":{"type":"rate_limit_error","message":"Too many."}}\n\n'],
        ),
        (OLLAMA, [b'{"error":"Too many."}\n']),
    ],
)
async def test_a_failure_ends_each_apis_stream_in_its_own_words(framing: Framing, frames: list[bytes]) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await EventStream(send, lambda: 0.0, framing).fail(FAILED)
    assert [message["body"] for message in sent] == [*frames, b""]


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (FailureCode.UNAUTHENTICATED, "authentication_error"),
        (FailureCode.MODEL_NOT_FOUND, "not_found_error"),
        (FailureCode.MEDIA_TYPE, "invalid_request_error"),
        (FailureCode.MODEL_UNAVAILABLE, "overloaded_error"),
        (FailureCode.UPSTREAM_ERROR, "api_error"),
    ],
)
def test_every_status_has_a_name_among_anthropics(code: FailureCode, kind: str) -> None:
    assert ANTHROPIC.failure(Failed(code, "x"))["error"]["type"] == kind


async def test_what_the_gate_refuses_is_refused_in_the_words_of_the_api_that_was_called() -> None:
    async with serving(make_context(keys=("sk-one",))) as client:
        anthropic, ollama, openai = [await client.post(path) for path in ("/v1/messages", "/api/chat", "/v1/x")]
    assert [answer.status_code for answer in (anthropic, ollama, openai)] == [401, 401, 401]
    assert anthropic.json()["error"]["type"] == "authentication_error"
    assert isinstance(ollama.json()["error"], str)
    assert openai.json()["error"]["code"] == "invalid_api_key"
