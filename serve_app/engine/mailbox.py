"""Mailbox: the events of one request, from an engine's thread to whoever reads them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.protocol import Event

ALIVE_EVERY_S = 2.0


class Mailbox:
    """Belongs to one event loop; engines put into it through that loop."""

    def __init__(self) -> None:
        self._events: asyncio.Queue[list[Event]] = asyncio.Queue()

    def put(self, events: list[Event]) -> None:
        self._events.put_nowait(events)

    async def take(self, at_work: Callable[[], bool]) -> list[Event]:
        """Everything that is ready; an empty list as a sign of life while ``at_work`` holds."""
        while True:
            try:
                async with asyncio.timeout(ALIVE_EVERY_S):
                    events = await self._events.get()
                break
            except TimeoutError:
                if at_work():
                    return []
        while not self._events.empty():
            events = events + self._events.get_nowait()
        return events
