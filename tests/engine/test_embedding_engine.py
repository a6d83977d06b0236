"""The embedding engine over a fake model: who waits for whom, who fails with whom, and how it all ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from serve_app.engine.embedder import Lost, Refused, Vector
from serve_app.engine.embedding_engine import EmbeddingEngine, Outbox
from serve_app.engine.embedding_queue import EmbeddingJob, EmbeddingQueue
from serve_app.protocol import Done, Embedded, Event, Failed, FailureCode

PATIENCE_S = 10.0
POISON = (13,)


class FakeEmbedder:
    """The vector of a text is its first token and how many tokens it has. ``gate`` holds every batch up."""

    n_batch = 8
    n_texts = 4

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Semaphore(0)
        self.batches: list[list[tuple[int, ...]]] = []
        self.error: Callable[[], Exception] = Refused
        self.closed = threading.Event()

    def embed(self, texts: Sequence[tuple[int, ...]]) -> list[Vector]:
        self.batches.append(list(texts))
        self.begun.release()
        assert self.gate.wait(PATIENCE_S)
        if POISON in texts:
            raise self.error()
        return [np.array([text[0], len(text)], dtype="<f4") for text in texts]

    def close(self) -> None:
        self.closed.set()


class Heard:
    def __init__(self, *texts: tuple[int, ...], dimensions: int | None = None) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()
        self.job = EmbeddingJob(texts, dimensions, self._take)

    def _take(self, events: list[Event]) -> None:
        self.events += events
        if isinstance(events[-1], Done | Failed):
            self.ended.set()

    @property
    def end(self) -> Event:
        assert self.ended.wait(PATIENCE_S)
        assert sum(isinstance(event, Done | Failed) for event in self.events) == 1
        return self.events[-1]

    @property
    def vectors(self) -> dict[int, list[float]]:
        pairs = [pair for event in self.events if isinstance(event, Embedded) for pair in event.vectors]
        return {at: np.frombuffer(vector, "<f4").tolist() for at, vector in pairs}


class Running:
    def __init__(self) -> None:
        self.embedder = FakeEmbedder()
        self.dead = threading.Event()
        self.engine = EmbeddingEngine(self.embedder, 3, deliver, self.dead.set)  # type: ignore[arg-type]
        self.engine.start()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.embedder.gate.set()
        self.engine.close()
        assert not self.engine.alive
        assert self.embedder.closed.is_set()

    def submit(self, *heard: Heard) -> None:
        for one in heard:
            self.engine.submit(one.job)

    def held_up(self) -> Heard:
        """A request whose batch has begun and does not end before ``gate`` is set."""
        self.embedder.gate.clear()
        first = Heard((1,))
        self.submit(first)
        assert self.embedder.begun.acquire(timeout=PATIENCE_S)
        return first


def deliver(outbox: Outbox) -> None:
    for job, events in outbox:
        job.sink(events)


def test_every_text_gets_its_vector_and_the_request_one_end() -> None:
    with Running() as running:
        heard = Heard(*((at, at) for at in range(11)))
        running.submit(heard)
        assert isinstance(heard.end, Done)
        assert heard.end.usage.prompt_tokens == 22
        assert heard.vectors == {at: [at, 2.0] for at in range(11)}


def test_a_short_request_does_not_wait_for_a_long_one() -> None:
    with Running() as running:
        running.held_up()
        long, short = Heard(*[(2, 2)] * 40), Heard((3,))
        running.submit(long, short)
        running.embedder.gate.set()
        assert isinstance(short.end, Done)
        assert isinstance(long.end, Done)
        assert (3,) in running.embedder.batches[1]


def test_batches_hold_no_more_than_the_model_takes() -> None:
    with Running() as running:
        running.held_up()
        requests = [Heard((1, 2, 3, 4, 5), (6,), (7, 8)), Heard((9, 9, 9, 9)), Heard(*[(1,)] * 9)]
        running.submit(*requests)
        running.embedder.gate.set()
        assert all(isinstance(one.end, Done) for one in requests)
        assert all(len(batch) <= 4 and sum(map(len, batch)) <= 8 for batch in running.embedder.batches)


def test_only_the_culprit_of_a_refused_batch_fails() -> None:
    with Running() as running:
        running.held_up()
        well, ill = Heard((1,), (2,)), Heard((3,), POISON)
        running.submit(well, ill)
        running.embedder.gate.set()
        assert isinstance(ill.end, Failed)
        assert ill.end.code is FailureCode.INTERNAL
        assert isinstance(well.end, Done)
        assert well.vectors == {0: [1, 1.0], 1: [2, 1.0]}


@pytest.mark.parametrize("error", [Lost, MemoryError])
def test_a_lost_model_fails_all_requests_once_and_is_reported(error: type[Exception]) -> None:
    with Running() as running:
        running.embedder.error = error
        running.held_up()
        requests = [Heard((1,), POISON), Heard(*[(2, 2, 2)] * 9)]
        running.submit(*requests)
        running.embedder.gate.set()
        for one in requests:
            assert isinstance(one.end, Failed)
            assert one.end.code is FailureCode.ENGINE_LOST
        assert running.dead.wait(PATIENCE_S)
        late = Heard((1,))
        running.submit(late)
        assert isinstance(late.end, Failed)


def test_a_cancelled_request_is_computed_no_further_and_hears_nothing() -> None:
    with Running() as running:
        running.held_up()
        left, other = Heard(*[(2,)] * 9), Heard((3,))
        running.submit(left, other)
        running.engine.cancel(left.job)
        running.embedder.gate.set()
        assert isinstance(other.end, Done)
        assert not left.events
        assert all((2,) not in batch for batch in running.embedder.batches)


def test_closing_ends_what_waits_with_the_reason() -> None:
    with Running() as running:
        running.held_up()
        waiting = Heard((2,))
        running.submit(waiting)
        running.engine.close(timeout_s=0)
        running.embedder.gate.set()
        assert isinstance(waiting.end, Failed)
        assert waiting.end.code is FailureCode.SHUTTING_DOWN
        assert not running.dead.is_set()


def test_the_queue_says_when_it_is_full() -> None:
    with Running() as running:
        running.held_up()
        for at in range(3):
            assert not running.engine.is_full
            running.submit(Heard((at,)))
        assert running.engine.is_full
        assert running.engine.stats().n_waiting == 3
        assert running.engine.stats().n_running == 1
        assert running.engine.stalled_for() > 0


def test_vectors_are_cut_to_the_size_asked_for_and_have_length_one_again() -> None:
    with Running() as running:
        heard = Heard((5, 5), dimensions=1)
        running.submit(heard)
        assert isinstance(heard.end, Done)
        assert heard.vectors == {0: [1.0]}


def test_a_closed_queue_hands_nothing_out() -> None:
    queue = EmbeddingQueue(8, 4)
    queue.put(Heard((1,)).job)
    queue.close()
    assert queue.take() == []
