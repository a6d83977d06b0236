"""Between an engine's thread and the event loop of whoever asks it: refusal at the door, events on the way back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Protocol

from serve_app.errors import RequestError
from serve_app.protocol import Event, FailureCode

ALIVE_EVERY_S = 2.0

_DEAD = "The model's engine was lost. Please try again."
_FULL = "Too many requests are waiting for this model. Please slow down."


class Worker(Protocol):
    """An engine, as far as its backend looks at it."""

    @property
    def alive(self) -> bool: ...

    @property
    def is_full(self) -> bool: ...

    def stalled_for(self) -> float: ...


class Addressed(Protocol):
    """A job: its events go to ``sink``, on the event loop."""

    @property
    def sink(self) -> Callable[[list[Event]], None]: ...


class Mailbox:
    """The events of one request. Belongs to one event loop; engines put into it through that loop."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[list[Event]] = asyncio.Queue()

    def put(self, events: list[Event]) -> None:
        self._events.put_nowait(events)

    async def take(self, worker: Worker, stall_s: float) -> list[Event]:
        """Everything that is ready; an empty list as a sign of life while the worker is not stuck for ``stall_s``."""
        while True:
            try:
                async with asyncio.timeout(ALIVE_EVERY_S):
                    events = await self._events.get()
                break
            except TimeoutError:
                if worker.alive and worker.stalled_for() < stall_s:
                    return []
        while not self._events.empty():
            events = events + self._events.get_nowait()
        return events


def deliver(outbox: Iterable[tuple[Addressed, list[Event]]]) -> None:
    """Event loop: what an engine published reaches those who wait for it."""
    for job, events in outbox:
        job.sink(events)


def must_take_jobs(worker: Worker) -> None:
    """Raises ``RequestError`` for an engine that is dead or has all it can hold."""
    if not worker.alive:
        raise RequestError(FailureCode.ENGINE_LOST, _DEAD)
    if worker.is_full:
        raise RequestError(FailureCode.QUEUE_FULL, _FULL)
