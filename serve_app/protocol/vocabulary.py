"""The words the other modules share: JSON, why an answer ended, why a request failed."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any, Literal

Json = dict[str, Any]
"""A JSON object as parsed: what a client sent, or what it will be sent."""

Finish = Literal["stop", "length", "tool_calls", "content_filter"]
Order = Literal["asc", "desc"]


class Tier(IntEnum):
    """Whose turn comes first; equal tiers share fairly among tenants. ``BATCH`` runs on what the others leave idle."""

    PRIORITY = 0
    DEFAULT = 1
    BATCH = 2


class FailureCode(StrEnum):
    """Why a request failed. Status, type and advice for each stand in ``serve_app.errors``, nowhere else."""

    INVALID_REQUEST = "invalid_value"
    UNSUPPORTED = "unsupported_parameter"
    CONTEXT_LENGTH = "context_length_exceeded"
    UNAUTHENTICATED = "invalid_api_key"
    NOT_PERMITTED = "permission_denied"
    REMOTE_WITHOUT_KEY = "api_key_not_configured"
    MODEL_NOT_ALLOWED = "model_not_allowed"
    MODEL_NOT_FOUND = "model_not_found"
    NOT_FOUND = "not_found"
    UNSUPPORTED_ENDPOINT = "unsupported_endpoint"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    CONFLICT = "conflict"
    REQUEST_TIMEOUT = "request_timeout"
    KEY_IN_USE = "idempotency_key_in_use"
    KEY_REUSED = "idempotency_key_reused"
    TOO_LARGE = "request_too_large"
    MEDIA_TYPE = "unsupported_media_type"
    QUEUE_FULL = "slow_down"
    MODEL_UNAVAILABLE = "model_unavailable"
    SHUTTING_DOWN = "server_shutting_down"
    STORAGE_UNAVAILABLE = "storage_unavailable"
    TIMEOUT = "timeout"
    ENGINE_LOST = "engine_lost"
    STREAM_LOST = "stream_lost"
    INTERNAL = "internal_error"
    UPSTREAM_REFUSED = "upstream_refused"
    UPSTREAM_NOT_FOUND = "upstream_not_found"
    UPSTREAM_CALLER_KEY = "upstream_invalid_api_key"
    UPSTREAM_OWN_KEY = "upstream_authentication"
    UPSTREAM_RATE_LIMIT = "rate_limit_exceeded"
    UPSTREAM_QUOTA = "upstream_quota"
    UPSTREAM_ERROR = "upstream_error"
    UPSTREAM_UNREACHABLE = "upstream_unreachable"
    UPSTREAM_TIMEOUT = "upstream_timeout"
    UPSTREAM_TRUNCATED = "upstream_truncated"
    UPSTREAM_PROTOCOL = "upstream_protocol"
