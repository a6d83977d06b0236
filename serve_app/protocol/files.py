"""Files that clients keep here, and uploads: files that come in parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from serve_app.protocol.vocabulary import Order


@dataclass(frozen=True, slots=True)
class File:
    """What is known of a file. Its bytes are on the disk, under its id, before this is written anywhere.

    Times are seconds since the epoch; from ``expires_s`` on the file is not there any more.
    """

    id: str
    tenant: str
    bytes: int
    created_s: float
    filename: str
    purpose: str
    expires_s: float | None = None


@dataclass(frozen=True, slots=True)
class FileQuery:
    """A page of files, by creation. ``after`` is the last id of the page before."""

    after: str | None = None
    limit: int = 10_000
    order: Order = "desc"
    purpose: str | None = None


@dataclass(frozen=True, slots=True)
class FilePage:
    """``data`` in order; ``has_more``: there is another page after it."""

    data: tuple[File, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an upload; its bytes are on the disk under its id."""

    id: str
    bytes: int
    created_s: float


@dataclass(frozen=True, slots=True)
class Upload:
    """A file that is on its way. ``bytes``: what it will have; ``keep_s``: how long it is kept then, None: for good."""

    id: str
    tenant: str
    bytes: int
    created_s: float
    expires_s: float
    filename: str
    purpose: str
    keep_s: float | None = None
    status: Literal["pending", "completed", "cancelled", "expired"] = "pending"
    file: File | None = None


class Files(Protocol):
    """Every method raises ``StoreError`` when the database cannot answer, and knows the tenant's own files only."""

    async def add(self, file: File) -> None:
        """There, durably, on return. Adding it again changes nothing."""
        ...

    async def file(self, tenant: str, file_id: str) -> File | None: ...

    async def files(self, tenant: str, query: FileQuery) -> FilePage:
        """Raises ``CursorNotFound``."""
        ...

    async def delete(self, tenant: str, file_id: str) -> bool:
        """Whether it was there. Its bytes are the caller's to remove, as far as they are ``unneeded``."""
        ...

    async def unneeded(self, names: Sequence[str]) -> frozenset[str]:
        """Which of these names, of anything on the disk, stand for nothing that is still needed."""
        ...

    async def open_upload(self, upload: Upload) -> None:
        """Durable on return."""
        ...

    async def upload(self, tenant: str, upload_id: str) -> Upload | None:
        """The upload as it stands now. Finished ones are forgotten a day later."""
        ...

    async def add_part(self, tenant: str, upload_id: str, part: Part) -> Upload | None:
        """The upload; the part is in it, durably, if its status is ``pending``."""
        ...

    async def parts(self, tenant: str, upload_id: str) -> tuple[Part, ...]:
        """In the order they came; none any more once the upload is finished."""
        ...

    async def finish_upload(self, tenant: str, upload_id: str, file: File | None) -> Upload | None:
        """Completes a pending upload with its file, or cancels it with none. The upload as it ended, now or earlier."""
        ...
