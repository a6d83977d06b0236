"""What every room of the store works with: reads beside each other, writes through the one queue."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.commit import CommitQueue
from serve_app.store.database import Database

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Operation:
    """A write other than ledger entries; run inside the one writing transaction."""

    run: Callable[[AsyncConnection], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Desk:
    """``clock`` is wall time, in seconds. Every method raises ``StoreError`` when the database cannot answer."""

    database: Database
    queue: CommitQueue[Any]
    clock: Callable[[], float]

    def reading(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """A connection that sees every write that was acknowledged."""
        return self.database.reading()

    async def write(self, run: Callable[[AsyncConnection], Awaitable[Result]], size: int = 1024) -> Result:
        """What ``run`` returns, once what it did is durable; all of it or nothing. ``size``: bytes of memory it holds.

        The transaction is the only writing one, so what ``run`` reads stays true until its commit. When ``run`` raises,
        the works that shared its transaction are done without it, and its caller gets a ``StoreError``: refusals
        that a caller should understand are results, not exceptions.
        """
        result: Result = await self.queue.submit(Operation(run), size)
        return result
