"""What an upstream's refusals mean to our client, and how often each kind may be tried again."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import anyio
import httpx2
import openai

from serve_app.protocol import Failed, FailureCode
from serve_app.upstream.complaints import Complaint, read, read_body

logger = logging.getLogger(__name__)

BROKEN = (httpx2.RequestError, OSError, anyio.EndOfStream)
"""What a connection raises when it breaks; TLS failures reach us unwrapped."""

_LARGEST_ERROR_BODY = 64 * 1024
_ERROR_BODY_WAIT_S = 2.0
_MEANT_FOR_THE_CLIENT = frozenset({400, 413, 422})
_PASSING = frozenset({408, 409})
_QUOTA = "The quota at the upstream is used up."


class Mishap(Exception):
    """An attempt failed before anything of an answer came: how it is told, and how many repeats it is worth.

    A wait the upstream asked for is in ``failed.retry_after_s``.
    """

    def __init__(self, failed: Failed, retries: int = 0) -> None:
        super().__init__(failed.code)
        self.failed = failed
        self.retries = retries


class Rejection(openai.OpenAIError):
    """An answer other than 200. Being one of the SDK's own errors, it passes through the SDK untouched."""

    def __init__(self, status: int, headers: httpx2.Headers, body: bytes) -> None:
        super().__init__(str(status))
        self.status = status
        self.headers = headers
        self.body = body


async def reject(response: httpx2.Response) -> None:
    """A response hook: raises ``Rejection`` for an answer other than 200; the SDK would read an error to its end."""
    if response.status_code != 200:
        raise Rejection(response.status_code, response.headers, await error_body(response))


async def error_body(response: httpx2.Response) -> bytes:
    """As much of an error's body as comes within 2 s, at most 64 KiB."""
    body = bytearray()
    with contextlib.suppress(TimeoutError, *BROKEN):
        async with asyncio.timeout(_ERROR_BODY_WAIT_S), contextlib.aclosing(response.aiter_raw()) as pieces:
            async for piece in pieces:
                body += piece
                if len(body) >= _LARGEST_ERROR_BODY:
                    break
    return bytes(body[:_LARGEST_ERROR_BODY])


def retry_after_s(headers: httpx2.Headers, now: Callable[[], float] = time.time) -> float | None:
    """The wait an upstream asks for: ``retry-after-ms``, or ``retry-after`` in seconds or as a date. Never negative."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        with contextlib.suppress(ValueError):
            wait_s = float(headers.get(name, "")) * unit_s
            return max(0.0, wait_s) if math.isfinite(wait_s) else None
    with contextlib.suppress(ValueError):
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now())
    return None


@dataclass(frozen=True, slots=True)
class Judge:
    """Reads one request's rejections. ``keys`` are the secrets no message may hold."""

    upstream: str
    model: str
    callers_key: bool
    keys: tuple[str, ...]

    def rejected(self, rejection: Rejection) -> Mishap:
        """The whole table of statuses."""
        status, complaint = rejection.status, read_body(rejection.body, self.keys)
        after_s = retry_after_s(rejection.headers)
        if status in _MEANT_FOR_THE_CLIENT:
            return Mishap(self._refused(complaint))
        if status in (401, 403):
            return Mishap(self._key_refused(status))
        if status == 404:
            message = f"The upstream does not offer the model {self.model!r}."
            return Mishap(Failed(FailureCode.UPSTREAM_NOT_FOUND, message, param="model"))
        if status == 402 or (status == 429 and complaint.is_about_money):
            return Mishap(Failed(FailureCode.UPSTREAM_QUOTA, _QUOTA))
        if status == 429:
            limited = Failed(FailureCode.UPSTREAM_RATE_LIMIT, "The upstream limits its rate.", retry_after_s=after_s)
            return Mishap(limited, retries=0 if after_s is None else 1)
        if status in _PASSING or status >= 500:
            message = f"The upstream failed with status {status}."
            return Mishap(Failed(FailureCode.UPSTREAM_ERROR, message, retry_after_s=after_s), retries=2)
        return Mishap(Failed(FailureCode.UPSTREAM_PROTOCOL, f"The upstream answered with status {status}."))

    def complained(self, error: object) -> Failed:
        """An error object where an answer should have been, in a stream or in a body with status 200."""
        complaint = read(error, self.keys)
        logger.warning(
            "upstream %s broke off an answer: code %s, type %s", self.upstream, complaint.code, complaint.type
        )
        if complaint.is_about_money:
            return Failed(FailureCode.UPSTREAM_QUOTA, _QUOTA)
        message = complaint.message or "The upstream broke off its answer with an error."
        return Failed(FailureCode.UPSTREAM_ERROR, message, detail=complaint.code)

    def _refused(self, complaint: Complaint) -> Failed:
        message = complaint.message or "The upstream refused the request."
        return Failed(FailureCode.UPSTREAM_REFUSED, message, param=complaint.param, detail=complaint.code)

    def _key_refused(self, status: int) -> Failed:
        if self.callers_key:
            return Failed(FailureCode.UPSTREAM_CALLER_KEY, "The upstream refused the API key you sent.")
        logger.warning("upstream %s refused this server's own credentials with status %d", self.upstream, status)
        return Failed(FailureCode.UPSTREAM_OWN_KEY, "The upstream refused this server's own credentials.")
