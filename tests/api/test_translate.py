from __future__ import annotations

from typing import Any

import orjson
import pytest

from serve_app.api import translate
from serve_app.api.limits import Limits
from serve_app.api.translate import Errand
from serve_app.api.wire.chat import ChatRequest
from serve_app.api.wire.completions import CompletionRequest
from serve_app.api.wire.forward import ForwardedChat
from serve_app.api.wire.shape import read
from serve_app.protocol import (
    Chat,
    Constraint,
    Dry,
    DynamicTemperature,
    Generate,
    Json,
    Mirostat,
    Relay,
    Sampling,
    Text,
    Tier,
    Xtc,
)

ERRAND = Errand("req-1", "tenant-1", "backend-name", 30.0)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
LOOK: Json = {"name": "look", "description": "Looks.", "parameters": SCHEMA}
FIND: Json = {"name": "find"}


def tool(function: Json) -> Json:
    return {"type": "function", "function": function}


def chat(*messages: Json, **more: Any) -> Generate:
    body = {"model": "m", "messages": list(messages) or [{"role": "user", "content": "Hi"}], **more}
    return translate.chat(read(ChatRequest, body, Limits()), ERRAND)


def prompt(*messages: Json, **more: Any) -> Chat:
    (only,) = chat(*messages, **more).prompts
    assert isinstance(only, Chat)
    return only


def completion(**more: Any) -> Generate:
    return translate.completion(read(CompletionRequest, {"model": "m", **more}, Limits()), ERRAND)


def relay(keep: bool = False, **more: Any) -> Relay:
    body = {"model": "alias", "messages": [{"role": "user", "content": "Hi"}], **more}
    called = read(ForwardedChat, body, Limits())
    return translate.relay("chat/completions", body, called, ERRAND, keep=keep)


def test_a_plain_request_has_openais_defaults() -> None:
    request = chat()
    assert request.sampling == Sampling()
    assert request.sampling.temperature == request.sampling.top_p == 1.0
    assert (request.request_id, request.tenant, request.model) == ("req-1", "tenant-1", "backend-name")
    assert (request.timeout_s, request.choices, request.constraint) == (30.0, 1, None)


def test_sampling_reaches_the_engine_as_it_was_asked_for() -> None:
    request = chat(
        temperature=0, top_p=0.5, top_k=-1, min_p=0.1, typical_p=0.9, repeat_penalty=1.1, frequency_penalty=1,
        presence_penalty=-1, logit_bias={"7": -100}, seed=-3, max_tokens=9, min_tokens=2, stop="\n", ignore_eos=True,
        logprobs=True, top_logprobs=3, n=2,
    )  # fmt: skip
    assert request.choices == 2
    assert request.sampling == Sampling(
        temperature=0, top_p=0.5, top_k=0, min_p=0.1, typical_p=0.9, repeat_penalty=1.1, frequency_penalty=1,
        presence_penalty=-1, logit_bias=((7, -100.0),), seed=-3, max_tokens=9, min_tokens=2, stop=("\n",),
        ignore_eos=True, logprobs=3,
    )  # fmt: skip


def test_the_newer_name_for_the_most_tokens_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).sampling.max_tokens == 7


def test_logprobs_without_alternatives_are_still_logprobs() -> None:
    assert chat(logprobs=True).sampling.logprobs == 0
    assert chat(logprobs=False).sampling.logprobs is None


def test_messages_become_what_templates_know() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    messages = prompt(
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": [call], "reasoning": "Hm."},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    ).messages
    assert messages == (
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb", "name": "Ann"},
        {"role": "assistant", "content": "", "reasoning_content": "Hm.", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    )


def test_functions_of_old_are_tools() -> None:
    old = prompt(
        {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
        {"role": "function", "name": "look", "content": "42"},
        functions=[LOOK],
        function_call={"name": "look"},
    )
    assert old.messages[0]["tool_calls"][0]["id"] == old.messages[1]["tool_call_id"]
    assert old.messages[1]["role"] == "tool"
    assert old.tools == (LOOK | {"strict": False},)
    assert old.tool_choice == "function:look"
    assert not old.parallel_tool_calls


@pytest.mark.parametrize(
    ("choice", "meaning", "names"),
    [
        (None, "auto", ["look", "find"]),
        ("none", "none", ["look", "find"]),
        ("required", "required", ["look", "find"]),
        ({"type": "function", "function": {"name": "find"}}, "function:find", ["look", "find"]),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool(FIND)]}}, "required", ["find"]),
    ],
)
def test_who_may_be_called(choice: Any, meaning: str, names: list[str]) -> None:
    asked = prompt(tools=[tool(LOOK), tool(FIND)], tool_choice=choice)
    assert asked.tool_choice == meaning
    assert [function["name"] for function in asked.tools] == names


def test_without_tools_nothing_may_be_called() -> None:
    assert prompt().tool_choice == "none"


def test_a_function_without_parameters_takes_none() -> None:
    assert prompt(tools=[tool(FIND)]).tools[0]["parameters"] == {"type": "object", "properties": {}}


def test_reasoning_effort_reaches_the_template_and_explicit_options_win() -> None:
    assert prompt(reasoning_effort="none").template_options == {"reasoning_effort": "none", "enable_thinking": False}
    options = prompt(reasoning_effort="high", chat_template_kwargs={"enable_thinking": False}).template_options
    assert options == {"reasoning_effort": "high", "enable_thinking": False}


