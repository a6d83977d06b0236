"""A house that answers everything: every route, whatever it is asked, over a real store."""

from __future__ import annotations

import asyncio
import concurrent.futures
import struct
import threading
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from serve_app.api.app import create_app
from serve_app.api.blobs import Blobs
from serve_app.api.gate import Gate
from serve_app.api.limits import Limits
from serve_app.protocol import (
    Delta,
    Done,
    Embed,
    Embedded,
    Event,
    Generate,
    ModelCard,
    Started,
    TokenLogprob,
    Usage,
)
from serve_app.store import SqlStore
from tests.api.serving import listening, make_context
from tests.fakes import card

MODEL = "llama"
PATIENT = Limits(store_timeout_s=30)
"""A busy machine is no reason for a 503."""


class Everything:
    """Says the same two words to every prompt, and embeds every text alike."""

    async def generate(self, request: Generate | Embed) -> AsyncGenerator[list[Event], None]:
        yield [Started(prompt_tokens=7)]
        if isinstance(request, Embed):
            yield [Embedded(tuple((at, struct.pack("<2f", at, 0.5)) for at in range(len(request.inputs))))]
        else:
            for choice in range(len(request.prompts) * request.choices):
                yield [Delta(choice, word, logprobs=self._logprobs(request, word)) for word in ("Hello", " you")]
                yield [Delta(choice, finish="stop")]
        yield [Done(Usage(7, 2))]

    def _logprobs(self, request: Generate, word: str) -> tuple[TokenLogprob, ...]:
        if request.sampling.logprobs is None:
            return ()
        return (TokenLogprob(word, -0.5, word.encode(), ((word, -0.5, word.encode()),)),)

    async def models(self) -> tuple[ModelCard, ...]:
        return (card(MODEL),)


@asynccontextmanager
async def open_house(folder: Path) -> AsyncGenerator[Gate]:
    store = await SqlStore.open(f"sqlite:///{folder}/everything.db")
    context = make_context(local={MODEL: Everything()}, store=store, blobs=Blobs(folder / "files"), limits=PATIENT)
    try:
        yield create_app(context, own_request_id=True)
    finally:
        await store.close()


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, Gate]]:
    """The house in a thread of its own, for callers that block. Base URL and application."""
    ready: list[tuple[str, Gate]] = []
    loop = asyncio.new_event_loop()
    stopping, started = asyncio.Event(), threading.Event()

    async def run() -> None:
        async with open_house(folder) as gate, listening(gate) as url:
            ready.append((url, gate))
            started.set()
            await stopping.wait()

    running = concurrent.futures.ThreadPoolExecutor(1).submit(loop.run_until_complete, run())
    running.add_done_callback(lambda _: started.set())
    try:
        assert started.wait(30)
        yield ready[0] if ready else running.result()
    finally:
        loop.call_soon_threadsafe(stopping.set)
        running.result(30)
        loop.close()
