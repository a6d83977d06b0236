"""How a failure looks over HTTP: every refusal, wherever it was raised, leaves through here in its API's envelope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from serve_app import errors
from serve_app.api.framing import framing_of
from serve_app.errors import RequestError
from serve_app.protocol import CursorNotFound, Failed, FailureCode, StoreError

INTERNAL = Failed(FailureCode.INTERNAL, "The server had an error while processing the request.")
_STORE_DOWN = Failed(FailureCode.STORAGE_UNAVAILABLE, "Storage is not available now. Try again.")
_NO_CURSOR = Failed(FailureCode.INVALID_REQUEST, "`after` names nothing in this list.", param="after")

_Handler = Callable[[Request, Exception], Awaitable[Response]]


def respond(failed: Failed, scope: Scope) -> Response:
    """The answer to a request that failed before anything was sent."""
    headers = errors.headers(failed)
    if failed.code is FailureCode.UNAUTHENTICATED:
        headers["www-authenticate"] = "Bearer"
    return JSONResponse(framing_of(scope).failure(failed), errors.status(failed), headers)


def install(app: FastAPI) -> None:
    """Makes the app answer in the envelope, whatever its routes raise and whatever it has no route for."""
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(StoreError, _always(_STORE_DOWN))
    app.add_exception_handler(CursorNotFound, _always(_NO_CURSOR))
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_exception_handler(Exception, _always(INTERNAL))


def _always(failed: Failed) -> _Handler:
    async def answer(request: Request, error: Exception) -> Response:
        return respond(failed, request.scope)

    return answer


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)  # noqa: S101  # registered for nothing else
    return respond(error.failed, request.scope)


async def _not_routed(request: Request, error: Exception) -> Response:
    """No route for this path, or none for this method."""
    assert isinstance(error, HTTPException)  # noqa: S101  # registered for nothing else
    if error.status_code != 405:
        return respond(Failed(FailureCode.NOT_FOUND, "There is nothing at this address."), request.scope)
    failed = Failed(FailureCode.METHOD_NOT_ALLOWED, "This address does not answer to this method.")
    response = respond(failed, request.scope)
    response.headers["allow"] = ", ".join(_methods(request))
    return response


def _methods(request: Request) -> list[str]:
    """What this path answers to, over all its routes: Starlette names the methods of the first one alone."""
    found: set[str] = set()
    for route in request.app.routes:
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found | {"HEAD"} if "GET" in found else found)