@pytest.mark.parametrize(
    ("more", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, Constraint("json_schema", '{"type":"object"}')),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}},
            Constraint("json_schema", orjson.dumps(SCHEMA).decode()),
        ),
        *(
            (asked, Constraint("json_schema", orjson.dumps(SCHEMA).decode(), "structured_outputs"))
            for asked in ({"structured_outputs": {"json": SCHEMA}}, {"json_schema": SCHEMA}, {"guided_json": SCHEMA})
        ),
        ({"structured_outputs": {"regex": "[0-9]+"}}, Constraint("regex", "[0-9]+", "structured_outputs")),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Constraint("grammar", 'start: "a"', "structured_outputs")),
        ({"grammar": 'root ::= "a"'}, Constraint("grammar", 'root ::= "a"', "structured_outputs")),
        ({"guided_regex": "a"}, Constraint("regex", "a", "structured_outputs")),
        (
            {"structured_outputs": {"choice": ['y"es', "no\n"]}},
            Constraint("lark", r'start: "y\"es" | "no\n"', "structured_outputs"),
        ),
        ({"guided_choice": ["a"]}, Constraint("lark", 'start: "a"', "structured_outputs")),
    ],
)
def test_what_the_answer_must_look_like(more: Json, constraint: Constraint | None) -> None:
    assert chat(**more).constraint == constraint


@pytest.mark.parametrize(
    ("asked", "prompts"),
    [
        (None, (Text(""),)),
        ("a", (Text("a"),)),
        (["a", ""], (Text("a"), Text(""))),
        ([1, 2], (Text((1, 2)),)),
        ([[1], [2, 3]], (Text((1,)), Text((2, 3)))),
    ],
)
def test_a_prompt_in_each_of_its_forms(asked: Any, prompts: tuple[Text, ...]) -> None:
    assert completion(prompt=asked).prompts == prompts


def test_a_completion_is_sixteen_tokens_long_unless_told_otherwise() -> None:
    assert completion().sampling.max_tokens == 16
    assert completion(max_tokens=0, echo=True).sampling.max_tokens == 0


def test_the_best_are_chosen_by_logprobs_nobody_asked_for() -> None:
    request = completion(n=2, best_of=4)
    assert (request.choices, request.sampling.logprobs) == (4, 0)
    assert completion(n=2, best_of=2).sampling.logprobs is None


def test_suffix_and_echo_are_passed_on() -> None:
    assert completion(prompt="a", suffix="z").prompts == (Text("a", "z"),)
    assert completion(prompt="a", echo=True).echo


def test_a_relayed_request_is_the_clients_own_but_for_the_model() -> None:
    request = relay(temperature=9, vendor={"x": [1]}, store=False)
    sent = {"model": "backend-name", "messages": [{"role": "user", "content": "Hi"}]}
    assert orjson.loads(request.body) == sent | {"temperature": 9, "vendor": {"x": [1]}, "store": False}
    assert not request.stream
    assert not request.hide_usage


def test_what_is_stored_here_is_not_stored_there() -> None:
    sent = orjson.loads(relay(keep=True, store=True, metadata={"a": "b"}).body)
    assert "store" not in sent
    assert "metadata" not in sent


@pytest.mark.parametrize(
    ("options", "hidden"), [(None, True), ({"include_obfuscation": False}, True), ({"include_usage": True}, False)]
)
def test_a_relayed_stream_always_tells_us_its_usage(options: Json | None, hidden: bool) -> None:
    request = relay(stream=True, stream_options=options)
    assert orjson.loads(request.body)["stream_options"] == (options or {}) | {"include_usage": True}
    assert request.hide_usage is hidden


@pytest.mark.parametrize(
    ("service_tier", "allowed", "given"),
    [
        (None, Tier.PRIORITY, Tier.DEFAULT),
        ("auto", Tier.PRIORITY, Tier.DEFAULT),
        ("flex", Tier.PRIORITY, Tier.BATCH),
        ("priority", Tier.PRIORITY, Tier.PRIORITY),
        ("priority", Tier.BATCH, Tier.BATCH),
        (None, Tier.BATCH, Tier.BATCH),
    ],
)
def test_a_request_gets_the_tier_it_asks_for_but_none_better_than_it_may_have(
    service_tier: str | None, allowed: Tier, given: Tier
) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "service_tier": service_tier}
    errand = Errand("req-1", "tenant-1", "backend-name", 30.0, allowed)
    assert translate.chat(read(ChatRequest, body, Limits()), errand).tier is given


def test_llama_servers_samplers_are_off_until_their_first_parameter_turns_them_on() -> None:
    quiet = {"dry_base": 2.0, "xtc_threshold": 0.3, "mirostat_tau": 3.0, "dynatemp_exponent": 2.0, "top_n_sigma": -1}
    off = {"dry_multiplier": 0, "xtc_probability": 0, "mirostat": 0, "dynatemp_range": 0}
    assert chat(**quiet, **off).sampling == chat().sampling


def test_llama_servers_samplers_reach_the_engine() -> None:
    sampling = chat(
        **{"dry_multiplier": 0.8, "dry_penalty_last_n": -1, "dry_sequence_breakers": ["\n"]},
        **{"xtc_probability": 0.5, "mirostat": 2, "mirostat_tau": 4, "dynatemp_range": 0.5, "top_n_sigma": 1},
        repeat_last_n=32,
    ).sampling
    assert sampling.dry == Dry(0.8, last_n=-1, breakers=("\n",))
    assert sampling.xtc == Xtc(0.5)
    assert sampling.mirostat == Mirostat(2, tau=4)
    assert sampling.dynamic_temperature == DynamicTemperature(0.5)
    assert (sampling.top_n_sigma, sampling.repeat_last_n) == (1, 32)
