"""Stand-ins for the rooms that a test is not about. They keep the contracts of ``serve_app.protocol`` in full."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from serve_app.protocol import (
    Closed,
    CompletionQuery,
    CursorNotFound,
    Event,
    Json,
    ModelCard,
    Opened,
    Page,
    StoreError,
    Work,
)
from tests.memory_rooms import MemoryStreams, NoBatches

Step = list[Event] | asyncio.Event
"""A list of events to send, or something to wait for first."""


class FakeClock:
    """A clock that stands still until it is told to advance."""

    def __init__(self, now_s: float = 1_700_000_000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def advance(self, seconds: float) -> None:
        self.now_s += seconds


class FakeBackend:
    """Plays its script to every request. ``steps`` may hold events to wait for; a fresh one is a hang.

    ``requests`` keeps what it was asked, ``running`` counts the answers under way, ``closed`` is set when an answer
    ended, be it played to the end, cancelled or closed.
    """

    def __init__(self, *steps: Step, cards: Sequence[ModelCard] = ()) -> None:
        self.steps = steps
        self.cards = tuple(cards)
        self.requests: list[Work] = []
        self.running = 0
        self.finished = 0
        self.started = asyncio.Event()
        self.closed = asyncio.Event()
        self.models_wait: asyncio.Event | None = None

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        self.requests.append(request)
        self.running += 1
        self.started.set()
        try:
            for step in self.steps:
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield list(step)
            self.finished += 1
        finally:
            self.running -= 1
            self.closed.set()

    async def models(self) -> tuple[ModelCard, ...]:
        if self.models_wait is not None:
            await self.models_wait.wait()
        return self.cards


def card(model: str, context_length: int | None = None) -> ModelCard:
    """A card for a model that does not matter."""
    return ModelCard(model, 1_700_000_000, "tests", context_length)


@dataclass(slots=True)
class Row:
    """One entry as the store has it."""

    opened: Opened
    metadata: dict[str, str]
    closed: Closed | None = None
    incomplete: bool = False
    writes: list[str] = field(default_factory=list)


class NoResponses:
    """A room in which nobody left anything."""

    async def claim(self, writer: str, silent_s: float, most: int, held: object = ()) -> tuple[()]:
        return ()


class MemoryStore:
    """A whole store in memory.

    ``fault`` is awaited before each call with its name, and ``reply_fault`` after: raise, or wait, there. ``down``:
    every call raises ``StoreError``. ``hold``: every call waits for it.
    """

    def __init__(self, clock: Callable[[], float] | None = None) -> None:
        self.clock = clock or FakeClock()
        self.responses = NoResponses()
        self.rows: dict[str, Row] = {}
        self.beats: dict[str, float] = {}
        self.calls: list[str] = []
        self.writes: list[tuple[Opened | Closed, ...]] = []
        self.down = False
        self.hold: asyncio.Event | None = None
        self.fault: Callable[[str], Awaitable[None]] | None = None
        self.reply_fault: Callable[[str], Awaitable[None]] | None = None
        self._called = asyncio.Event()
        self.streams = MemoryStreams(self._enter)
        self.batches = NoBatches()

    async def until(self, condition: Callable[[], object]) -> None:
        """Returns once the condition holds; looks again after every call."""
        async with asyncio.timeout(5):
            while not condition():
                await self._called.wait()

    async def write(self, entries: Sequence[Opened | Closed]) -> frozenset[str]:
        await self._enter("write")
        self.writes.append(tuple(entries))
        for entry in entries:
            self._apply(entry)
        if self.reply_fault is not None:
            await self.reply_fault("write")
        return frozenset()

    async def beat(self, writer: str) -> None:
        await self._enter("beat")
        self.beats[writer] = self.clock()

    async def reap(self, older_than_s: float) -> int:
        await self._enter("reap")
        silent_since = self.clock() - older_than_s
        reaped = [
            row
            for row in self.rows.values()
            if row.closed is None
            and not row.incomplete
            and max(row.opened.started_s, self.beats.get(row.opened.writer, 0.0)) < silent_since
        ]
        for row in reaped:
            row.incomplete = True
        return len(reaped)

    async def completions(self, tenant: str, query: CompletionQuery) -> Page:
        await self._enter("completions")
        rows = [
            row
            for row in self._stored(tenant)
            if query.model in (None, row.opened.model) and query.metadata.items() <= row.metadata.items()
        ]
        return _page([_completion(row) for row in rows], query)

    async def completion(self, tenant: str, completion_id: str) -> Json | None:
        await self._enter("completion")
        row = self._row(tenant, completion_id)
        return _completion(row) if row else None

    async def set_metadata(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> Json | None:
        await self._enter("set_metadata")
        row = self._row(tenant, completion_id)
        if row is None:
            return None
        row.metadata = dict(metadata)
        return _completion(row)

    async def delete_completion(self, tenant: str, completion_id: str) -> bool:
        await self._enter("delete_completion")
        row = self._row(tenant, completion_id)
        return row is not None and self.rows.pop(row.opened.entry_id) is row

    async def messages(self, tenant: str, completion_id: str, query: CompletionQuery) -> Page | None:
        await self._enter("messages")
        row = self._row(tenant, completion_id)
        if row is None or row.opened.turn is None:
            return None
        return _page([m | {"id": f"{completion_id}-{i}"} for i, m in enumerate(row.opened.turn.messages)], query)

    async def check(self) -> None:
        await self._enter("check")

    async def _enter(self, call: str) -> None:
        self.calls.append(call)
        self._wake_watchers()
        if self.hold is not None:
            await self.hold.wait()
        if self.fault is not None:
            await self.fault(call)
        if self.down:
            raise StoreError
        self._wake_watchers()

    def _wake_watchers(self) -> None:
        self._called.set()
        self._called.clear()

    def _apply(self, entry: Opened | Closed) -> None:
        opened = entry if isinstance(entry, Opened) else entry.opened
        metadata = dict(opened.turn.metadata) if opened.turn else {}
        row = self.rows.setdefault(opened.entry_id, Row(opened, metadata))
        row.writes.append(type(entry).__name__)
        if isinstance(entry, Closed) and row.closed is None:
            row.closed = entry

    def _stored(self, tenant: str) -> list[Row]:
        rows = [row for row in self.rows.values() if row.opened.tenant == tenant and row.closed]
        return sorted((row for row in rows if row.closed.completion), key=lambda row: row.opened.started_s)

    def _row(self, tenant: str, completion_id: str) -> Row | None:
        found = (row for row in self._stored(tenant) if row.opened.turn)
        return next((row for row in found if row.opened.turn.completion_id == completion_id), None)


def _completion(row: Row) -> Json:
    return row.closed.completion | {"metadata": row.metadata}


def _page(data: list[Json], query: CompletionQuery) -> Page:
    if query.order == "desc":
        data = data[::-1]
    start = 0
    if query.after is not None:
        ids = [item["id"] for item in data]
        if query.after not in ids:
            raise CursorNotFound
        start = ids.index(query.after) + 1
    return Page(tuple(data[start : start + query.limit]), len(data) > start + query.limit)
