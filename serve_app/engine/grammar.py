"""Constraints -> token masks, by llguidance. Compiled off the event loop, within stated budgets, cached by content."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import llguidance
import llguidance.llamacpp
import numpy as np

from serve_app.engine.llama import Llama, Logits
from serve_app.engine.sampler import Mask
from serve_app.protocol import Constraint

MAX_SOURCE_BYTES = 64 * 1024
_CACHE_SIZE = 256
_COMPACT = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""Small models left free to write white space write nothing else for long stretches."""


class GrammarError(Exception):
    """The constraint cannot be compiled; the message says why, for the client."""


class Grammars:
    """Compiler of one vocabulary's constraints. ``compile`` blocks (up to seconds): never call it on an event loop."""

    def __init__(self, llama: Llama) -> None:
        self._llama = llama
        self._lock = threading.Lock()
        self._tokenizer: Any = None
        self._compiled: OrderedDict[Constraint, Any] = OrderedDict()

    def compile(self, constraint: Constraint) -> Callable[[], Mask]:
        """A factory of fresh masks, one per choice. Raises GrammarError."""
        if len(constraint.source.encode()) > MAX_SOURCE_BYTES:
            raise GrammarError(f"the schema or grammar is larger than {MAX_SOURCE_BYTES} bytes")
        with self._lock:
            matcher = self._compiled.get(constraint)
            if matcher is None:
                matcher = self._compile(constraint)
                self._compiled[constraint] = matcher
            self._compiled.move_to_end(constraint)
            if len(self._compiled) > _CACHE_SIZE:
                self._compiled.popitem(last=False)
        return lambda: GrammarMask(matcher.deep_copy(), self._llama.n_vocab)

    def _compile(self, constraint: Constraint) -> Any:
        self._tokenizer = self._tokenizer or self._read_vocabulary()
        try:
            if constraint.kind == "json_schema":
                grammar = llguidance.LLMatcher.grammar_from_json_schema(constraint.source, defaults=_COMPACT)
            else:
                grammar = llguidance.grammar_from(constraint.kind, constraint.source)
        except ValueError as error:
            raise GrammarError("the schema is not a JSON object") from error
        limits = llguidance.LLParserLimits(verbose_errors=False)
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=limits)
        if matcher.is_error():
            raise GrammarError(" ".join(str(matcher.get_error()).split())[:300])
        return matcher

    def _read_vocabulary(self) -> Any:
        """About 0.1 s for 49,000 tokens; done at the first constraint."""
        ends = [self._llama.eos, *sorted(self._llama.end_tokens - {self._llama.eos})]
        return llguidance.llamacpp.lltokenizer_from_vocab(self._llama.vocab_handle, eos_token=ends)


class GrammarMask:
    """One choice's walk through a grammar."""

    def __init__(self, matcher: Any, n_vocab: int) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._bits = np.zeros((n_vocab + 31) // 32, dtype=np.int32)

    def apply(self, logits: Logits) -> bool:
        if self._matcher.is_stopped():
            return False
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        allowed = np.unpackbits(self._bits.view(np.uint8), bitorder="little")[: self._n_vocab]
        np.putmask(logits, allowed == 0, -np.inf)
        return bool(allowed.any())

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
