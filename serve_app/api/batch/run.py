"""One batch, from its input to its result files, by the ingress that owns it.

It may be cut at any moment and begun again, here or elsewhere: it goes on from what the journal holds. The result files
and the batch's end are one write of the database, by its owner only; so each line is in them once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Literal

from fastapi import FastAPI
from starlette.routing import Match

from serve_app.api.batch.asking import Asker
from serve_app.api.batch.journal import Journal, Outcome
from serve_app.api.batch.lines import Line, check, lines, problem_json
from serve_app.api.batch.results import Results
from serve_app.api.context import Context
from serve_app.protocol import Batch, Ending, Progress, StoreError

log = logging.getLogger(__name__)

ENDPOINTS = frozenset(
    {
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/responses",
        "/v1/moderations",
        "/v1/images/generations",
        "/v1/images/edits",
        "/v1/videos",
    }
)
"""OpenAI's; which of them are answered here is for the routes to say."""

_AHEAD = 64
"""Lines that are read and wait for their turn."""

_REPORT_S = 1.0


class Lost(Exception):
    """The batch is another's now, or it is over."""


class Run:
    """Works on ``batch`` alone; everything it knows of it comes back with each report."""

    def __init__(self, context: Context, app: FastAPI, batch: Batch) -> None:
        self._context = context
        self._app = app
        self._batch = batch
        self._owner = context.ledger.writer
        self._input = context.blobs.path(batch.input_file_id)
        self._journal = Journal(context.blobs, batch.id)
        self._reported_s = float("-inf")

    async def to_its_end(self) -> None:
        """Raises ``Lost``, and OSError or ``StoreError`` where it may be tried again from the start."""
        problems = await self._check() if not self._batch.total else []
        if problems:
            await self._finish(Ending("failed", problems=tuple(problems)))
        elif not self._batch.total:
            await self._finish(Ending("cancelled"))
        else:
            await asyncio.to_thread(self._journal.recover, self._context.new_id())
            try:
                await self._ask_all()
                await self._conclude()
            except FileNotFoundError:
                gone = problem_json("input_file_not_found", "The input file is no longer there.", "input_file_id")
                await self._finish(Ending("failed", self._batch.total, problems=(gone,)))
        await asyncio.to_thread(self._journal.remove)

    async def _check(self) -> list[dict[str, object]]:
        """What is wrong with the batch; if nothing is, it is in progress now, or stays cancelled."""
        if not _answers(self._app, self._batch.endpoint):
            text = "This endpoint does not answer here."
            return [problem_json("invalid_endpoint", text, "endpoint")]
        try:
            found = await asyncio.to_thread(check, self._input, self._batch.endpoint, self._context.limits)
        except FileNotFoundError:
            return [problem_json("input_file_not_found", "The input file is not there.", "input_file_id")]
        if not found.problems and self._batch.status == "validating":
            await self._report(Progress("in_progress", found.total, model=found.model))
        return found.problems

    # --- lines --------------------------------------------------------------------------------------------------

    async def _ask_all(self) -> None:
        """Asks what was not answered yet, until all is, or the batch is cancelled or out of time."""
        context, batch = self._context, self._batch
        tenant = partial(context.admission.again, batch.tenant, batch.key)
        asker = Asker(self._app, context.traffic, tenant, batch.endpoint, context.new_id)
        left = (line for line in lines(self._input, context.limits) if line.number not in self._journal)
        running: set[asyncio.Task[Outcome]] = set()
        try:
            while not self._is_over():
                for line in await asyncio.to_thread(_take, left, _AHEAD - len(running)):
                    running.add(asyncio.create_task(asker.outcome(line)))
                if not running:
                    return
                done, running = await asyncio.wait(running, timeout=_REPORT_S, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    await asyncio.to_thread(self._journal.note, [task.result() for task in done])
                await self._tell()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    def _is_over(self) -> bool:
        return self._batch.status != "in_progress" or self._context.clock() >= self._batch.expires_s

    async def _tell(self) -> None:
        """Reports how far it is, once a second, and hears whether it shall stop. It goes on while the store is out."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._reported_s + _REPORT_S:
            return
        self._reported_s = now_s
        try:
            await self._report(self._progress("in_progress"))
        except StoreError:
            log.warning("batch %s goes on without the store", self._batch.id)

    # --- end ----------------------------------------------------------------------------------------------------

    async def _conclude(self) -> None:
        if self._batch.status == "in_progress":
            await self._report(self._progress("finalizing"))
        results = Results(self._context, self._batch, self._journal, self._input)
        ending = await asyncio.to_thread(results.put_together)
        try:
            await self._finish(ending)
        except Lost:
            await asyncio.to_thread(results.discard)
            raise

    async def _finish(self, ending: Ending) -> None:
        if await self._context.store.batches.finish(self._batch.id, self._owner, ending) is None:
            raise Lost

    def _progress(self, status: Literal["in_progress", "finalizing"]) -> Progress:
        return Progress(status, self._batch.total, self._journal.completed, self._journal.failed)

    async def _report(self, progress: Progress) -> None:
        batch = await self._context.store.batches.report(self._batch.id, self._owner, progress)
        if batch is None:
            raise Lost
        self._batch = batch


def _take(left: Iterator[Line], most: int) -> list[Line]:
    return list(islice(left, most))


def _answers(app: FastAPI, endpoint: str) -> bool:
    scope = {"type": "http", "method": "POST", "path": endpoint, "root_path": "", "headers": []}
    return endpoint in ENDPOINTS and any(route.matches(scope)[0] is Match.FULL for route in app.routes)
