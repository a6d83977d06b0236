"""Ollama's requests in OpenAI's words. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import orjson

from serve_app.api.wire.ollama import ChatRequest, GenerateRequest, Message, ToolCall
from serve_app.protocol import Json


def chat_body(wanted: ChatRequest) -> Json:
    """A chat."""
    chat = wanted.as_chat | {"messages": messages(wanted.messages)}
    return chat | ({"tools": [_tool(tool) for tool in wanted.tools]} if wanted.tools else {})


def prompt_chat_body(wanted: GenerateRequest) -> Json:
    """A prompt for the model's template: a chat of one message."""
    said = [Message(role="user", content=wanted.prompt, images=wanted.images)]
    if wanted.system:
        said.insert(0, Message(role="system", content=wanted.system))
    return wanted.as_chat | {"messages": messages(said)}


def raw_body(wanted: GenerateRequest) -> Json:
    """A prompt for no template: a completion. It may be as long as the context allows."""
    body = wanted.as_chat | {"prompt": wanted.prompt} | ({"suffix": wanted.suffix} if wanted.suffix else {})
    if body.pop("logprobs", False):
        body["logprobs"] = body.pop("top_logprobs")
    return body


def messages(said: Sequence[Message]) -> list[Json]:
    """Calls have no ids here: a result belongs to the first call of its name that has none yet, else to the first."""
    waiting: deque[tuple[str, str]] = deque()
    found: list[Json] = []
    for message in said:
        if message.role == "tool":
            found.append(
                {"role": "tool", "content": message.content, "tool_call_id": _answered(waiting, message.tool_name)}
            )
            continue
        plain: Json = {"role": message.role, "content": _content(message)}
        if message.thinking:
            plain["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = [_call(f"call_{len(found)}_{at}", call) for at, call in enumerate(message.tool_calls)]
            waiting.extend((call["id"], call["function"]["name"]) for call in calls)
            plain["tool_calls"] = calls
        found.append(plain)
    return found


def _content(message: Message) -> str | list[Json]:
    if not message.images:
        return message.content
    images = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{one}"}} for one in message.images]
    return [{"type": "text", "text": message.content}, *images]


def _call(id_: str, call: ToolCall) -> Json:
    function = {"name": call.function.name, "arguments": orjson.dumps(call.function.arguments).decode()}
    return {"id": id_, "type": "function", "function": function}


def _answered(waiting: deque[tuple[str, str]], name: str | None) -> str:
    for call in waiting:
        if name in (None, "", call[1]):
            waiting.remove(call)
            return call[0]
    return f"call_{name}"


def _tool(tool: Json) -> Json:
    """Ollama's client leaves out nothing: what is null was not said."""
    function = tool.get("function")
    plain = {name: value for name, value in function.items() if value is not None} if isinstance(function, dict) else {}
    return {"type": "function", "function": plain}
