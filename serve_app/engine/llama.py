"""Llama: RAII over llama_cpp's low-level API, for generating. The last place that can refuse.

llama.cpp answers a careless call with an abort of the whole process: a batch larger than ``n_batch``, logits asked of a
row that was not requested, a token outside the vocabulary. All of these are refused here, in Python.
"""

from __future__ import annotations

import time
from collections.abc import Sequence as Items
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Literal

import llama_cpp
import numpy as np
import numpy.typing as npt

from serve_app.engine import lora
from serve_app.engine.model import ModelLoadError, Opened
from serve_app.engine.sequence import Chunk
from serve_app.engine.threads import ThreadTuner

Logits = npt.NDArray[np.float32]

CacheType = Literal["f16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"]
"""How a KV cell is written."""


class Decoded(Enum):
    """What became of a batch. NO_SPACE and INVALID leave the memory as it was; after FATAL nothing is known."""

    OK = auto()
    NO_SPACE = auto()
    INVALID = auto()
    FATAL = auto()


@dataclass(frozen=True, slots=True)
class LlamaOptions:
    """How a model is opened. ``n_cells``: KV cells shared by all sequences; ``n_rows``: logits rows per batch."""

    path: str
    n_cells: int
    n_slots: int
    n_batch: int = 512
    n_rows: int = 128
    n_threads: int = 1
    """The most; fewer are used where they are faster."""
    n_gpu_layers: int = 0
    type_k: CacheType = "f16"
    type_v: CacheType = "f16"
    lora: tuple[tuple[str, float], ...] = ()
    """Adapters: path and scale."""


class Llama(Opened):
    """A model with one context to generate from: the context is of the engine's thread alone."""

    def __init__(self, options: LlamaOptions) -> None:
        super().__init__(options.path, options.n_gpu_layers)
        self.n_batch = options.n_batch
        self.n_rows = options.n_rows
        self._tuner = ThreadTuner(options.n_threads, adapt=options.n_gpu_layers == 0)
        self._context = self._open(options)
        self.n_cells = int(llama_cpp.llama_n_ctx(self._context))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(options.n_batch, 0, 1)
        self._columns = _Columns(self._batch, options.n_batch)
        self.pieces = [self.piece(token) for token in range(self.n_vocab)]
        self._rows: Logits = np.empty((0, self.n_vocab), dtype=np.float32)

    def _open(self, options: LlamaOptions) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = options.n_cells
        params.n_batch = params.n_ubatch = options.n_batch
        params.n_seq_max = options.n_slots
        params.n_outputs_max = min(options.n_rows, options.n_batch)
        params.n_outputs_max_per_seq = 0
        params.n_threads = params.n_threads_batch = options.n_threads
        params.kv_unified = True
        params.type_k = _ggml_type(options.type_k)
        params.type_v = _ggml_type(options.type_v)
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            message = f"llama.cpp cannot open a context of {options.n_cells} cells (too little memory, or a cache type "
            raise ModelLoadError(message + "that the model's heads do not fit?)")
        lora.apply(self._model, context, options.lora)
        return context

    def show(self, texts: Items[str]) -> None:
        """Control tokens that are part of what an answer says: they become text. Before the engine starts."""
        for text in texts:
            tokens = self.tokenize(text, special=True)
            if len(tokens) == 1 and self._is_control(tokens[0]):
                self.pieces[tokens[0]] = text.encode()

    # --- memory and computing (engine thread)

    def forget(self, seq_id: int, keep: int) -> None:
        """Drop every cell of the sequence from position ``keep`` on."""
        if not llama_cpp.llama_memory_seq_rm(self._memory, seq_id, keep, -1):
            raise RuntimeError("the memory cannot forget part of a sequence")

    def share(self, source: int, target: int, length: int) -> None:
        """The first ``length`` cells of ``source`` belong to ``target`` too: no copy, the cells are tagged."""
        llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, length)

    def decode(self, plan: Items[Chunk]) -> Decoded:
        """Compute the chunks in one batch. The GIL is free meanwhile. Raises ValueError for what C would abort on."""
        self._rows = self._rows[:0]
        rows = self._columns.fill(plan, self.n_vocab, self.n_rows)
        self._batch.n_tokens = sum(chunk.count for chunk in plan)
        code = self._timed_decode(self._batch.n_tokens)
        if code == 0:
            if rows:
                base = llama_cpp.llama_get_logits(self._context)
                self._rows = np.ctypeslib.as_array(base, shape=(rows, self.n_vocab))
            return Decoded.OK
        if code == 1:
            return Decoded.NO_SPACE
        return Decoded.INVALID if code == -1 else Decoded.FATAL

    def _timed_decode(self, n_tokens: int) -> int:
        """``llama_decode`` with the number of threads that is fastest for a batch of this size."""
        n_threads = self._tuner.choose(n_tokens)
        llama_cpp.llama_set_n_threads(self._context, n_threads, n_threads)
        began_s = time.perf_counter()
        code = int(llama_cpp.llama_decode(self._context, self._batch))
        self._tuner.learn(n_tokens, time.perf_counter() - began_s)
        return code

    def logits(self, chunk: Chunk, index: int) -> tuple[Logits, int]:
        """The ``index``-th wanted row of a chunk of the last plan, as a writable view that lives until the next
        ``decode``, and its position in the batch for C samplers."""
        row = chunk.first_row + index
        offset = self._columns.offsets.get(id(chunk))
        if offset is None or not 0 <= index < chunk.rows or row >= len(self._rows):
            raise ValueError("logits of a row that was not computed")
        return self._rows[row], offset + chunk.count - chunk.rows + index

    @property
    def context_handle(self) -> Any:
        """For C samplers."""
        return self._context


