"""For probes: whether this process lives, and whether it could answer a request. Public, so they tell nothing else."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from serve_app.api.context import context_of
from serve_app.protocol import Store, StoreError

router = APIRouter()


@router.get("/health", include_in_schema=False)
async def health() -> Response:
    """Alive."""
    return JSONResponse({"status": "ok"})


@router.get("/ready", include_in_schema=False)
async def ready(request: Request) -> Response:
    """200 when a model answers and a stored request could be stored; else 503."""
    context = context_of(request)
    cards, store = await asyncio.gather(
        context.directory.list(), _answers(context.store, context.limits.store_timeout_s)
    )
    fit = bool(cards) and store
    state = {"status": "ready" if fit else "unavailable", "models": bool(cards), "store": store}
    return JSONResponse(state, 200 if fit else 503)


async def _answers(store: Store, timeout_s: float) -> bool:
    try:
        async with asyncio.timeout(timeout_s):
            await store.check()
    except (StoreError, TimeoutError):
        return False
    return True
