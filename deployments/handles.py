"""Ray handles as the application's own protocols: a Backend and a Store that live in another process.

Ray's exceptions end here. What a caller sees is a ``Failed`` event or a ``StoreError``.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.protocol import (
    Closed,
    CompletionQuery,
    Event,
    Failed,
    FailureCode,
    Generate,
    Json,
    ModelCard,
    Opened,
    Page,
    Relay,
    StoreError,
)

_log = logging.getLogger("ray.serve")

_LOST = Failed(FailureCode.ENGINE_LOST, "The model's replica was lost. Please try again.")
_FULL = Failed(FailureCode.QUEUE_FULL, "Too many requests are waiting for this model. Please slow down.")
_GONE = Failed(FailureCode.MODEL_UNAVAILABLE, "The model is not available at the moment.")


class RemoteBackend:
    """A model deployment. A replica lost before it said anything is replaced by another, once."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._stream = handle.options(stream=True)

    async def generate(self, request: Generate | Relay) -> AsyncGenerator[list[Event], None]:
        for attempt in (1, 2):
            said_anything = False
            try:
                async with aclosing(self._attempt(request)) as attempt_events:
                    async for events in attempt_events:
                        said_anything = said_anything or bool(events)
                        yield events
                return
            except BackPressureError:
                yield [_FULL]
                return
            except DeploymentUnavailableError:
                yield [_GONE]
                return
            except (RayError, RayServeException) as error:
                _log.warning("request %s: replica lost (%s)", request.request_id, type(error).__name__)
                if said_anything or attempt == 2:
                    yield [_LOST]
                    return

    async def _attempt(self, request: Generate | Relay) -> AsyncGenerator[list[Event], None]:
        stream = self._stream.generate.remote(request)
        try:
            async for events in stream:
                yield events
        finally:
            # Without it some transports let the replica go on to the end after the client has left.
            stream.cancel()

    async def models(self) -> tuple[ModelCard, ...]:
        try:
            return tuple(await self._handle.models.remote())
        except (RayError, RayServeException):
            return ()


class RemoteStore:
    """The persistence actor. While Ray restarts it, every call raises StoreError."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle

    async def _call(self, method: str, *arguments: Any) -> Any:
        try:
            return await getattr(self._handle, method).remote(*arguments)
        except RayTaskError as error:
            # Ray's wrapper is an instance of the original's class too, with a traceback for its text.
            raise error.cause from None
        except (RayError, RayServeException):
            raise StoreError("The store is restarting.") from None

    async def write(self, entries: Sequence[Opened | Closed]) -> None:
        await self._call("write", entries)

    async def beat(self, writer: str) -> None:
        await self._call("beat", writer)

    async def reap(self, older_than_s: float) -> int:
        return int(await self._call("reap", older_than_s))

    async def completions(self, tenant: str, query: CompletionQuery) -> Page:
        page: Page = await self._call("completions", tenant, query)
        return page

    async def completion(self, tenant: str, completion_id: str) -> Json | None:
        found: Json | None = await self._call("completion", tenant, completion_id)
        return found

    async def set_metadata(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> Json | None:
        found: Json | None = await self._call("set_metadata", tenant, completion_id, dict(metadata))
        return found

    async def delete_completion(self, tenant: str, completion_id: str) -> bool:
        return bool(await self._call("delete_completion", tenant, completion_id))

    async def messages(self, tenant: str, completion_id: str, query: CompletionQuery) -> Page | None:
        page: Page | None = await self._call("messages", tenant, completion_id, query)
        return page

    async def check(self) -> None:
        await self._call("check")
