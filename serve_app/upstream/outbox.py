"""Events on their way from the task that reads an upstream to the generator that hands them on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Generic, TypeVar, cast

from serve_app.protocol import Done, Failed, FailureCode
from serve_app.upstream.deadlines import Patience

EventT = TypeVar("EventT")

_ROOM = 16
"""Batches held before the reader waits. A batch comes from one read of at most 64 KiB, so this bounds the memory."""


class Outbox(Generic[EventT]):
    """One writer, one reader, one event loop. Nothing after the first terminal event is kept. Events include Failed."""

    def __init__(self) -> None:
        self._events: list[EventT] = []
        self._batches = 0
        self._ended = False
        self._wanted: asyncio.Future[None] | None = None
        self._has_room = asyncio.Event()

    async def put(self, events: Sequence[EventT]) -> None:
        """Hand over what was read; waits while the reader is far behind."""
        if self._ended or not events:
            return
        self._events += events
        self._batches += 1
        self._ended = isinstance(events[-1], Done | Failed)
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_result(None)
        if self._batches >= _ROOM and not self._ended:
            self._has_room.clear()
            await self._has_room.wait()

    async def take(self, timeout_s: float) -> list[EventT]:
        """All that is ready, waiting for the first; empty when ``timeout_s`` passed without any."""
        if not self._events:
            self._wanted = asyncio.get_running_loop().create_future()
            await asyncio.wait((self._wanted,), timeout=timeout_s)
        events, self._events = self._events, []
        self._batches = 0
        self._has_room.set()
        return events

    async def follow(self, work: asyncio.Task[None], patience: Patience) -> AsyncGenerator[list[EventT], None]:
        """What ``work`` puts here, to its terminal event, or to one of ours when patience ends. Nothing of the work
        goes on after it: it may finish once it said its last word, and is cancelled before."""
        try:
            ended = False
            while not ended:
                events = await self.take(patience.look_again_s())
                ended = bool(events) and isinstance(events[-1], Done | Failed)
                if not ended and (too_late := patience.verdict(events)):
                    events.append(cast(EventT, Failed(FailureCode.UPSTREAM_TIMEOUT, too_late)))
                    work.cancel()
                    ended = True
                yield events
            await asyncio.wait((work,))
        finally:
            work.cancel()
            await asyncio.wait((work,))
