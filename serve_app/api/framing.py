"""How an answer is put on the wire: frames of its stream, its end, the words of a failure, in one API's own form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import Scope

from serve_app import errors
from serve_app.protocol import Failed, Json

_ANTHROPIC_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
_TYPE = b'{"type":"'


@dataclass(frozen=True, slots=True)
class Framing:
    """``keep_alive`` empty: the format knows no comments. ``done`` follows the last chunk of a stream.

    ``frame`` takes JSON on one line. ``failure`` is the JSON of an error, whether it is a body or ends a stream.
    """

    media_type: str
    keep_alive: bytes
    done: bytes
    frame: Callable[[bytes], bytes]
    failure: Callable[[Failed], Json]


def _event(data: bytes) -> bytes:
    return b"data: " + data + b"\n\n"


def typed_event(data: bytes) -> bytes:
    """An event that is named after the ``type`` its JSON begins with."""
    name = data[len(_TYPE) : data.index(b'"', len(_TYPE))]
    return b"event: " + name + b"\ndata: " + data + b"\n\n"


def _line(data: bytes) -> bytes:
    return data + b"\n"


def _anthropic_failure(failed: Failed) -> Json:
    status, error = errors.status(failed), errors.envelope(failed)["error"]
    kind = _ANTHROPIC_TYPES.get(status) or ("api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": error["message"]}}


def _ollama_failure(failed: Failed) -> Json:
    return {"error": errors.envelope(failed)["error"]["message"]}


_SSE = "text/event-stream; charset=utf-8"
_COMMENT = b": keep-alive\n\n"

OPENAI = Framing(_SSE, _COMMENT, b"data: [DONE]\n\n", _event, errors.envelope)
RESPONSES = Framing(_SSE, _COMMENT, b"", typed_event, errors.envelope)
ANTHROPIC = Framing(_SSE, _COMMENT, b"", typed_event, _anthropic_failure)
OLLAMA = Framing("application/x-ndjson", b"", b"", _line, _ollama_failure)


def framing_of(scope: Scope) -> Framing:
    """The form in which whoever calls this address expects to be refused."""
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    if path == "/v1/messages" or path.startswith("/v1/messages/"):
        return ANTHROPIC
    if path == "/v1/responses" or path.startswith("/v1/responses/"):
        return RESPONSES
    return OLLAMA if path.startswith("/api/") else OPENAI
