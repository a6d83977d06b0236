"""Sampler: one per sequence. From a row of logits to a token, never one that its grammar forbids."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import llama_cpp
import numpy as np

from serve_app.engine.chain import chain, is_plain_greedy
from serve_app.engine.llama import Llama, Logits
from serve_app.protocol import Sampling, TokenLogprob

FLOOR = -9999.0


class Mask(Protocol):
    """What may come next, by a grammar. Advanced only with tokens it allowed."""

    def apply(self, logits: Logits) -> bool:
        """Set what is forbidden to -inf; False when the grammar allows nothing more."""
        ...

    def accept(self, token: int) -> None: ...

    @property
    def complete(self) -> bool:
        """Whether the text so far satisfies the grammar. If not, and nothing more is allowed, a limit was hit."""
        ...


@dataclass(frozen=True, slots=True)
class Sampled:
    """A token, and its log-probabilities when they are wanted (of the model's own distribution, before any change)."""

    token: int
    logprob: TokenLogprob | None = None


class Sampler:
    """Owns one C chain, freed with ``close``. ``dry``: what a ``DryTemplate`` made for it, where DRY is wanted."""

    def __init__(self, llama: Llama, sampling: Sampling, seed: int, mask: Mask | None = None, dry: Any = None) -> None:
        self._llama = llama
        self._sampling = sampling
        self._mask = mask
        self._ends = np.fromiter(llama.end_tokens, dtype=np.int64)
        self._greedy = is_plain_greedy(sampling)
        self._chain: Any = None if self._greedy else chain(llama, sampling, seed, dry)
        self._n_sampled = 0

    def sample(self, logits: Logits, position: int) -> Sampled | None:
        """The next token; None when nothing more is allowed. ``logits`` is the row at ``position`` and is changed."""
        distribution = Distribution(logits) if self._sampling.logprobs is not None else None
        if self._n_sampled < self._sampling.min_tokens or self._sampling.ignore_eos:
            logits[self._ends] = -np.inf
        if self._mask and not self._mask.apply(logits):
            return None
        token = self._pick(logits, position)
        # When everything is masked C silently returns the last id of the vocabulary: only the logit tells.
        if not math.isfinite(logits[token]):
            return None
        if self._mask:
            self._mask.accept(token)
        self._n_sampled += 1
        logprob = distribution.of(token, self._llama.pieces, self._sampling.logprobs or 0) if distribution else None
        return Sampled(token, logprob)

    def _pick(self, logits: Logits, position: int) -> int:
        if self._greedy:
            return int(logits.argmax())
        return int(llama_cpp.llama_sampler_sample(self._chain, self._llama.context_handle, position))

    @property
    def complete(self) -> bool:
        """Whether the answer may end here."""
        return self._mask is None or self._mask.complete

    def close(self) -> None:
        if self._chain is not None:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None


class Distribution:
    """The model's own log-probabilities of one row, copied before anything changes the logits."""

    def __init__(self, logits: Logits) -> None:
        top = float(logits.max())
        self._logprobs = logits - (top + math.log(float(np.exp(logits - top).sum())))

    def of(self, token: int, pieces: list[bytes], n_top: int) -> TokenLogprob:
        """The chosen token's log-probability and the ``n_top`` likeliest, best first."""
        return TokenLogprob(_text(pieces[token]), self._of(token), pieces[token], self._best(pieces, n_top))

    def _of(self, token: int) -> float:
        return max(float(self._logprobs[token]), FLOOR)

    def _best(self, pieces: list[bytes], n_top: int) -> tuple[tuple[str, float, bytes], ...]:
        if not n_top:
            return ()
        found = np.argpartition(self._logprobs, -n_top)[-n_top:]
        ordered = found[np.argsort(-self._logprobs[found], kind="stable")]
        return tuple((_text(pieces[token]), self._of(token), pieces[token]) for token in ordered)


def _text(piece: bytes) -> str:
    return piece.decode("utf-8", "replace")
