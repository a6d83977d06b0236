"""Embedder: RAII over a llama.cpp context that turns texts into vectors. The last place that can refuse.

llama.cpp aborts the process on a batch larger than its context was opened for, and on a position the model has no
embedding for: neither gets past ``embed``.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from serve_app.engine.model import ModelLoadError, Opened

Vector = npt.NDArray[np.float32]


class Pooling(IntEnum):
    """How the vectors of a text's tokens become one; llama.cpp's numbers."""

    MODEL = -1
    """As the GGUF file says."""
    MEAN = 1
    CLS = 2
    LAST = 3


class Refused(Exception):
    """llama.cpp did not take the batch; the context is as good as before."""


class Lost(Exception):
    """llama.cpp is in an unknown state; the process must be replaced."""


@dataclass(frozen=True, slots=True)
class EmbedderOptions:
    """``n_context``: most tokens of one text. ``n_batch`` tokens and ``n_texts`` texts are computed at once."""

    path: str
    n_context: int = 512
    n_batch: int = 512
    n_texts: int = 64
    n_threads: int = 1
    n_gpu_layers: int = 0
    pooling: Pooling = Pooling.MODEL


class Embedder(Opened):
    """A model with one context to embed with: the context is of the engine's thread alone."""

    def __init__(self, options: EmbedderOptions) -> None:
        super().__init__(options.path, options.n_gpu_layers)
        self.n_context = min(options.n_context, self.n_train)
        self.n_texts = options.n_texts
        # A text is computed in one piece: tokens of an encoder look both ways.
        self.n_batch = max(options.n_batch, self.n_context)
        self.n_embd = int(llama_cpp.llama_model_n_embd_out(self._model))
        self._context = self._open(options)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(self.n_batch, 0, 1)
        self.head, self.tail = self._frame()

    def _open(self, options: EmbedderOptions) -> Any:
        if llama_cpp.llama_model_has_encoder(self._model) and llama_cpp.llama_model_has_decoder(self._model):
            raise ModelLoadError("it has an encoder and a decoder: such models cannot embed here")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = params.n_batch = params.n_ubatch = self.n_batch
        params.n_seq_max = self.n_texts
        params.n_threads = params.n_threads_batch = options.n_threads
        params.embeddings = True
        params.pooling_type = int(options.pooling)
        params.kv_unified = True
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise ModelLoadError(f"llama.cpp cannot open a context of {self.n_batch} tokens (too little memory?)")
        if llama_cpp.llama_pooling_type(context) not in set(Pooling):
            llama_cpp.llama_free(context)
            raise ModelLoadError("its file names no pooling that makes an embedding: set `pooling`")
        return context

    def _frame(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tokens that the vocabulary puts before and behind every text."""
        bare = self.tokenize("a", special=False)
        framed = self.tokenize("a", special=False, framed=True)
        at = next(at for at in range(len(framed)) if framed[at : at + len(bare)] == bare)
        return tuple(framed[:at]), tuple(framed[at + len(bare) :])

    def embed(self, texts: Items[tuple[int, ...]]) -> list[Vector]:
        """A vector of length 1 for each text. The GIL is free meanwhile. Raises ``Refused``, ``Lost``, and
        ``ValueError`` for what C would abort on."""
        self._fill(texts)
        if self._memory:
            llama_cpp.llama_memory_clear(self._memory, False)
        code = int(llama_cpp.llama_decode(self._context, self._batch))
        if code in (1, -1):
            raise Refused
        if code:
            raise Lost
        return [self._vector(seq_id) for seq_id in range(len(texts))]

    def _fill(self, texts: Items[tuple[int, ...]]) -> None:
        n_tokens = sum(map(len, texts))
        if not 0 < len(texts) <= self.n_texts or n_tokens > self.n_batch:
            raise ValueError("a batch that llama.cpp would abort on")
        at = 0
        for seq_id, text in enumerate(texts):
            if not 0 < len(text) <= self.n_context or min(text) < 0 or max(text) >= self.n_vocab:
                raise ValueError("a text that llama.cpp would abort on")
            for position, token in enumerate(text):
                self._batch.token[at] = token
                self._batch.pos[at] = position
                self._batch.n_seq_id[at] = 1
                self._batch.seq_id[at][0] = seq_id
                self._batch.logits[at] = 1
                at += 1
        self._batch.n_tokens = n_tokens

    def _vector(self, seq_id: int) -> Vector:
        found = llama_cpp.llama_get_embeddings_seq(self._context, seq_id)
        if not found:
            raise Lost
        return unit(np.ctypeslib.as_array(found, shape=(self.n_embd,)))


def unit(vector: Vector) -> Vector:
    """A copy of length 1; of zeros, zeros."""
    length = float(np.linalg.norm(vector))
    return np.array(vector / length if length else vector, dtype="<f4")
