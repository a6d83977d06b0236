"""Items of a response's history -> the messages of a chat. Pure."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable

import orjson

from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Json

_MEDIA = ("input_image", "input_file")
_SEAL = b"llm-backend:1:"
"""What the content of a compaction of ours begins with."""

_SUMMARY = "What was said before, in a summary:\n\n"


def messages(items: Iterable[Json], instructions: str | None, *, local: bool) -> list[Json]:
    """``local``: for a model that reads text only, and reasoning too. ``RequestError`` for what cannot be read."""
    writer = _Writer(local)
    if instructions is not None:
        writer.add({"role": "developer", "content": instructions})
    for item in items:
        writer.read(item)
    return writer.messages


def sealed(summary: str) -> str:
    """A summary as the opaque content of a compaction item."""
    return base64.b64encode(_SEAL + summary.encode()).decode()


def custom_arguments(text: str) -> str:
    """A custom tool's input as arguments of the function by which the model calls it."""
    return orjson.dumps({"input": text}).decode()


def custom_input(arguments: str) -> str:
    """The other way round; arguments that are something else are the input as they stand."""
    try:
        called = orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments
    text = called.get("input") if isinstance(called, dict) else None
    return text if isinstance(text, str) else arguments


class _Writer:
    """Calls and reasoning are items of their own here, and parts of the assistant's message there."""

    def __init__(self, local: bool) -> None:
        self.messages: list[Json] = []
        self._local = local
        self._thoughts: list[str] = []

    def add(self, message: Json) -> None:
        if message["role"] == "assistant" and self._thoughts:
            message["reasoning_content"] = "\n".join(self._thoughts)
        self._thoughts = []
        self.messages.append(message)

    def read(self, item: Json) -> None:
        match item["type"]:
            case "message":
                self.add({"role": item["role"], "content": self._content(item["content"], item["role"])})
            case "function_call":
                self._call(item, item["arguments"])
            case "custom_tool_call":
                self._call(item, custom_arguments(item["input"]))
            case "function_call_output" | "custom_tool_call_output":
                output = item["output"]
                text = output if isinstance(output, str) else self._content(output, "tool")
                self.add({"role": "tool", "tool_call_id": item["call_id"], "content": text})
            case "reasoning" if self._local:
                self._thoughts += [part["text"] for part in item.get("content") or item["summary"]]
            case "compaction":
                self.add({"role": "developer", "content": _SUMMARY + _unsealed(item["encrypted_content"])})

    def _call(self, item: Json, arguments: str) -> None:
        """Calls that follow upon each other, or upon what was said with them, are one message."""
        call = {"id": item["call_id"], "type": "function", "function": {"name": item["name"], "arguments": arguments}}
        last = self.messages[-1] if self.messages else None
        if last is None or last["role"] != "assistant" or self._thoughts:
            last = {"role": "assistant", "content": None}
            self.add(last)
        last.setdefault("tool_calls", []).append(call)

    def _content(self, parts: list[Json], role: str) -> str | list[Json]:
        """Text alone is a string, as the simplest servers want it; the assistant never said anything else."""
        if any(part["type"] in _MEDIA for part in parts) and (self._local or role != "user"):
            text = "Images and files cannot be read by this model: it reads text only."
            raise RequestError(FailureCode.UNSUPPORTED, text, param="input")
        if role == "assistant" or all(part["type"] not in _MEDIA for part in parts):
            return "\n".join(part.get("text") or part.get("refusal") or "" for part in parts)
        return [_part(part) for part in parts]


def _part(part: Json) -> Json:
    if part["type"] == "input_image":
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part["detail"]}}
    if part["type"] == "input_file":
        return {"type": "file", "file": {"file_data": part["file_data"], "filename": part["filename"] or "file"}}
    return {"type": "text", "text": part.get("text") or part.get("refusal") or ""}


def _unsealed(content: str) -> str:
    try:
        plain = base64.b64decode(content, validate=True)
    except binascii.Error:
        plain = b""
    if not plain.startswith(_SEAL):
        text = "The compaction was not made by this server: nobody but its maker can read it."
        raise RequestError(FailureCode.INVALID_REQUEST, text, param="input")
    return plain.removeprefix(_SEAL).decode("utf-8", "replace")
