"""What a model wrote, taken apart: the same reasoning, content and calls however the text is cut."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.families import FAMILIES, HERMES, LLAMA, MISTRAL, MISTRAL_NAMED
from serve_app.engine.reasoning import TAGS, ReasoningMeter, ReasoningReader, Thinking
from serve_app.engine.replies import AnswerReader, CallReader
from serve_app.engine.syntax import Syntax
from serve_app.protocol import Delta

NAMES = frozenset({"f", "get_weather"})
THINK = TAGS[0]

Call = tuple[str, str]
Read = tuple[str, str, list[Call], str]


def reader(syntax: Syntax, thinking: Thinking = Thinking.NEVER) -> AnswerReader:
    numbers = itertools.count()
    calls = CallReader(syntax, NAMES, lambda: f"{next(numbers)}")
    return AnswerReader(None if thinking is Thinking.NEVER else ReasoningReader(THINK, thinking), calls)


def read(
    syntax: Syntax, parts: list[str], finish: str = "stop", thinking: Thinking = Thinking.NEVER
) -> tuple[str, str, list[Call], str]:
    """Reasoning, content, calls (name, arguments) and why it ended, put together as clients do."""
    one = reader(syntax, thinking)
    deltas = [one.read(Delta(0, part)) for part in parts] + [one.read(Delta(0, finish=finish))]  # type: ignore[arg-type]
    calls: list[list[str]] = []
    for piece in (piece for delta in deltas for piece in delta.tool_calls):
        if piece.id is not None:
            assert (piece.index, piece.id) == (len(calls), f"call_{len(calls)}")
            calls.append([piece.name or "", ""])
        else:
            assert piece.name is None
        assert piece.index == len(calls) - 1
        calls[-1][1] += piece.arguments
    told = ("".join(delta.reasoning for delta in deltas), "".join(delta.text for delta in deltas))
    return *told, [(name, arguments) for name, arguments in calls], str(deltas[-1].finish)


ROME = ("get_weather", '{"city": "Rome \\"}{ é👍", "days": [1, {"a": {}}]}')
NONE = ("f", "{}")
HERMES_CALL = '<tool_call>\n{"name": "get_weather", "arguments": %s}\n</tool_call>' % ROME[1]  # noqa: UP031

REAL: list[tuple[Syntax, str, str, list[Call]]] = [
    (HERMES, HERMES_CALL, "", [ROME]),
    (HERMES, f"Let me see.\n\n{HERMES_CALL}\n", "Let me see.", [ROME]),
    (HERMES, f'{HERMES_CALL}\n<tool_call>\n{{"name": "f", "arguments": {{}}}}\n</tool_call>', "", [ROME, NONE]),
    (HERMES, f'<tool_call>{{"arguments": {ROME[1]}, "name": "f"}}</tool_call>Done.', "Done.", [("f", ROME[1])]),
    (HERMES, '<tool_call>\n{"name": "f"}\n</tool_call>', "", [NONE]),
    (HERMES, '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "", [("f", '{"a": 1}')]),
    (LLAMA, f'{{"name": "get_weather", "parameters": {ROME[1]}}}', "", [ROME]),
    (LLAMA, f'\n\n{{"name" : "get_weather", "arguments":{ROME[1]}}}', "", [ROME]),
    (LLAMA, f'<|python_tag|>{{"name": "get_weather", "parameters": {ROME[1]}}}', "", [ROME]),
    (
        LLAMA,
        f'{{"name": "f", "parameters": {{}}}}; {{"name": "get_weather", "parameters": {ROME[1]}}}',
        "",
        [NONE, ROME],
    ),
    (LLAMA, f'{{"type": "function", "name": "get_weather", "parameters": {ROME[1]}}}', "", [ROME]),
    (LLAMA, 'Like so: {"name": "f", "parameters": {}}', 'Like so: {"name": "f", "parameters": {}}', []),
    (LLAMA, '{"answer": 42}', '{"answer": 42}', []),
    (MISTRAL, f'[TOOL_CALLS][{{"name": "get_weather", "arguments": {ROME[1]}, "id": "a1b2c3d4e"}}]', "", [ROME]),
    (
        MISTRAL,
        f'[TOOL_CALLS] [{{"name": "f", "arguments": {{}}}}, {{"name": "get_weather", "arguments": {ROME[1]}}}]',
        "",
        [NONE, ROME],
    ),
    (MISTRAL, f'Sure.[TOOL_CALLS][{{"name": "get_weather", "arguments": {ROME[1]}}}]', "Sure.", [ROME]),
    (MISTRAL_NAMED, f"[TOOL_CALLS]get_weather[ARGS]{ROME[1]}", "", [ROME]),
    (MISTRAL_NAMED, f"[TOOL_CALLS]f[CALL_ID]a1b2c3d4e[ARGS]{{}}[TOOL_CALLS]get_weather{ROME[1]}", "", [NONE, ROME]),
]


@pytest.mark.parametrize(("syntax", "text", "content", "calls"), REAL)
def test_every_family_is_read_wherever_its_text_is_cut(
    syntax: Syntax, text: str, content: str, calls: list[Call]
) -> None:
    wanted = ("", content, calls, "tool_calls" if calls else "stop")
    assert read(syntax, list(text)) == wanted
    for at in range(len(text) + 1):
        assert read(syntax, [text[:at], text[at:]]) == wanted


def test_every_family_has_real_texts() -> None:
    assert {syntax.name for syntax, _, _, calls in REAL if calls} == {syntax.name for syntax in FAMILIES}


pieces = st.one_of(
    st.sampled_from([text for _, text, _, _ in REAL]),
    st.sampled_from([syntax.opening for syntax in FAMILIES]),
    st.sampled_from(
        ["</tool_call>", "<tool_call>not json</tool_call>", '{"name": "f", "arguments": 3}', "[", "{", "f"]
    ),
    st.sampled_from(
        ["<tool", "<", "[TOOL", "<think>", "</think>", "</thi", '{"name": "unknown", "arguments": {}}', "]"]
    ),
    st.text('a \n<é"\\', max_size=5),
)


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(FAMILIES),
    st.sampled_from(Thinking),
    st.lists(pieces, max_size=6),
    st.lists(st.integers(0, 600), max_size=30),
    st.sampled_from(["stop", "length"]),
)
def test_any_chunking_gives_the_same_answer(syntax, thinking, texts, places, finish) -> None:
    text = "".join(texts)
    whole = read(syntax, [text], finish, thinking)
    borders = [0, *sorted({place % (len(text) + 1) for place in places}), len(text)]
    assert read(syntax, [text[a:b] for a, b in itertools.pairwise(borders)], finish, thinking) == whole
    assert read(syntax, list(text), finish, thinking) == whole


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FAMILIES), st.text('a \n<[{é"', max_size=40))
def test_text_without_calls_comes_through_unchanged(syntax: Syntax, text: str) -> None:
    assert read(syntax, list(text)) == ("", text, [], "stop")


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(FAMILIES),
    st.dictionaries(st.text(max_size=4), st.recursive(st.text(max_size=4) | st.integers(), st.lists, max_leaves=4)),
)
def test_whatever_arguments_a_family_writes_are_read_back(syntax: Syntax, arguments: dict[str, object]) -> None:
    written = json.dumps(arguments, ensure_ascii=False)
    call = syntax.head.replace("NAME", "f") + written + syntax.tail
    assert read(syntax, list(syntax.opening + syntax.begin + call + syntax.end)) == (
        "",
        "",
        [("f", written)],
        "tool_calls",
    )


def test_arguments_are_told_while_they_are_written() -> None:
    one = reader(HERMES)
    told = [
        one.read(Delta(0, part)).tool_calls for part in ('<tool_call>{"name": "f", "arguments": {"a"', ": 12", "34}")
    ]
    assert [(p.id, p.name, p.arguments) for piece in told for p in piece] == [
        ("call_0", "f", '{"a"'),
        (None, None, ": 12"),
        (None, None, "34}"),
    ]


def test_content_that_cannot_become_a_call_is_told_at_once() -> None:
    one = reader(HERMES)
    assert [one.read(Delta(0, part)).text for part in ("Hello", " <to", "ad>")] == ["Hello", "", " <toad>"]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>no json</tool_call>",
        '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": "x"}</tool_call>',
        "<tool_call>[1]</tool_call>",
        '<tool_call>{"name": ["f"]}</tool_call>',
        '<tool_call>{"arguments": {"a": NaN}, "name": "f"}</tool_call>',
        '<tool_call>{"arguments": {"a": "\\ud83d"}, "name": "f"}</tool_call>',
        '<tool_call>{"name": "f"',
        "a < b and <tool",
        f"<tool_call>{'[' * 100_000}</tool_call>",
        f'<tool_call>{{"a": {"[" * 100_000}{"]" * 100_000}}}</tool_call>',
    ],
)
def test_what_is_no_call_is_content(text: str) -> None:
    assert read(HERMES, [text]) == ("", text, [], "stop")


def test_a_long_object_that_arrives_in_small_pieces_is_looked_at_once() -> None:
    text = '<tool_call>{"x": "' + "ab" * 100_000 + '", "name": "f"}'
    assert read(HERMES, [text[at : at + 2] for at in range(0, len(text), 2)])[2] == [NONE]


def test_a_cut_answer_stays_cut() -> None:
    assert read(HERMES, ['<tool_call>{"name": "f", "arguments": {"a": '], "length")[2:] == ([("f", '{"a": ')], "length")


@pytest.mark.parametrize(
    ("thinking", "text", "reasoning", "content"),
    [
        (Thinking.MAY, "<think>\nhm, <tool_call>\n</think>\n\nYes.", "hm, <tool_call>", "Yes."),
        (Thinking.MAY, "Yes.</think>", "", "Yes.</think>"),
        (Thinking.MAY, " <thin", "", " <thin"),
        (Thinking.OPENED, "\nhm </thi\n\n</think>\n\nYes.", "hm </thi", "Yes."),
        (Thinking.OPENED, "never ends", "never ends", ""),
        (Thinking.OPENED, "</think>\n\nYes.", "", "Yes."),
        (Thinking.NEVER, "<think>x</think>Yes.", "", "<think>x</think>Yes."),
    ],
)
def test_reasoning_is_told_from_the_answer(thinking: Thinking, text: str, reasoning: str, content: str) -> None:
    for at in range(len(text) + 1):
        assert read(HERMES, [text[:at], text[at:]], thinking=thinking)[:2] == (reasoning, content)


def test_a_call_after_reasoning_is_read() -> None:
    assert read(HERMES, list(f"hm</think>\n\n{HERMES_CALL}"), thinking=Thinking.OPENED)[:3] == ("hm", "", [ROME])


@pytest.mark.parametrize(
    ("thinking", "tokens", "counted"),
    [
        (Thinking.OPENED, ["a", "b", "</think>", "c"], 3),
        (Thinking.OPENED, ["a", "b", "</", "thi", "nk>c", "d"], 5),
        (Thinking.OPENED, ["a", "b"], 2),
        (Thinking.MAY, ["<th", "ink>", "b", "</think>", "c"], 4),
        (Thinking.MAY, ["<th", "at", "</think>"], 0),
        (Thinking.MAY, ["<th"], 0),
        (Thinking.NEVER, ["<think>"], 0),
    ],
)
def test_the_tokens_of_reasoning_are_counted(thinking: Thinking, tokens: list[str], counted: int) -> None:
    meter = ReasoningMeter(THINK, thinking)
    for token in tokens:
        meter.push(token.encode())
    assert meter.n_tokens == counted