def _ggml_type(name: CacheType) -> int:
    return int(getattr(llama_cpp, f"GGML_TYPE_{name.upper()}"))


class _Columns:
    """The C batch's arrays as numpy views: filling them costs about 10 us a step."""

    def __init__(self, batch: Any, size: int) -> None:
        self._size = size
        self._token = np.ctypeslib.as_array(batch.token, shape=(size,))
        self._pos = np.ctypeslib.as_array(batch.pos, shape=(size,))
        self._logits = np.ctypeslib.as_array(batch.logits, shape=(size,))
        np.ctypeslib.as_array(batch.n_seq_id, shape=(size,))[:] = 1
        self._seq_id = [np.ctypeslib.as_array(batch.seq_id[row], shape=(1,)) for row in range(size)]
        self.offsets: dict[int, int] = {}

    def fill(self, plan: Items[Chunk], n_vocab: int, n_rows: int) -> int:
        """Write the chunks; returns how many logits rows they ask for."""
        self.offsets.clear()
        at = rows = 0
        for chunk in plan:
            end = at + chunk.count
            if chunk.count < 1 or end > self._size or chunk.rows > chunk.count or chunk.sequence.seq_id is None:
                raise ValueError("a batch that llama.cpp would abort on")
            tokens = chunk.sequence.tokens[chunk.start : chunk.start + chunk.count]
            if len(tokens) != chunk.count or min(tokens) < 0 or max(tokens) >= n_vocab:
                raise ValueError("a token outside the vocabulary")
            self._token[at:end] = tokens
            self._pos[at:end] = range(chunk.start, chunk.start + chunk.count)
            self._logits[at:end] = 0
            self._logits[end - chunk.rows : end] = 1
            for row in range(at, end):
                self._seq_id[row][0] = chunk.sequence.seq_id
            self.offsets[id(chunk)] = at
            at, rows = end, rows + chunk.rows
        if not at or rows > n_rows:
            raise ValueError("an empty batch, or one with more logits rows than were reserved")
        return rows
