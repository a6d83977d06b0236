"""What is sent about batches, and how they are told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve_app.api.listing import ID, Number
from serve_app.api.wire.files import BATCH_DAYS, ExpiresAfter
from serve_app.api.wire.options import Metadata
from serve_app.api.wire.shape import Shape
from serve_app.protocol import Batch, Json

_TIMES = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")


class NewBatch(Shape):
    input_file_id: str = Field(pattern=ID)
    endpoint: str = Field(max_length=128)
    completion_window: Literal["24h"]
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None

    @property
    def keep_s(self) -> float:
        return self.output_expires_after.seconds if self.output_expires_after else BATCH_DAYS * 86_400


class BatchPaging(Shape):
    """The query string of a list of batches."""

    after: str | None = Field(None, pattern=ID)
    limit: Annotated[Number, Field(ge=1, le=100)] = 20


def batch_json(batch: Batch) -> Json:
    """OpenAI's batch object."""
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "model": batch.model,
        "errors": {"object": "list", "data": list(batch.problems)} if batch.problems else None,
        "input_file_id": batch.input_file_id,
        "completion_window": batch.completion_window,
        "status": batch.status,
        "output_file_id": batch.output_file_id,
        "error_file_id": batch.error_file_id,
        "created_at": int(batch.created_s),
        "expires_at": int(batch.expires_s),
        **{f"{status}_at": _moment(batch, status) for status in _TIMES},
        "request_counts": {"total": batch.total, "completed": batch.completed, "failed": batch.failed},
        "usage": _usage_json(batch),
        "metadata": batch.metadata,
    }


def _moment(batch: Batch, status: str) -> int | None:
    return int(batch.times[status]) if status in batch.times else None


def _usage_json(batch: Batch) -> Json:
    usage = batch.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
