"""Calls in a text: the same content and the same calls however the text is cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.replies import CLOSE, OPEN, CallReader, conversation, forced_call
from serve_app.protocol import Chat, Delta, ToolCallDelta

NAMES = frozenset({"f", "get_weather"})
TOOLS = ({"name": "f", "parameters": {"type": "object"}}, {"name": "get_weather"})


def call(name: str, arguments: object) -> str:
    return f"{OPEN}\n{json.dumps({'name': name, 'arguments': arguments}, ensure_ascii=False)}\n{CLOSE}"


def read(parts: list[str], finish: str = "stop", most: int | None = None) -> tuple[str, list[ToolCallDelta], str]:
    numbers = itertools.count()
    reader = CallReader(NAMES, lambda: f"{next(numbers)}", most=most)
    deltas = [reader.read(Delta(0, part)) for part in parts]
    deltas.append(reader.read(Delta(0, finish=finish)))  # type: ignore[arg-type]
    content = "".join(delta.text for delta in deltas)
    return content, [c for delta in deltas for c in delta.tool_calls], str(deltas[-1].finish)


pieces = st.one_of(
    st.builds(
        call,
        st.sampled_from(["f", "get_weather", "unknown"]),
        st.dictionaries(st.text("a<é", max_size=2), st.integers()),
    ),
    st.sampled_from(
        [OPEN, CLOSE, f"{OPEN}not json{CLOSE}", f'{OPEN}{{"name": "f", "arguments": 3}}{CLOSE}', "<tool", "<"]
    ),
    st.text("a \n<é", max_size=5),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(pieces, max_size=6), st.lists(st.integers(0, 400), max_size=30), st.sampled_from([None, 1]))
def test_any_chunking_gives_the_same_content_and_the_same_calls(texts, places, most) -> None:
    text = "".join(texts)
    whole = read([text], most=most)
    borders = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    assert read([text[a:b] for a, b in itertools.pairwise(borders)], most=most) == whole
    assert read(list(text), most=most) == whole


def test_a_call_between_texts_is_taken_out_with_the_space_around_it() -> None:
    content, calls, finish = read(list("Let me see.\n\n" + call("f", {"a": "ü"}) + "\nDone."))
    assert content == "Let me see.Done."
    assert calls == [ToolCallDelta(0, '{"a": "ü"}', id="call_0", name="f")]
    assert finish == "tool_calls"


def test_parallel_calls_are_numbered_and_have_ids_of_their_own() -> None:
    content, calls, _ = read([call("f", {}) + "\n" + call("get_weather", {"city": "Rome"})])
    assert content == ""
    assert [(c.index, c.id, c.name) for c in calls] == [(0, "call_0", "f"), (1, "call_1", "get_weather")]


@pytest.mark.parametrize(
    "text",
    [
        f"{OPEN}no json{CLOSE}",
        call("unknown", {}),
        f'{OPEN}{{"name": "f", "arguments": "x"}}{CLOSE}',
        f"{OPEN}[1]{CLOSE}",
        f'{OPEN}{{"name": ["f"]}}{CLOSE}',
        f'{OPEN}{{"name": "f", "arguments": {{"a": NaN}}}}{CLOSE}',
        f'{OPEN}{{"name": "f", "arguments": {{"a": "\\ud83d"}}}}{CLOSE}',
        f'{OPEN}{{"name": "f"',
        "a < b and <tool",
        f"{OPEN}{'[' * 100_000}{CLOSE}",
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    assert read([text]) == (text, [], "stop")


def test_a_cut_answer_stays_cut() -> None:
    assert read([call("f", {})], finish="length")[2] == "length"


def test_content_that_cannot_become_a_call_is_told_at_once() -> None:
    reader = CallReader(NAMES, lambda: "x")
    assert reader.read(Delta(0, "Hello")).text == "Hello"
    assert reader.read(Delta(0, " <to")).text == ""
    assert reader.read(Delta(0, "ad>")).text == " <toad>"


def test_a_template_without_tools_hears_of_them_in_the_system_message() -> None:
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"})
    told, tools = conversation(Chat(messages, TOOLS), template_knows_tools=False)
    assert tools is None
    assert told[0]["content"].startswith("Be kind.\n\n")
    assert '"get_weather"' in told[0]["content"]
    assert messages[0]["content"] == "Be kind."


def test_calls_and_results_are_written_out_for_a_template_without_tools() -> None:
    asked = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    }
    told, _ = conversation(
        Chat((asked, {"role": "tool", "tool_call_id": "1", "content": "42"})), template_knows_tools=False
    )
    assert told[0] == {"role": "assistant", "content": call("f", {"a": 1})}
    assert told[1]["role"] == "user"
    assert "42" in told[1]["content"]


def test_arguments_are_objects_for_a_template_that_knows_tools() -> None:
    asked = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}],
    }
    told, tools = conversation(Chat((asked,), TOOLS), template_knows_tools=True)
    assert told[0]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert told[0]["content"] == ""
    assert tools is not None
    assert [tool["function"]["name"] for tool in tools] == ["f", "get_weather"]


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_nothing_is_forced_where_the_model_may_choose(choice: str) -> None:
    assert forced_call(Chat(({"role": "user", "content": "x"},), TOOLS, choice)) is None
