"""A response's request -> the chat completion that answers it. Pure.

One translation for local models and for upstreams: an upstream is asked over chat completions, which every server that
speaks OpenAI has, and the response, its events and its state are made here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from serve_app.api.items import messages
from serve_app.api.wire.responses import (
    AllowedTools,
    AnyTool,
    Asked,
    CustomTool,
    FunctionTool,
    NamedTool,
    ResponseRequest,
    SchemaFormat,
)
from serve_app.protocol import Json

_EXTRAS = (
    "chat_template_kwargs",
    "frequency_penalty",
    "ignore_eos",
    "logit_bias",
    "min_p",
    "min_tokens",
    "presence_penalty",
    "prompt_cache_key",
    "repeat_penalty",
    "safety_identifier",
    "seed",
    "service_tier",
    "stop",
    "structured_outputs",
    "temperature",
    "top_k",
    "top_p",
    "typical_p",
    "user",
)
"""What both APIs call by the same name, passed on as it was sent."""

_CUSTOM_INPUT = {
    "type": "object",
    "properties": {"input": {"type": "string"}},
    "required": ["input"],
    "additionalProperties": False,
}


def chat_body(wanted: Asked, body: Json, items: Sequence[Json], *, local: bool) -> Json:
    """``body`` is what the client sent, ``items`` the whole history with the new input at its end."""
    chat: Json = {name: body[name] for name in _EXTRAS if body.get(name) is not None}
    chat |= {"model": wanted.model, "stream": True, "messages": messages(items, wanted.instructions, local=local)}
    chat |= _tools(wanted) | _format(wanted)
    if wanted.reasoning.effort is not None:
        chat["reasoning_effort"] = wanted.reasoning.effort
    if wanted.text.verbosity is not None:
        chat["verbosity"] = wanted.text.verbosity
    return chat | (_length(wanted) if isinstance(wanted, ResponseRequest) else {})


def _length(wanted: ResponseRequest) -> Json:
    chat: Json = {}
    if wanted.max_output_tokens is not None:
        chat["max_completion_tokens"] = wanted.max_output_tokens
    if wanted.wants_logprobs:
        chat |= {"logprobs": True, "top_logprobs": wanted.top_logprobs or 0}
    return chat


def _tools(wanted: Asked) -> Json:
    if not wanted.tools:
        return {}
    tools = [{"type": "function", "function": _function(tool)} for tool in wanted.tools]
    return {
        "tools": tools,
        "tool_choice": _choice(wanted.tool_choice),
        "parallel_tool_calls": wanted.parallel_tool_calls,
    }


def _function(tool: AnyTool) -> Json:
    """A custom tool is called as a function of one text: models and servers that know only these can call it."""
    if isinstance(tool, CustomTool):
        function: Json = {"name": tool.name, "parameters": _CUSTOM_INPUT, "strict": True}
        return function if tool.description is None else function | {"description": tool.description}
    assert isinstance(tool, FunctionTool)  # noqa: S101  # the others were refused at the door
    return tool.model_dump(exclude={"type"}, exclude_none=True)


def _choice(choice: Any) -> Any:
    if isinstance(choice, AllowedTools):
        named = [_named(tool) for tool in choice.tools]
        return {"type": "allowed_tools", "allowed_tools": {"mode": choice.mode, "tools": named}}
    return _named(choice) if isinstance(choice, NamedTool) else choice


def _named(tool: NamedTool) -> Json:
    return {"type": "function", "function": {"name": tool.name}}


def _format(wanted: Asked) -> Json:
    match wanted.text.format:
        case SchemaFormat() as named:
            schema = named.model_dump(by_alias=True, exclude={"type"}, exclude_none=True)
            return {"response_format": {"type": "json_schema", "json_schema": schema}}
        case plain if plain.type == "json_object":
            return {"response_format": {"type": "json_object"}}
    return {}
