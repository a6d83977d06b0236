"""Looks for batches that nobody works on, and works on them."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from fastapi import FastAPI

from serve_app.api.batch.run import Lost, Run
from serve_app.api.context import Context
from serve_app.protocol import Batch, StoreError

log = logging.getLogger(__name__)

_AT_ONCE = 4
"""Batches under way in one ingress; their lines take turns."""

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0


class BatchRunner:
    """Owns a task that looks, and one for each batch under way. A batch it claimed it keeps until that is over."""

    def __init__(self, context: Context, app: FastAPI) -> None:
        self._context = context
        self._app = app
        self._woken = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._runs: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        self._looking = asyncio.create_task(self._look(), name="batches")

    async def stop(self) -> None:
        """Lets go of everything: another ingress may go on with it at once."""
        tasks = [*self._runs, *([self._looking] if self._looking else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._runs:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(self._context.limits.store_timeout_s):
                    await self._context.store.batches.release(self._context.ledger.writer)

    def wake(self) -> None:
        """There is a new batch."""
        self._woken.set()

    async def _look(self) -> None:
        while True:
            self._woken.clear()
            try:
                await self._claim()
            except StoreError:
                pass  # The ledger tells that the store does not answer.
            except Exception:
                log.exception("batches cannot be claimed")
            with suppress(TimeoutError):
                async with asyncio.timeout(self._context.ledger.rhythm.beat_s):
                    await self._woken.wait()

    async def _claim(self) -> None:
        owner, rhythm = self._context.ledger.writer, self._context.ledger.rhythm
        while len(self._runs) < _AT_ONCE:
            batch = await self._context.store.batches.claim(owner, rhythm.reap_older_than_s)
            if batch is None:
                return
            log.info("batch %s is claimed", batch.id)
            task = asyncio.create_task(self._work(batch), name=batch.id)
            self._runs.add(task)
            task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            self._runs.discard(task)
            self.wake()

    async def _work(self, batch: Batch) -> None:
        """Begins again where it was cut by a disk or a store that did not answer."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                return await self._run(batch)
            except Exception:
                log.exception("batch %s was interrupted", batch.id)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            with suppress(StoreError):
                batch = await self._context.store.batches.batch(batch.tenant, batch.id) or batch

    async def _run(self, batch: Batch) -> None:
        with suppress(Lost):
            await Run(self._context, self._app, batch).to_its_end()
