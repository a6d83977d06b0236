"""How long a prompt is, by the model that would answer it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from serve_app.api.calls import Call
from serve_app.errors import RequestError
from serve_app.protocol import Failed, FailureCode, Generate, Started


async def prompt_tokens(call: Call, work: Generate) -> int:
    """Closing the answer after its first event gives the model's place back before it is used."""
    try:
        async with asyncio.timeout(call.context.limits.timeout_s):
            return await _begun(call, work)
    except TimeoutError:
        raise RequestError(FailureCode.TIMEOUT, "The model did not answer in time.") from None


async def _begun(call: Call, work: Generate) -> int:
    async with aclosing(call.target.backend.generate(work)) as batches:
        async for batch in batches:
            for event in batch:
                if isinstance(event, Started):
                    return event.prompt_tokens
                if isinstance(event, Failed):
                    raise RequestError(event.code, event.message, event.param, event.detail)
    raise RequestError(FailureCode.ENGINE_LOST, "The model stopped before its answer was complete.")
