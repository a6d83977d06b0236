"""Scheduler: who computes how many tokens in the next step. Pure: no clock, no llama, no I/O."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from serve_app.engine.sequence import Chunk, Sequence, Status
from serve_app.engine.slots import Lease, SlotPool

Plan = tuple[Chunk, ...]


class Scheduler:
    """First come, first served, with decodes before prompts.

    ``n_batch`` tokens are the most a step may hold, ``n_prefill`` the most prompt tokens in a step that others wait
    for: it bounds how long a newcomer's prompt holds up running streams. ``n_rows`` logits rows are the most a step may
    ask for, ``n_cells`` the KV cells that all sequences share.
    """

    def __init__(self, slots: SlotPool, *, n_batch: int, n_prefill: int, n_rows: int, n_cells: int) -> None:
        self._slots = slots
        self._n_batch = n_batch
        self._n_prefill = n_prefill
        self._n_rows = n_rows
        self._n_cells = n_cells
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._short = False

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        self._waiting.append(sequence)

    def admit(self) -> Iterator[tuple[Sequence, Lease]]:
        """Waiting sequences that get a slot now, oldest first; each lease must be carried out before the next plan."""
        if self._short and self._running:
            return  # who was sent away would come back to the same lack of space
        for sequence in list(self._waiting):
            if sequence.blocked:
                continue
            if not self._fits(sequence):
                return
            lease = self._slots.acquire(sequence)
            if lease is None:
                return
            self._waiting.remove(sequence)
            self._running.append(sequence)
            sequence.status = Status.RUNNING
            yield sequence, lease

    def _fits(self, sequence: Sequence) -> bool:
        """Whether the known tokens of everybody fit. A lone sequence may always try."""
        return not self._running or self._slots.n_busy_cells + len(sequence.tokens) < self._n_cells

    def plan(self) -> Plan:
        """One token for each decoding sequence, then prompt chunks, oldest first. Changes nothing."""
        decoding = [sequence for sequence in self._running if sequence.is_decoding]
        prompts = [sequence for sequence in self._running if sequence.n_pending and not sequence.is_decoding]
        chunks = [Chunk(sequence, sequence.computed, 1, 1, row) for row, sequence in enumerate(decoding)]
        room = self._n_batch - len(chunks)
        if chunks:
            room = min(room, self._n_prefill)
        rows = len(chunks)
        for sequence in prompts:
            count = min(sequence.n_pending, room)
            if sequence.score_prompt:
                count = min(count, self._n_rows - rows)
            if count <= 0:
                break
            wanted = self._rows(sequence, count)
            if rows + wanted > self._n_rows:
                break
            chunks.append(Chunk(sequence, sequence.computed, count, wanted, rows))
            rows += wanted
            room -= count
        return tuple(chunks)

    @staticmethod
    def _rows(sequence: Sequence, count: int) -> int:
        if sequence.score_prompt and not sequence.prompt_done:
            return count
        return 1 if count == sequence.n_pending else 0

    def commit(self, plan: Plan) -> list[Chunk]:
        """The plan was computed. Returns the chunks that have logits to look at."""
        self._short = False
        for chunk in plan:
            chunk.sequence.computed = chunk.start + chunk.count
        return [chunk for chunk in plan if chunk.rows]

    def finish(self, sequence: Sequence) -> None:
        """The sequence needs nothing more, wherever it stands: it leaves, and its slot is free."""
        if sequence.status is Status.RUNNING:
            self._running.remove(sequence)
            self._slots.release(sequence)
        elif sequence.status is Status.WAITING:
            self._waiting.remove(sequence)
        sequence.status = Status.FINISHED

    def preempt_youngest(self) -> Sequence | None:
        """The last to come goes back to the head of the queue, keeping its tokens; None if it would be the only one.

        Nobody is admitted before the others have computed something: there is no room.
        """
        if len(self._running) < 2:
            return None
        sequence = self._running.pop()
        self._slots.release(sequence)
        sequence.status, sequence.computed = Status.WAITING, 0
        self._short = True
        self._waiting.appendleft(sequence)
        return sequence

    def largest(self) -> Sequence:
        """The running sequence with the most tokens: who has to go when nothing else helps."""
        return max(self._running, key=lambda sequence: len(sequence.tokens))
