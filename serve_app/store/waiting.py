"""Waiting for what others write: a caller is woken by the write, instead of asking the database again and again."""

from __future__ import annotations

import asyncio
from collections.abc import Hashable, Iterator
from contextlib import contextmanager


class Bell:
    """Rung for a key, it wakes whoever listens to that key. Belongs to one event loop."""

    def __init__(self) -> None:
        self._listeners: dict[Hashable, set[asyncio.Event]] = {}

    @contextmanager
    def listening(self, key: Hashable) -> Iterator[asyncio.Event]:
        """An event that is set by the next ring. Listen first, then look: so that nothing is missed in between."""
        event = asyncio.Event()
        listeners = self._listeners.setdefault(key, set())
        listeners.add(event)
        try:
            yield event
        finally:
            listeners.discard(event)
            if not listeners and self._listeners.get(key) is listeners:
                del self._listeners[key]

    def ring(self, key: Hashable) -> None:
        for event in self._listeners.get(key, ()):
            event.set()
