"""Events of a model -> OpenAI's response, as a stream of events or as one object.

A stream's order is OpenAI's own: the response as it begins; then, for each item of its output, the item, its parts and
what they gain; then what they became, and the response as it ended. Every event has the next ``sequence_number``. What
says that something is complete waits for ``end``, except where another item follows upon it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import orjson

from serve_app.api.chunks import logprob_json
from serve_app.api.reply import Reply
from serve_app.api.response_items import Call, Custom, Message, Output, Thought
from serve_app.errors import MEANINGS
from serve_app.protocol import Delta, Failed, Finish, Json, Started, ToolCallDelta, Usage

_PAD = 32
"""Padded deltas are a multiple of this long, so that their length tells less about their text. Bytes."""

_CUT = {"length": "max_output_tokens", "content_filter": "content_filter"}


@dataclass(frozen=True, slots=True)
class Manner:
    """How the response is to be told. ``custom``: the names of custom tools. ``pad``: obfuscation was asked for."""

    stream: bool
    background: bool = False
    custom: frozenset[str] = frozenset()
    pad: bool = False


class ResponseReply(Reply[Delta]):
    """``response`` is the object as it begins; ``clock`` is wall time, in seconds."""

    def __init__(self, response: Json, manner: Manner, new_id: Callable[[], str], clock: Callable[[], float]) -> None:
        self._response = {**response, "status": "in_progress"}
        self._queued = {**response, "status": "queued"}
        self._manner = manner
        self._new_id = new_id
        self._clock = clock
        self._n_events = 0
        self._output: list[Output] = []
        self._calls: dict[int, Call | Custom] = {}
        self._speaking: Message | Thought | None = None
        self._finish: Finish | None = None
        self._began = False
        self._failed = False

    def start(self, started: Started) -> list[bytes]:
        self._began = True
        begun = {"response": self._response}
        if not self._manner.background:
            return self._tell([("response.created", begun), ("response.in_progress", begun)])
        queued = {"response": self._queued}
        return self._tell([("response.created", queued), ("response.queued", queued), ("response.in_progress", begun)])

    def take(self, event: Delta) -> list[bytes]:
        self._finish = event.finish or self._finish
        return self._tell(self._events(event))

    def end(self, usage: Usage) -> list[bytes]:
        reason = _CUT.get(self._finish or "stop")
        status = "incomplete" if reason else "completed"
        events = [event for output in self._unfinished() for event in output.close(status)]
        self._response |= {
            "status": status,
            "incomplete_details": {"reason": reason} if reason else None,
            "completed_at": None if reason else int(self._clock()),
            "output": [output.item for output in self._output],
            "usage": usage_json(usage),
        }
        if not self._manner.stream:
            return [orjson.dumps(self._response)]
        return self._tell([*events, (f"response.{status}", {"response": self._response})])

    def fail(self, failed: Failed) -> list[bytes]:
        self._failed = True
        self._cut_short("failed")
        self._response |= failure(failed)
        if failed.usage != Usage():
            self._response["usage"] = usage_json(failed.usage)
        message = self._response["error"]["message"]
        told = {"code": failed.detail or MEANINGS[failed.code].code, "message": message, "param": failed.param}
        return self._tell([("error", told), ("response.failed", {"response": self._response})])

    def kept(self, usage: Usage, *, whole: bool) -> Json | None:
        """Nothing is kept of a response that nobody could have heard of."""
        if not whole and not self._manner.background and not (self._manner.stream and self._began):
            return None
        if not whole and not self._failed:
            self._cut_short("cancelled")
            self._response["usage"] = usage_json(usage)
        return dict(self._response)

    def _cut_short(self, status: str) -> None:
        for output in self._unfinished():
            for _ in output.close("incomplete"):
                pass
        self._response |= {"status": status, "output": [output.item for output in self._output]}

    def _events(self, event: Delta) -> Iterator[tuple[str, Json]]:
        if event.reasoning:
            yield from self._say(Thought, event.reasoning)
        if event.text or (event.logprobs and not event.reasoning and not event.tool_calls):
            logprobs = [_logprob(logprob_json(token)) for token in event.logprobs]
            yield from self._say(Message, event.text, logprobs)
        for piece in event.tool_calls:
            yield from self._called(piece)

    def _say(
        self, kind: type[Thought] | type[Message], text: str, logprobs: Sequence[Json] = ()
    ) -> Iterator[tuple[str, Json]]:
        """What is said now is of this kind: what was said before, if it is another one, is complete."""
        if not isinstance(self._speaking, kind):
            yield from self._complete()
            self._speaking = kind(self._new_id(), len(self._output))
            yield from self._add(self._speaking)
        yield from self._speaking.gain(text, logprobs)

    def _called(self, piece: ToolCallDelta) -> Iterator[tuple[str, Json]]:
        """Calls stay open to the end: nothing says that their pieces come one call after the other."""
        call = self._calls.get(piece.index)
        if call is None:
            yield from self._complete()
            kind = Custom if piece.name in self._manner.custom else Call
            id_ = self._new_id()
            call = self._calls[piece.index] = kind(id_, len(self._output), piece.id or f"call_{id_}", piece.name or "")
            yield from self._add(call)
        yield from call.gain(piece.arguments)

    def _add(self, output: Output) -> Iterator[tuple[str, Json]]:
        self._output.append(output)
        yield from output.open()

    def _complete(self) -> Iterator[tuple[str, Json]]:
        """Nothing more is said there."""
        speaking, self._speaking = self._speaking, None
        if speaking is not None:
            yield from speaking.close("completed")

    def _unfinished(self) -> list[Output]:
        """What will be gaining no more, in order; once."""
        speaking, self._speaking = self._speaking, None
        calls, self._calls = self._calls, {}
        open_ones = [speaking, *calls.values()]
        return [output for output in self._output if output in open_ones]

    def _tell(self, events: Iterator[tuple[str, Json]] | list[tuple[str, Json]]) -> list[bytes]:
        """The events as JSON that begins with their type; none where the answer is one object."""
        told = []
        for kind, event in events:
            if self._manner.stream:
                named = {"type": kind, "sequence_number": self._n_events, **event}
                told.append(orjson.dumps(_padded(named) if self._manner.pad and "delta" in event else named))
                self._n_events += 1
        return told


def failure(failed: Failed) -> Json:
    """What a response that failed says of that."""
    error = {"code": _error_code(failed), "message": " ".join(failed.message.split())}
    return {"status": "failed", "error": error, "completed_at": None}


def usage_json(usage: Usage) -> Json:
    """OpenAI's ``usage`` of a response."""
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _logprob(entry: Json) -> Json:
    """OpenAI's entry of a response. It knows no token without a probability: the least likely stands for that."""
    return entry if entry["logprob"] is not None else entry | {"logprob": -9999.0}


def _padded(event: Json) -> Json:
    return event | {"obfuscation": "x" * (-len(event["delta"].encode()) % _PAD)}


def _error_code(failed: Failed) -> str:
    """One of the few codes that a response's error may have."""
    meaning = MEANINGS[failed.code]
    if meaning.status == 429:
        return "rate_limit_exceeded"
    return "invalid_prompt" if meaning.status < 500 else "server_error"
