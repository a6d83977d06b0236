"""Request bodies on their way in: how large and how slow one may be, whether it is taken whole or as it comes."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from serve_app.api.limits import Limits
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode

ANY_MEDIA = "*/*"


def takes(*media_types: str) -> dict[str, Any]:
    """For a route's ``openapi_extra``: its body comes in one of these media types, and is not read before the route.

    ``ANY_MEDIA`` includes JSON.
    """
    return {"requestBody": {"content": {media_type: {} for media_type in media_types}}}


class Upload:
    """A body that is handed on as it comes: at most ``max_upload_bytes``, never silent for ``body_timeout_s``."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._n_bytes = 0
        self._over = False

    async def receive(self, receive: Receive) -> Message:
        """The next message; raises ``RequestError`` for a body that is too large or too slow."""
        if self._over:
            return await receive()
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                message = await receive()
        except TimeoutError:
            text = f"Nothing of the body arrived for {self._limits.body_timeout_s:g} seconds."
            raise RequestError(FailureCode.REQUEST_TIMEOUT, text) from None
        self._n_bytes += len(message.get("body", b""))
        if self._n_bytes > self._limits.max_upload_bytes:
            raise _too_large(self._limits.max_upload_bytes)
        self._over = not message.get("more_body", False)
        return message


def refuse_announced(headers: Headers, limit: int) -> None:
    """Raises ``RequestError`` for a body that says itself that it is too large."""
    announced = headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise _too_large(limit)


async def whole(headers: Headers, receive: Receive, limits: Limits) -> bytes:
    """The whole body; raises ``RequestError`` for one that is too large or too slow."""
    refuse_announced(headers, limits.max_body_bytes)
    try:
        async with asyncio.timeout(limits.body_timeout_s):
            return await _collect(receive, limits)
    except TimeoutError:
        text = f"The body did not arrive within {limits.body_timeout_s:g} seconds."
        raise RequestError(FailureCode.REQUEST_TIMEOUT, text) from None


async def _collect(receive: Receive, limits: Limits) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect()
        body += message.get("body", b"")
        if len(body) > limits.max_body_bytes:
            raise _too_large(limits.max_body_bytes)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limit: int) -> RequestError:
    return RequestError(FailureCode.TOO_LARGE, f"The body is larger than {limit} bytes.")
