from __future__ import annotations

from typing import Any

import orjson
import pytest
from openai.types import Completion

from serve_app.api.reply import Head
from serve_app.api.text_chunks import CompletionBody, CompletionStream
from serve_app.protocol import Delta, Json, TokenLogprob, Usage
from tests.api.contract import conforms, typed

HEAD = Head("cmpl-1", 1_700_000_000, "llama", "fp_1")
USAGE = Usage(prompt_tokens=7, completion_tokens=5)


def token(data: bytes, logprob: float | None = -0.5) -> TokenLogprob:
    return TokenLogprob(data.decode(errors="replace"), logprob, data, (("other", -1.5, b"other"),))


def stream(*deltas: Delta, choices: int = 1, usage: bool = False) -> list[Json]:
    reply = CompletionStream(HEAD, choices, usage=usage)
    return [orjson.loads(one) for delta in deltas for one in reply.take(delta)] + [
        orjson.loads(one) for one in reply.end(USAGE)
    ]


def body(*deltas: Delta, **options: Any) -> Json:
    reply = CompletionBody(HEAD, **options)
    for delta in deltas:
        assert reply.take(delta) == []
    (data,) = reply.end(USAGE)
    completion: Json = orjson.loads(data)
    return completion


def finished(chunk: Json) -> Json:
    """A chunk as OpenAI's schema has it, which knows no reason that is still to come."""
    choices = [choice | {"finish_reason": choice["finish_reason"] or "stop"} for choice in chunk["choices"]]
    return {name: value for name, value in chunk.items() if value is not None} | {"choices": choices}


def test_a_stream_of_text_ends_with_an_empty_text_and_the_reason() -> None:
    chunks = stream(Delta(0, "Hel"), Delta(0, "lo", finish="length"))
    assert [chunk["choices"][0]["text"] for chunk in chunks] == ["Hel", "lo", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert all(chunk["object"] == "text_completion" and "usage" not in chunk for chunk in chunks)
    for chunk in chunks:
        typed(Completion, finished(chunk))
        conforms("CreateCompletionResponse", finished(chunk))


def test_usage_comes_last_and_is_null_before() -> None:
    *chunks, last = stream(Delta(1, "a"), choices=2, usage=True)
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == 12
    typed(Completion, last)


def test_choices_of_several_prompts_stand_in_their_order() -> None:
    completion = body(*(Delta(i, f"text {i}", finish="stop") for i in (3, 1, 0, 2)), prompts=2, n=2, candidates=2)
    assert [(one["index"], one["text"]) for one in completion["choices"]] == [(i, f"text {i}") for i in range(4)]
    typed(Completion, completion)
    conforms("CreateCompletionResponse", completion)


def test_logprobs_tell_where_each_token_begins() -> None:
    smile = "😀".encode()
    deltas = (
        Delta(0, "a", logprobs=(token(b"a"),)),
        Delta(0, "😀b", logprobs=(token(smile[:2]), token(smile[2:]), token(b"b"))),
    )
    logprobs = body(*deltas, logprobs=True)["choices"][0]["logprobs"]
    assert logprobs["text_offset"] == [0, 1, 1, 2]
    assert logprobs["token_logprobs"] == [-0.5] * 4
    assert logprobs["top_logprobs"][0] == {"a": -0.5, "other": -1.5}
    told = [chunk["choices"][0]["logprobs"] for chunk in stream(*deltas)]
    assert [one["text_offset"] for one in told if one] == [[0], [1, 1, 2]]
    conforms("CreateCompletionResponse", body(*deltas, logprobs=True))


def test_an_echoed_prompt_begins_with_a_token_nothing_predicted() -> None:
    delta = Delta(0, "ab", logprobs=(token(b"a", None), token(b"b")))
    logprobs = body(delta, logprobs=True)["choices"][0]["logprobs"]
    assert logprobs["token_logprobs"] == [None, -0.5]
    assert logprobs["top_logprobs"][0] is None


@pytest.mark.parametrize("asked", [True, False])
def test_the_most_likely_of_many_is_kept_per_prompt(asked: bool) -> None:
    likely = {0: -2.0, 1: -0.1, 2: -1.0, 3: -3.0, 4: -2.0, 5: -1.0}
    deltas = [Delta(i, f"text {i}", logprobs=(token(b"x", at),) * (i + 1)) for i, at in likely.items()]
    completion = body(*deltas, prompts=2, n=2, candidates=3, logprobs=asked)
    assert [(one["index"], one["text"]) for one in completion["choices"]] == [
        (0, "text 1"), (1, "text 2"), (2, "text 5"), (3, "text 4"),
    ]  # fmt: skip
    assert all((one["logprobs"] is not None) is asked for one in completion["choices"])
