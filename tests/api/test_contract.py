from __future__ import annotations

import pydantic
import pytest
from openai.types.chat import ChatCompletionChunk

from tests.api.contract import SPEC, conforms, typed

CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m"}
CHOICE = {"index": 0, "delta": {}, "finish_reason": None}


@pytest.mark.skipif(
    not SPEC.exists(), reason=f"OpenAI's specification is not at {SPEC}: only the SDK's types are checked"
)
def test_openais_specification_is_at_hand_and_refuses_what_it_should() -> None:
    conforms("CreateChatCompletionStreamResponse", CHUNK | {"choices": [CHOICE], "usage": None})
    for wrong in ({}, CHUNK | {"choices": [CHOICE | {"finish_reason": "bored"}]}):
        with pytest.raises(AssertionError):
            conforms("CreateChatCompletionStreamResponse", wrong)


def test_the_sdks_types_refuse_other_types_and_unknown_keys_at_any_depth() -> None:
    typed(ChatCompletionChunk, CHUNK | {"choices": [CHOICE]})
    with pytest.raises(pydantic.ValidationError):
        typed(ChatCompletionChunk, CHUNK | {"choices": [], "created": "1"})
    with pytest.raises(AssertionError):
        typed(ChatCompletionChunk, CHUNK | {"choices": [CHOICE | {"delta": {"surprise": 1}}]})
