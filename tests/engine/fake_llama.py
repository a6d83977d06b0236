"""FakeLlama: a llama without a model. Its memory is exact, its outcomes follow a script.

The next token is a function of everything the memory holds for a sequence: a cell that is wrong, missing or somebody
else's changes the text.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Items

import numpy as np

from serve_app.engine.llama import Decoded, Logits
from serve_app.engine.sequence import Chunk

N_VOCAB = 64
END = 0


def next_token(tokens: Iterable[int]) -> int:
    """Never the end token: texts run to their limit."""
    state = 7
    for token in tokens:
        state = (state * 31 + token + 1) % 1_000_003
    return state % (N_VOCAB - 1) + 1


def continuation(prompt: Iterable[int], count: int) -> list[int]:
    """What an undisturbed engine answers, greedy."""
    tokens = list(prompt)
    start = len(tokens)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[start:]


class Cell:
    """One KV cell; sequences that share a prefix share its cells."""

    def __init__(self, token: int) -> None:
        self.token = token


class Memory:
    """Cells by sequence id."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self.cells: dict[int, list[Cell]] = {}

    def tokens(self, seq_id: int) -> list[int]:
        return [cell.token for cell in self.cells.get(seq_id, [])]

    @property
    def n_used(self) -> int:
        return len({id(cell) for cells in self.cells.values() for cell in cells})

    def forget(self, seq_id: int, keep: int) -> None:
        self.cells[seq_id] = self.cells.get(seq_id, [])[:keep]

    def share(self, source: int, target: int, length: int) -> None:
        assert not self.cells.get(target), "shared into a sequence that holds something"
        assert len(self.cells.get(source, [])) >= length, "shared more than there is"
        self.cells[target] = self.cells[source][:length]

    def fits(self, plan: Items[Chunk]) -> bool:
        return self.n_used + sum(chunk.count for chunk in plan) <= self.n_cells

    def write(self, chunk: Chunk) -> None:
        """Raises unless the chunk continues exactly what is there."""
        sequence = chunk.sequence
        assert sequence.seq_id is not None
        held = self.tokens(sequence.seq_id)
        assert held == sequence.tokens[: chunk.start], "a chunk does not continue its sequence"
        added = sequence.tokens[chunk.start : chunk.start + chunk.count]
        assert len(added) == chunk.count >= 1
        self.cells.setdefault(sequence.seq_id, []).extend(map(Cell, added))


class FakeLlama:
    """What Engine, Generation and Sampler use of a Llama.

    ``outcome`` decides each decode; ``before_decode`` is called first, with the number of decodes so far.
    ``breaks``: call site -> the call, counted from 1, that raises.
    """

    n_vocab = N_VOCAB
    end_tokens = frozenset({END})
    can_reuse = True
    context_handle = None

    def __init__(
        self,
        *,
        n_cells: int = 10_000,
        n_batch: int = 32,
        n_rows: int = 16,
        outcome: Callable[[Items[Chunk]], Decoded] = lambda plan: Decoded.OK,
        before_decode: Callable[[int], None] = lambda n: None,
        breaks: dict[str, int] | None = None,
    ) -> None:
        self.pieces = [b"", *(f"<{token}>".encode() for token in range(1, N_VOCAB))]
        self.n_cells = n_cells
        self.n_batch = n_batch
        self.n_rows = n_rows
        self.memory = Memory(n_cells)
        self.calls: Counter[str] = Counter()
        self.plans: list[tuple[Chunk, ...]] = []
        self.forgotten: list[tuple[int, int]] = []
        self.closed = threading.Event()
        self._outcome = outcome
        self._before_decode = before_decode
        self._breaks = breaks or {}
        self._rows: dict[int, list[list[int]]] = {}

    def _call(self, name: str) -> None:
        self.calls[name] += 1
        if self._breaks.get(name) == self.calls[name]:
            raise OSError(f"{name} broke")

    def decode(self, plan: Items[Chunk]) -> Decoded:
        self._before_decode(self.calls["decode"])
        self._call("decode")
        self.plans.append(tuple(plan))
        self._rows = {}
        outcome = self._outcome(plan)
        if outcome is Decoded.OK and not self.memory.fits(plan):
            outcome = Decoded.NO_SPACE
        if outcome is Decoded.OK:
            for chunk in plan:
                self._compute(chunk)
        return outcome

    def _compute(self, chunk: Chunk) -> None:
        self.memory.write(chunk)
        assert chunk.sequence.seq_id is not None
        held = self.memory.tokens(chunk.sequence.seq_id)
        ends = range(len(held) - chunk.rows + 1, len(held) + 1)
        self._rows[id(chunk)] = [held[:end] for end in ends]

    def logits(self, chunk: Chunk, index: int) -> tuple[Logits, int]:
        self._call("logits")
        row = np.zeros(N_VOCAB, dtype=np.float32)
        row[next_token(self._rows[id(chunk)][index])] = 9.0
        return row, 0

    def forget(self, seq_id: int, keep: int) -> None:
        self._call("forget")
        self.forgotten.append((seq_id, keep))
        self.memory.forget(seq_id, keep)

    def share(self, source: int, target: int, length: int) -> None:
        self._call("share")
        self.memory.share(source, target, length)

    def close(self) -> None:
        self.closed.set()
