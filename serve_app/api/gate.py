"""The one door: everything that comes in is named, admitted and bounded here, and everything that goes out is signed.

Deny by default: only the health routes answer to someone who was not admitted. A JSON body is read here, whole, before
anything else sees the request, so nothing behind this door has to think of slow, endless or compressed bodies. Routes
that say they take other media types (``openapi_extra``) get theirs as it comes, counted and timed here all the same.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Collection
from contextlib import nullcontext

from fastapi import FastAPI
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from serve_app.api.admission import Tenant
from serve_app.api.context import Context
from serve_app.api.once import HEADER, Once, key_of
from serve_app.api.refusals import INTERNAL, respond
from serve_app.api.uploads import ANY_MEDIA, Upload, refuse_announced, whole
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode
from serve_app.protocol import Scope as Right

log = logging.getLogger(__name__)
access_log = logging.getLogger("llm_backend.access")

_PUBLIC = frozenset({"/health", "/ready"})
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_ID = re.compile(r"[\w.:-]{1,128}", re.ASCII)
_CLIENT_LEFT = 499
_ADMIN = re.compile(r"/v1/organization/(admin_api_keys|projects|usage|costs)(/|$)")
"""What is the organization's here. The rest of it is the upstream's, whose administration takes a key of its own."""

_NOT_KEPT = "An answer that may hold a new key is not kept to be sent again: send no Idempotency-Key."


class Gate:
    """Pure ASGI, around the whole app. ``own_request_id``: nobody in front adds ``x-request-id`` to the answers."""

    def __init__(self, app: FastAPI, context: Context, *, own_request_id: bool) -> None:
        self.app = app
        self._context = context
        self._own_request_id = own_request_id
        self._once = Once(app, context)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await self._serve(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self.app(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        request_id = _plain_id(scope, "x-request-id") or self._context.new_id()
        exchange = _Exchange(receive, send, scope["method"], request_id if self._own_request_id else None)
        scope = {**scope, "state": {**scope.get("state", {}), "request_id": request_id}}
        try:
            await self._pass(scope, exchange)
        except RequestError as refusal:
            await respond(refusal.failed, scope)(scope, exchange.receive, exchange.send)
        except asyncio.CancelledError:
            exchange.client_left = True
            raise
        except Exception as error:
            if exchange.client_left and isinstance(error, ClientDisconnect | OSError):
                return
            log.exception("request %s failed", request_id)
            if exchange.status is None:
                await respond(INTERNAL, scope)(scope, exchange.receive, exchange.send)
            elif not exchange.complete:
                raise  # The server cuts the connection, so that nobody takes half an answer for a whole one.
        finally:
            _note(scope, exchange)

    async def _pass(self, scope: Scope, exchange: _Exchange) -> None:
        """Admits the request, takes its body and hands both on."""
        if _path(scope) not in _PUBLIC:
            scope["state"]["tenant"] = tenant = await self._context.admission.admit(scope)
            _check_right(tenant, scope)
            if exchange.method in _WITH_BODY:
                await self._admit_body(scope, exchange)
        if exchange.method == "HEAD":
            scope["method"] = "GET"
        # A JSON body is a question that somebody waits for; files and pages of lists take nothing from the models.
        with self._context.traffic.interactive() if exchange.body is not None else nullcontext():
            await self._hand_on(scope, exchange)

    async def _hand_on(self, scope: Scope, exchange: _Exchange) -> None:
        if (key := key_of(scope)) is not None and exchange.body is not None:
            if _right_for(scope) == "admin":
                raise RequestError(FailureCode.UNSUPPORTED, _NOT_KEPT, HEADER)
            body, exchange.body = exchange.body, None
            await self._once(key, body, scope, exchange.receive, exchange.send)
        else:
            await self.app(scope, exchange.receive, exchange.send)

    async def _admit_body(self, scope: Scope, exchange: _Exchange) -> None:
        """Takes the body, or lets it through where the route does that itself; raises ``RequestError`` for neither."""
        headers, limits = Headers(scope=scope), self._context.limits
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RequestError(FailureCode.MEDIA_TYPE, "Compressed bodies are not accepted: send no Content-Encoding.")
        taken = self._media_types(scope)
        media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
        fitting = ANY_MEDIA in taken or media_type in taken
        if fitting and key_of(scope) is None:
            refuse_announced(headers, limits.max_upload_bytes)
            exchange.upload = Upload(limits)
        elif fitting or media_type in ("", "application/json"):
            exchange.body = await whole(headers, exchange.receive, limits)
        else:
            raise RequestError(FailureCode.MEDIA_TYPE, "Send the body as JSON, with Content-Type: application/json.")

    def _media_types(self, scope: Scope) -> Collection[str]:
        """What the route that will answer says it takes beside JSON; empty where it says nothing."""
        for route in self.app.routes:
            if route.matches(scope)[0] is Match.FULL:
                extra = getattr(route, "openapi_extra", None) or {}
                content: Collection[str] = extra.get("requestBody", {}).get("content", {})
                return content
        return ()


class _Exchange:
    """One request's two directions: replays the body, adds what every answer carries, remembers how far it came."""

    def __init__(self, receive: Receive, send: Send, method: str, request_id: str | None) -> None:
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._started_s = asyncio.get_running_loop().time()
        self.method = method
        self.body: bytes | None = None
        self.upload: Upload | None = None
        self.status: int | None = None
        self.complete = False
        self.client_left = False

    def elapsed_ms(self) -> float:
        return (asyncio.get_running_loop().time() - self._started_s) * 1000

    async def receive(self) -> Message:
        if self.body is not None:
            body, self.body = self.body, None
            return {"type": "http.request", "body": body, "more_body": False}
        message = await (self.upload.receive(self._receive) if self.upload else self._receive())
        if message["type"] == "http.disconnect" and not self.complete:
            self.client_left = True
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._sign(MutableHeaders(scope=message))
        elif message["type"] == "http.response.body":
            if self.method == "HEAD":
                message = {**message, "body": b""}
            self.complete = not message.get("more_body", False)
        try:
            await self._send(message)
        except OSError:
            self.client_left = True
            raise

    def _sign(self, headers: MutableHeaders) -> None:
        if self._request_id is not None:
            headers["x-request-id"] = self._request_id
        headers["openai-processing-ms"] = str(round(self.elapsed_ms()))
        headers["openai-version"] = "2020-10-01"


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def _right_for(scope: Scope) -> Right:
    """What a key must be for, to ask at this address."""
    return "admin" if _ADMIN.match(_path(scope)) else "inference"


def _check_right(tenant: Tenant, scope: Scope) -> None:
    right = _right_for(scope)
    if right not in tenant.scopes:
        raise RequestError(FailureCode.NOT_PERMITTED, f"This needs an API key with the scope `{right}`.")


def _plain_id(scope: Scope, header: str) -> str | None:
    """An id that came from outside, if it is fit to stand in a header and in a log line."""
    value = Headers(scope=scope).get(header, "")
    return value if _ID.fullmatch(value) else None


def _note(scope: Scope, exchange: _Exchange) -> None:
    """The request's one line in the access log. The route's pattern, not its path: what a client sends stays out."""
    path = getattr(scope.get("route"), "path", "-")
    status = _CLIENT_LEFT if exchange.client_left and not exchange.complete else exchange.status
    quiet = path in _PUBLIC and status == 200
    tenant = scope["state"].get("tenant")
    access_log.log(
        logging.DEBUG if quiet else logging.INFO,
        "%s %s %s %.1fms request_id=%s tenant=%s client_request_id=%s",
        exchange.method,
        path,
        status,
        exchange.elapsed_ms(),
        scope["state"]["request_id"],
        tenant.id if tenant else "-",
        _plain_id(scope, "x-client-request-id") or "-",
    )
