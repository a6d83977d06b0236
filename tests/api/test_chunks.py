from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from serve_app.api.chunks import ChatBody, ChatStream, KeptChatStream
from serve_app.api.reply import Head
from serve_app.protocol import Delta, Finish, Json, TokenLogprob, ToolCallDelta, Usage
from tests.api.contract import conforms, typed

HEAD = Head("chatcmpl-1", 1_700_000_000, "llama", "fp_1")
USAGE = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3, reasoning_tokens=2)
EXTRAS = frozenset({"reasoning_content"})
CONSTANT = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "llama"} | {
    "service_tier": "default",
    "system_fingerprint": "fp_1",
}
ROLE = {"role": "assistant", "content": "", "refusal": None}


def token(text: str) -> TokenLogprob:
    data = text.encode()
    return TokenLogprob(text, -0.5, data, ((text, -0.5, data), ("other", -9999.0, b"other")))


def stream(*deltas: Delta, choices: int = 1, **options: bool) -> list[Json]:
    """The chunks of an answer, each checked against the SDK's types and OpenAI's specification."""
    reply = ChatStream(HEAD, choices, **options)
    data = [chunk for delta in deltas for chunk in reply.take(delta)] + reply.end(USAGE)
    chunks: list[Json] = [orjson.loads(one) for one in data]
    for chunk in chunks:
        typed(ChatCompletionChunk, chunk, extras=EXTRAS)
        conforms("CreateChatCompletionStreamResponse", chunk)
        assert CONSTANT.items() <= chunk.items()
    return chunks


def body(*deltas: Delta, choices: int = 1, **options: Any) -> Json:
    reply = ChatBody(HEAD, choices, **options)
    assert [reply.take(delta) for delta in deltas] == [[] for _ in deltas]
    (data,) = reply.end(USAGE)
    completion: Json = orjson.loads(data)
    typed(ChatCompletion, completion, extras=EXTRAS | {"metadata"})
    conforms("CreateChatCompletionResponse", completion)
    return completion


def deltas_of(chunks: list[Json]) -> list[Json]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def test_text_comes_in_openais_golden_order() -> None:
    chunks = stream(Delta(0, "Hel"), Delta(0, "lo", finish="stop"))
    assert deltas_of(chunks) == [ROLE, {"content": "Hel"}, {"content": "lo"}, {}]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, None, "stop"]
    assert [chunk["choices"][0]["logprobs"] for chunk in chunks] == [None] * 4
    assert not any("usage" in chunk for chunk in chunks)


def test_usage_is_null_until_its_own_chunk_when_asked_for() -> None:
    *chunks, last = stream(Delta(0, "Hi"), usage=True)
    assert [chunk["usage"] for chunk in chunks] == [None] * 3
    assert last["choices"] == []
    assert last["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 5,
        "total_tokens": 12,
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 2,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def test_a_single_call_opens_in_the_first_chunk() -> None:
    chunks = stream(
        Delta(0, tool_calls=(ToolCallDelta(0, '{"a"', "call_1", "look"),)),
        Delta(0, tool_calls=(ToolCallDelta(0, ":1}"),), finish="tool_calls"),
    )
    opener = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}
    assert deltas_of(chunks) == [
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [opener]},
        {"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]},
        {},
    ]
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_parallel_calls_have_a_chunk_for_the_role_and_one_opener_each() -> None:
    calls = tuple(ToolCallDelta(i, "{}", f"call_{i}", "look") for i in range(2))
    first, *rest, last = deltas_of(stream(Delta(0, tool_calls=calls, finish="stop")))
    assert first == {"role": "assistant", "content": None, "refusal": None}
    assert [delta["tool_calls"][0].get("id") for delta in rest] == ["call_0", None, "call_1", None]
    assert last == {}


def test_words_before_a_call_are_words() -> None:
    deltas = deltas_of(stream(Delta(0, "Let me see."), Delta(0, tool_calls=(ToolCallDelta(0, "", "call_1", "look"),))))
    assert deltas[:2] == [ROLE, {"content": "Let me see."}]
    assert deltas[2]["tool_calls"][0]["id"] == "call_1"


@pytest.mark.parametrize(
    ("finish", "called", "legacy", "told"),
    [
        ("stop", True, False, "tool_calls"),
        ("tool_calls", True, False, "tool_calls"),
        ("length", True, False, "length"),
        ("stop", False, False, "stop"),
        ("stop", True, True, "function_call"),
        ("content_filter", False, False, "content_filter"),
    ],
)
def test_why_it_ended(finish: Finish, called: bool, legacy: bool, told: str) -> None:
    calls = (ToolCallDelta(0, "{}", "call_1", "look"),) if called else ()
    delta = Delta(0, tool_calls=calls, finish=finish)
    assert stream(delta, legacy=legacy)[-1]["choices"][0]["finish_reason"] == told
    assert body(delta, legacy=legacy)["choices"][0]["finish_reason"] == told


def test_functions_of_old_are_answered_in_their_own_words() -> None:
    delta = Delta(0, tool_calls=(ToolCallDelta(0, "{}", "call_1", "look"),))
    first, second, _ = deltas_of(stream(delta, legacy=True))
    assert first["function_call"] == {"name": "look", "arguments": ""}
    assert second == {"function_call": {"arguments": "{}"}}
    message = body(delta, legacy=True)["choices"][0]["message"]
    assert message["function_call"] == {"name": "look", "arguments": "{}"}
    assert "tool_calls" not in message


