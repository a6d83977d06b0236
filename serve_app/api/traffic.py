"""Right of way: a request that somebody waits for goes first, the lines of batches share what is left."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager


class Traffic:
    """Bounds how many lines are under way in this ingress. Belongs to one event loop; lines enter in order of arrival.

    The bound grows while lines are answered and nobody else asks: by one for each bound's worth of lines, to ``most``.
    It halves when a backend has no room, and when an interactive request comes; while there is one, lines trickle, one
    at a time. What is under way already is the scheduler's to hold back: it knows the line by its tier.
    """

    def __init__(self, most: int = 32, first: int = 4) -> None:
        self._most = most
        self._bound = float(first)
        self._lines = 0
        self._interactive = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @contextmanager
    def interactive(self) -> Iterator[None]:
        """Somebody waits for an answer."""
        self._interactive += 1
        if self._lines:
            self._halve()
        try:
            yield
        finally:
            self._interactive -= 1
            self._let_in()

    @asynccontextmanager
    async def line(self) -> AsyncIterator[None]:
        """A line of a batch: waits until it may go."""
        await self._enter()
        try:
            yield
        finally:
            self._lines -= 1
            self._let_in()

    def flowed(self) -> None:
        """A line was answered."""
        if not self._interactive:
            self._bound = min(self._most, self._bound + 1 / self._bound)

    def jammed(self) -> None:
        """A backend had no room for a line."""
        self._halve()

    async def _enter(self) -> None:
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._lines -= 1
                self._let_in()
            raise

    def _let_in(self) -> None:
        room = 1 if self._interactive else int(self._bound)
        while self._waiting and self._lines < room:
            turn = self._waiting.popleft()
            if not turn.done():
                self._lines += 1
                turn.set_result(None)

    def _halve(self) -> None:
        self._bound = max(1.0, self._bound / 2)
