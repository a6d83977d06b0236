"""Scheduler: who computes how many tokens in the next step. Pure: no clock, no llama, no I/O."""

from __future__ import annotations

from collections.abc import Iterator

from serve_app.engine.budget import PrefillBudget
from serve_app.engine.fair import FairQueue, richer, worse
from serve_app.engine.sequence import Chunk, Sequence, Status
from serve_app.engine.slots import Lease, SlotPool
from serve_app.protocol import Tier

Plan = tuple[Chunk, ...]


class Scheduler:
    """Decodes before prompts, tenants in turn, batch work when nothing else runs.

    ``n_batch`` tokens are the most a step may hold, ``n_prefill`` the most prompt tokens in a step that others wait
    for: less where that would hold up running streams too long. ``n_rows`` logits rows are the most a step may
    ask for, ``n_cells`` the KV cells that all sequences share.
    """

    def __init__(self, slots: SlotPool, *, n_batch: int, n_prefill: int, n_rows: int, n_cells: int) -> None:
        self._slots = slots
        self._n_batch = n_batch
        self._n_rows = n_rows
        self._n_cells = n_cells
        self._budget = PrefillBudget(n_prefill)
        self._waiting = FairQueue()
        self._running: list[Sequence] = []
        self._short = False

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        self._waiting.add(sequence)

    def admit(self) -> Iterator[tuple[Sequence, Lease]]:
        """Waiting sequences that get a slot now, fairly; each lease must be carried out before anything else is asked.

        Where there is no room, one that runs beyond its tenant's share, or in a worse tier, goes back to its line.
        """
        if self._short and self._running:
            return  # who was sent away would come back to the same lack of space
        while (sequence := self._waiting.first()) is not None:
            lease = self._place(sequence)
            while lease is None and (other := self._who_gives_way(sequence)) is not None:
                self._send_back(other)
                lease = self._place(sequence)
            if lease is None:
                return
            self._waiting.take(sequence)
            self._running.append(sequence)
            sequence.status = Status.RUNNING
            yield sequence, lease

    def _place(self, sequence: Sequence) -> Lease | None:
        return self._slots.acquire(sequence) if self._fits(sequence) else None

    def _who_gives_way(self, sequence: Sequence) -> Sequence | None:
        """Not to an equal for lack of space: who loses what it computed would come back for it, and so for ever."""
        return worse(sequence, self._running) or (richer(sequence, self._running) if self._fits(sequence) else None)

    def _fits(self, sequence: Sequence) -> bool:
        """Whether the known tokens of everybody fit. A lone sequence may always try."""
        return not self._running or self._slots.n_busy_cells + len(sequence.tokens) < self._n_cells

    def plan(self) -> Plan:
        """One token for each decoding sequence, then prompt chunks, best tier and oldest first. Changes nothing."""
        working = self._working()
        decoding = [sequence for sequence in working if sequence.is_decoding]
        prompts = [sequence for sequence in working if sequence.n_pending and not sequence.is_decoding]
        prompts.sort(key=lambda sequence: sequence.tier)
        chunks = [Chunk(sequence, sequence.computed, 1, 1, row) for row, sequence in enumerate(decoding)]
        room = self._n_batch - len(chunks)
        if chunks:
            room = min(room, self._budget.tokens(len(chunks)))
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

    def _working(self) -> list[Sequence]:
        """A step with fewer sequences is a shorter one: batch work keeps its slots, and waits, while others run."""
        others = [sequence for sequence in self._running if sequence.tier < Tier.BATCH]
        return others or self._running

    @staticmethod
    def _rows(sequence: Sequence, count: int) -> int:
        if sequence.score_prompt and not sequence.prompt_done:
            return count
        return 1 if count == sequence.n_pending else 0

    def commit(self, plan: Plan) -> list[Chunk]:
        """The plan was computed. Returns the chunks that have logits to look at."""
        self._short = False
        for chunk in plan:
            self._waiting.charge(chunk)
            chunk.sequence.computed = chunk.start + chunk.count
        return [chunk for chunk in plan if chunk.rows]

    def learn(self, plan: Plan, seconds: float) -> None:
        """How long the plan took to compute."""
        n_decoding = sum(chunk.is_decode for chunk in plan)
        self._budget.learn(n_decoding, sum(chunk.count for chunk in plan) - n_decoding, seconds)

    def finish(self, sequence: Sequence) -> None:
        """The sequence needs nothing more, wherever it stands: it leaves, and its slot is free."""
        if sequence.status is Status.RUNNING:
            self._running.remove(sequence)
            self._slots.release(sequence)
        elif sequence.status is Status.WAITING:
            self._waiting.remove(sequence)
        sequence.status = Status.FINISHED

    def preempt_youngest(self) -> Sequence | None:
        """The last to come of the worst tier goes back to its line, keeping its tokens; None if it is the only one.

        Nobody is admitted before the others have computed something: there is no room.
        """
        if len(self._running) < 2:
            return None
        worst = max(sequence.tier for sequence in self._running)
        youngest = next(sequence for sequence in reversed(self._running) if sequence.tier is worst)
        self._send_back(youngest)
        self._short = True
        return youngest

    def _send_back(self, sequence: Sequence) -> None:
        """What it computed stays resident as long as the space is not needed; at best it continues where it was."""
        self._running.remove(sequence)
        self._slots.release(sequence)
        sequence.status, sequence.computed = Status.WAITING, 0
        self._waiting.put_back(sequence)

    def largest(self) -> Sequence:
        """The running sequence with the most tokens: who has to go when nothing else helps."""
        return max(self._running, key=lambda sequence: len(sequence.tokens))
