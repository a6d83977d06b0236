"""Tools for models of every kind: how they are told of tools, and how their calls are read back.

One family for all: calls are written as ``<tool_call>{"name": …, "arguments": {…}}</tool_call>`` (Hermes and Qwen
were trained on it). A template that knows tools describes them itself; for all others they are described in the system
message, and a call that is demanded is forced by a grammar from the first token.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from serve_app.protocol import Chat, Constraint, Delta, Json, ToolCallDelta

OPEN, CLOSE = "<tool_call>", "</tool_call>"
_BEGINNINGS = "|".join(OPEN[:size] for size in range(len(OPEN) - 1, 0, -1))
_UNDECIDED = re.compile(rf"\s*(?:{OPEN}.*|{_BEGINNINGS})?\Z", re.DOTALL)
"""The tail of a text that may yet turn out to be a call, with the white space before it."""

_TOOLS = """You may call functions. They are described here, one JSON object a line:
{tools}
To call one, answer with a JSON object between tags, and nothing else:
<tool_call>
{{"name": <function name>, "arguments": <arguments as a JSON object>}}
</tool_call>"""


def conversation(chat: Chat, *, template_knows_tools: bool) -> tuple[list[Json], list[Json] | None]:
    """Messages and tools as the template shall see them."""
    offered = chat.tools if chat.tool_choice != "none" else ()
    tools = [{"type": "function", "function": tool} for tool in offered]
    if template_knows_tools:
        return [_with_objects(message) for message in chat.messages], tools or None
    messages = [_as_text(message) for message in chat.messages]
    return (_described(messages, offered) if tools else messages), None


def _described(messages: list[Json], tools: tuple[Json, ...]) -> list[Json]:
    """The tools' description joins the system message, or becomes one."""
    text = _TOOLS.format(tools="\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools))
    if messages and messages[0].get("role") == "system":
        first = {**messages[0], "content": f"{messages[0].get('content') or ''}\n\n{text}"}
        return [first, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _with_objects(message: Json) -> Json:
    """Templates want arguments as an object, OpenAI's clients send a string."""
    calls = message.get("tool_calls")
    if not calls:
        return {"content": "", **message} if message.get("content") is None else message
    functions = [{**call, "function": {**call["function"], "arguments": _arguments(call)}} for call in calls]
    return {**message, "content": message.get("content") or "", "tool_calls": functions}


def _as_text(message: Json) -> Json:
    """A message for a template without tools: calls and results written out."""
    content = message.get("content") or ""
    calls = [_written(call) for call in message.get("tool_calls") or ()]
    if message.get("role") == "tool":
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    return {"role": message["role"], "content": "\n".join([content, *calls] if content else calls)}


def _written(call: Json) -> str:
    body = {"name": call["function"]["name"], "arguments": _arguments(call)}
    return f"{OPEN}\n{json.dumps(body, ensure_ascii=False)}\n{CLOSE}"


def _arguments(call: Json) -> Any:
    try:
        return json.loads(call["function"]["arguments"])
    except (ValueError, TypeError, RecursionError):
        return call["function"]["arguments"]


def forced_call(chat: Chat) -> Constraint | None:
    """The grammar of an answer that must be a call; None where the model may choose."""
    if not chat.tools or chat.tool_choice in ("none", "auto"):
        return None
    name = chat.tool_choice.removeprefix("function:") if chat.tool_choice != "required" else None
    tools = [tool for tool in chat.tools if name is None or tool["name"] == name]
    many = name is None and chat.parallel_tool_calls
    rules = [f"body{at}: %json {_call_schema(tool)}" for at, tool in enumerate(tools)]
    bodies = " | ".join(f"body{at}" for at in range(len(tools)))
    start = 'start: call ("\\n" call)*' if many else "start: call"
    call = f'call: "{OPEN}\\n" ({bodies}) "\\n{CLOSE}"'
    return Constraint("lark", "\n".join([start, call, *rules]))


def _call_schema(tool: Json) -> str:
    parameters = tool.get("parameters") or {"type": "object"}
    schema = {
        "type": "object",
        "properties": {"name": {"const": tool["name"]}, "arguments": parameters},
        "required": ["name", "arguments"],
        "additionalProperties": False,
        "x-guidance": {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "},
    }
    return json.dumps(schema)


class CallReader:
    """Splits one choice's text into content and calls as it arrives.

    What may be the beginning of a tag is held back; a call is told once it is complete, and text between tags that is
    no call is content after all. White space around a call belongs to it. However the text is cut into deltas, the
    content and the calls are the same.
    """

    def __init__(self, names: frozenset[str], new_id: Callable[[], str], *, most: int | None = None) -> None:
        self._names = names
        self._new_id = new_id
        self._most = most
        self._held = ""
        self._n_calls = 0
        self._after_call = False

    def read(self, delta: Delta) -> Delta:
        """The same delta with calls taken out of its text."""
        self._held += delta.text
        text, calls = "", []
        while True:
            before, found, rest = self._held.partition(OPEN)
            inside, closed, after = rest.partition(CLOSE)
            if not (found and closed):
                break
            call = self._call(inside)
            text += self._content(before.rstrip() if call else before + OPEN + inside + CLOSE)
            calls += [call] if call else []
            self._after_call = self._after_call or call is not None
            self._held = after
        undecided = None if delta.finish else _UNDECIDED.search(self._held)
        ready = undecided.start() if undecided else len(self._held)
        text, self._held = text + self._content(self._held[:ready]), self._held[ready:]
        finish = "tool_calls" if delta.finish == "stop" and self._n_calls else delta.finish
        return replace(delta, text=text, tool_calls=tuple(calls), finish=finish)

    def _content(self, text: str) -> str:
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        return text

    def _call(self, inside: str) -> ToolCallDelta | None:
        try:
            body = json.loads(inside)
            name, arguments = body["name"], body.get("arguments", {})
            text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            text.encode()  # refuses half a surrogate pair
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None
        known = isinstance(name, str) and name in self._names
        if not known or not isinstance(arguments, dict) or self._n_calls == self._most:
            return None
        self._n_calls += 1
        return ToolCallDelta(self._n_calls - 1, text, id=f"call_{self._new_id()}", name=name)
