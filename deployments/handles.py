"""Ray handles as the application's own protocols: a Backend, an Upstream and a Store that live in another process.

Ray's exceptions end here. What a caller sees is a ``Failed`` event or a ``StoreError``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import Any, cast

import ray
from ray import ObjectRef
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from serve_app.protocol import Event, Failed, FailureCode, ModelCard, RawEvent, RawRequest, Store, StoreError, Work

_log = logging.getLogger("ray.serve")

_IN_MESSAGE = 1024 * 1024
_PIECE = 4 * 1024 * 1024
"""Bytes of a raw request's body: what goes along in the message, and from there on the pieces it is spooled in."""

LEDGER = "ledger"
"""The room of the store itself."""

_LOST = Failed(FailureCode.ENGINE_LOST, "The model's replica was lost. Please try again.")
_FULL = Failed(FailureCode.QUEUE_FULL, "Too many requests are waiting for this model. Please slow down.")
_GONE = Failed(FailureCode.MODEL_UNAVAILABLE, "The model is not available at the moment.")


class RemoteBackend:
    """A model deployment. A replica lost before it said anything is replaced by another, once."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._stream = handle.options(stream=True)

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
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

    async def _attempt(self, request: Work) -> AsyncGenerator[list[Event], None]:
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


class RemoteUpstream(RemoteBackend):
    """An upstream's deployment. A raw request's body crosses whole: in the message, or spooled in Ray's object store.

    The store keeps what is too much for memory on disk, and another node finds it there.
    """

    def __init__(self, handle: DeploymentHandle) -> None:
        super().__init__(handle)
        # References travel in Ray's own calls only: a message of Serve's gRPC would hold what they name for ever.
        self._spooled_stream = handle.options(stream=True, _by_reference=True)

    async def forward(self, request: RawRequest, body: AsyncIterable[bytes]) -> AsyncGenerator[list[RawEvent], None]:
        pieces = [piece async for piece in _spooled(body)]
        spooled = any(isinstance(piece, ObjectRef) for piece in pieces)
        stream = (self._spooled_stream if spooled else self._stream).forward.remote(request, pieces)
        try:
            async for events in stream:
                yield events
        except BackPressureError:
            yield [_FULL]
        except DeploymentUnavailableError:
            yield [_GONE]
        except (RayError, RayServeException) as error:
            _log.warning("request %s: replica lost (%s)", request.request_id, type(error).__name__)
            yield [_LOST]
        finally:
            stream.cancel()


async def _spooled(body: AsyncIterable[bytes]) -> AsyncIterator[bytes | ObjectRef]:
    """A small body as bytes; a large one as references to pieces of it."""
    held = bytearray()
    limit = _IN_MESSAGE
    async for piece in body:
        held += piece
        if len(held) > limit:
            limit = _PIECE
            yield await asyncio.to_thread(ray.put, bytes(held))
            held.clear()
    if held:
        yield bytes(held)


class RemoteRoom:
    """A part of the persistence actor: each method of its protocol is one message. StoreError while Ray restarts it."""

    def __init__(self, handle: DeploymentHandle, room: str) -> None:
        self._handle = handle
        self._room = room

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_"):
            raise AttributeError(method)
        return partial(self._call, method)

    async def _call(self, method: str, *arguments: Any, **named: Any) -> Any:
        try:
            return await self._handle.call.remote(self._room, method, *arguments, **named)
        except RayTaskError as error:
            # Ray's wrapper is an instance of the original's class too, with a traceback for its text.
            raise error.cause from None
        except (RayError, RayServeException):
            raise StoreError("The store is restarting.") from None


class RemoteStore(RemoteRoom):
    """The persistence actor as the ``Store`` it holds."""

    def __init__(self, handle: DeploymentHandle) -> None:
        super().__init__(handle, LEDGER)
        self.streams = RemoteRoom(handle, "streams")
        self.responses = RemoteRoom(handle, "responses")
        self.conversations = RemoteRoom(handle, "conversations")
        self.files = RemoteRoom(handle, "files")
        self.answers = RemoteRoom(handle, "answers")
        self.batches = RemoteRoom(handle, "batches")
        self.keys = RemoteRoom(handle, "keys")


def remote_store(handle: DeploymentHandle) -> Store:
    """``RemoteStore`` answers whatever it is asked: this gives it its type."""
    return cast(Store, RemoteStore(handle))
