"""Work that outlives the request that began it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from typing import Any

log = logging.getLogger(__name__)

_LETTING_S = 1.0
"""How long work may go on at the end before it is cancelled: enough to write down what is there."""

_ENDING_S = 3.0
"""How long cancelled work is waited for."""


class Background:
    """Holds the tasks until they are done, and ends them with the application."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Runs the work in a context of its own: a server that cancels a request, and with it all that the request's
        context began, does not find it."""
        task = asyncio.create_task(work, name=name, context=Context())
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    async def stop(self) -> None:
        """Ends what still runs. Work may begin other work while it ends."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_LETTING_S)
        for patience_s in (_ENDING_S, _LETTING_S):
            tasks = [task for task in self._tasks if task.cancel()]
            if tasks:
                await asyncio.wait(tasks, timeout=patience_s)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background work %s failed", task.get_name(), exc_info=error)
