"""What a request for something that is kept says: in its body, in its query string, and by the id in its path."""

from __future__ import annotations

from typing import TypeVar

from starlette.requests import Request

from serve_app.api.body import parse
from serve_app.api.context import context_of
from serve_app.api.listing import is_id, query_of
from serve_app.api.wire.shape import ShapeT, read
from serve_app.errors import RequestError

T = TypeVar("T")


async def sent(request: Request, shape: type[ShapeT], default: bytes = b"") -> ShapeT:
    """The body; ``default`` stands for one that is empty."""
    limits = context_of(request).limits
    return read(shape, parse(await request.body() or default, limits), limits)


def asked(request: Request, shape: type[ShapeT]) -> ShapeT:
    """The query string."""
    return read(shape, dict(query_of(request)), context_of(request).limits)


def known(text: str, absent: RequestError) -> str:
    """The id, unless it is one that cannot exist: no such text reaches the database."""
    if not is_id(text):
        raise absent
    return text


def there(found: T | None, absent: RequestError) -> T:
    """What the store found; raises ``absent`` where it found nothing."""
    if found is None:
        raise absent
    return found
