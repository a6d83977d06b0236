"""EmbeddingEngine: the thread that owns the Embedder. queue -> batch -> sinks."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from serve_app.engine.embedder import Embedder, Refused, Vector, unit
from serve_app.engine.embedding_queue import EmbeddingJob, EmbeddingQueue, Piece
from serve_app.engine.thread import EngineThread
from serve_app.protocol import Done, Embedded, Event, Failed, FailureCode, Usage

Outbox = list[tuple[EmbeddingJob, list[Event]]]

_REFUSED = Failed(FailureCode.INTERNAL, "The model refused the input.")


@dataclass(frozen=True, slots=True)
class EmbeddingStats:
    """A snapshot: requests with texts in the current batch, requests with texts still to be taken; totals."""

    n_running: int
    n_waiting: int
    n_batches: int
    n_tokens: int


class EmbeddingEngine(EngineThread):
    """One thread, one context, texts of all requests in the same batches.

    From any thread: ``start``, ``submit``, ``cancel``, ``close``, ``alive``, ``is_full``, ``stalled_for``, ``stats``.
    ``publish`` is called on the engine thread, once per batch. Every job gets exactly one terminal event, unless it is
    cancelled. When the thread dies all jobs fail with ``engine_lost`` and ``on_death`` is called last.
    """

    def __init__(
        self,
        embedder: Embedder,
        n_queue: int,
        publish: Callable[[Outbox], None],
        on_death: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("embedding-engine", on_death, clock)
        self._embedder = embedder
        self._n_queue = n_queue
        self._publish = publish
        self._queue = EmbeddingQueue(embedder.n_batch, embedder.n_texts)
        self._batch: list[Piece] = []
        self._n_batches = self._n_tokens = 0

    # --- any thread

    def submit(self, job: EmbeddingJob) -> None:
        """Hand a job over. Once the engine has ended it fails at once, published on the caller's thread."""
        refusal = self._queue.put(job)
        if refusal is not None:
            self._publish([(job, [refusal])])

    def cancel(self, job: EmbeddingJob) -> None:
        """What of the job is not being computed never is. Late or repeated: no effect."""
        self._queue.drop(job)

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread and free the context. Jobs not yet done fail with ``server_shutting_down``."""
        self._queue.close()
        self.join(timeout_s)

    @property
    def is_full(self) -> bool:
        return len(self._queue) >= self._n_queue

    def stats(self) -> EmbeddingStats:
        running = {id(piece.job) for piece in self._batch}
        return EmbeddingStats(len(running), len(self._queue), self._n_batches, self._n_tokens)

    # --- engine thread

    def _work(self) -> None:
        while batch := self._queue.take():
            self._batch, self._busy_since = batch, self._clock()
            self._compute(batch)
            self._batch, self._busy_since = [], None

    def _free(self) -> None:
        self._embedder.close()

    def _compute(self, batch: list[Piece]) -> None:
        """A batch that llama.cpp refuses is computed text by text, so that only the culprit's request fails."""
        try:
            vectors = self._embedder.embed([piece.text for piece in batch])
        except (Refused, ValueError):
            if len(batch) == 1:
                self._fail(batch[0].job, _REFUSED)
            else:
                for piece in batch:
                    self._compute([piece])
            return
        self._n_batches += 1
        self._n_tokens += sum(len(piece.text) for piece in batch)
        self._tell(batch, vectors)

    def _tell(self, batch: list[Piece], vectors: list[Vector]) -> None:
        """Each job's new vectors as one event, and its end with the last of them."""
        found: dict[int, tuple[EmbeddingJob, list[tuple[int, bytes]]]] = {}
        for piece, vector in zip(batch, vectors, strict=True):
            job = piece.job
            if not job.over:
                cut = vector if job.dimensions is None else unit(vector[: job.dimensions])
                found.setdefault(id(job), (job, []))[1].append((piece.index, cut.tobytes()))
        outbox: Outbox = []
        for job, known in found.values():
            job.n_done += len(known)
            outbox.append((job, [Embedded(tuple(known))]))
            if job.n_done == len(job.texts):
                job.over = True
                outbox[-1][1].append(Done(Usage(prompt_tokens=job.n_tokens)))
        self._publish(outbox)

    def _fail(self, job: EmbeddingJob, failed: Failed) -> None:
        if not job.over:
            self._queue.drop(job)
            self._publish([(job, [failed])])

    def _fail_all(self, last_words: Failed) -> None:
        left = [*self._queue.shut(last_words), *(piece.job for piece in self._batch)]
        for job in left:
            self._fail(job, last_words)