def test_every_token_has_its_logprob_once_even_without_text() -> None:
    deltas = (Delta(0, "", logprobs=(token("\x80"),)), Delta(0, "é", logprobs=(token("é"),), finish="stop"))
    told = [choice["logprobs"] for chunk in stream(*deltas) for choice in chunk["choices"]]
    entries = [entry for logprobs in told if logprobs for entry in logprobs["content"]]
    assert [entry["token"] for entry in entries] == ["\x80", "é"]
    assert entries[1]["bytes"] == list("é".encode())
    assert entries[1]["top_logprobs"][1] == {"token": "other", "logprob": -9999.0, "bytes": list(b"other")}
    assert body(*deltas)["choices"][0]["logprobs"] == {"content": entries, "refusal": None}


def test_an_empty_answer_still_has_a_role_and_an_end_for_every_choice() -> None:
    chunks = stream(Delta(1, finish="length"), choices=2)
    assert [(chunk["choices"][0]["index"], chunk["choices"][0]["finish_reason"]) for chunk in chunks] == [
        (1, None), (0, None), (0, "stop"), (1, "length"),
    ]  # fmt: skip
    assert body(choices=2)["choices"][1]["message"]["content"] == ""


def test_padding_hides_how_long_a_delta_is() -> None:
    chunks = stream(*(Delta(0, "x" * n) for n in range(1, 15)), pad=True)[1:-1]
    assert len({len(orjson.dumps(chunk)) for chunk in chunks}) == 1


def test_a_calls_answer_has_no_content_and_string_arguments() -> None:
    calls = (ToolCallDelta(0, '{"a":', "call_1", "look"), ToolCallDelta(1, "{}", "call_2", "find"))
    message = body(Delta(0, tool_calls=calls), Delta(0, tool_calls=(ToolCallDelta(0, "1}"),)))["choices"][0]["message"]
    assert message == {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}},
            {"id": "call_2", "type": "function", "function": {"name": "find", "arguments": "{}"}},
        ],
    }


def test_what_is_kept_of_a_cut_answer_says_so() -> None:
    reply = KeptChatStream(ChatStream(HEAD), ChatBody(HEAD, metadata={"k": "v"}))
    assert reply.kept(USAGE, whole=False) is None
    assert [orjson.loads(chunk)["choices"][0]["delta"] for chunk in reply.take(Delta(0, "Hel"))][1] == {
        "content": "Hel"
    }
    kept = reply.kept(USAGE, whole=False)
    assert kept is not None
    assert kept["choices"][0]["message"]["content"] == "Hel"
    assert kept["choices"][0]["finish_reason"] == "length"
    assert kept["metadata"] == {"k": "v"}
    assert reply.kept(USAGE, whole=True)["choices"][0]["finish_reason"] == "stop"  # type: ignore[index]


# --- any answer at all --------------------------------------------------------------------------------------------

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


@st.composite
def answers(draw: st.DrawFn) -> tuple[int, list[Delta]]:
    """Interleaved choices, each a legal sequence of deltas: the finish on its last, calls opened before they grow."""
    choices = draw(st.integers(1, 3))
    queues = []
    for choice in range(choices):
        pieces = draw(st.lists(st.tuples(TEXT, TEXT, st.booleans(), st.booleans()), min_size=1, max_size=5))
        finish = draw(st.sampled_from(["stop", "length", "tool_calls"]))
        queue, opened = [], 0
        for position, (text, reasoning, call, told) in enumerate(pieces):
            calls = (ToolCallDelta(opened, "{", f"call_{opened}", "look"), ToolCallDelta(opened, "}")) if call else ()
            opened += call
            last = finish if position == len(pieces) - 1 else None
            queue.append(Delta(choice, text, reasoning, calls, (token(text),) if told else (), last))
        queues.append(queue)
    order = draw(st.permutations([choice for choice, queue in enumerate(queues) for _ in queue]))
    return choices, [queues[choice].pop(0) for choice in order]


@given(answers(), st.booleans())
def test_any_stream_keeps_the_golden_order_and_adds_up_to_the_body(
    answer: tuple[int, list[Delta]], usage: bool
) -> None:
    choices, deltas = answer
    chunks = stream(*deltas, choices=choices, usage=usage)
    whole = body(*deltas, choices=choices)
    if usage:
        assert chunks.pop()["choices"] == []
    for choice in whole["choices"]:
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == choice["index"]]
        assert ["role" in one["delta"] for one in mine] == [True] + [False] * (len(mine) - 1)
        assert [one["finish_reason"] for one in mine] == [None] * (len(mine) - 1) + [choice["finish_reason"]]
        assert mine[-1]["delta"] == {}
        assert added_up(mine) == choice["message"] | {"content": choice["message"]["content"] or ""}
        told = [entry for one in mine if one["logprobs"] for entry in one["logprobs"]["content"]]
        assert told == (choice["logprobs"] or {"content": []})["content"]


def added_up(chunks: list[Json]) -> Json:
    """A message as a client puts it together."""
    message: Json = {"role": "assistant", "refusal": None, "annotations": [], "content": ""}
    for delta in (chunk["delta"] for chunk in chunks):
        message["content"] += delta.get("content") or ""
        if "reasoning_content" in delta:
            message["reasoning_content"] = message.get("reasoning_content", "") + delta["reasoning_content"]
        for call in delta.get("tool_calls", []):
            calls = message.setdefault("tool_calls", [])
            if "id" in call:
                assert call["index"] == len(calls)
                calls.append({"id": call["id"], "type": call["type"], "function": dict(call["function"])})
            else:
                calls[call["index"]]["function"]["arguments"] += call["function"]["arguments"]
    return message
