"""Group commit: many callers, one writer, as few transactions as the disk allows.

There is no timer. While one transaction commits, callers queue; when it is done, all that queued is the next one. So
an idle store adds no wait, and a busy one shares each disk flush among everybody who came meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from serve_app.protocol import StoreError

Work = TypeVar("Work")


@dataclass(frozen=True, slots=True)
class _Waiting(Generic[Work]):
    work: Work
    done: asyncio.Future[Any]


class CommitQueue(Generic[Work]):
    """The one writer. Belongs to the event loop it was made on.

    ``commit`` does all works given in one transaction, in order, and returns a result for each. It raises
    ``StoreError`` when no work could be committed now, and anything else when one of these works is at fault; it must
    have changed nothing then.
    """

    def __init__(self, commit: Callable[[Sequence[Work]], Awaitable[Sequence[Any]]], capacity: int) -> None:
        self._commit = commit
        self._capacity = capacity
        self._waiting: list[_Waiting[Work]] = []
        self._size = 0
        self._closing = False
        self._wake = asyncio.Event()
        self._writer = asyncio.create_task(self._run(), name="store-writer")

    async def submit(self, work: Work, size: int = 1) -> Any:
        """The work's result, once it is durable. It is done even if the caller leaves.

        ``size`` counts against the queue's capacity; one work larger than all of it is still taken by an empty queue.
        """
        if self._closing:
            raise StoreError("The store is closing.")
        if self._waiting and self._size + size > self._capacity:
            raise StoreError("The store has more to write than it can hold.")
        waiting = _Waiting(work, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._size += size
        self._wake.set()
        return await waiting.done

    async def close(self) -> None:
        """What is queued is written; what comes later is refused."""
        self._closing = True
        self._wake.set()
        await self._writer

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while batch := self._take():
                await self._settle(batch)
            if self._closing:
                return

    def _take(self) -> list[_Waiting[Work]]:
        batch, self._waiting, self._size = self._waiting, [], 0
        return batch

    async def _settle(self, batch: list[_Waiting[Work]]) -> None:
        """Everybody in the batch is answered. A faulty work is found by halving; the others are committed.

        When the database is out, whoever queued meanwhile is refused too: each would wait as long, to hear the same.
        """
        groups = [batch]
        while groups:
            group = groups.pop()
            try:
                results = await self._commit([waiting.work for waiting in group])
            except StoreError as outage:
                rest = [waiting for later in reversed(groups) for waiting in later]
                _refuse([*group, *rest, *self._take()], str(outage))
                return
            except Exception as fault:
                if len(group) > 1:
                    logging.getLogger(__name__).warning("halving a batch of %d: %s", len(group), type(fault).__name__)
                    middle = len(group) // 2
                    groups += [group[middle:], group[:middle]]
                else:
                    logging.getLogger(__name__).error("a work cannot be stored: %s", type(fault).__name__)
                    _refuse(group, "These entries cannot be stored.")
            else:
                _answer(group, results)


def _answer(group: list[_Waiting[Work]], results: Sequence[Any]) -> None:
    for waiting, result in zip(group, results, strict=True):
        if not waiting.done.done():
            waiting.done.set_result(result)


def _refuse(group: list[_Waiting[Work]], message: str) -> None:
    for waiting in group:
        if not waiting.done.done():
            waiting.done.set_exception(StoreError(message))
