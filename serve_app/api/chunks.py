"""Events of a local model -> OpenAI's chat completion, as a stream of chunks or as one object.

A stream's order is OpenAI's own: for each choice a first chunk with the role, then what changed, then a finish chunk
with an empty delta; then the usage, when it was asked for. The finish chunks of all choices wait for ``end``, so that
nobody is told the answer is complete before it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson

from serve_app.api.reply import Head, Reply, usage_json
from serve_app.protocol import Delta, Finish, Json, TokenLogprob, ToolCallDelta, Usage

_PAD = 32
"""Padded deltas are a multiple of this long, so that their length tells less about their text. Bytes."""


@dataclass(slots=True)
class _Choice:
    prefix: bytes
    opened: bool = False
    called: bool = False
    finish: Finish = "stop"


class ChatStream(Reply[Delta]):
    """``usage``: the client asked for it. ``pad``: it asked for obfuscation. ``legacy``: it offered ``functions``."""

    def __init__(self, head: Head, choices: int = 1, *, usage: bool = False, pad: bool = False, legacy: bool = False):
        self._head = _head_json("chat.completion.chunk", head)[:-1] + b',"choices":['
        self._choices = [_Choice(self._head + b'{"index":%d,"delta":' % index) for index in range(choices)]
        self._usage = usage
        self._pad = pad
        self._legacy = legacy
        self._closing = b',"usage":null}' if usage else b"}"
        self._suffix = b',"logprobs":null,"finish_reason":null}]' + self._closing

    def take(self, event: Delta) -> list[bytes]:
        """Nothing here validates: this runs once per token."""
        choice = self._choices[event.choice]
        if event.finish is not None:
            choice.finish = event.finish
        if choice.opened and event.text and not (event.reasoning or event.tool_calls or event.logprobs or self._pad):
            return [choice.prefix + orjson.dumps({"content": event.text}) + self._suffix]
        deltas = self._deltas(choice, event)
        logprobs = [None] * (len(deltas) - 1) + [event.logprobs]
        return [self._chunk(choice, delta, tokens) for delta, tokens in zip(deltas, logprobs, strict=False)]

    def end(self, usage: Usage) -> list[bytes]:
        chunks = []
        for choice in self._choices:
            if not choice.opened:
                chunks.append(self._chunk(choice, _role("")))
            chunks.append(self._chunk(choice, {}, finish=_finish(choice.finish, choice.called, self._legacy)))
        if self._usage:
            chunks.append(self._head + b'],"usage":' + orjson.dumps(usage_json(usage)) + b"}")
        return chunks

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return None

    def _deltas(self, choice: _Choice, event: Delta) -> list[Json]:
        words: Json = {}
        if event.reasoning:
            words["reasoning_content"] = event.reasoning
        if event.text or (event.logprobs and not event.reasoning and not event.tool_calls):
            words["content"] = event.text
        calls = [delta for piece in event.tool_calls for delta in self._pieces(piece)]
        choice.called = choice.called or bool(calls)
        deltas = [words, *calls] if words else calls
        if choice.opened:
            return deltas
        choice.opened = True
        if words or not calls:
            return [_role(""), *deltas]
        if sum(piece.id is not None for piece in event.tool_calls) > 1:
            return [_role(None), *calls]
        return [_role(None) | calls[0], *calls[1:]]

    def _pieces(self, piece: ToolCallDelta) -> list[Json]:
        """The opener of a call has its id and name and no arguments; what follows has nothing but arguments."""
        deltas: list[Json] = []
        if piece.id is not None:
            deltas.append(self._called(piece, {"name": piece.name, "arguments": ""}, id=piece.id, type="function"))
        if piece.arguments:
            deltas.append(self._called(piece, {"arguments": piece.arguments}))
        return deltas

    def _called(self, piece: ToolCallDelta, function: Json, **opener: str) -> Json:
        if self._legacy:
            return {"function_call": function}
        return {"tool_calls": [{"index": piece.index, **opener, "function": function}]}

    def _chunk(
        self, choice: _Choice, delta: Json, tokens: Sequence[TokenLogprob] | None = None, finish: str | None = None
    ) -> bytes:
        data = orjson.dumps(delta)
        logprobs = orjson.dumps(
            {"content": [logprob_json(token) for token in tokens], "refusal": None} if tokens else None
        )
        padding = b',"obfuscation":"%b"' % (b"x" * (-len(data) % _PAD)) if self._pad else b""
        ending = b',"finish_reason":' + orjson.dumps(finish) + b"}]" + padding + self._closing
        return choice.prefix + data + b',"logprobs":' + logprobs + ending


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Said:
    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: dict[int, _Call] = field(default_factory=dict)
    logprobs: list[Json] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def anything(self) -> bool:
        return bool(self.text or self.reasoning or self.calls)


class ChatBody(Reply[Delta]):
    """The whole answer as one object. ``metadata``: the client's, where the answer is stored."""

    def __init__(self, head: Head, choices: int = 1, *, legacy: bool = False, metadata: Json | None = None) -> None:
        self._head: Json = orjson.loads(_head_json("chat.completion", head))
        self._said = [_Said() for _ in range(choices)]
        self._legacy = legacy
        self._extra = {} if metadata is None else {"metadata": metadata}

    def take(self, event: Delta) -> list[bytes]:
        said = self._said[event.choice]
        if event.text:
            said.text.append(event.text)
        if event.reasoning:
            said.reasoning.append(event.reasoning)
        for piece in event.tool_calls:
            if piece.id is not None:
                said.calls[piece.index] = _Call(piece.id, piece.name or "")
            said.calls[piece.index].arguments.append(piece.arguments)
        said.logprobs.extend(logprob_json(token) for token in event.logprobs)
        said.finish = event.finish or said.finish
        return []

    def end(self, usage: Usage) -> list[bytes]:
        return [orjson.dumps(self._object(usage, unfinished="stop"))]

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        """A choice that was cut has the finish reason ``length``: OpenAI's words know no closer one."""
        if not whole and not any(said.anything for said in self._said):
            return None
        return self._object(usage, unfinished="stop" if whole else "length")

    def _object(self, usage: Usage, unfinished: Finish) -> Json:
        choices = [self._choice(index, said, unfinished) for index, said in enumerate(self._said)]
        return self._head | {"choices": choices, "usage": usage_json(usage)} | self._extra

    def _choice(self, index: int, said: _Said, unfinished: Finish) -> Json:
        return {
            "index": index,
            "message": self._message(said),
            "logprobs": {"content": said.logprobs, "refusal": None} if said.logprobs else None,
            "finish_reason": _finish(said.finish or unfinished, bool(said.calls), self._legacy),
        }

    def _message(self, said: _Said) -> Json:
        content = "".join(said.text)
        message: Json = _role(content if content or not said.calls else None) | {"annotations": []}
        if said.reasoning:
            message["reasoning_content"] = "".join(said.reasoning)
        calls = [(call.id, {"name": call.name, "arguments": "".join(call.arguments)}) for call in said.calls.values()]
        if calls and self._legacy:
            return message | {"function_call": calls[0][1]}
        if calls:
            message["tool_calls"] = [{"id": id_, "type": "function", "function": function} for id_, function in calls]
        return message


