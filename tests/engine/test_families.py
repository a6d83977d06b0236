"""What a template says about calls and reasoning, and conversations as it shall see them."""

from __future__ import annotations

from typing import Any

import pytest

from serve_app.engine.conversation import conversation
from serve_app.engine.families import HERMES, LLAMA, Dialect, dialect
from serve_app.engine.reasoning import TAGS, Thinking, thinking
from serve_app.engine.template import CHATML, ChatTemplate
from serve_app.protocol import Chat
from tests.engine.styles import CONTROLS, STYLES

TOOLS = ({"name": "f", "parameters": {"type": "object"}}, {"name": "get_weather"})
NATIVE = Dialect(HERMES, native=True)


def of(source: str) -> Dialect:
    return dialect(template(source), source)


def template(source: str) -> ChatTemplate:
    return ChatTemplate(source, controls=CONTROLS, bos="<s>", eos="</s>")


@pytest.mark.parametrize(
    ("style", "family"),
    [
        ("qwen", "hermes"),
        ("llama 3", "llama 3"),
        ("mistral", "mistral"),
        ("mistral, named", "mistral, named"),
        ("xml", None),
        ("gemma", None),
    ],
)
def test_a_template_is_of_the_family_that_reads_what_it_writes(style: str, family: str | None) -> None:
    found = of(STYLES[style])
    assert found.native == (family is not None)
    assert found.syntax.name == (family or "hermes")


def test_a_template_that_knows_no_tools_gets_the_generic_family() -> None:
    assert of(CHATML) == Dialect()
    assert of("{% if tools %}{{ raise_exception('no tools') }}{% endif %}{{ messages }}") == Dialect()


def test_tokens_that_an_answer_needs_are_named() -> None:
    assert of(STYLES["mistral, named"]).controls == ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]")
    assert of(STYLES["xml"]).controls == ("<think>", "</think>")


@pytest.mark.parametrize(
    ("prompt", "found"),
    [
        ("user: x\nassistant: <think>\n", Thinking.OPENED),
        ("user: x\nassistant: <think>\n\n</think>\n\n", Thinking.NEVER),
        ("user: x\nassistant: ", Thinking.MAY),
    ],
)
def test_the_prompt_tells_where_reasoning_is(prompt: str, found: Thinking) -> None:
    assert thinking(prompt, TAGS[0]) is found
    assert thinking(prompt, None) is Thinking.NEVER


def test_a_template_without_tools_hears_of_them_in_the_system_message() -> None:
    messages = ({"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"})
    told, tools = conversation(Chat(messages, TOOLS), Dialect())
    assert tools is None
    assert told[0]["content"].startswith("Be kind.\n\n")
    assert '"get_weather"' in told[0]["content"]
    assert messages[0]["content"] == "Be kind."


def asked(*ids: str) -> dict[str, Any]:
    calls = [{"id": id_, "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}} for id_ in ids]
    return {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": calls}


ANSWERED = {"role": "tool", "tool_call_id": "call_123456", "content": "42"}


def test_calls_and_results_are_written_out_for_a_template_without_tools() -> None:
    told, _ = conversation(Chat((asked("call_123456"), ANSWERED)), Dialect())
    assert told[0] == {
        "role": "assistant",
        "content": '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        "reasoning_content": "hm",
    }
    assert told[1]["role"] == "user"
    assert "42" in told[1]["content"]


def test_a_template_that_knows_tools_gets_arguments_as_objects_and_short_ids_that_still_match() -> None:
    told, tools = conversation(Chat((asked("call_123456"), ANSWERED), TOOLS), NATIVE)
    assert told[0]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    assert told[0]["content"] == ""
    assert told[0]["reasoning_content"] == "hm"
    assert len(told[1]["tool_call_id"]) == 9
    assert told[0]["tool_calls"][0]["id"] == told[1]["tool_call_id"]
    assert tools is not None
    assert [tool["function"]["name"] for tool in tools] == ["f", "get_weather"]


def test_calls_made_together_are_told_one_by_one_where_the_template_knows_one_a_message() -> None:
    together = Chat((asked("a", "b"), ANSWERED))
    assert [len(m.get("tool_calls", ())) for m in conversation(together, NATIVE)[0]] == [2, 0]
    assert [len(m.get("tool_calls", ())) for m in conversation(together, Dialect(LLAMA, native=True))[0]] == [1, 1, 0]


def test_tools_that_must_not_be_called_are_not_described() -> None:
    for known in (Dialect(), NATIVE):
        told, tools = conversation(Chat(({"role": "user", "content": "hi"},), TOOLS, "none"), known)
        assert (told, tools) == ([{"role": "user", "content": "hi"}], None)
