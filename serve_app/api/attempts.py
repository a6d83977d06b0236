"""Backends around a backend: they read its answer as another kind, or ask it again before it said anything."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import orjson

from serve_app.protocol import (
    Backend,
    Chat,
    Delta,
    Event,
    Failed,
    FailureCode,
    Generate,
    Json,
    ModelCard,
    Relay,
    Relayed,
    Started,
    TokenLogprob,
    ToolCallDelta,
    Work,
)

_BUSY = frozenset({FailureCode.QUEUE_FULL, FailureCode.MODEL_UNAVAILABLE, FailureCode.SHUTTING_DOWN})
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 5.0
_FINISHES = ("stop", "length", "tool_calls", "content_filter")


class _Around(Backend):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def models(self) -> tuple[ModelCard, ...]:
        return await self._backend.models()


class Reading(_Around):
    """An upstream's chunks of a chat, read: what comes out are the deltas that a local model would have sent."""

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        async with aclosing(self._backend.generate(request)) as batches:
            async for batch in batches:
                read = [_delta(event) if isinstance(event, Relayed) else event for event in batch]
                yield [event for event in read if event is not None]


class Announcing(_Around):
    """Says when the backend has taken the request up."""

    def __init__(self, backend: Backend, taken_up: Callable[[], None]) -> None:
        super().__init__(backend)
        self._taken_up = taken_up

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        async with aclosing(self._backend.generate(request)) as batches:
            async for batch in batches:
                if any(isinstance(event, Started) for event in batch):
                    self._taken_up()
                yield batch


class Waiting(_Around):
    """A backend that has no room is asked again until it has; whoever waits for the answer is told that we live."""

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        while True:
            busy: Failed | None = None
            async with aclosing(self._backend.generate(request)) as batches:
                async for batch in batches:
                    busy = _refusal(batch, lambda failed: failed.code in _BUSY)
                    if busy is not None:
                        break
                    yield batch
            if busy is None:
                return
            yield []
            await asyncio.sleep(min(busy.retry_after_s or _PAUSE_S, _LONGEST_PAUSE_S))


class Shortening(_Around):
    """A conversation that is too long for the model loses its oldest messages until it fits."""

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        attempt: Work | None = request
        while attempt is not None:
            shorter: Work | None = None
            async with aclosing(self._backend.generate(attempt)) as batches:
                async for batch in batches:
                    shorter = _shorter(attempt) if _refusal(batch, _is_too_long) else None
                    if shorter is not None:
                        break
                    yield batch
            attempt = shorter


def _refusal(batch: list[Event], wanted: Callable[[Failed], bool]) -> Failed | None:
    """Failures of these kinds come before anything was said, alone."""
    last = batch[-1] if batch else None
    return last if isinstance(last, Failed) and len(batch) == 1 and wanted(last) else None


def _is_too_long(failed: Failed) -> bool:
    return FailureCode.CONTEXT_LENGTH in (failed.code, failed.detail)


def _shorter(request: Work) -> Work | None:
    """The request with an eighth of its messages less; None: there is nothing that could go."""
    if isinstance(request, Relay):
        body = orjson.loads(request.body)
        body["messages"] = kept = _without_oldest(body["messages"])
        return replace(request, body=orjson.dumps(body)) if kept else None
    if not isinstance(request, Generate):
        return None
    prompt = request.prompts[0]
    kept = _without_oldest(list(prompt.messages)) if isinstance(prompt, Chat) else None
    if not isinstance(prompt, Chat) or not kept:
        return None
    return replace(request, prompts=(replace(prompt, messages=tuple(kept)),))


def _without_oldest(messages: list[Json]) -> list[Json] | None:
    """Instructions at the beginning stay, and the last message; no result of a call stays without the call."""
    head = next((at for at, one in enumerate(messages) if one["role"] not in ("system", "developer")), len(messages))
    rest = messages[head:]
    if len(rest) < 2:
        return None
    rest = rest[min(max(1, len(rest) // 8), len(rest) - 1) :]
    while len(rest) > 1 and rest[0]["role"] == "tool":
        rest = rest[1:]
    return messages[:head] + rest


def _delta(event: Relayed) -> Delta | None:
    """What the chunk says of the one choice there is; None: nothing."""
    chunk: Json = orjson.loads(event.data)
    choice: Json = next(iter(chunk.get("choices") or ()), {})
    said: Json = choice.get("delta") or {}
    finish = choice.get("finish_reason")
    delta = Delta(
        choice=0,
        text=(said.get("content") or "") + (said.get("refusal") or ""),
        reasoning=said.get("reasoning_content") or said.get("reasoning") or "",
        tool_calls=tuple(_piece(call, at) for at, call in enumerate(said.get("tool_calls") or ())),
        logprobs=tuple(_token(entry) for entry in (choice.get("logprobs") or {}).get("content") or ()),
        finish=None if finish is None else finish if finish in _FINISHES else "stop",
    )
    return None if delta == Delta(choice=0) else delta


def _piece(call: Json, at: int) -> ToolCallDelta:
    function: Json = call.get("function") or {}
    index = call.get("index")
    arguments = function.get("arguments") or ""
    return ToolCallDelta(at if index is None else index, arguments, call.get("id"), function.get("name"))


def _token(entry: Json) -> TokenLogprob:
    top = tuple((one["token"], one["logprob"], _bytes(one)) for one in entry.get("top_logprobs") or ())
    return TokenLogprob(entry["token"], entry["logprob"], _bytes(entry), top)


def _bytes(entry: Json) -> bytes:
    data: Any = entry.get("bytes")
    return entry["token"].encode() if data is None else bytes(data)
