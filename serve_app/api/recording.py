"""Streams that can be resumed: their events are written down while they are sent, and read again from any ingress.

Whoever sends a stream gives each of its events a position, from 0, and notes it in a ``Recorder``; the client is shown
the position (an ``id:`` line, a sequence number) and names the last one it saw when it comes back. ``follow`` gives it
what came after that, and then what comes, until the end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import suppress
from dataclasses import dataclass

from serve_app.api.background import Background
from serve_app.protocol import StoreError, Streams

log = logging.getLogger(__name__)

_PAGE = 256
_RETRY_S = 0.25


@dataclass(frozen=True, slots=True)
class Tempo:
    """Seconds: how long events are gathered, how often a quiet stream gives a sign of life, how long a call may take,
    how long a store that is down is waited for. ``most_bytes`` may wait for it, of one stream."""

    linger_s: float = 0.25
    beat_s: float = 5.0
    call_s: float = 10.0
    patience_s: float = 60.0
    most_bytes: int = 16 << 20


class StreamUnknown(Exception):
    """There is no such stream, or no more."""


class StreamLost(Exception):
    """The stream has not ended, and whoever recorded it is heard no more."""


class Recorder:
    """Writes one stream to the store, beside the stream: noting never waits and never fails.

    Its task begins with it and ends when everything is durable after ``end``, or when the store was away for too long:
    the stream then cannot be resumed, which is no reason to fail it. ``followed_s``: the last moment, in loop time, at
    which somebody was reading along; ``following``: the position of the next event.
    """

    def __init__(
        self, streams: Streams, tenant: str, stream_id: str, background: Background, tempo: Tempo | None = None
    ) -> None:
        self._streams = streams
        self._name = (tenant, stream_id)
        self._tempo = tempo or Tempo()
        self._clock = asyncio.get_running_loop().time
        self.following = 0
        self._pending: list[bytes] = []
        self._size = 0
        self._something = asyncio.Event()
        self._something.set()  # the first write says that the stream is there
        self._ending = asyncio.Event()
        self.followed_s = float("-inf")
        self._task = background.start(self._run(), f"recorder of {stream_id}", writes=True)

    def note(self, event: bytes) -> int:
        """The position of this event: its bytes as they are sent, or as they are to be sent when it is read again."""
        position, self.following = self.following, self.following + 1
        if not self._task.done():
            self._pending.append(event)
            self._size += len(event)
            self._something.set()
        return position

    def end(self) -> None:
        """The last event was noted."""
        self._ending.set()
        self._something.set()

    async def settled(self) -> None:
        """Returns when everything that will be written is written."""
        await asyncio.wait({self._task})

    async def _run(self) -> None:
        written = False
        failing_since_s: float | None = None
        while not (written and self._ending.is_set() and not self._pending):
            await self._gather()
            try:
                await self._write()
            except (StoreError, TimeoutError):
                failing_since_s = failing_since_s or self._clock()
                if self._clock() - failing_since_s > self._tempo.patience_s or self._size > self._tempo.most_bytes:
                    log.warning("the store was away for too long: stream %s cannot be resumed", self._name[1])
                    self._pending.clear()
                    return
                await asyncio.sleep(_RETRY_S)
            else:
                written, failing_since_s = True, None

    async def _gather(self) -> None:
        """Waits for events, and a little longer for more of them; no longer than until the next sign of life."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._tempo.beat_s):
                await self._something.wait()
        if self.following:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._tempo.linger_s):
                    await self._ending.wait()
        self._something.clear()

    async def _write(self) -> None:
        events, ended = tuple(self._pending), self._ending.is_set()
        first = self.following - len(events)
        async with asyncio.timeout(self._tempo.call_s):
            followed = await self._streams.append(*self._name, first, events, ended)
        del self._pending[: len(events)]
        self._size -= sum(map(len, events))
        if followed:
            self.followed_s = self._clock()


async def follow(
    streams: Streams, tenant: str, stream_id: str, after: int, *, wait_s: float = 5.0, patience_s: float = 20.0
) -> AsyncGenerator[list[tuple[int, bytes]], None]:
    """The events after a position, as they come, until the end; an empty list says that there were none in ``wait_s``.

    ``StreamUnknown``: at once, or not at all. ``StreamLost``: nothing was heard for ``patience_s``. ``StoreError``: the
    store does not answer; later than at once it is given ``patience_s`` to come back.
    """
    clock = asyncio.get_running_loop().time
    heard_s = float("-inf")
    while True:
        try:
            found = await streams.read(tenant, stream_id, after, _PAGE, wait_s)
        except StoreError:
            if clock() - heard_s > patience_s:
                raise
            await asyncio.sleep(_RETRY_S)
            continue
        if found is None:
            raise StreamUnknown
        heard_s = clock()
        after = found.events[-1][0] if found.events else after
        yield list(found.events)
        if found.ended:
            return
        if not found.events and found.silent_s > patience_s:
            raise StreamLost
