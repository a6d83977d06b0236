"""A journal on this machine's disk, so that the end of a request need not wait for the database.

An entry is written to a file before its request goes on: that takes microseconds and survives the death of the
process, though not of the machine. What a dead writer left behind is found by the next one on the same machine, by the
lock that nobody holds any more, and goes to the store as if nothing had happened: entries are idempotent.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from serve_app.protocol import Closed, Opened, Usage

_SEGMENT_BYTES = 4 * 1024 * 1024

Entry = Opened | Closed


@dataclass(slots=True, eq=False)
class _Segment:
    """One file, locked as long as its writer lives; ``waiting`` are the entries in it that the store does not have."""

    path: Path
    file: int
    size: int = 0
    waiting: set[str] = field(default_factory=set)


class Spool:
    """Owns the files ``<writer>-<n>.jsonl`` in ``folder``. Entries with a turn do not belong here: they are durable.

    Raises OSError where the disk refuses; the caller then does without.
    """

    def __init__(self, folder: Path, writer: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._writer = writer
        self._n_segments = 0
        self._old: list[_Segment] = []
        self._current = self._new_segment()

    def note(self, entry: Entry) -> None:
        """On return a crash of the process cannot lose it."""
        if self._current.size >= _SEGMENT_BYTES:
            self._old.append(self._current)
            self._current = self._new_segment()
        segment = self._current
        segment.size += os.write(segment.file, orjson.dumps(entry) + b"\n")
        segment.waiting.add(_entry_id(entry))

    def settle(self, entry_id: str) -> None:
        """The store has how the request ended: whatever is noted of it may go."""
        for segment in self._old:
            segment.waiting.discard(entry_id)
        for segment in [each for each in self._old if not each.waiting]:
            self._old.remove(segment)
            _remove(segment)
        self._current.waiting.discard(entry_id)
        if self._current.size and not self._current.waiting:
            os.ftruncate(self._current.file, 0)
            self._current.size = 0

    def recover(self) -> list[Entry]:
        """What dead writers left, the last word on each request. Their files go once everything in them is settled."""
        found: list[Entry] = []
        for path in sorted(self._folder.glob("*.jsonl")):
            segment = _adopt(path)
            if segment is None:
                continue
            latest = {_entry_id(entry): entry for entry in _read(segment)}
            segment.waiting = set(latest)
            found += latest.values()
            if latest:
                self._old.append(segment)
            else:
                _remove(segment)
        return found

    def close(self) -> None:
        """Let go of the files; what is still noted in them waits for the next writer."""
        for segment in [*self._old, self._current]:
            if segment.waiting:
                os.close(segment.file)
            else:
                _remove(segment)
        self._old = []

    def _new_segment(self) -> _Segment:
        self._n_segments += 1
        path = self._folder / f"{self._writer}-{self._n_segments}.jsonl"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(file, fcntl.LOCK_EX)
        return _Segment(path, file)


def _adopt(path: Path) -> _Segment | None:
    """A file whose writer is dead; None while somebody holds it."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return _Segment(path, file)


def _remove(segment: _Segment) -> None:
    segment.path.unlink(missing_ok=True)
    os.close(segment.file)


def _read(segment: _Segment) -> list[Entry]:
    """Whole lines only: the last one may have been cut short."""
    entries: list[Entry] = []
    for line in segment.path.read_bytes().split(b"\n")[:-1]:
        try:
            entries.append(_entry(orjson.loads(line)))
        except (orjson.JSONDecodeError, TypeError, KeyError):
            continue  # written by another version: the other lines are still good
    return entries


def _entry(fields: dict[str, object]) -> Entry:
    if "opened" not in fields:
        return Opened(**fields)  # type: ignore[arg-type]  # checked by the constructor's own names
    opened, usage = Opened(**fields.pop("opened")), Usage(**fields.pop("usage"))  # type: ignore[arg-type]
    return Closed(opened=opened, usage=usage, **fields)  # type: ignore[arg-type]


def _entry_id(entry: Entry) -> str:
    return entry.entry_id if isinstance(entry, Opened) else entry.opened.entry_id
