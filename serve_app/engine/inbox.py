"""Inbox: what other threads tell the engine, in order."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Literal

from serve_app.engine.generation import Job
from serve_app.protocol import Failed

Message = tuple[Literal["submit", "cancel"], Job] | tuple[Literal["close"], None]


class Inbox:
    """``submit``, ``cancel``, ``close`` and ``size`` are for any thread, the rest for the engine's."""

    def __init__(self) -> None:
        self._messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._door = threading.Lock()
        self._last_words: Failed | None = None

    def submit(self, job: Job) -> Failed | None:
        """Hand a job over; what to answer it with instead, once the inbox is shut."""
        with self._door:
            if self._last_words is None:
                self._messages.put(("submit", job))
            return self._last_words

    def cancel(self, job: Job) -> None:
        self._messages.put(("cancel", job))

    def close(self) -> None:
        self._messages.put(("close", None))

    @property
    def size(self) -> int:
        return self._messages.qsize()

    def wait(self) -> Message:
        return self._messages.get()

    def drain(self) -> Iterator[Message]:
        """All that is there now."""
        while True:
            try:
                yield self._messages.get_nowait()
            except queue.Empty:
                return

    def shut(self, last_words: Failed) -> Iterator[Message]:
        """No job comes in any more; those that came before are the last."""
        with self._door:
            self._last_words = last_words
        return self.drain()
