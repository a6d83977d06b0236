"""Addresses that OpenAI's API once had, and this service with it: what took their place."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from serve_app.api.plain_route import PlainRoute, pattern_of
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode

_SUCCESSORS = {
    "/v1/engines": "/v1/models",
    "/v1/engines/{model}": "/v1/models/{model}",
    "/v1/engines/{model}/completions": "/v1/completions",
    "/v1/engines/{model}/embeddings": "/v1/embeddings",
    "/v1/engines/{model}/search": "/v1/embeddings",
    "/v1/edits": "/v1/chat/completions",
    "/v1/answers": "/v1/chat/completions",
    "/v1/classifications": "/v1/chat/completions",
    "/v1/search": "/v1/embeddings",
    "/v1/fine-tunes": "/v1/fine_tuning/jobs",
    "/v1/fine-tunes/{rest:path}": "/v1/fine_tuning/jobs",
}


def routes() -> list[BaseRoute]:
    """One for each, whatever the method."""
    methods = ["GET", "POST", "DELETE"]
    return [PlainRoute(path, _gone, methods=methods, include_in_schema=False) for path in _SUCCESSORS]


async def _gone(request: Request) -> Response:
    successor = _SUCCESSORS[pattern_of(request)]
    raise RequestError(FailureCode.NOT_FOUND, f"This address was retired. Use {successor} instead.")
