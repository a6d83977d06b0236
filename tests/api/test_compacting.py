"""``/v1/responses/compact`` and ``/input_tokens``, by the official client; with the real model where it must count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.responses import CompactedResponse
from openai.types.responses.input_token_count_response import InputTokenCountResponse

from serve_app.api.directory import UpstreamRoute
from serve_app.engine.loading import LocalModelOptions, load
from serve_app.protocol import Chat, Generate
from tests.api.contract import conforms, typed
from tests.api.responding import RESPONSE_EXTRAS, house, saying
from tests.fakes import FakeBackend, card
from tests.running import MODEL_FILE


def asked(model: FakeBackend) -> list[str]:
    request = model.requests[-1]
    assert isinstance(request, Generate)
    chat = request.prompts[0]
    assert isinstance(chat, Chat)
    return [message["content"] for message in chat.messages]


async def test_a_history_becomes_one_item_from_which_the_model_can_go_on(tmp_path: Path) -> None:
    model = saying("They like ", "green.")
    async with house(tmp_path / "c.db", {"llama": model}) as home:
        client = home.client()
        first = await client.responses.create(model="llama", input="I like green.")
        compacted = await client.responses.compact(model="llama", previous_response_id=first.id)
        assert asked(model)[:2] == ["I like green.", "They like green."]
        typed(CompactedResponse, compacted.to_dict(), extras=RESPONSE_EXTRAS)
        conforms("CompactResource", compacted.to_dict())
        (item,) = compacted.output
        assert "green" not in item.to_dict()["encrypted_content"]
        later: Any = [item.to_dict(), {"role": "user", "content": "What do I like?"}]
        await client.responses.create(model="llama", input=later)
    assert asked(model) == ["What was said before, in a summary:\n\nThey like green.", "What do I like?"]


@pytest.mark.skipif(not MODEL_FILE.exists(), reason="the default model is missing: make install")
async def test_input_tokens_are_what_the_response_is_then_charged(tmp_path: Path) -> None:
    backend = load(LocalModelOptions("llama", str(MODEL_FILE), n_context=512, n_threads=1))
    try:
        async with house(tmp_path / "c.db", {"llama": backend}) as home:
            client = home.client()
            counted = await client.responses.input_tokens.count(model="llama", input="How are you?", instructions="Hi.")
            typed(InputTokenCountResponse, counted.to_dict())
            conforms("TokenCountsResource", counted.to_dict())
            made = await client.responses.create(
                model="llama", input="How are you?", instructions="Hi.", max_output_tokens=16, temperature=0
            )
            assert made.usage
            assert counted.input_tokens == made.usage.input_tokens > 5
            second = await client.responses.create(
                model="llama", input="Why?", previous_response_id=made.id, max_output_tokens=16, temperature=0
            )
            assert second.usage
            assert second.usage.input_tokens > made.usage.input_tokens
            with pytest.raises(openai.BadRequestError) as refused:
                await client.responses.input_tokens.count(model="llama", input="word " * 600)
            assert refused.value.code == "context_length_exceeded"
    finally:
        await backend.close()


async def test_the_tokens_of_an_upstreams_model_are_not_guessed(tmp_path: Path) -> None:
    upstreams = {"cloud": UpstreamRoute(FakeBackend(cards=[card("gpt-x")]))}
    async with house(tmp_path / "c.db", {}, upstreams=upstreams) as home:
        with pytest.raises(openai.BadRequestError) as refused:
            await home.client().responses.input_tokens.count(model="gpt-x", input="Hi")
    assert refused.value.param == "model"
