"""UpstreamModel: one OpenAI-compatible server as a Ray Serve deployment. Its key lives here and nowhere else."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from ray import ObjectRef

from serve_app.protocol import Event, ModelCard, RawEvent, RawRequest, Work


class UpstreamModel:
    """A thin shell over ``OpenAIUpstream``."""

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self,
        name: str,
        api_key: str | None,
        base_url: str | None,
        models: tuple[str, ...] | None,
        log_level: str = "INFO",
    ) -> None:
        # Here, not above: who builds the graph does without the client, 0.8 s of imports.
        from serve_app.upstream.client import OpenAIUpstream

        logging.getLogger("llm_backend").setLevel(log_level)
        self._upstream = OpenAIUpstream(name, api_key, base_url, models=models)

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        async with aclosing(self._upstream.generate(request)) as events:
            async for batch in events:
                yield batch

    async def forward(
        self, request: RawRequest, pieces: list[bytes | ObjectRef]
    ) -> AsyncGenerator[list[RawEvent], None]:
        async with aclosing(self._upstream.forward(request, _joined(pieces))) as events:
            async for batch in events:
                yield batch

    async def models(self) -> tuple[ModelCard, ...]:
        return await self._upstream.models()

    async def __del__(self) -> None:
        await self._upstream.close()


async def _joined(pieces: list[bytes | ObjectRef]) -> AsyncIterator[bytes]:
    """The body, one piece in memory at a time."""
    for piece in pieces:
        yield piece if isinstance(piece, bytes) else await piece
