"""What every resource that is kept and listed has in common: ids, pages, and a store that is not waited for long."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Sequence
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from serve_app.api.limits import Limits
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Json, StoreError

T = TypeVar("T")

ID = r"^[A-Za-z0-9_.-]{1,128}$"


def _number(text: Any) -> Any:
    """Digits as the number they spell; anything else as it is, for the type to refuse."""
    return int(text) if isinstance(text, str) and re.fullmatch("-?[0-9]{1,9}", text) else text


Number = Annotated[int, BeforeValidator(_number)]
"""A number in a query string or a form, where everything is text."""


def is_id(text: str) -> bool:
    """Whether an object can have this id; nothing else needs to reach the database."""
    return re.fullmatch(ID, text) is not None


def query_of(request: Request) -> list[tuple[str, str]]:
    """The query string's pairs; refused where no database could take them."""
    items = request.query_params.multi_items()
    if any("\x00" in text for item in items for text in item):
        raise RequestError(FailureCode.INVALID_REQUEST, "The query must not contain NUL characters.")
    return items


def listed(data: Sequence[Json], has_more: bool) -> Response:
    """A page, in OpenAI's shape."""
    first_id, last_id = (data[0]["id"], data[-1]["id"]) if data else (None, None)
    listing = {"object": "list", "data": data, "first_id": first_id, "last_id": last_id, "has_more": has_more}
    return JSONResponse(listing)


async def soon(asked: Awaitable[T], limits: Limits) -> T:
    """The store's answer; ``StoreError`` when it takes longer than a client should wait."""
    try:
        async with asyncio.timeout(limits.store_timeout_s):
            return await asked
    except TimeoutError:
        raise StoreError from None
