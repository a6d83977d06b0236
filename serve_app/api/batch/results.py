"""The result files of a batch, in the order of its input."""

from __future__ import annotations

from pathlib import Path

from serve_app.api.batch.asking import row
from serve_app.api.batch.journal import Journal
from serve_app.api.batch.lines import Line, lines
from serve_app.api.blobs import Draft
from serve_app.api.context import Context
from serve_app.protocol import Batch, Ending, File, Json

_CANCELLED: Json = {"code": "batch_cancelled", "message": "The batch was cancelled before this request was answered."}
_EXPIRED: Json = {"code": "batch_expired", "message": "The batch's time was over before this request was answered."}


class Results:
    """Blocks; raises OSError where the disk refuses. Its files are nobody's until the batch ends with them."""

    def __init__(self, context: Context, batch: Batch, journal: Journal, source: Path) -> None:
        self._context = context
        self._batch = batch
        self._journal = journal
        self._source = source
        self._unanswered = 0
        self._made: list[str] = []

    def put_together(self) -> Ending:
        """Every line of the input in one of two files: what went well, and what did not or was not tried."""
        blobs, new_id = self._context.blobs, self._context.new_id
        output_id, errors_id = f"file-{new_id()}", f"file-{new_id()}"
        with blobs.draft(output_id) as output, blobs.draft(errors_id) as errors:
            for line in lines(self._source, self._context.limits):
                good, data = self._journal.row(line.number) or (False, self._never(line))
                (output if good else errors).write(data + b"\n")
            files = self._kept(output_id, "output", output), self._kept(errors_id, "error", errors)
        return Ending(
            status="cancelled" if self._cancelled else "expired" if self._unanswered else "completed",
            total=self._batch.total,
            completed=self._journal.completed,
            failed=self._journal.failed + self._unanswered,
            output=files[0],
            errors=files[1],
            usage=self._journal.usage,
        )

    def discard(self) -> None:
        """The files are not wanted after all."""
        for name in self._made:
            self._context.blobs.remove(name)

    @property
    def _cancelled(self) -> bool:
        return self._batch.status == "cancelling"

    def _never(self, line: Line) -> bytes:
        self._unanswered += 1
        return row(self._context.new_id(), line, error=_CANCELLED if self._cancelled else _EXPIRED)

    def _kept(self, file_id: str, kind: str, draft: Draft) -> File | None:
        if not draft.size:
            return None
        draft.keep()
        self._made.append(file_id)
        batch, now_s = self._batch, self._context.clock()
        name = f"{batch.id}_{kind}.jsonl"
        return File(file_id, batch.tenant, draft.size, now_s, name, "batch_output", now_s + batch.keep_s)
