"""Everything of OpenAI's API that no other module answers: passed on to an upstream as it comes, byte for byte."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_app.api.admission import Tenant
from serve_app.api.calls import caller_key
from serve_app.api.context import context_of, request_id_of, tenant_of
from serve_app.api.directory import UpstreamRoute, not_allowed
from serve_app.api.passage import Passage
from serve_app.api.plain_route import PlainRoute, pattern_of
from serve_app.api.surface import administers, leaves_nothing_behind, surface
from serve_app.api.uploads import ANY_MEDIA, takes
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Opened, RawRequest

_PREFIX = "/v1"
_AZURE = "/openai/deployments/{model:path}"
_DEPLOYED = (
    *("/audio/speech", "/audio/transcriptions", "/audio/translations"),
    *("/images/edits", "/images/generations"),
)
_NAMED = "x-upstream"
"""The header by which a client says which upstream it means, where there are several."""
_PASSED = (
    *("accept", "accept-language", "content-length", "content-type", "idempotency-key", "range"),
    *("if-match", "if-modified-since", "if-none-match", "openai-beta", "x-client-request-id"),
)
_PEEK = 64 * 1024
_JSON_MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]{1,512})"')
_FORM_MODEL = re.compile(rb'name="?model"?[ \t]*\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,512})\r\n')


class _Route(PlainRoute):
    openapi_extra = takes(ANY_MEDIA)


def routes() -> list[BaseRoute]:
    """All of OpenAI's addresses, and Azure's where those name a model: to be asked last."""
    azure = [_Route(_AZURE + path, forward_azure, methods=["POST"], include_in_schema=False) for path in _DEPLOYED]
    ours = [_Route(_PREFIX + path, forward, methods=methods, include_in_schema=False) for path, methods in surface()]
    return [*ours, *azure]


class Body:
    """A request's body, read once: its beginning may be looked at first.

    ``over``: nothing more will be read of it. ``broken``: what its reading raised.
    """

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._head: list[bytes] = []
        self.over = asyncio.Event()
        self.broken: Exception | None = None

    async def head(self) -> bytes:
        """The first 64 KiB at least, or all there is."""
        size = 0
        while size < _PEEK and (piece := await self._next()) is not None:
            self._head.append(piece)
            size += len(piece)
        return b"".join(self._head)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._head:
            yield self._head.pop(0)
        while (piece := await self._next()) is not None:
            yield piece

    async def _next(self) -> bytes | None:
        try:
            return await anext(self._pieces)
        except StopAsyncIteration:
            self.over.set()
            return None
        except Exception as error:
            self.broken = error
            raise


async def forward(request: Request) -> Response:
    """The upstream's answer, whatever it is."""
    path = request.scope["path"].removeprefix(request.scope.get("root_path", ""))
    return await pass_on(request, pattern_of(request).removeprefix(_PREFIX), _path(path.removeprefix(f"{_PREFIX}/")))


async def forward_azure(request: Request) -> Response:
    """The same under Azure's address, which names the model."""
    address = pattern_of(request).removeprefix(_AZURE)
    return await pass_on(request, address, address.removeprefix("/"))


async def pass_on(request: Request, address: str, path: str) -> Response:
    """``address``: which of the API's it is, ``path``: where that is at the upstream."""
    context, tenant = context_of(request), tenant_of(request)
    body = Body(aiter(request.stream()))
    head = await body.head()
    if tenant.models is not None:
        check_model(tenant, request.path_params.get("model"), head)
    model = request.path_params.get("model") or model_of(head)
    name, route = await context.directory.forwarder(model, request.headers.get(_NAMED))
    key = caller_key(request, tenant.id) if route.caller_key else None
    _check_account(route, key, address, request.method)
    opened = Opened(
        entry_id=context.new_id(),
        writer=context.ledger.writer,
        tenant=tenant.id,
        request_id=request_id_of(request),
        model=model or name,
        route=address.removeprefix("/"),
        served_by="upstream",
        started_s=context.clock(),
    )
    return Passage(context, opened, route.backend, _raw(request, path, key, context.limits.timeout_s), body)


def check_model(tenant: Tenant, named: str | None, head: bytes) -> None:
    """For a key that may call some models only: what it sends must leave no doubt which one the upstream will see.

    Of a form, of JSON that is not here whole and of no body at all, nobody here knows.
    """
    try:
        value: Any = orjson.loads(head)
    except orjson.JSONDecodeError:
        value = None
    model = value.get("model", named) if isinstance(value, dict) else None
    if not isinstance(model, str):
        text = "This API key may call some models only: send JSON that names one of them, in less than 64 KiB."
        raise RequestError(FailureCode.MODEL_NOT_ALLOWED, text, "model")
    if not tenant.may_call(model) or not tenant.may_call(named or model):
        raise not_allowed(model)


def model_of(head: bytes) -> str | None:
    """The model that a body names, as JSON or as a form, as far as its beginning tells."""
    try:
        value: Any = orjson.loads(head)
    except orjson.JSONDecodeError:
        match = (_JSON_MODEL if head.lstrip().startswith(b"{") else _FORM_MODEL).search(head)
        return match[1].decode("utf-8", "replace").strip() if match else None
    model = value.get("model") if isinstance(value, dict) else None
    return model if isinstance(model, str) else None


def _check_account(route: UpstreamRoute, key: str | None, address: str, method: str) -> None:
    """With our key a caller acts on the operator's account: raises ``RequestError`` where that goes too far."""
    if key is not None:
        return
    if administers(address):
        text = "The account at the upstream is not administered through this server."
        raise RequestError(FailureCode.NOT_PERMITTED, text)
    if not route.shared_account and not leaves_nothing_behind(address, method):
        text = "Objects in the upstream's account would be shared by all users of this server, which it does not allow."
        raise RequestError(FailureCode.NOT_PERMITTED, text)


def _raw(request: Request, path: str, key: str | None, timeout_s: float) -> RawRequest:
    query = request.scope["query_string"].decode("latin-1")
    headers = request.headers
    return RawRequest(
        request_id=request_id_of(request),
        method=request.method,
        path=path + (query and f"?{query}"),
        headers=tuple((name, headers[name]) for name in _PASSED if name in headers),
        has_body="content-length" in headers or "transfer-encoding" in headers,
        api_key=key,
        timeout_s=timeout_s,
    )


def _path(path: str) -> str:
    """The path below ``/v1``; raises ``RequestError`` for one that could lead elsewhere at the upstream."""
    segments = path.split("/")
    if not {"", ".", ".."}.isdisjoint(segments):
        raise RequestError(FailureCode.NOT_FOUND, "There is nothing at this address.")
    return "/".join(quote(segment, safe="~:@!$&'()*+,;=") for segment in segments)
