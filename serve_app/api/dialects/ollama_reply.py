"""Events of a model -> Ollama's objects: one a line in a stream, or one for the whole answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import orjson

from serve_app.api.chunks import logprob_json
from serve_app.api.reply import Reply
from serve_app.protocol import Delta, Finish, Json, ToolCallDelta, Usage

_NS = 1_000_000_000

Kind = Literal["chat", "generate"]


@dataclass(frozen=True, slots=True)
class Telling:
    """What the objects of one answer have in common. ``clock`` is wall time; so is ``started_s``. Seconds."""

    kind: Kind
    model: str
    started_s: float
    clock: Callable[[], float]

    def head(self) -> Json:
        return {"model": self.model, "created_at": timestamp(self.clock())}

    def said(self, text: str, thinking: str = "", calls: list[Json] | None = None) -> Json:
        more: Json = {"thinking": thinking} if thinking else {}
        if calls:
            more["tool_calls"] = calls
        if self.kind == "generate":
            return {"response": text} | more
        return {"message": {"role": "assistant", "content": text} | more}

    def last(self, usage: Usage, finish: Finish, first_s: float) -> Json:
        now_s = self.clock()
        return {
            "done": True,
            "done_reason": "length" if finish == "length" else "stop",
            "total_duration": _ns(now_s - self.started_s),
            "load_duration": 0,
            "prompt_eval_count": usage.prompt_tokens,
            "prompt_eval_duration": _ns(first_s - self.started_s),
            "eval_count": usage.completion_tokens,
            "eval_duration": _ns(now_s - first_s),
        }


class _Calls:
    """Calls are told whole: their arguments are an object here, not a text that grows."""

    def __init__(self) -> None:
        self._begun: dict[int, tuple[str, list[str]]] = {}

    def take(self, pieces: tuple[ToolCallDelta, ...]) -> None:
        for piece in pieces:
            _, said = self._begun.setdefault(piece.index, (piece.name or "", []))
            said.append(piece.arguments)

    def whole(self) -> list[Json]:
        calls = ((name, "".join(said)) for _, (name, said) in sorted(self._begun.items()))
        return [{"function": {"name": name, "arguments": _arguments(said)}} for name, said in calls]


class OllamaReply(Reply[Delta]):
    """``stream``: an object for each piece of text; else one in the end."""

    def __init__(self, telling: Telling, *, stream: bool) -> None:
        self._telling = telling
        self._stream = stream
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._logprobs: list[Json] = []
        self._calls = _Calls()
        self._finish: Finish = "stop"
        self._first_s: float | None = None

    def take(self, event: Delta) -> list[bytes]:
        telling = self._telling
        self._first_s = telling.clock() if self._first_s is None else self._first_s
        self._finish = event.finish or self._finish
        self._calls.take(event.tool_calls)
        logprobs = [logprob_json(token) for token in event.logprobs]
        if not self._stream:
            self._text.append(event.text)
            self._thinking.append(event.reasoning)
            self._logprobs += logprobs
            return []
        if not (event.text or event.reasoning or logprobs):
            return []
        more = {"logprobs": logprobs} if logprobs else {}
        return [orjson.dumps(telling.head() | telling.said(event.text, event.reasoning) | {"done": False} | more)]

    def end(self, usage: Usage) -> list[bytes]:
        telling, calls = self._telling, self._calls.whole()
        first_s = telling.clock() if self._first_s is None else self._first_s
        last = telling.last(usage, self._finish, first_s)
        said = telling.said("".join(self._text), "".join(self._thinking), calls)
        more = {"logprobs": self._logprobs} if self._logprobs else {}
        if not self._stream:
            return [orjson.dumps(telling.head() | said | last | more)]
        called = [orjson.dumps(telling.head() | said | {"done": False})] if calls else []
        return [*called, orjson.dumps(telling.head() | telling.said("") | last)]

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None


def timestamp(seconds: float) -> str:
    """RFC 3339, as Ollama writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def _ns(seconds: float) -> int:
    return max(0, round(seconds * _NS))


def _arguments(said: str) -> Json:
    try:
        value = orjson.loads(said or "{}")
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
