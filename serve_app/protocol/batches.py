"""Batches: files of requests that are answered when there is time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from serve_app.protocol.events import Usage
from serve_app.protocol.files import File
from serve_app.protocol.vocabulary import Json

Ended = Literal["completed", "failed", "expired", "cancelled"]
BatchStatus = Literal["validating", "in_progress", "finalizing", "cancelling", Ended]


@dataclass(frozen=True, slots=True)
class Batch:
    """Times are seconds since the epoch; ``times`` says when each status began. Counts are of lines.

    ``keep_s``: how long its result files are kept. ``problems`` are OpenAI's error objects: why the input was refused.
    """

    id: str
    tenant: str
    endpoint: str
    input_file_id: str
    completion_window: str
    created_s: float
    expires_s: float
    keep_s: float
    metadata: Mapping[str, str] | None = None
    status: BatchStatus = "validating"
    total: int = 0
    completed: int = 0
    failed: int = 0
    times: Mapping[str, float] = field(default_factory=dict)
    problems: tuple[Json, ...] = ()
    model: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    usage: Usage = Usage()
    key: str | None = None
    """The id of the key that made it; its lines may call what that key may then."""


@dataclass(frozen=True, slots=True)
class BatchPage:
    """``data``, newest first; ``has_more``: there is another page after it."""

    data: tuple[Batch, ...]
    has_more: bool


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is. ``status`` moves it on from the status before, unless it is being cancelled."""

    status: Literal["in_progress", "finalizing"]
    total: int
    completed: int = 0
    failed: int = 0
    model: str | None = None


@dataclass(frozen=True, slots=True)
class Ending:
    """How a batch ended, with what came of it."""

    status: Ended
    total: int = 0
    completed: int = 0
    failed: int = 0
    problems: tuple[Json, ...] = ()
    output: File | None = None
    errors: File | None = None
    usage: Usage = Usage()


class Batches(Protocol):
    """Every method raises ``StoreError`` when the database cannot answer.

    An open batch is worked on by its owner, a writer of the ledger, and by nobody else; when that writer falls silent,
    another may claim the batch.
    """

    async def create(self, batch: Batch) -> None:
        """Durable on return; from then on it may be claimed."""
        ...

    async def batch(self, tenant: str, batch_id: str) -> Batch | None: ...

    async def batches(self, tenant: str, after: str | None, limit: int) -> BatchPage:
        """By creation, newest first. ``after`` is the last id of the page before; raises ``CursorNotFound``."""
        ...

    async def cancel(self, tenant: str, batch_id: str) -> Batch | None:
        """The batch, ``cancelling`` now if it could still be."""
        ...

    async def claim(self, owner: str, silent_s: float) -> Batch | None:
        """The oldest open batch that is nobody's, or whose owner has been silent that long: the caller's now."""
        ...

    async def report(self, batch_id: str, owner: str, progress: Progress) -> Batch | None:
        """The batch as it is now; None: it is not the owner's any more."""
        ...

    async def finish(self, batch_id: str, owner: str, ending: Ending) -> Batch | None:
        """Ends the batch, and adds its files, in one write. None: it is not the owner's any more, nothing was done."""
        ...

    async def release(self, owner: str) -> None:
        """What is the owner's is nobody's."""
        ...
