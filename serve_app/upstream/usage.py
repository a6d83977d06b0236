"""How many tokens an answer says it took, in whichever of OpenAI's two vocabularies and wherever it says so."""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from serve_app.protocol import Usage
from serve_app.upstream.sse import EventTooLong, SseParser

_LARGEST_BODY = 8 * 1024 * 1024
_LARGEST_EVENT = 1024 * 1024


def usage_of(value: Any) -> Usage:
    """OpenAI's ``usage`` as far as it holds whole numbers; what is missing counts 0."""
    if not isinstance(value, dict):
        return Usage()
    return Usage(
        _count(value, "prompt_tokens") or _count(value, "input_tokens"),
        _count(value, "completion_tokens") or _count(value, "output_tokens"),
        _count(value.get("prompt_tokens_details") or value.get("input_tokens_details"), "cached_tokens"),
        _count(value.get("completion_tokens_details") or value.get("output_tokens_details"), "reasoning_tokens"),
    )


def _count(holder: Any, key: str) -> int:
    value = holder.get(key) if isinstance(holder, dict) else None
    return value if type(value) is int and value >= 0 else 0


class Meter(Protocol):
    """Looks through a body as it passes."""

    def feed(self, data: bytes) -> None: ...

    def usage(self) -> Usage: ...


def meter_for(media_type: str) -> Meter:
    """For bodies of this type; those that cannot tell count nothing."""
    if media_type == "text/event-stream":
        return _StreamMeter()
    return _JsonMeter() if media_type == "application/json" else _NoMeter()


class _NoMeter:
    def feed(self, data: bytes) -> None:
        pass

    def usage(self) -> Usage:
        return Usage()


class _JsonMeter:
    """One JSON object, unless it is larger than is worth keeping for this."""

    def __init__(self) -> None:
        self._body = bytearray()
        self._too_large = False

    def feed(self, data: bytes) -> None:
        self._too_large = self._too_large or len(self._body) + len(data) > _LARGEST_BODY
        self._body += b"" if self._too_large else data

    def usage(self) -> Usage:
        return Usage() if self._too_large else _told(bytes(self._body)) or Usage()


class _StreamMeter:
    """The last event that tells."""

    def __init__(self) -> None:
        self._parser: SseParser | None = SseParser(_LARGEST_EVENT)
        self._usage = Usage()

    def feed(self, data: bytes) -> None:
        try:
            events = self._parser.push(data) if self._parser else []
        except EventTooLong:
            self._parser, events = None, []
        for event in events:
            if b'"usage"' in event:
                self._usage = _told(event) or self._usage

    def usage(self) -> Usage:
        return self._usage


def _told(body: bytes) -> Usage | None:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(value, dict):
        return None
    holder = value["response"] if isinstance(value.get("response"), dict) else value
    return usage_of(holder["usage"]) if isinstance(holder.get("usage"), dict) else None
