"""Model: a GGUF file in memory, its weights and its vocabulary. What computes with it opens a context over it."""

from __future__ import annotations

import ctypes
import functools
import logging
import weakref
from typing import Any

import llama_cpp

_log = logging.getLogger("llm_backend.llama")
_GGML_LOG_ERROR = 4


class ModelLoadError(Exception):
    """The model cannot serve. The message is one line for the operator and names no path."""


@functools.cache
def _quiet_llama() -> Any:
    """llama.cpp's log goes to ours: errors as warnings, the rest at debug. Cached: C keeps the callback for ever."""

    def forward(level: int, text: bytes, _user: object) -> None:
        line = text.decode("utf-8", "replace").strip()
        if line:
            _log.log(logging.WARNING if level >= _GGML_LOG_ERROR and level != 5 else logging.DEBUG, "%s", line)

    callback = llama_cpp.llama_log_callback(forward)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return callback


class Model:
    """The weights are freed with the last reference. Everything here may be called from any thread."""

    def __init__(self, path: str, n_gpu_layers: int = 0) -> None:
        _quiet_llama()
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = n_gpu_layers
        self._model: Any = llama_cpp.llama_model_load_from_file(path.encode(), params)
        if not self._model:
            raise ModelLoadError("llama.cpp cannot read the file as a GGUF model it knows")
        # Not in a close(): other threads may be tokenizing. Not at exit: an engine may be computing.
        weakref.finalize(self, llama_cpp.llama_model_free, self._model).atexit = False
        self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        self.n_vocab = int(llama_cpp.llama_vocab_n_tokens(self._vocab))
        self.n_train = int(llama_cpp.llama_model_n_ctx_train(self._model))

    def tokenize(self, text: str, *, special: bool, framed: bool = False) -> list[int]:
        """Text to token ids. ``special``: whether control tokens written out in ``text`` become such tokens;
        ``framed``: with the tokens that the vocabulary puts around a text."""
        data = text.encode()
        room = len(data) + 8
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, framed, special)
        if count < 0:
            raise ValueError("the text cannot be tokenized")
        return list(tokens[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """The bytes a token stands for. Control tokens: none, or as they are written where ``special``."""
        buffer = ctypes.create_string_buffer(256)
        size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, 256, 0, special)
        if size < 0:
            buffer = ctypes.create_string_buffer(-size)
            size = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, -size, 0, special)
        return buffer.raw[:size]

    @functools.cached_property
    def control_texts(self) -> tuple[str, ...]:
        """How this vocabulary's control tokens are written."""
        texts = (self._written(token) for token in range(self.n_vocab) if self._is_control(token))
        return tuple(text for text in texts if text)

    def written(self, token: int) -> str:
        """A token as its vocabulary writes it; empty for "there is none" (negative ids)."""
        return self._written(token) if token >= 0 else ""

    def _written(self, token: int) -> str:
        return bytes(llama_cpp.llama_vocab_get_text(self._vocab, token)).decode("utf-8", "replace")

    def _is_control(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_control(self._vocab, token))

    @functools.cached_property
    def end_tokens(self) -> frozenset[int]:
        """Every token that ends a generation."""
        return frozenset(t for t in range(self.n_vocab) if llama_cpp.llama_vocab_is_eog(self._vocab, t))

    @property
    def bos(self) -> int:
        return int(llama_cpp.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> int:
        return int(llama_cpp.llama_vocab_eos(self._vocab))

    @property
    def adds_bos(self) -> bool:
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))

    @property
    def infill(self) -> tuple[int, int, int] | None:
        """Tokens for prefix, suffix and middle; None when the model was not trained to fill in."""
        names = (llama_cpp.llama_vocab_fim_pre, llama_cpp.llama_vocab_fim_suf, llama_cpp.llama_vocab_fim_mid)
        prefix, suffix, middle = (int(name(self._vocab)) for name in names)
        return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None

    @property
    def chat_template(self) -> str | None:
        """Jinja source from the GGUF."""
        source = llama_cpp.llama_model_chat_template(self._model, None)
        return source.decode("utf-8", "replace") if source else None

    @property
    def can_reuse(self) -> bool:
        """Whether a prefix can be kept while its suffix is forgotten: not with recurrent state."""
        model = self._model
        return not (llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model))

    @property
    def vocab_handle(self) -> Any:
        """For libraries that speak llama.cpp themselves."""
        return self._vocab


class Opened(Model):
    """A model with one context to compute with, and a batch to fill: these are of the engine's thread alone."""

    def __init__(self, path: str, n_gpu_layers: int = 0) -> None:
        super().__init__(path, n_gpu_layers)
        self._context: Any = None
        self._batch: Any = None

    def close(self) -> None:
        """Free the context and its memory; the model goes with the last reference. Safe to call twice."""
        if self._batch is not None:
            llama_cpp.llama_batch_free(self._batch)
        if self._context is not None:
            llama_cpp.llama_free(self._context)
        self._batch = self._context = None
