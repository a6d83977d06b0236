"""A conversation as the model's template shall see it, whether it knows of tools or not."""

from __future__ import annotations

import json
import re
from hashlib import blake2b
from typing import Any

from serve_app.engine.families import HERMES, Dialect
from serve_app.protocol import Chat, Json

_TOOLS = """You may call functions. They are described here, one JSON object a line:
{tools}
To call one, answer with a JSON object between tags, and nothing else:
<tool_call>
{{"name": <function name>, "arguments": <arguments as a JSON object>}}
</tool_call>"""

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")


def conversation(chat: Chat, dialect: Dialect) -> tuple[list[Json], list[Json] | None]:
    """Messages and tools for the template."""
    offered = chat.tools if chat.tool_choice != "none" else ()
    tools = [{"type": "function", "function": tool} for tool in offered]
    if dialect.native:
        messages = [part for message in chat.messages for part in _for_template(message, dialect)]
        return messages, tools or None
    messages = [_as_text(message) for message in chat.messages]
    return (_described(messages, offered) if tools else messages), None


def _described(messages: list[Json], tools: tuple[Json, ...]) -> list[Json]:
    """The tools' description joins the system message, or becomes one."""
    text = _TOOLS.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if messages and messages[0].get("role") == "system":
        first = {**messages[0], "content": f"{messages[0].get('content') or ''}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _for_template(message: Json, dialect: Dialect) -> list[Json]:
    """Templates want arguments as an object and short ids; some know one call a message only."""
    if "tool_call_id" in message:
        return [{**message, "tool_call_id": _short_id(message["tool_call_id"])}]
    calls = [
        {**call, "id": _short_id(call.get("id", "")), "function": {**call["function"], "arguments": _arguments(call)}}
        for call in message.get("tool_calls") or ()
    ]
    message = {**message, "content": message.get("content") or ""}
    if not calls:
        return [message]
    if dialect.syntax.between is None:
        return [{**message, "tool_calls": [call]} for call in calls]
    return [{**message, "tool_calls": calls}]


def _short_id(call_id: str) -> str:
    """Mistral's templates refuse every other kind."""
    return call_id if _SHORT_ID.fullmatch(call_id) else blake2b(call_id.encode()).hexdigest()[:9]


def _as_text(message: Json) -> Json:
    """A message for a template without tools: calls and results written out."""
    content = message.get("content") or ""
    calls = [_written(call) for call in message.get("tool_calls") or ()]
    if message.get("role") == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    told = {name: value for name, value in message.items() if name != "tool_calls"}
    return told | {"content": "\n".join([content, *calls] if content else calls)}


def _written(call: Json) -> str:
    arguments = json.dumps(_arguments(call), ensure_ascii=False)
    return HERMES.opening + HERMES.head.replace("NAME", call["function"]["name"]) + arguments + HERMES.tail


def _arguments(call: Json) -> Any:
    try:
        return json.loads(call["function"]["arguments"])
    except (ValueError, TypeError, RecursionError):
        return call["function"]["arguments"]
