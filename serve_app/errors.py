"""The one table: what each failure means over HTTP, and the envelope it travels in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from serve_app.protocol import Failed, FailureCode


@dataclass(frozen=True, slots=True)
class Meaning:
    """``retry``: whether the same request may succeed later; ``x-should-retry: false`` tells the SDK where not."""

    status: int
    type: str
    code: str
    retry: bool = False
    retry_after_s: int | None = None


_CLIENT = "invalid_request_error"
_SERVER = "server_error"
_LIMIT = "rate_limit_error"

MEANINGS: dict[FailureCode, Meaning] = {
    FailureCode.INVALID_REQUEST: Meaning(400, _CLIENT, "invalid_value"),
    FailureCode.UNSUPPORTED: Meaning(400, _CLIENT, "unsupported_parameter"),
    FailureCode.CONTEXT_LENGTH: Meaning(400, _CLIENT, "context_length_exceeded"),
    FailureCode.UNAUTHENTICATED: Meaning(401, _CLIENT, "invalid_api_key"),
    FailureCode.NOT_PERMITTED: Meaning(403, _CLIENT, "permission_denied"),
    FailureCode.REMOTE_WITHOUT_KEY: Meaning(403, _CLIENT, "api_key_not_configured"),
    FailureCode.MODEL_NOT_ALLOWED: Meaning(403, _CLIENT, "model_not_allowed"),
    FailureCode.MODEL_NOT_FOUND: Meaning(404, _CLIENT, "model_not_found"),
    FailureCode.NOT_FOUND: Meaning(404, _CLIENT, "not_found"),
    FailureCode.UNSUPPORTED_ENDPOINT: Meaning(501, _CLIENT, "unsupported_endpoint"),
    FailureCode.METHOD_NOT_ALLOWED: Meaning(405, _CLIENT, "method_not_allowed"),
    FailureCode.REQUEST_TIMEOUT: Meaning(408, _CLIENT, "request_timeout", retry=True),
    FailureCode.CONFLICT: Meaning(409, _CLIENT, "conflict", retry=True, retry_after_s=1),
    FailureCode.KEY_IN_USE: Meaning(409, _CLIENT, "idempotency_key_in_use", retry=True, retry_after_s=1),
    FailureCode.KEY_REUSED: Meaning(422, _CLIENT, "idempotency_key_reused"),
    FailureCode.TOO_LARGE: Meaning(413, _CLIENT, "request_too_large"),
    FailureCode.MEDIA_TYPE: Meaning(415, _CLIENT, "unsupported_media_type"),
    FailureCode.QUEUE_FULL: Meaning(429, _LIMIT, "slow_down", retry=True, retry_after_s=1),
    FailureCode.MODEL_UNAVAILABLE: Meaning(503, _SERVER, "model_unavailable", retry=True, retry_after_s=5),
    FailureCode.SHUTTING_DOWN: Meaning(503, _SERVER, "server_shutting_down", retry=True, retry_after_s=1),
    FailureCode.STORAGE_UNAVAILABLE: Meaning(503, _SERVER, "storage_unavailable", retry=True, retry_after_s=2),
    FailureCode.TIMEOUT: Meaning(504, _SERVER, "timeout", retry=True),
    FailureCode.ENGINE_LOST: Meaning(503, _SERVER, "engine_lost", retry=True, retry_after_s=1),
    FailureCode.STREAM_LOST: Meaning(503, _SERVER, "stream_lost", retry=True, retry_after_s=1),
    FailureCode.INTERNAL: Meaning(500, _SERVER, "internal_error", retry=True),
    FailureCode.UPSTREAM_REFUSED: Meaning(400, _CLIENT, "upstream_refused"),
    FailureCode.UPSTREAM_NOT_FOUND: Meaning(404, _CLIENT, "model_not_found"),
    FailureCode.UPSTREAM_CALLER_KEY: Meaning(401, _CLIENT, "invalid_api_key"),
    FailureCode.UPSTREAM_OWN_KEY: Meaning(502, _SERVER, "upstream_authentication"),
    FailureCode.UPSTREAM_RATE_LIMIT: Meaning(429, _LIMIT, "rate_limit_exceeded", retry=True, retry_after_s=1),
    FailureCode.UPSTREAM_QUOTA: Meaning(503, _SERVER, "upstream_quota"),
    FailureCode.UPSTREAM_ERROR: Meaning(502, _SERVER, "upstream_error", retry=True),
    FailureCode.UPSTREAM_UNREACHABLE: Meaning(502, _SERVER, "upstream_unreachable", retry=True),
    FailureCode.UPSTREAM_TIMEOUT: Meaning(504, _SERVER, "upstream_timeout", retry=True),
    FailureCode.UPSTREAM_TRUNCATED: Meaning(502, _SERVER, "upstream_truncated", retry=True),
    FailureCode.UPSTREAM_PROTOCOL: Meaning(502, _SERVER, "upstream_protocol", retry=True),
}


class RequestError(Exception):
    """A refusal raised at the door, before any event: carries the ``Failed`` it will be answered with."""

    def __init__(self, code: FailureCode, message: str, param: str | None = None, detail: str | None = None) -> None:
        super().__init__(message)
        self.failed = Failed(code, message, param=param, detail=detail)


def status(failed: Failed) -> int:
    """The HTTP status of a failure that happened before the first token."""
    return MEANINGS[failed.code].status


def envelope(failed: Failed) -> dict[str, Any]:
    """OpenAI's error body, all four keys always; the message on one line that Latin-1 can carry."""
    meaning = MEANINGS[failed.code]
    line = " ".join(failed.message.split()).encode("latin-1", "replace").decode("latin-1")
    return {
        "error": {
            "message": line,
            "type": meaning.type,
            "param": failed.param,
            "code": failed.detail or meaning.code,
        }
    }


def headers(failed: Failed) -> dict[str, str]:
    """``Retry-After`` (whole seconds, at least 1) and ``x-should-retry`` where they apply."""
    meaning = MEANINGS[failed.code]
    answer: dict[str, str] = {}
    after = failed.retry_after_s if failed.retry_after_s is not None else meaning.retry_after_s
    if meaning.retry and after is not None:
        answer["retry-after"] = str(max(1, round(after + 0.499)))
    if meaning.status >= 429 and not meaning.retry:
        answer["x-should-retry"] = "false"
    return answer
