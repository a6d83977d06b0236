"""Answers of an upstream: passed on as they are, or, where they are stored, under our id and folded into one object."""

from __future__ import annotations

from typing import Any

import orjson

from serve_app.api.reply import Reply, usage_json
from serve_app.protocol import Json, Relayed, Usage


class RelayedStream(Reply[Relayed]):
    """The upstream's chunks, byte for byte."""

    def take(self, event: Relayed) -> list[bytes]:
        return [event.data]

    def end(self, usage: Usage) -> list[bytes]:
        return []

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None


class RelayedBody(Reply[Relayed]):
    """The upstream's one JSON body, byte for byte."""

    def __init__(self) -> None:
        self._body: list[bytes] = []

    def take(self, event: Relayed) -> list[bytes]:
        self._body = [event.data]
        return []

    def end(self, usage: Usage) -> list[bytes]:
        return self._body

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None


class KeptRelayedBody(Reply[Relayed]):
    """The upstream's body under an id of ours, by which it can be found again."""

    def __init__(self, id_: str, metadata: Json) -> None:
        self._ours = {"id": id_, "metadata": metadata}
        self._body: Json | None = None

    def take(self, event: Relayed) -> list[bytes]:
        self._body = orjson.loads(event.data) | self._ours
        return []

    def end(self, usage: Usage) -> list[bytes]:
        return [orjson.dumps(self._body)]

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return self._body


class KeptRelayedStream(Reply[Relayed]):
    """The upstream's chunks under an id of ours. Those that say it is over wait until it is stored."""

    def __init__(self, id_: str, metadata: Json) -> None:
        self._id = id_
        self._metadata = metadata
        self._held: list[bytes] = []
        self._head: Json = {}
        self._choices: dict[int, Json] = {}

    def take(self, event: Relayed) -> list[bytes]:
        chunk: Json = orjson.loads(event.data)
        chunk["id"] = self._id
        data = orjson.dumps(chunk)
        choices = chunk.pop("choices", None) or []
        self._head |= {name: value for name, value in chunk.items() if value is not None}
        for choice in choices:
            _merge(self._choices.setdefault(choice.get("index", 0), {}), choice)
        if any(choice.get("finish_reason") for choice in choices) or (chunk.get("usage") and not choices):
            self._held.append(data)
            return []
        return [data]

    def end(self, usage: Usage) -> list[bytes]:
        return self._held

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        if not self._choices:
            return None
        head = {name: value for name, value in self._head.items() if name != "obfuscation"}
        choices = [_choice(self._choices[index]) for index in sorted(self._choices)]
        ours = {"object": "chat.completion", "choices": choices, "metadata": self._metadata}
        return {"usage": usage_json(usage)} | head | ours


def _choice(merged: Json) -> Json:
    """A choice of the whole object. One that was cut has the finish reason ``length``."""
    delta = merged.get("delta", {})
    message = {"role": "assistant", "content": None, "refusal": None} | delta
    if "tool_calls" in message:
        calls = [{name: value for name, value in call.items() if name != "index"} for call in message["tool_calls"]]
        message |= {"tool_calls": calls, "content": message["content"] or None}
    return {
        "index": merged.get("index", 0),
        "message": message,
        "logprobs": merged.get("logprobs"),
        "finish_reason": merged.get("finish_reason") or "length",
    }


_WHOLE = ("id", "index", "name", "role", "type", "object", "finish_reason")
"""Strings that come in one piece, however often they are repeated."""


def _merge(into: Json, piece: Json) -> None:
    """Adds what a chunk brings: texts grow, lists grow, members of a list that have an ``index`` are merged by it."""
    for name, value in piece.items():
        known = into.get(name)
        if known is None:
            into[name] = value
        elif isinstance(known, str) and isinstance(value, str) and name not in _WHOLE:
            into[name] = known + value
        elif isinstance(known, dict) and isinstance(value, dict):
            _merge(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            _extend(known, value)
        elif value is not None:
            into[name] = value


def _extend(known: list[Any], pieces: list[Any]) -> None:
    for piece in pieces:
        index = piece.get("index") if isinstance(piece, dict) else None
        same = [one for one in known if index is not None and one.get("index") == index]
        if same:
            _merge(same[0], piece)
        else:
            known.append(piece)
