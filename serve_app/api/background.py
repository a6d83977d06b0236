"""Work that outlives the request that began it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

log = logging.getLogger(__name__)

_GRACE_S = 1.0
"""How long a cancelled backend is waited for; it goes on being cancelled after that, only nobody waits."""
_ENDING_S = 3.0
"""How long work that was cancelled is waited for, and then what it leaves to be written."""


class Background:
    """Holds the tasks until they are done, and ends them with the application."""

    def __init__(self) -> None:
        self._work: set[asyncio.Task[Any]] = set()
        self._writing: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str, *, writes: bool = False) -> asyncio.Task[Any]:
        """Runs the work in a context of its own: a server that cancels a request, and with it all that the request's
        context began, does not find it. ``writes``: it writes down what other work did, and ends by itself after that.
        """
        task = asyncio.create_task(work, name=name, context=Context())
        tasks = self._writing if writes else self._work
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_report)
        return task

    async def stop(self) -> None:
        """Cancels the work, and what writes a little later."""
        await _cancelled(self._work)
        if self._writing:
            await asyncio.wait(self._writing, timeout=_ENDING_S)
        await _cancelled(self._writing)


async def _cancelled(tasks: set[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_ENDING_S)


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("background work %s failed", task.get_name(), exc_info=error)


async def through(task: asyncio.Task[bool]) -> bool:
    """The task's result, whoever cancels the waiting for it, and how often; the cancellation then goes on."""
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    return task.result()


async def settled(tasks: list[asyncio.Task[Any]]) -> None:
    """Waits for cancelled tasks, a moment."""
    if tasks:
        await asyncio.wait(tasks, timeout=_GRACE_S)
