"""The application a server runs: the gate, and behind it one router per resource."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from serve_app.api import (
    batches,
    chat,
    compacting,
    completions,
    conversations,
    embeddings,
    file_uploads,
    files,
    health,
    lexicon,
    models,
    passthrough,
    refusals,
    responses,
    retired,
    stored,
)
from serve_app.api.batch.runner import BatchRunner
from serve_app.api.context import Context
from serve_app.api.dialects import anthropic, ollama, rerank
from serve_app.api.enduring import Enduring, Watch
from serve_app.api.gate import Gate
from serve_app.api.housekeeping import keep_house
from serve_app.api.organization import accounts, admin_keys, project_keys, projects


def create_app(context: Context, *, own_request_id: bool, watch: Watch | None = None) -> Gate:
    """``own_request_id``: False where the server in front adds ``x-request-id`` to every answer itself.

    The app owns the ledger's tasks and what runs in the background: they end with the lifespan.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        context.ledger.start()
        app.state.batches.start()
        housekeeping = asyncio.create_task(keep_house(context.blobs, context.store))
        app.state.enduring.start()
        yield
        await context.background.stop()
        await app.state.batches.stop()
        housekeeping.cancel()
        await asyncio.gather(housekeeping, return_exceptions=True)
        await context.ledger.stop()

    app = FastAPI(title="llm-backend", redoc_url=None, redirect_slashes=False, lifespan=lifespan)
    app.state.context = context
    app.state.enduring = Enduring(context, watch)
    app.state.batches = BatchRunner(context, app)
    for room in (
        chat,
        completions,
        responses,
        compacting,
        conversations,
        embeddings,
        stored,
        files,
        file_uploads,
        lexicon,
        batches,
        models,
        anthropic,
        rerank,
        ollama,
        admin_keys,
        projects,
        project_keys,
        accounts,
        health,
    ):
        # Flat, not included as sub-applications: one list of routes tells all there is (for 405 and for the tests).
        app.router.routes.extend(room.router.routes)
    app.router.routes.extend([*retired.routes(), *passthrough.routes()])
    refusals.install(app)
    return Gate(app, context, own_request_id=own_request_id)
