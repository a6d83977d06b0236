from __future__ import annotations

from functools import reduce
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.limits import Limits
from serve_app.api.wire.chat import ChatRequest
from serve_app.api.wire.completions import CompletionRequest
from serve_app.api.wire.forward import ForwardedChat
from serve_app.api.wire.shape import Shape, read
from serve_app.errors import RequestError, envelope, status
from serve_app.protocol import Failed, Json
from tests.api.contract import conforms

USER: Json = {"role": "user", "content": "Hi"}
TOOL: Json = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
CALL: Json = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
NAMED: Json = {"type": "function", "function": {"name": "look"}}
CANARY = "canary-5317"
NESTED: Json = reduce(lambda inner, _: {"items": inner}, range(70), {"type": "string"})


def chat(**more: Any) -> ChatRequest:
    return read(ChatRequest, {"model": "llama", "messages": [USER], **more}, Limits())


def refusal(shape: type[Shape], body: Json) -> Json:
    with pytest.raises(RequestError) as caught:
        read(shape, body, Limits())
    assert status(caught.value.failed) == 400
    error: Json = envelope(caught.value.failed)["error"]
    return error


def test_every_parameter_of_openai_is_read() -> None:
    body = {
        "model": "llama",
        "messages": [
            {"role": "developer", "content": "Be brief.", "name": "op"},
            {"role": "system", "content": [{"type": "text", "text": "Be kind."}]},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": [{"type": "text", "text": "42"}], "tool_call_id": "call_1"},
            {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
            {"role": "function", "name": "look", "content": None},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "refusal": None},
            USER,
        ],
        "max_completion_tokens": 5, "temperature": 0, "top_p": 1, "n": 8, "stop": ["a", "b"], "seed": 2**63 - 1,
        "frequency_penalty": -2, "presence_penalty": 2.0, "logit_bias": {"5": -100, "7": 1}, "logprobs": True,
        "top_logprobs": 20, "stream": True, "stream_options": {"include_usage": True, "include_obfuscation": False},
        "tools": [TOOL], "tool_choice": NAMED, "parallel_tool_calls": False, "response_format": {"type": "text"},
        "reasoning_effort": "low", "verbosity": "high", "store": True, "metadata": {"k": "v"}, "user": "u",
        "safety_identifier": "s", "prompt_cache_key": "p", "service_tier": "auto", "modalities": ["text"],
    }  # fmt: skip
    conforms("CreateChatCompletionRequest", body)
    assert read(ChatRequest, body, Limits()).n == 8


def test_null_is_not_sent_and_unknown_fields_are_ignored() -> None:
    names = [name for name in ChatRequest.model_fields if name not in ("model", "messages")]
    assert chat(**dict.fromkeys(names), vendor_thing={"a": 1}, audio=None) == chat()


