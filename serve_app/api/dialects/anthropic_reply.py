"""Events of a model -> Anthropic's message, as a stream of events or as one object.

Content comes in blocks, one after the other: thinking, text, calls of tools. A block is closed by the next one, or by
the end. Every event begins with its ``type``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import orjson

from serve_app.api.reply import Reply
from serve_app.protocol import Delta, Finish, Json, Started, ToolCallDelta, Usage

_REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}

Kind = Literal["text", "thinking", "tool_use"]


@dataclass(slots=True)
class _Block:
    kind: Kind
    id: str = ""
    name: str = ""
    said: list[str] = field(default_factory=list)

    def empty(self) -> Json:
        """As it begins in a stream."""
        if self.kind == "tool_use":
            return {"type": "tool_use", "id": self.id, "name": self.name, "input": {}}
        return {"type": self.kind, self.kind: ""} | ({"signature": ""} if self.kind == "thinking" else {})

    def whole(self) -> Json:
        said = "".join(self.said)
        return self.empty() | ({"input": _arguments(said)} if self.kind == "tool_use" else {self.kind: said})

    def delta(self, piece: str) -> Json:
        match self.kind:
            case "tool_use":
                return {"type": "input_json_delta", "partial_json": piece}
            case kind:
                return {"type": f"{kind}_delta", kind: piece}


class _Content:
    """The blocks there are, and where the next piece goes."""

    def __init__(self) -> None:
        self.blocks: list[_Block] = []
        self._calls: dict[int, int] = {}
        self.finish: Finish = "stop"

    def pieces(self, event: Delta) -> list[tuple[int, str]]:
        """Which block gained what. A block that is new may have gained nothing yet."""
        self.finish = event.finish or self.finish
        found = [(self._at("thinking"), event.reasoning)] if event.reasoning else []
        if event.text:
            found.append((self._at("text"), event.text))
        found += [(self._call(piece), piece.arguments) for piece in event.tool_calls]
        for at, piece in found:
            self.blocks[at].said.append(piece)
        return found

    def reason(self) -> str:
        called = any(block.kind == "tool_use" for block in self.blocks)
        return _REASONS["tool_calls" if called and self.finish == "stop" else self.finish]

    def _at(self, kind: Kind) -> int:
        if not self.blocks or self.blocks[-1].kind != kind:
            self.blocks.append(_Block(kind))
        return len(self.blocks) - 1

    def _call(self, piece: ToolCallDelta) -> int:
        if piece.index not in self._calls:
            self.blocks.append(_Block("tool_use", piece.id or "", piece.name or ""))
            self._calls[piece.index] = len(self.blocks) - 1
        return self._calls[piece.index]


class MessageBody(Reply[Delta]):
    """One object."""

    def __init__(self, id_: str, model: str) -> None:
        self._id = id_
        self._model = model
        self._content = _Content()

    def take(self, event: Delta) -> list[bytes]:
        self._content.pieces(event)
        return []

    def end(self, usage: Usage) -> list[bytes]:
        content = [block.whole() for block in self._content.blocks]
        return [orjson.dumps(_message(self._id, self._model, content, self._content.reason(), usage))]

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None


class MessageStream(Reply[Delta]):
    """Anthropic's events."""

    def __init__(self, id_: str, model: str) -> None:
        self._id = id_
        self._model = model
        self._content = _Content()
        self._open: int | None = None

    def start(self, started: Started) -> list[bytes]:
        usage = Usage(started.prompt_tokens, cached_tokens=started.cached_tokens)
        return [_event("message_start", message=_message(self._id, self._model, [], None, usage))]

    def take(self, event: Delta) -> list[bytes]:
        events: list[bytes] = []
        for at, piece in self._content.pieces(event):
            block = self._content.blocks[at]
            if self._open is None or at > self._open:
                events += self._stop()
                self._open = at
                events.append(_event("content_block_start", index=at, content_block=block.empty()))
            if piece:
                events.append(_event("content_block_delta", index=at, delta=block.delta(piece)))
        return events

    def end(self, usage: Usage) -> list[bytes]:
        delta = {"stop_reason": self._content.reason(), "stop_sequence": None}
        return [
            *self._stop(),
            _event("message_delta", delta=delta, usage=usage_json(usage)),
            _event("message_stop"),
        ]

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None

    def _stop(self) -> list[bytes]:
        return [] if self._open is None else [_event("content_block_stop", index=self._open)]


def usage_json(usage: Usage) -> Json:
    """What was found in the cache is not counted among the input."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }


def _message(id_: str, model: str, content: list[Json], reason: str | None, usage: Usage) -> Json:
    head = {"id": id_, "type": "message", "role": "assistant", "model": model}
    return head | {"content": content, "stop_reason": reason, "stop_sequence": None, "usage": usage_json(usage)}


def _event(kind: str, **rest: object) -> bytes:
    return orjson.dumps({"type": kind, **rest})


def _arguments(said: str) -> Json:
    """A call that was cut has no arguments that could be read."""
    try:
        value = orjson.loads(said)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
