"""The application over a real database and a real folder, for a test: what it keeps survives the application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from openai import AsyncOpenAI

from serve_app.api.app import create_app
from serve_app.api.blobs import Blobs
from serve_app.api.limits import Limits
from serve_app.store import SqlStore
from tests.api.serving import KEY, listening, make_context
from tests.fakes import FakeClock


@asynccontextmanager
async def kept_in(
    folder: Path, limits: Limits | None = None, **options: Any
) -> AsyncIterator[tuple[AsyncOpenAI, FakeClock]]:
    """The SDK on a real connection to the application, and the clock of the application and its store.

    The store is waited for as long as a busy machine may need: what is late is not what these tests are about.
    """
    clock = FakeClock()
    options["limits"] = replace(limits or Limits(), store_timeout_s=30.0)
    store = await SqlStore.open(f"sqlite:///{folder}/kept.db", clock=clock)
    context = make_context(store=store, clock=clock, blobs=Blobs(folder / "files"), keys=(KEY, f"{KEY}-2"), **options)
    try:
        async with (
            listening(create_app(context, own_request_id=True)) as url,
            AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as sdk,
        ):
            yield sdk, clock
    finally:
        await store.close()


async def eventually(condition: Callable[[], Awaitable[bool]], timeout_s: float = 60.0) -> None:
    """Asks until it holds, as a client of work in the background does: nothing tells it when that is done."""
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
