"""Bytes of a request -> one JSON object, or a refusal that costs little however hostile the bytes are."""

from __future__ import annotations

from typing import Any

import orjson

from serve_app.api.limits import Limits
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Json

# Eight MiB of `[],` keep the parser, and with it the event loop, busy for a second; this many values, 50 ms at most.
# A prompt of token ids that fills a context of 128k tokens still passes.
_MAX_VALUES = 150_000


def parse(raw: bytes, limits: Limits) -> Json:
    """The object in ``raw``: UTF-8, finite numbers, no lone surrogates, no NUL, nested ``max_depth`` at most.

    NUL is refused here for every field at once: no text means it, and a database does not take it.
    """
    if _too_many_values(raw):
        raise _refusal("The request body holds too many values.")
    value = _loads(raw)
    if not isinstance(value, dict):
        raise _refusal("The request body must be a JSON object.", "invalid_type")
    if _deeper_than(limits.max_depth, value):
        raise _refusal(f"The request body must not be nested deeper than {limits.max_depth} levels.")
    if b"\\u0000" in raw and b"\\u0000" in raw.replace(b"\\\\", b""):
        raise _refusal("The request body must not contain NUL characters.")
    return value


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        text = "We could not parse the JSON body of your request. It must be valid JSON, encoded in UTF-8."
        raise _refusal(text, "invalid_json") from None


def _too_many_values(raw: bytes) -> bool:
    """Whether more than ``_MAX_VALUES`` commas and brackets stand outside of strings. Looks closer only if it must."""
    if _marks(raw) <= _MAX_VALUES:
        return False
    bare = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * _MAX_VALUES:
        return True
    return _marks(b"".join(bare.split(b'"')[::2])) > _MAX_VALUES


def _marks(raw: bytes) -> int:
    return raw.count(b",") + raw.count(b"[") + raw.count(b"{")


def _deeper_than(depth: int, value: Json) -> bool:
    level: list[Any] = [value]
    for _ in range(depth):
        level = [inner for outer in level for inner in _members(outer) if isinstance(inner, dict | list)]
        if not level:
            return False
    return True


def _members(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value


def _refusal(message: str, code: str | None = None) -> RequestError:
    return RequestError(FailureCode.INVALID_REQUEST, message, detail=code)
