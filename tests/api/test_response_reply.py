"""The events of a response, for every way in which a model may speak."""

from __future__ import annotations

import itertools
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.api.response_reply import Manner, ResponseReply
from serve_app.protocol import Delta, Failed, FailureCode, Json, Started, TokenLogprob, ToolCallDelta, Usage
from tests.api.responding import lawful

LOST = Failed(FailureCode.ENGINE_LOST, "The model was lost.")
TOKEN = TokenLogprob("é", None, "é".encode(), (("e", -1.5, b"e"),))
RESPONSE: Json = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "in_progress",
    "error": None,
    "incomplete_details": None,
    "instructions": None,
    "metadata": {},
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "usage": None,
}
PIECES = st.one_of(
    st.builds(lambda text: Delta(0, text), st.text(max_size=5)),
    st.builds(lambda text: Delta(0, reasoning=text), st.text(max_size=5)),
    st.builds(lambda text: Delta(0, text, logprobs=(TOKEN,)), st.text(max_size=5)),
    st.builds(
        lambda at, text: Delta(0, tool_calls=(ToolCallDelta(at, text, f"call_{at}", f"tool_{at}"),)),
        st.integers(0, 2),
        st.text(max_size=5),
    ),
)


def reply(**manner: Any) -> ResponseReply:
    numbers = itertools.count()
    return ResponseReply(dict(RESPONSE), Manner(True, **manner), lambda: f"{next(numbers):032x}", lambda: 2.0)


def read(chunks: list[bytes]) -> list[Json]:
    return [orjson.loads(chunk) for chunk in chunks]


def retold(events: list[Json]) -> list[Json]:
    """What a client knows of the output that read the deltas alone."""
    output: list[Json] = []
    for event in events:
        match event["type"].removeprefix("response."):
            case "output_item.added":
                assert event["output_index"] == len(output)
                output.append({"id": event["item"]["id"], "said": "", "done": False})
            case "output_text.delta" | "reasoning_text.delta" | "function_call_arguments.delta":
                told = output[event["output_index"]]
                assert (told["id"], told["done"]) == (event["item_id"], False)
                told["said"] += event["delta"]
            case "custom_tool_call_input.delta":
                output[event["output_index"]]["said"] += event["delta"]
            case "output_item.done":
                output[event["output_index"]]["done"] = True
    return output


def said(item: Json) -> str:
    if item["type"] in ("message", "reasoning"):
        return str(item["content"][0]["text"])
    return str(item["arguments" if item["type"] == "function_call" else "input"])


@given(st.lists(PIECES, max_size=12), st.sampled_from(["stop", "length", "tool_calls"]), st.booleans())
def test_the_deltas_of_any_answer_add_up_to_the_response_it_ends_with(
    pieces: list[Delta], finish: Any, background: bool
) -> None:
    told = reply(background=background, custom=frozenset({"tool_1"}))
    chunks = [chunk for piece in pieces for chunk in told.take(piece)]
    events = read([*told.start(Started()), *chunks, *told.take(Delta(0, finish=finish)), *told.end(Usage(1, 2))])
    numbers = sorted(event["sequence_number"] for event in events)
    assert numbers == list(range(len(events)))
    final = events[-1]["response"]
    assert final == told.kept(Usage(1, 2), whole=True)
    known = retold(events)
    assert all(one["done"] for one in known)
    assert [(one["id"], one["said"]) for one in known] == [(item["id"], said(item)) for item in final["output"]]
    texts = "".join(piece.text for piece in pieces)
    assert "".join(said(item) for item in final["output"] if item["type"] == "message") == texts
    assert final["status"] == ("incomplete" if finish == "length" else "completed")


def test_every_event_is_lawful_and_tokens_have_their_probabilities() -> None:
    told = reply()
    call = ToolCallDelta(0, "{}", "call_1", "f")
    parts = [Delta(0, reasoning="r"), Delta(0, "é", logprobs=(TOKEN,)), Delta(0, tool_calls=(call,))]
    chunks = told.start(Started())
    for part in parts:
        chunks += told.take(part)
    events = lawful(read(chunks + told.end(Usage(1, 2))))
    (delta,) = [event for event in events if event["type"] == "response.output_text.delta"]
    top = [{"token": "e", "logprob": -1.5}]
    assert delta["logprobs"] == [{"token": "é", "logprob": -9999.0, "top_logprobs": top}]
    part = events[-1]["response"]["output"][1]["content"][0]
    assert part["logprobs"][0]["bytes"] == list("é".encode())


@pytest.mark.parametrize(
    ("background", "began", "streamed", "kept"),
    [(False, False, True, False), (False, True, False, False), (False, True, True, True), (True, False, False, True)],
)
def test_what_failed_is_kept_if_anybody_could_have_heard_of_it(
    background: bool, began: bool, streamed: bool, kept: bool
) -> None:
    told = ResponseReply(dict(RESPONSE), Manner(streamed, background), lambda: "0", lambda: 2.0)
    if began:
        told.start(Started())
    told.fail(LOST)
    found = told.kept(Usage(), whole=False)
    assert (found is not None) is kept
    assert found is None or found["error"] == {"code": "server_error", "message": LOST.message}


def test_a_response_that_was_given_up_keeps_what_it_said() -> None:
    told = reply()
    told.start(Started())
    told.take(Delta(0, "Hel"))
    found = told.kept(Usage(1, 1), whole=False) or {}
    assert (found["status"], found["output"][0]["status"]) == ("cancelled", "incomplete")
    assert found["output"][0]["content"][0]["text"] == "Hel"
