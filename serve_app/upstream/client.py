"""A backend over any server that speaks OpenAI, through the official client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable
from itertools import count
from typing import Any, cast

import httpx2
import openai

from serve_app.protocol import Done, Event, Failed, FailureCode, ModelCard, RawEvent, RawRequest, Relay, Upstream, Work
from serve_app.upstream.answers import Answer, StreamAnswer, WholeAnswer
from serve_app.upstream.breaker import Breaker
from serve_app.upstream.catalogue import Catalogue
from serve_app.upstream.connections import fits_a_header, http_client, trust_for
from serve_app.upstream.deadlines import Deadlines, Patience
from serve_app.upstream.failures import BROKEN, Judge, Mishap, Rejection, reject
from serve_app.upstream.forwarding import Forwarder
from serve_app.upstream.outbox import Outbox

logger = logging.getLogger(__name__)

_OPENAI = "https://api.openai.com/v1"
_RETRY_BUDGET_S = 5.0
"""All the waiting between the attempts of one request."""
_FIRST_BACKOFF_S = 0.5
_DRAIN_S = 0.25
"""How long a finished answer's connection may take to become free for the next request; else it is closed."""
_LARGEST_LISTING = 32 * 1024 * 1024


class OpenAIUpstream(Upstream):
    """Owns its connections until ``close``; of one event loop. The only retry loop on the way to the upstream is here.

    ``api_key`` None: none is sent, unless a request brings one. Keys are in no log and no event. ``models`` None: the
    upstream is asked. A request is sent again only while nothing of an answer's body has come.
    """

    def __init__(
        self,
        name: str,
        api_key: str | None,
        base_url: str | None = None,
        *,
        owned_by: str | None = None,
        models: tuple[str, ...] | None = None,
        deadlines: Deadlines | None = None,
        models_ttl_s: float = 300.0,
        models_timeout_s: float = 3.0,
        max_connections: int = 1024,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if api_key is not None and not fits_a_header(api_key):
            raise ValueError(f"the API key of upstream {name} holds characters that no header can carry")
        self._name = name
        self._api_key = api_key
        self._deadlines = deadlines or Deadlines()
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._breaker = Breaker(clock)
        url = base_url or _OPENAI
        trust = trust_for(url)
        self._client = openai.AsyncOpenAI(
            api_key="",
            base_url=url,
            max_retries=0,
            http_client=http_client(self._deadlines, max_connections, trust, reject),
            _enforce_credentials=False,
        )
        self._forwarder = Forwarder(name, api_key, url, trust, self._deadlines, self._breaker, clock)
        owner = owned_by or name
        self._fixed = None if models is None else tuple(ModelCard(model, 0, owner) for model in models)
        self._catalogue = Catalogue(name, self._list, owner, models_ttl_s, models_timeout_s, clock)

    async def close(self) -> None:
        """Close every connection; answers still under way fail as truncated."""
        await self._client.close()
        await self._forwarder.close()

    def forward(self, request: RawRequest, body: AsyncIterable[bytes]) -> AsyncGenerator[list[RawEvent], None]:
        return self._forwarder.forward(request, body)

    async def models(self) -> tuple[ModelCard, ...]:
        return await self._catalogue.cards() if self._fixed is None else self._fixed

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        if not isinstance(request, Relay):
            yield [Failed(FailureCode.INTERNAL, "This request cannot be passed on to an upstream.")]
            return
        outbox: Outbox[Event] = Outbox()
        patience = self._patience(request)
        work = asyncio.create_task(self._work(request, outbox))
        async with contextlib.aclosing(outbox.follow(work, patience)) as batches:
            async for events in batches:
                yield events

    def _patience(self, request: Relay) -> Patience:
        deadlines = self._deadlines
        first_s = deadlines.first_byte_s if request.stream else deadlines.whole_s
        return Patience(
            self._clock,
            first_s=first_s,
            idle_s=deadlines.idle_s,
            beat_s=deadlines.beat_s,
            total_s=request.timeout_s,
        )

    async def _work(self, request: Relay, outbox: Outbox[Event]) -> None:
        """Put all the events of a request, the terminal included, whatever happens."""
        try:
            await self._converse(request, outbox)
        except Mishap as mishap:
            await outbox.put([mishap.failed])
        except Exception as exc:  # its text and traceback may hold a key or a prompt
            logger.error("a request to upstream %s failed on %s", self._name, type(exc).__name__)
            await outbox.put([Failed(FailureCode.INTERNAL, "The request could not be passed on.")])

    async def _converse(self, request: Relay, outbox: Outbox[Event]) -> None:
        judge = self._judge(request)
        waited_s = 0.0
        for attempt in count():
            try:
                await self._attempt(request, outbox, judge)
                return
            except Mishap as mishap:
                pause_s = self._pause_s(mishap, attempt)
                if attempt >= mishap.retries or waited_s + pause_s > _RETRY_BUDGET_S:
                    raise
            waited_s += pause_s
            await self._sleep(pause_s)

    def _pause_s(self, mishap: Mishap, attempt: int) -> float:
        """What the upstream asked for, else full jitter under an exponential ceiling."""
        asked_s = mishap.failed.retry_after_s
        return self._jitter() * _FIRST_BACKOFF_S * 2.0**attempt if asked_s is None else asked_s

    async def _attempt(self, request: Relay, outbox: Outbox[Event], judge: Judge) -> None:
        wait_s = self._breaker.admit()
        if wait_s:
            message = "The upstream keeps failing and is left alone for a while."
            raise Mishap(Failed(FailureCode.UPSTREAM_UNREACHABLE, message, retry_after_s=wait_s))
        response = await self._send(request, judge)
        try:
            await self._pass_on(response, _answer(response, request, judge), outbox)
        finally:
            await response.aclose()

    async def _send(self, request: Relay, judge: Judge) -> httpx2.Response:
        """The response with its body unread, status 200."""
        key = self._api_key if request.api_key is None else request.api_key
        accept = "text/event-stream" if request.stream else "application/json"
        try:
            response = await self._client.post(
                f"/{request.route}",
                cast_to=httpx2.Response,
                content=request.body,
                options={"headers": _headers(key, accept)},
                stream=True,
                stream_cls=openai.AsyncStream[Any],
            )
        except Rejection as rejection:
            self._note(well=rejection.status < 500)
            raise judge.rejected(rejection) from None
        except openai.APIConnectionError as exc:
            raise self._no_connection(exc) from None
        self._note(well=True)
        return cast(httpx2.Response, response)

    def _no_connection(self, exc: openai.APIConnectionError) -> Mishap:
        if isinstance(exc.__cause__, httpx2.PoolTimeout):
            return Mishap(Failed(FailureCode.QUEUE_FULL, "Too many requests to the upstream are under way."))
        self._note(well=False)
        if isinstance(exc.__cause__, httpx2.ConnectTimeout | httpx2.ConnectError):
            return Mishap(Failed(FailureCode.UPSTREAM_UNREACHABLE, "The upstream could not be reached."), retries=2)
        message = "The upstream's connection broke before its answer."
        return Mishap(Failed(FailureCode.UPSTREAM_UNREACHABLE, message), retries=2)

    def _note(self, well: bool) -> None:
        if well:
            self._breaker.succeeded()
        else:
            self._breaker.failed()

    async def _pass_on(self, response: httpx2.Response, answer: Answer, outbox: Outbox[Event]) -> None:
        untouched = True
        async with contextlib.aclosing(response.aiter_raw()) as pieces:
            try:
                async for piece in pieces:
                    untouched = False
                    events = answer.feed(piece)
                    await outbox.put(events)
                    if answer.over:
                        if isinstance(events[-1], Done):
                            await _drain(pieces)
                        return
            except BROKEN:
                if untouched:
                    message = "The upstream's connection broke before its answer."
                    raise Mishap(Failed(FailureCode.UPSTREAM_UNREACHABLE, message), retries=2) from None
                await outbox.put(answer.cut())
                return
        await outbox.put(answer.end())

    async def _list(self) -> bytes:
        """The body of ``GET /models``."""
        response = cast(
            httpx2.Response,
            await self._client.get(
                "/models",
                cast_to=httpx2.Response,
                options={"headers": _headers(self._api_key, "application/json")},
                stream=True,
                stream_cls=openai.AsyncStream[Any],
            ),
        )
        body = bytearray()
        try:
            async with contextlib.aclosing(response.aiter_raw()) as pieces:
                async for piece in pieces:
                    body += piece
                    if len(body) > _LARGEST_LISTING:
                        raise ValueError("the list of models is too large")
        finally:
            await response.aclose()
        return bytes(body)

    def _judge(self, request: Relay) -> Judge:
        if request.api_key is not None and not fits_a_header(request.api_key):
            raise Mishap(Failed(FailureCode.UPSTREAM_CALLER_KEY, "The API key holds characters that no key has."))
        keys = tuple(key for key in (self._api_key, request.api_key) if key)
        return Judge(self._name, request.model, request.api_key is not None, keys)


def _headers(key: str | None, accept: str) -> dict[str, str | openai.Omit]:
    """Every credential is given here, or left out here, so that the SDK's own look at the environment finds no use.

    Compressed answers are not asked for: chunks are passed on as they are, and no body can be a decompression bomb.
    """
    return {
        "Authorization": openai.Omit() if key is None else f"Bearer {key}",
        "OpenAI-Organization": openai.Omit(),
        "OpenAI-Project": openai.Omit(),
        "Accept": accept,
        "Accept-Encoding": "identity",
    }


def _answer(response: httpx2.Response, request: Relay, judge: Judge) -> Answer:
    """The reader for what the response says it is. Without a type it is taken to be what was asked for."""
    if response.headers.get("content-encoding", "identity") != "identity":
        message = "The upstream compressed its answer although it was not asked to."
        raise Mishap(Failed(FailureCode.UPSTREAM_PROTOCOL, message))
    kind = response.headers.get("content-type", "text/event-stream")
    if request.stream and kind.startswith("text/event-stream"):
        return StreamAnswer(judge.complained, request.hide_usage)
    return WholeAnswer(judge.complained, stream_wanted=request.stream)


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Read a finished answer's last framing, so that its connection can serve the next request."""
    with contextlib.suppress(TimeoutError, *BROKEN):
        async with asyncio.timeout(_DRAIN_S):
            async for _ in pieces:
                pass
