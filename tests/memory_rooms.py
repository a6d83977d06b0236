"""The store's smaller rooms in memory, for tests without a database. They keep the contracts of their protocols."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from serve_app.protocol import Stretch


class MemoryStreams:
    """``fault`` is awaited before each call. Readers are woken by writes; who waits is in ``waiting``."""

    def __init__(self, fault: Callable[[str], Awaitable[None]]) -> None:
        self.kept: dict[tuple[str, str], list[bytes]] = {}
        self.ended: set[tuple[str, str]] = set()
        self.waiting = 0
        self.silent_s = 0.0
        self.changed = asyncio.Event()
        self._fault = fault

    async def until(self, condition: Callable[[], object]) -> None:
        """Returns once the condition holds; looks again after every change."""
        async with asyncio.timeout(5):
            while not condition():
                await self.changed.wait()

    async def append(self, tenant: str, stream_id: str, first: int, events: Sequence[bytes], ended: bool) -> bool:
        await self._fault("streams.append")
        kept = self.kept.setdefault((tenant, stream_id), [])
        if first <= len(kept) and (tenant, stream_id) not in self.ended:
            kept += events[len(kept) - first :]
            self.ended |= {(tenant, stream_id)} if ended else set()
        self._ring()
        return self.waiting > 0

    async def read(self, tenant: str, stream_id: str, after: int, limit: int, wait_s: float = 0.0) -> Stretch | None:
        await self._fault("streams.read")
        key = tenant, stream_id
        if key not in self.kept:
            return None
        if len(self.kept[key]) <= after + 1 and key not in self.ended and wait_s:
            self.waiting += 1
            self._ring()
            try:
                async with asyncio.timeout(wait_s):
                    await self.changed.wait()
            except TimeoutError:
                pass
            finally:
                self.waiting -= 1
        events = list(enumerate(self.kept[key]))[after + 1 :][:limit]
        reached = events[-1][0] if events else after
        return Stretch(tuple(events), key in self.ended and reached >= len(self.kept[key]) - 1, self.silent_s)

    async def drop(self, tenant: str, stream_id: str) -> None:
        self.kept.pop((tenant, stream_id), None)

    def _ring(self) -> None:
        self.changed.set()
        self.changed.clear()


class NoBatches:
    """There are none, and none can be made."""

    async def claim(self, owner: str, silent_s: float) -> None:
        return None