@pytest.mark.parametrize(
    ("more", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": []}, "messages", "array_below_min_length"),
        ({"messages": [USER] * 2049}, "messages", "array_above_max_length"),
        ({"messages": "Hi"}, "messages", "invalid_type"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_type"),
        ({"messages": [USER, {"role": "wizard", "content": "x"}]}, "messages[1].role", "invalid_value"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content", "array_below_min_length"),
        ({"messages": [{"role": "user", "content": [{"type": "x"}]}]}, "messages[0].content[0]", "invalid_value"),
        ({"messages": [{"role": "assistant"}]}, "messages[0]", "invalid_value"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id", "missing_required_parameter"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}]},
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
        ({"temperature": 2.1}, "temperature", "decimal_above_max_value"),
        ({"temperature": "1"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"top_p": -0.1}, "top_p", "decimal_below_min_value"),
        ({"presence_penalty": 3}, "presence_penalty", "decimal_above_max_value"),
        ({"n": 0}, "n", "integer_below_min_value"),
        ({"n": 9}, "n", "integer_above_max_value"),
        ({"max_tokens": 0}, "max_tokens", "integer_below_min_value"),
        ({"max_completion_tokens": -1}, "max_completion_tokens", "integer_below_min_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"seed": 2**63}, "seed", "integer_above_max_value"),
        ({"seed": 1.8446744073709552e19}, "seed", "invalid_type"),
        ({"stop": ["a"] * 5}, "stop", "array_above_max_length"),
        ({"stop": ["a" * 257]}, "stop", "string_above_max_length"),
        ({"stop": ""}, "stop", "string_below_min_length"),
        ({"stop": [1]}, "stop", "invalid_type"),
        ({"logit_bias": {"a": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"-1": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"²": 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {str(2**31): 1}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "invalid_value"),
        ({"logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "object_above_max_properties"),
        ({"top_logprobs": 1}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "integer_above_max_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"tools": [TOOL] * 2}, "tools", "invalid_value"),
        (
            {"tools": [{"type": "function", "function": {"name": "no spaces"}}]},
            "tools[0].function.name",
            "invalid_value",
        ),
        ({"tools": [{"type": "function", "function": {"name": "f\n"}}]}, "tools[0].function.name", "invalid_value"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"a": "x" * 65536}}}]},
            "tools[0].function.parameters",
            "string_above_max_length",
        ),
        (
            {"functions": [{"name": "f", "parameters": {"enum": list(range(1001))}}]},
            "functions[0].parameters",
            "invalid_value",
        ),
        ({"tool_choice": "auto"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": "never"}, "tool_choice", "invalid_value"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "invalid_value",
        ),
        ({"functions": [{"name": "f"}], "tools": [TOOL]}, "functions", "invalid_value"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        ({"metadata": {str(i): "v" for i in range(17)}}, "metadata", "object_above_max_properties"),
        ({"metadata": {"k": "v" * 513}}, "metadata", "invalid_value"),
        ({"metadata": {"k": 1}}, "metadata", "invalid_value"),
        ({"reasoning_effort": "huge"}, "reasoning_effort", "invalid_value"),
        ({"service_tier": "first"}, "service_tier", "invalid_value"),
        ({"safety_identifier": "s" * 65}, "safety_identifier", "string_above_max_length"),
        ({"repeat_penalty": 0}, "repeat_penalty", "decimal_below_min_value"),
        ({"dry_multiplier": -1}, "dry_multiplier", "decimal_below_min_value"),
        ({"dry_sequence_breakers": [""]}, "dry_sequence_breakers[0]", "string_below_min_length"),
        ({"dry_sequence_breakers": ["b" * 9]}, "dry_sequence_breakers[0]", "string_above_max_length"),
        ({"xtc_probability": 2}, "xtc_probability", "decimal_above_max_value"),
        ({"mirostat": 3}, "mirostat", "invalid_value"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens", "invalid_value"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs", "invalid_value"),
        ({"grammar": "root ::= x", "guided_regex": "x"}, "grammar", "invalid_value"),
        ({"guided_json": {}, "structured_outputs": {"regex": "x"}}, "guided_json", "invalid_value"),
        ({"json_schema": NESTED}, "structured_outputs.json", "invalid_value"),
        ({"chat_template_kwargs": {"enable_thinking": 5}}, "chat_template_kwargs", "invalid_type"),
    ],
)
def test_a_refusal_names_the_parameter_and_what_is_wrong(more: Json, param: str, code: str) -> None:
    error = refusal(ChatRequest, {"model": "llama", "messages": [USER], **more})
    assert (error["param"], error["code"]) == (param, code)
    assert f"'{param}'" in error["message"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0]"),
        ({"tools": [TOOL], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice"),
        ({"chat_template_kwargs": {"messages": "x"}}, "chat_template_kwargs"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
         "messages[0].content[0]"),
    ],
)  # fmt: skip
def test_what_would_change_the_answer_is_refused_rather_than_ignored(more: Json, param: str) -> None:
    error = refusal(ChatRequest, {"model": "llama", "messages": [USER], **more})
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")


def test_switched_off_extras_are_harmless() -> None:
    assert chat(mirostat=0, dry_multiplier=0.0, xtc_probability=0, grammar="", modalities=["text"]) == chat()


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt[0]"),
        ({"prompt": ["a", 1]}, "prompt[1]"),
        ({"prompt": [1, "a"]}, "prompt[1]"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": [2**31]}, "prompt[0]"),
        ({"prompt": {}}, "prompt"),
        ({"prompt": ["a"] * 65, "n": 2}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 6}, "logprobs"),
        ({"logprobs": True}, "logprobs"),
        ({"best_of": 9}, "best_of"),
        ({"best_of": 2, "n": 3}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 2, "echo": True}, "best_of"),
        ({"suffix": "b", "echo": True}, "echo"),
    ],
)
def test_a_completion_refusal_names_the_parameter(more: Json, param: str) -> None:
    assert refusal(CompletionRequest, {"model": "llama", **more})["param"] == param


def test_zero_tokens_are_fine_for_scoring_a_prompt() -> None:
    assert read(CompletionRequest, {"model": "m", "max_tokens": 0, "echo": True, "logprobs": 0}, Limits()).echo


def test_a_forwarded_request_is_not_judged_on_what_the_upstream_may_know() -> None:
    image = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://example.org"}}]}
    body = {"model": "m", "messages": [image, {"role": "new"}], "n": 100, "audio": {}, "temperature": 9, "tools": 5}
    assert read(ForwardedChat, body, Limits()).messages == body["messages"]


@pytest.mark.parametrize(
    "more",
    [{"messages": []}, {"stream": 1}, {"stream_options": {}}, {"store": "yes"}, {"metadata": {"a": 1}}, {"user": 5}],
)
def test_a_forwarded_request_is_judged_on_what_we_use(more: Json) -> None:
    assert refusal(ForwardedChat, {"model": "m", "messages": [USER], **more})["param"] in more


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(CANARY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "role", CANARY]), inner),
    max_leaves=6,
)


def failure_of(shape: type[Shape], body: Json) -> Failed | None:
    try:
        read(shape, body, Limits())
    except RequestError as error:
        return error.failed
    return None


@settings(max_examples=300)
@given(st.sampled_from([ChatRequest, CompletionRequest, ForwardedChat]), st.data())
def test_whatever_is_sent_is_read_or_refused_without_quoting_it(shape: type[Shape], data: st.DataObject) -> None:
    known = {name: VALUES for name in shape.model_fields if name != "model"}
    body = data.draw(st.fixed_dictionaries({"model": st.just("llama")}, optional=known))
    failed = failure_of(shape, body)
    assert failed is None or status(failed) == 400
    assert failed is None or CANARY not in str(envelope(failed))
