"""A route without FastAPI's reading of parameters, for tables of many addresses with one handler."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import Scope


class PlainRoute(Route):
    """Tells handler and access log, as FastAPI's routes do, which of them it is: ``scope["route"]``."""

    openapi_extra: dict[str, Any] | None = None

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, found = super().matches(scope)
        return match, found if match is Match.NONE else {**found, "route": self}


def pattern_of(request: Request) -> str:
    """The path of the route that was taken, with its parameters' names for their values."""
    path: str = request.scope["route"].path
    return path
