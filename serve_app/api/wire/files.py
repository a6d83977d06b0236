"""What is sent about files and uploads, and how they are told."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from serve_app.api.listing import ID, Number
from serve_app.api.wire.shape import Shape
from serve_app.protocol import File, Json, Order, Part, Upload

BATCH_DAYS = 30
"""How long files for and from batches are kept, where the client does not say."""

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
Purposes = Literal[Purpose, "batch_output"]


class ExpiresAfter(Shape):
    anchor: Literal["created_at"]
    seconds: Annotated[Number, Field(ge=3600, le=2_592_000)]


class NewFile(Shape):
    """The fields that come with a file."""

    purpose: Purpose
    expires_after: ExpiresAfter | None = None

    @property
    def keep_s(self) -> float | None:
        return keep_s(self.purpose, self.expires_after)


class FilePaging(Shape):
    """The query string of a list of files."""

    after: str | None = Field(None, pattern=ID)
    limit: Annotated[Number, Field(ge=1, le=10_000)] = 10_000
    order: Order = "desc"
    purpose: str | None = None


class NewUpload(NewFile):
    bytes: int = Field(ge=1)
    filename: str = Field(min_length=1, max_length=1024)
    mime_type: str = Field(min_length=1, max_length=255)


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class CompleteUpload(Shape):
    """``md5`` in hexadecimal."""

    part_ids: list[str] = Field(min_length=1, max_length=10_000)
    md5: Annotated[str | None, BeforeValidator(_lower), Field(pattern="^[0-9a-f]{32}$")] = None


def keep_s(purpose: str, after: ExpiresAfter | None) -> float | None:
    """How long a file is kept; None: until it is deleted."""
    if after is not None:
        return after.seconds
    return BATCH_DAYS * 86_400 if purpose == "batch" else None


def file_json(file: File) -> Json:
    """OpenAI's file object. A file that is there has been processed."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_s),
        "expires_at": None if file.expires_s is None else int(file.expires_s),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }


def upload_json(upload: Upload) -> Json:
    return {
        "id": upload.id,
        "object": "upload",
        "bytes": upload.bytes,
        "created_at": int(upload.created_s),
        "expires_at": int(upload.expires_s),
        "filename": upload.filename,
        "purpose": upload.purpose,
        "status": upload.status,
        "file": None if upload.file is None else file_json(upload.file),
    }


def part_json(upload: Upload, part: Part) -> Json:
    return {"id": part.id, "object": "upload.part", "created_at": int(part.created_s), "upload_id": upload.id}
