"""``Idempotency-Key``: a POST that is sent twice is done once, and answered alike.

The first request with a key does the work, and is finished whether or not its client waits: whoever sends it again gets
the same answer, byte for byte. One that comes while the work is under way waits for it. An answer that says that
nothing was done (4xx, 5xx, a stream that broke) is not kept: the next request with the key is a first one again.
"""

from __future__ import annotations

import asyncio
import re
from functools import partial
from hashlib import sha256
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve_app.api.context import Context
from serve_app.api.inward import only
from serve_app.api.outlive import outlive
from serve_app.errors import RequestError
from serve_app.protocol import Attempt, Claim, FailureCode, KeptAnswer, StoreError

HEADER = "Idempotency-Key"

_KEY = re.compile(r"[\x21-\x7e]{1,255}")
_MOST_BYTES = 32 << 20
_WAIT_S = 10.0
_RETRY_S = 1.0
_RETRIES = 60
_REPLAYED = (b"idempotent-replayed", b"true")
_BROKEN = re.compile(rb"(id: \d+\n)?(data: \{\"error\":|event: (error|response\.failed)\n|\{\"error\":)")
"""How the last event of a stream begins that did not end well."""

_REUSED = "This Idempotency-Key was used for a different request. Use a new key for a new request."
_BUSY = "A request with this Idempotency-Key is still running. Try again."
_NO_STORE = "Storage is not available now, and without it a request with an Idempotency-Key cannot be done once."


def key_of(scope: Scope) -> str | None:
    """The key of a POST; ``RequestError`` for one that is none."""
    key = Headers(scope=scope).get(HEADER) if scope["method"] == "POST" else None
    if key is not None and not _KEY.fullmatch(key):
        text = f"{HEADER} must be 1 to 255 visible ASCII characters."
        raise RequestError(FailureCode.INVALID_REQUEST, text, HEADER)
    return key


class Once:
    """Stands in front of an app. Takes requests whose tenant is known and whose body is read."""

    def __init__(self, app: ASGIApp, context: Context) -> None:
        self._app = app
        self._context = context

    async def __call__(self, key: str, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """``receive`` tells of the client's leaving only."""
        digest = sha256(b"\0".join((scope["path"].encode(), scope["query_string"], body))).digest()
        context = self._context
        attempt = Attempt(scope["state"]["tenant"].id, key, digest, context.new_id(), context.ledger.writer)
        work, timeout_s = partial(self._answer, attempt, body, scope), context.limits.write_timeout_s
        await outlive(work, context.background, (receive, send), write_timeout_s=timeout_s, name="keyed request")

    async def _answer(self, attempt: Attempt, body: bytes, scope: Scope, send: Send, gone: asyncio.Event) -> None:
        match await self._claimed(attempt, gone):
            case KeptAnswer() as kept:
                await _replay(kept, send)
            case Claim.MINE:
                await self._run(attempt, body, scope, send)
            case Claim.ANOTHER:
                raise RequestError(FailureCode.KEY_REUSED, _REUSED, HEADER)
            case _:
                raise RequestError(FailureCode.KEY_IN_USE, _BUSY, HEADER)

    async def _claimed(self, attempt: Attempt, gone: asyncio.Event) -> KeptAnswer | Claim:
        """What the store says, once no other attempt is running, or its client has left, or its time is over."""
        limits, clock = self._context.limits, asyncio.get_running_loop().time
        due_s = clock() + limits.timeout_s
        try:
            while True:
                async with asyncio.timeout(_WAIT_S + limits.store_timeout_s):
                    claim = await self._context.store.answers.claim(attempt, _WAIT_S)
                if claim is not Claim.RUNNING or gone.is_set() or clock() >= due_s:
                    return claim
        except (StoreError, TimeoutError):
            self._release(attempt)
            raise RequestError(FailureCode.STORAGE_UNAVAILABLE, _NO_STORE) from None
        except asyncio.CancelledError:
            self._release(attempt)
            raise

    async def _run(self, attempt: Attempt, body: bytes, scope: Scope, send: Send) -> None:
        taking = _Taking(send, partial(self._keep, attempt))
        try:
            await self._app(scope, only(body), taking.send)
        finally:
            if not taking.kept:
                self._release(attempt)

    async def _keep(self, attempt: Attempt, answer: KeptAnswer) -> bool:
        try:
            async with asyncio.timeout(self._context.limits.store_timeout_s):
                return await self._context.store.answers.keep(attempt, answer)
        except (StoreError, TimeoutError):
            return False

    def _release(self, attempt: Attempt) -> None:
        self._context.background.start(self._released(attempt), "release of a key", writes=True)

    async def _released(self, attempt: Attempt) -> None:
        for _ in range(_RETRIES):
            try:
                await self._context.store.answers.release(attempt)
                return
            except StoreError:
                await asyncio.sleep(_RETRY_S)


class _Taking:
    """Takes down an answer on its way, and lets its last message go once it is kept."""

    def __init__(self, send: Send, keep: Any) -> None:
        self._send = send
        self._keep = keep
        self._start: Message = {}
        self._parts: list[bytes] = []
        self._size = 0
        self.kept = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._take(message.get("body", b""))
            if not message.get("more_body", False) and self._is_good():
                headers = tuple((bytes(name), bytes(value)) for name, value in self._start["headers"])
                self.kept = await self._keep(KeptAnswer(self._start["status"], headers, b"".join(self._parts)))
        await self._send(message)

    def _take(self, body: bytes) -> None:
        self._size += len(body)
        if body and self._size <= _MOST_BYTES:
            self._parts.append(body)

    def _is_good(self) -> bool:
        whole = self._size <= _MOST_BYTES
        return whole and self._start["status"] < 400 and not (self._parts and _BROKEN.match(self._parts[-1]))


async def _replay(kept: KeptAnswer, send: Send) -> None:
    await send({"type": "http.response.start", "status": kept.status, "headers": [*kept.headers, _REPLAYED]})
    await send({"type": "http.response.body", "body": kept.body, "more_body": False})