class KeptChatStream(Reply[Delta]):
    """A stream that is also folded into the object to store."""

    def __init__(self, shown: Reply[Delta], folded: ChatBody) -> None:
        self._shown = shown
        self._folded = folded

    def take(self, event: Delta) -> list[bytes]:
        self._folded.take(event)
        return self._shown.take(event)

    def end(self, usage: Usage) -> list[bytes]:
        return self._shown.end(usage)

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        return self._folded.kept(usage, whole=whole)


def logprob_json(token: TokenLogprob) -> Json:
    """OpenAI's entry for one token; the bytes tell what a token that is no whole character cannot."""
    top = [{"token": text, "logprob": logprob, "bytes": list(data)} for text, logprob, data in token.top]
    return {"token": token.token, "logprob": token.logprob, "bytes": list(token.data), "top_logprobs": top}


def _head_json(kind: str, head: Head) -> bytes:
    return orjson.dumps(
        {
            "id": head.id,
            "object": kind,
            "created": head.created,
            "model": head.model,
            "service_tier": head.service_tier,
            "system_fingerprint": head.fingerprint,
        }
    )


def _role(content: str | None) -> Json:
    return {"role": "assistant", "content": content, "refusal": None}


def _finish(finish: Finish, called: bool, legacy: bool) -> str:
    """An answer that ends with calls ends because of them."""
    if not called or finish not in ("stop", "tool_calls"):
        return finish
    return "function_call" if legacy else "tool_calls"
