from __future__ import annotations

from typing import Any

import orjson
from openai.types.chat import ChatCompletion

from serve_app.api.chunks import ChatBody, ChatStream
from serve_app.api.relayed import KeptRelayedBody, KeptRelayedStream, RelayedBody, RelayedStream
from serve_app.api.reply import Head
from serve_app.protocol import Delta, Json, Relayed, TokenLogprob, ToolCallDelta, Usage
from tests.api.contract import conforms, typed

THEIRS = Head("chatcmpl-theirs", 1_700_000_000, "gpt-4o", "fp_theirs")
OURS = "chatcmpl-ours"
USAGE = Usage(7, 5)
TOKEN = TokenLogprob("a", -0.5, b"a")
ANSWER = [
    Delta(0, "Hel", logprobs=(TOKEN,)),
    Delta(1, reasoning="Hm."),
    Delta(0, "lo", logprobs=(TOKEN,), finish="stop"),
    Delta(1, tool_calls=(ToolCallDelta(0, '{"a":', "call_1", "look"), ToolCallDelta(1, "{}", "call_2", "find"))),
    Delta(1, tool_calls=(ToolCallDelta(0, "1}"),), finish="tool_calls"),
]


def chunk(**more: Any) -> Relayed:
    head = {"id": "theirs", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    return Relayed(orjson.dumps(head | more))


def test_what_is_not_stored_passes_byte_for_byte() -> None:
    odd = Relayed(b'{ "id" : "x" , "choices":[]}')
    stream, body = RelayedStream(), RelayedBody()
    assert (stream.take(odd), stream.end(USAGE)) == ([odd.data], [])
    assert (body.take(odd), body.end(USAGE)) == ([], [odd.data])


def test_a_stored_body_has_our_id_and_the_callers_metadata() -> None:
    reply = KeptRelayedBody(OURS, {"k": "v"})
    reply.take(chunk(choices=[], vendor={"x": 1}))
    (data,) = reply.end(USAGE)
    assert orjson.loads(data) == reply.kept(USAGE, whole=True)
    assert orjson.loads(data)["id"] == OURS
    assert orjson.loads(data)["vendor"] == {"x": 1}
    assert orjson.loads(data)["metadata"] == {"k": "v"}


def test_a_stored_stream_adds_up_to_what_a_body_would_have_been() -> None:
    source, body = ChatStream(THEIRS, 2, usage=True, pad=True), ChatBody(THEIRS, 2)
    reply = KeptRelayedStream(OURS, {"k": "v"})
    data = [chunk for delta in ANSWER for chunk in source.take(delta)] + source.end(USAGE)
    shown = [out for one in data for out in reply.take(Relayed(one))] + reply.end(USAGE)
    assert [orjson.loads(out) | {"id": THEIRS.id} for out in shown] == [orjson.loads(one) for one in data]
    assert {orjson.loads(out)["id"] for out in shown} == {OURS}
    for delta in ANSWER:
        body.take(delta)
    whole: Json = orjson.loads(body.end(USAGE)[0]) | {"id": OURS, "metadata": {"k": "v"}}
    for choice in whole["choices"]:
        del choice["message"]["annotations"]
    kept = reply.kept(USAGE, whole=True)
    assert kept == whole
    typed(ChatCompletion, kept, extras=frozenset({"reasoning_content", "metadata"}))
    conforms("CreateChatCompletionResponse", kept)


def test_nothing_that_says_it_is_over_is_shown_before_the_end() -> None:
    reply = KeptRelayedStream(OURS, {})
    say = [{"index": 0, "delta": {"content": "a"}, "finish_reason": None}]
    over = [{"index": 0, "delta": {}, "finish_reason": "stop"}]
    assert len(reply.take(chunk(choices=say))) == 1
    assert reply.take(chunk(choices=over)) == []
    assert len(reply.take(chunk(choices=[say[0] | {"index": 1}]))) == 1
    assert reply.take(chunk(choices=[], usage={"prompt_tokens": 1})) == []
    assert len(reply.end(USAGE)) == 2


def test_usage_that_was_hidden_from_the_client_is_stored_all_the_same() -> None:
    reply = KeptRelayedStream(OURS, {})
    assert reply.kept(USAGE, whole=False) is None
    reply.take(chunk(choices=[{"index": 0, "delta": {"role": "assistant", "content": "a"}}]))
    kept = reply.kept(USAGE, whole=False)
    assert kept is not None
    assert kept["usage"]["total_tokens"] == 12
    assert kept["choices"][0]["finish_reason"] == "length"
    typed(ChatCompletion, kept, extras=frozenset({"metadata"}))
