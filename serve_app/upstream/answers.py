"""An upstream's answer, read as it comes: bytes in, events out, exactly one terminal. No I/O here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import orjson

from serve_app.protocol import Done, Event, Failed, FailureCode, Json, Relayed, Started, Usage
from serve_app.upstream.sse import EventTooLong, SseParser
from serve_app.upstream.usage import usage_of

_LARGEST_EVENT = 1024 * 1024
_LARGEST_BODY = 32 * 1024 * 1024

Complained = Callable[[object], Failed]
"""Tells a client about the value of an upstream's ``error``."""


class Answer(Protocol):
    """``feed`` until ``over``, then nothing; else ``end`` when the body ended, or ``cut`` when its connection broke."""

    over: bool

    def feed(self, data: bytes) -> list[Event]: ...

    def end(self) -> list[Event]: ...

    def cut(self) -> list[Event]: ...


class StreamAnswer:
    """A streamed answer. It ends well only by ``[DONE]`` after every choice it began has a ``finish_reason``.

    Chunks pass byte for byte, except that with ``hide_usage`` their ``usage`` is removed, and that one spread over
    several data lines is written on one.
    """

    def __init__(self, complained: Complained, hide_usage: bool) -> None:
        self.over = False
        self._parser = SseParser(_LARGEST_EVENT)
        self._complained = complained
        self._hide_usage = hide_usage
        self._started = False
        self._choices: set[int] = set()
        self._finished: set[int] = set()
        self._usage = Usage()

    def feed(self, data: bytes) -> list[Event]:
        """The events that ``data`` completes; ``Started`` comes with the first, unless that is a failure."""
        try:
            payloads = self._parser.push(data)
        except EventTooLong:
            return [self._fail(FailureCode.UPSTREAM_PROTOCOL, "The upstream sent an event that is too large.")]
        events: list[Event] = []
        for payload in payloads:
            event = self._read(payload)
            if event is None:
                continue
            if not self._started and not isinstance(event, Failed):
                self._started = True
                events.append(Started())
            events.append(event)
            if self.over:
                break
        return events

    def end(self) -> list[Event]:
        """The body ended without ``[DONE]``."""
        return [self._fail(FailureCode.UPSTREAM_TRUNCATED, "The upstream's answer ended too early.")]

    def cut(self) -> list[Event]:
        """The connection broke."""
        if self._started:
            return [self._fail(FailureCode.UPSTREAM_TRUNCATED, "The upstream's connection broke during its answer.")]
        return [self._fail(FailureCode.UPSTREAM_UNREACHABLE, "The upstream's connection broke before its answer.")]

    def _read(self, payload: bytes) -> Event | None:
        """One event's data; None when there is nothing to tell. An empty event is some servers' keep-alive."""
        if payload == b"[DONE]":
            return self._done()
        if not payload or payload.isspace():
            return None
        try:
            chunk = orjson.loads(payload)
        except orjson.JSONDecodeError:
            chunk = None
        if not isinstance(chunk, dict):
            return self._fail(FailureCode.UPSTREAM_PROTOCOL, "The upstream sent an event that is not a JSON object.")
        if chunk.get("error"):
            return self._fail_as(self._complained(chunk["error"]))
        if not self._note(chunk.get("choices")):
            return self._fail(FailureCode.UPSTREAM_PROTOCOL, "The upstream sent a chunk with malformed choices.")
        return self._relay(chunk, payload)

    def _relay(self, chunk: Json, payload: bytes) -> Relayed | None:
        usage = chunk.get("usage")
        if usage:
            self._usage = usage_of(usage)
        if self._hide_usage and "usage" in chunk:
            if usage and not chunk.get("choices"):
                return None
            del chunk["usage"]
            payload = orjson.dumps(chunk)
        elif b"\n" in payload:
            payload = orjson.dumps(chunk)
        return Relayed(payload)

    def _note(self, choices: Any) -> bool:
        """Remember which choices began and which finished; False if that cannot be told."""
        if not isinstance(choices, list):
            return choices is None
        for choice in choices:
            if not isinstance(choice, dict) or type(index := choice.get("index", 0)) is not int:
                return False
            self._choices.add(index)
            if choice.get("finish_reason"):
                self._finished.add(index)
        return True

    def _done(self) -> Event:
        if not self._choices or self._choices != self._finished:
            return self._fail(FailureCode.UPSTREAM_TRUNCATED, "The upstream ended its answer before it was finished.")
        self.over = True
        return Done(self._usage)

    def _fail(self, code: FailureCode, message: str) -> Failed:
        return self._fail_as(Failed(code, message))

    def _fail_as(self, failed: Failed) -> Failed:
        self.over = True
        return Failed(failed.code, failed.message, detail=failed.detail, usage=self._usage)


class WholeAnswer:
    """An answer in one JSON body, passed on byte for byte once all of it is there and has been understood.

    ``stream_wanted``: a stream was asked for, so that only an error in the body is of any use.
    """

    def __init__(self, complained: Complained, stream_wanted: bool = False) -> None:
        self.over = False
        self._complained = complained
        self._stream_wanted = stream_wanted
        self._body = bytearray()

    def feed(self, data: bytes) -> list[Event]:
        """``Started`` with the first bytes; nothing more before the end, unless the body grows too large."""
        first = not self._body
        self._body += data
        if len(self._body) > _LARGEST_BODY:
            return [self._fail(Failed(FailureCode.UPSTREAM_PROTOCOL, "The upstream sent a body that is too large."))]
        return [Started()] if first and data and not self._stream_wanted else []

    def end(self) -> list[Event]:
        """The body ended where its length or framing said."""
        body = bytes(self._body)
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError:
            answer = None
        if not isinstance(answer, dict):
            message = "The upstream sent a body that is not a JSON object."
            return [self._fail(Failed(FailureCode.UPSTREAM_PROTOCOL, message))]
        if answer.get("error"):
            return [self._fail(self._complained(answer["error"]))]
        if self._stream_wanted:
            return [self._fail(Failed(FailureCode.UPSTREAM_PROTOCOL, "The upstream did not stream its answer."))]
        self.over = True
        return [Relayed(body), Done(usage_of(answer.get("usage")))]

    def cut(self) -> list[Event]:
        """The connection broke inside the body."""
        message = "The upstream's connection broke during its answer."
        return [self._fail(Failed(FailureCode.UPSTREAM_TRUNCATED, message))]

    def _fail(self, failed: Failed) -> Failed:
        self.over = True
        return failed
