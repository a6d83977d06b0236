"""Anthropic's request in OpenAI's words. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import orjson

from serve_app.api.wire.anthropic import Block, Countable, MessagesRequest, Said, Tool, ToolChoice, blocks
from serve_app.protocol import Json

_BUDGETS = ((4096, "low"), (16384, "medium"))
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}


def chat_body(wanted: MessagesRequest, *, local: bool) -> Json:
    """The chat completion that answers it."""
    chat = prompt_body(wanted, local=local) | {"max_completion_tokens": wanted.max_tokens, "stream": wanted.stream}
    for name in ("temperature", "top_p", "top_k"):
        if (value := getattr(wanted, name)) is not None:
            chat[name] = value
    if wanted.stop_sequences:
        chat["stop"] = wanted.stop_sequences
    if wanted.metadata and wanted.metadata.user_id:
        chat["user"] = wanted.metadata.user_id
    if wanted.output_config and wanted.output_config.format:
        schema = {"name": "answer", "schema": wanted.output_config.format.schema_, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat


def prompt_body(wanted: Countable, *, local: bool) -> Json:
    """As far as the prompt goes."""
    system = "\n".join(block.text or "" for block in blocks(wanted.system))
    messages: list[Json] = [{"role": "system", "content": system}] if system else []
    for message in wanted.messages:
        messages += [_assistant(message)] if message.role == "assistant" else list(_user(message))
    chat: Json = {"model": wanted.model, "messages": messages}
    if wanted.tools:
        chat["tools"] = [_tool(tool) for tool in wanted.tools]
        if wanted.tool_choice is not None:
            chat |= _choice(wanted.tool_choice)
    return chat | _thinking(wanted, local=local)


def _user(message: Said) -> Iterator[Json]:
    """Results of tools are messages of their own, and come before what the user says about them."""
    said = blocks(message.content)
    for block in said:
        if block.type == "tool_result":
            yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)}
    rest = [_part(block) for block in said if block.type in ("text", "image")]
    if rest or not said:
        plain = len(rest) == 1 and rest[0]["type"] == "text"
        yield {"role": "user", "content": rest[0]["text"] if plain else rest or ""}


def _result(block: Block) -> str | list[Json]:
    parts = [_part(inner) for inner in blocks(block.content)]
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    if any(part["type"] != "text" for part in parts):
        return parts
    return f"Error: {text}" if block.is_error else text


def _part(block: Block) -> Json:
    if block.source is not None:
        return {"type": "image_url", "image_url": {"url": block.source.address}}
    return {"type": "text", "text": block.text or ""}


def _assistant(message: Said) -> Json:
    said = blocks(message.content)
    text = "".join(block.text or "" for block in said if block.type == "text")
    thought = "".join(block.thinking or "" for block in said if block.type == "thinking")
    calls = [_call(block) for block in said if block.type == "tool_use"]
    plain: Json = {"role": "assistant", "content": None if calls and not text else text}
    if thought:
        plain["reasoning_content"] = thought
    if calls:
        plain["tool_calls"] = calls
    return plain


def _call(block: Block) -> Json:
    function = {"name": block.name, "arguments": orjson.dumps(block.input).decode()}
    return {"id": block.id, "type": "function", "function": function}


def _tool(tool: Tool) -> Json:
    function = {"name": tool.name, "parameters": tool.input_schema}
    return {
        "type": "function",
        "function": function if tool.description is None else function | {"description": tool.description},
    }


def _choice(choice: ToolChoice) -> Json:
    named = {"type": "function", "function": {"name": choice.name}}
    chosen = named if choice.type == "tool" else _CHOICES[choice.type]
    return {"tool_choice": chosen} | ({"parallel_tool_calls": False} if choice.disable_parallel_tool_use else {})


def _thinking(wanted: Countable, *, local: bool) -> Json:
    """A local model's template is told whether to think; an upstream how hard, where that was asked for at all."""
    thinking = wanted.thinking is not None and wanted.thinking.type != "disabled"
    if local:
        return {"chat_template_kwargs": {"enable_thinking": thinking}}
    if not thinking or wanted.thinking is None:
        return {}
    budget = wanted.thinking.budget_tokens or 0
    return {"reasoning_effort": next((effort for most, effort in _BUDGETS if budget <= most), "high")}
