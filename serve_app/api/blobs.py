"""Bytes of files, on a disk: each a file of its own in one folder, named by its id.

A blob is written beside its place, flushed to the disk and then moved into it, so that what is there is whole. What the
database does not know of is nobody's: what a crash left between the two is removed a day later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from serve_app.errors import RequestError
from serve_app.protocol import FailureCode

_DRAFT = ".draft"


def unwritable() -> RequestError:
    """The refusal where the disk cannot take or give the bytes."""
    return RequestError(FailureCode.STORAGE_UNAVAILABLE, "The storage for files is not available now. Try again.")


class Blobs:
    """The folder. Every ingress must see the same one. Its methods block, and raise OSError where the disk refuses."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path:
        """Where the blob is, if it is there."""
        return self._folder / name

    def draft(self, name: str) -> Draft:
        """A new blob, to be written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        return Draft(self.path(name))

    def remove(self, name: str) -> None:
        """It is gone on return, whether it was there or not."""
        self.path(name).unlink(missing_ok=True)

    def beginning(self, prefix: str) -> list[Path]:
        """All whose names begin so, in the order of their names."""
        return sorted(path for path in self._folder.glob(f"{prefix}*") if path.suffix != _DRAFT)

    def older_than(self, age_s: float) -> Iterator[str]:
        """Names of what was last written that long ago, drafts included."""
        if not self._folder.is_dir():
            return
        for entry in os.scandir(self._folder):
            try:
                old = entry.stat().st_mtime < time.time() - age_s
            except FileNotFoundError:
                continue
            if old:
                yield entry.name


class Draft:
    """A blob that is being written, by one caller at a time. Left without ``keep`` it has never been.

    Methods block, and raise OSError where the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(path.name + _DRAFT)
        self._file = self._draft.open("wb", buffering=1 << 20)
        self.size = 0

    def __enter__(self) -> Draft:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self.size += len(data)

    def keep(self) -> None:
        """It is in its place on return, and survives a power cut."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        self._draft.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Nothing of it remains, unless it was kept."""
        if not self._file.closed:
            self._file.close()
            self._draft.unlink(missing_ok=True)
