"""What the embedding engine has to do: jobs of many texts, handed out in batches that are fair to all of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from serve_app.protocol import Event, Failed

Tokens = tuple[int, ...]


@dataclass(slots=True, eq=False)
class EmbeddingJob:
    """A request for the engine: ``texts`` as tokens, vectors cut to ``dimensions`` where that is not None.

    ``sink`` receives the events on the event loop; the rest belongs to the queue and the engine thread. ``over``: no
    event may follow, it ended or its reader has left.
    """

    texts: tuple[Tokens, ...]
    dimensions: int | None
    sink: Callable[[list[Event]], None]
    n_taken: int = field(default=0, init=False)
    n_done: int = field(default=0, init=False)
    over: bool = field(default=False, init=False)

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.texts))


@dataclass(frozen=True, slots=True)
class Piece:
    """One text of a job, by its position."""

    job: EmbeddingJob
    index: int

    @property
    def text(self) -> Tokens:
        return self.job.texts[self.index]


class EmbeddingQueue:
    """For any thread. Batches take a text of each job in turn: a short request does not wait for a long one."""

    def __init__(self, n_tokens: int, n_texts: int) -> None:
        self._n_tokens = n_tokens
        self._n_texts = n_texts
        self._jobs: deque[EmbeddingJob] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._last_words: Failed | None = None

    def __len__(self) -> int:
        return len(self._jobs)

    def put(self, job: EmbeddingJob) -> Failed | None:
        """Hand a job over; what to answer it with instead, once the queue is shut."""
        with self._changed:
            if self._last_words is None:
                self._jobs.append(job)
                self._changed.notify()
            return self._last_words

    def drop(self, job: EmbeddingJob) -> None:
        """Whatever of the job was not taken never will be. Late or repeated: no effect."""
        with self._changed:
            job.over = True
            if job in self._jobs:
                self._jobs.remove(job)

    def close(self) -> None:
        """What was not taken never will be: the next ``take`` returns nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()

    def take(self) -> list[Piece]:
        """The next batch, waiting for one; empty once the queue is closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            return [] if self._closing else self._batch()

    def _batch(self) -> list[Piece]:
        """Texts in turn until the next one does not fit."""
        batch: list[Piece] = []
        room = self._n_tokens
        while self._jobs and len(batch) < self._n_texts:
            job = self._jobs[0]
            piece = Piece(job, job.n_taken)
            if len(piece.text) > room:
                break
            room -= len(piece.text)
            batch.append(piece)
            job.n_taken += 1
            self._jobs.rotate(-1)
            if job.n_taken == len(job.texts):
                self._jobs.remove(job)
        return batch

    def shut(self, last_words: Failed) -> list[EmbeddingJob]:
        """No job comes in any more; those that were not taken whole are the last."""
        with self._changed:
            self._last_words = last_words
            left = list(self._jobs)
            self._jobs.clear()
            return left
