"""Raw requests to an upstream: any method, any media type, any size; sent once, and answered byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import AsyncGenerator, AsyncIterable, Callable

import httpx2
import orjson

from serve_app import errors
from serve_app.protocol import Done, Failed, FailureCode, RawBody, RawEvent, RawHead, RawRequest
from serve_app.upstream.breaker import Breaker
from serve_app.upstream.connections import Trust, fits_a_header, http_client
from serve_app.upstream.deadlines import Deadlines, Patience
from serve_app.upstream.failures import BROKEN, error_body
from serve_app.upstream.outbox import Outbox
from serve_app.upstream.usage import meter_for

logger = logging.getLogger(__name__)

_SHOWN = re.compile(
    "accept-ranges|cache-control|content-(disposition|encoding|language|length|range|type)|etag|last-modified|location"
    "|retry-after(-ms)?|x-should-retry|x-ratelimit-.*"
)
"""Headers of an answer that concern the client. The rest is between the upstream and us, or names our account."""
_LARGEST_EVENT = 32 * 1024 * 1024
_SHORTEST_SECRET = 8
_EVENTS = "text/event-stream"
_BLANK_LINES = (b"\n\n", b"\r\n\r\n", b"\r\r")


class Forwarder:
    """Owns its connections until ``close``. No request is sent twice: nobody here knows what a second one would do."""

    def __init__(
        self,
        name: str,
        api_key: str | None,
        base_url: str,
        trust: Trust,
        deadlines: Deadlines,
        breaker: Breaker,
        clock: Callable[[], float],
        max_connections: int = 256,
    ) -> None:
        self._name = name
        self._api_key = api_key
        self._base_url = base_url.rstrip("/")
        self._deadlines = deadlines
        self._breaker = breaker
        self._clock = clock
        self._client = http_client(deadlines, max_connections, trust)

    async def close(self) -> None:
        await self._client.aclose()

    async def forward(self, request: RawRequest, body: AsyncIterable[bytes]) -> AsyncGenerator[list[RawEvent], None]:
        """See ``protocol.Upstream``."""
        deadlines = self._deadlines
        outbox: Outbox[RawEvent] = Outbox()
        patience = Patience(
            self._clock, first_s=request.timeout_s, idle_s=deadlines.raw_idle_s, beat_s=deadlines.beat_s
        )
        work = asyncio.create_task(self._work(request, body, outbox))
        async with contextlib.aclosing(outbox.follow(work, patience)) as batches:
            async for events in batches:
                yield events

    async def _work(self, request: RawRequest, body: AsyncIterable[bytes], outbox: Outbox[RawEvent]) -> None:
        """Put all the events of a request, the terminal included, whatever happens."""
        try:
            await self._exchange(request, body, outbox)
        except Exception as exc:  # its text and traceback may hold a key or a prompt
            logger.error("a request passed on to upstream %s failed on %s", self._name, type(exc).__name__)
            await outbox.put([Failed(FailureCode.INTERNAL, "The request could not be passed on.")])

    async def _exchange(self, request: RawRequest, body: AsyncIterable[bytes], outbox: Outbox[RawEvent]) -> None:
        if request.api_key is not None and not fits_a_header(request.api_key):
            message = "The API key holds characters that no key has."
            await outbox.put([Failed(FailureCode.UPSTREAM_CALLER_KEY, message)])
            return
        if wait_s := self._breaker.admit():
            message = "The upstream keeps failing and is left alone for a while."
            await outbox.put([Failed(FailureCode.UPSTREAM_UNREACHABLE, message, retry_after_s=wait_s)])
            return
        try:
            response = await self._client.send(self._prepared(request, body), stream=True)
        except BROKEN as exc:
            await outbox.put([self._no_answer(exc)])
            return
        (self._breaker.succeeded if response.status_code < 500 else self._breaker.failed)()
        try:
            if response.status_code < 400:
                await _relay(response, outbox)
            else:
                await outbox.put(await self._refusal(response, request.api_key))
        finally:
            await response.aclose()

    def _prepared(self, request: RawRequest, body: AsyncIterable[bytes]) -> httpx2.Request:
        """Compressed answers are not asked for: what passes here is looked through for its usage."""
        key = self._api_key if request.api_key is None else request.api_key
        headers = [*request.headers, ("accept-encoding", "identity")]
        if key is not None:
            headers.append(("authorization", f"Bearer {key}"))
        url = f"{self._base_url}/{request.path}"
        return self._client.build_request(
            request.method, url, headers=headers, content=body if request.has_body else None
        )

    def _no_answer(self, exc: Exception) -> Failed:
        if isinstance(exc, httpx2.PoolTimeout):
            return Failed(FailureCode.QUEUE_FULL, "Too many requests to the upstream are under way.")
        self._breaker.failed()
        if isinstance(exc, httpx2.ConnectTimeout | httpx2.ConnectError):
            return Failed(FailureCode.UPSTREAM_UNREACHABLE, "The upstream could not be reached.")
        return Failed(FailureCode.UPSTREAM_UNREACHABLE, "The upstream's connection broke before its answer.")

    async def _refusal(self, response: httpx2.Response, callers_key: str | None) -> list[RawEvent]:
        """The upstream's own words where they are OpenAI's envelope, without our key; else ours, with its status."""
        status = response.status_code
        if status == 401 and callers_key is None:
            logger.warning("upstream %s refused this server's own credentials", self._name)
            return [Failed(FailureCode.UPSTREAM_OWN_KEY, "The upstream refused this server's own credentials.")]
        body = await error_body(response)
        for key in (self._api_key, callers_key):
            if key and len(key) >= _SHORTEST_SECRET:
                body = body.replace(key.encode(), b"[redacted]")
        if not _is_envelope(body):
            code = FailureCode.UPSTREAM_ERROR if status >= 500 else FailureCode.UPSTREAM_REFUSED
            failed = Failed(code, f"The upstream answered with status {status}.")
            body = orjson.dumps(errors.envelope(failed))
        headers = [header for header in _shown(response.headers) if not header[0].startswith("content-")]
        head = RawHead(status, (*headers, ("content-type", "application/json")))
        return [head, RawBody(body), Done()]


async def _relay(response: httpx2.Response, outbox: Outbox[RawEvent]) -> None:
    """A good answer, to its end or to where it breaks."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    meter, events = meter_for(kind), _WholeEvents() if kind == _EVENTS else None
    await outbox.put([RawHead(response.status_code, _shown(response.headers))])
    try:
        async with contextlib.aclosing(response.aiter_raw()) as pieces:
            async for piece in pieces:
                meter.feed(piece)
                data = events.push(piece) if events else piece
                if data:
                    await outbox.put([RawBody(data)])
    except BROKEN:
        message = "The upstream's connection broke during its answer."
        await outbox.put([Failed(FailureCode.UPSTREAM_TRUNCATED, message, usage=meter.usage())])
        return
    rest = events.rest() if events else b""
    await outbox.put([*([RawBody(rest)] if rest else []), Done(meter.usage())])


class _WholeEvents:
    """Holds back the event that has begun and not ended: if it never does, what follows must not be taken for it."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def push(self, piece: bytes) -> bytes:
        new = max(0, len(self._rest) - 3)
        self._rest += piece
        end = max((at + len(mark) for mark in _BLANK_LINES if (at := self._rest.rfind(mark, new)) >= 0), default=0)
        if len(self._rest) - end > _LARGEST_EVENT:
            end = len(self._rest)
        whole = bytes(self._rest[:end])
        del self._rest[:end]
        return whole

    def rest(self) -> bytes:
        return bytes(self._rest)


def _shown(headers: httpx2.Headers) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in headers.items() if _SHOWN.fullmatch(name))


def _is_envelope(body: bytes) -> bool:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return False
    return isinstance(value, dict) and isinstance(value.get("error"), dict)
