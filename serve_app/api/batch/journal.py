"""What became of the lines of a batch, on the disk until the batch ends.

Each owner the batch ever had appends to a file of its own, and reads what owners before it left. So nobody writes into
what another reads, not even an owner that was taken for dead, and what was noted once is not asked again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from serve_app.api.blobs import Blobs
from serve_app.protocol import Usage

_HEAD = 6
"""Words before the row: number, good, and four counts of tokens."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """``row`` is the line's JSON for the output, or, if it is not ``good``, for the errors. No line breaks in it."""

    number: int
    good: bool
    row: bytes
    usage: Usage = Usage()


@dataclass(slots=True)
class _Place:
    file: Path
    offset: int
    length: int
    good: bool


@dataclass(slots=True)
class Journal:
    """Used by one caller at a time, who may block; raises OSError where the disk refuses, and is of no use then."""

    blobs: Blobs
    batch_id: str
    completed: int = 0
    failed: int = 0
    usage: Usage = Usage()
    _places: dict[int, _Place] = field(default_factory=dict)
    _own: Path | None = None
    _size: int = 0

    def recover(self, token: str) -> None:
        """Reads what there is, and begins a file under a name nobody used before."""
        for path in self.blobs.beginning(f"{self.batch_id}."):
            self._read(path)
        self._own = self.blobs.path(f"{self.batch_id}.{token}")

    def __contains__(self, number: int) -> bool:
        return number in self._places

    def note(self, outcomes: Sequence[Outcome]) -> None:
        """On return they survive a power cut."""
        if self._own is None:
            raise RuntimeError("a journal is recovered before it is written")
        data = bytearray()
        for outcome in outcomes:
            head = _head(outcome)
            self._add(outcome, self._own, self._size + len(data) + len(head))
            data += head + outcome.row + b"\n"
        with self._own.open("ab", buffering=0) as file:
            if file.write(data) != len(data):
                raise OSError("the disk is full")
            os.fsync(file.fileno())
        self._size += len(data)

    def row(self, number: int) -> tuple[bool, bytes] | None:
        """Whether the line went well, and its row; None: nothing is known of it."""
        place = self._places.get(number)
        if place is None:
            return None
        with place.file.open("rb") as file:
            return place.good, os.pread(file.fileno(), place.length, place.offset)

    def remove(self) -> None:
        """All of it, of all owners."""
        for path in self.blobs.beginning(f"{self.batch_id}."):
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> None:
        offset = 0
        with path.open("rb") as file:
            for raw in file:
                outcome = _parse(raw)
                if outcome is not None and outcome.number not in self._places:
                    self._add(outcome, path, offset + len(raw) - len(outcome.row) - 1)
                offset += len(raw)

    def _add(self, outcome: Outcome, path: Path, offset: int) -> None:
        self._places[outcome.number] = _Place(path, offset, len(outcome.row), outcome.good)
        self.completed += outcome.good
        self.failed += not outcome.good
        self.usage = _sum(self.usage, outcome.usage)


def _head(outcome: Outcome) -> bytes:
    return b" ".join(str(word).encode() for word in _words(outcome)) + b" "


def _words(outcome: Outcome) -> Iterator[int]:
    usage = outcome.usage
    yield from (outcome.number, int(outcome.good))
    yield from (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens)


def _parse(raw: bytes) -> Outcome | None:
    """A whole line; None for the last one where its writer, or the power, went away in the middle."""
    words = raw.split(b" ", _HEAD)
    if len(words) <= _HEAD or not words[_HEAD].endswith(b"}\n") or not all(word.isdigit() for word in words[:_HEAD]):
        return None
    number, good, *counts = (int(word) for word in words[:_HEAD])
    return Outcome(number, bool(good), words[_HEAD][:-1], Usage(*counts))


def _sum(one: Usage, two: Usage) -> Usage:
    return Usage(
        one.prompt_tokens + two.prompt_tokens,
        one.completion_tokens + two.completion_tokens,
        one.cached_tokens + two.cached_tokens,
        one.reasoning_tokens + two.reasoning_tokens,
    )
