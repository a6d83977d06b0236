"""Chains of llama.cpp's samplers, in llama-server's order."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

import llama_cpp

from serve_app.engine.llama import Llama
from serve_app.protocol import Dry, Mirostat, Sampling

_MIROSTAT_M = 100


def is_plain_greedy(sampling: Sampling) -> bool:
    """Then the answer is one ``argmax``, ten times cheaper than a chain."""
    changes = _penalises(sampling) or sampling.logit_bias or sampling.dry
    return (sampling.temperature <= 0 or sampling.top_k == 1) and not changes


def chain(llama: Llama, sampling: Sampling, seed: int, dry: Any = None) -> Any:
    """A new C chain, the caller's to free. It takes over ``dry``, a sampler made for it."""
    made = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
    for link in _links(llama, sampling, seed, dry):
        llama_cpp.llama_sampler_chain_add(made, link)
    return made


def _links(llama: Llama, sampling: Sampling, seed: int, dry: Any) -> Iterable[Any]:
    # 2**32 - 1 asks llama.cpp for a random seed.
    seed %= 0xFFFFFFFF
    if sampling.logit_bias:
        yield _bias(llama, sampling)
    if _penalises(sampling):
        yield llama_cpp.llama_sampler_init_penalties(
            llama.n_vocab,
            llama.n_cells if sampling.repeat_last_n < 0 else sampling.repeat_last_n,
            sampling.repeat_penalty,
            sampling.frequency_penalty,
            sampling.presence_penalty,
        )
    if dry is not None:
        yield dry
    if sampling.temperature <= 0:
        yield llama_cpp.llama_sampler_init_greedy()
    elif sampling.mirostat:
        yield _temperature(sampling)
        yield _mirostat(llama, sampling.mirostat, seed)
    else:
        yield from _truncations(sampling, seed)
        yield _temperature(sampling)
        yield llama_cpp.llama_sampler_init_dist(seed)


def _truncations(sampling: Sampling, seed: int) -> Iterable[Any]:
    if sampling.top_n_sigma is not None:
        yield llama_cpp.llama_sampler_init_top_n_sigma(sampling.top_n_sigma)
    if sampling.top_k > 0:
        yield llama_cpp.llama_sampler_init_top_k(sampling.top_k)
    if sampling.typical_p < 1:
        yield llama_cpp.llama_sampler_init_typical(sampling.typical_p, 1)
    if sampling.top_p < 1:
        yield llama_cpp.llama_sampler_init_top_p(sampling.top_p, 1)
    if sampling.min_p > 0:
        yield llama_cpp.llama_sampler_init_min_p(sampling.min_p, 1)
    if sampling.xtc:
        yield llama_cpp.llama_sampler_init_xtc(sampling.xtc.probability, sampling.xtc.threshold, 1, seed)


def _penalises(sampling: Sampling) -> bool:
    return bool(sampling.frequency_penalty or sampling.presence_penalty or sampling.repeat_penalty != 1.0)


def _bias(llama: Llama, sampling: Sampling) -> Any:
    pairs = [(token, bias) for token, bias in sampling.logit_bias if 0 <= token < llama.n_vocab]
    biases = (llama_cpp.llama_logit_bias * len(pairs))(*(llama_cpp.llama_logit_bias(*pair) for pair in pairs))
    return llama_cpp.llama_sampler_init_logit_bias(llama.n_vocab, len(pairs), biases)


def _temperature(sampling: Sampling) -> Any:
    moving = sampling.dynamic_temperature
    if moving is None:
        return llama_cpp.llama_sampler_init_temp(sampling.temperature)
    return llama_cpp.llama_sampler_init_temp_ext(sampling.temperature, moving.spread, moving.exponent)


def _mirostat(llama: Llama, mirostat: Mirostat, seed: int) -> Any:
    if mirostat.version == 1:
        return llama_cpp.llama_sampler_init_mirostat(llama.n_vocab, seed, mirostat.tau, mirostat.eta, _MIROSTAT_M)
    return llama_cpp.llama_sampler_init_mirostat_v2(seed, mirostat.tau, mirostat.eta)


# --- DRY ----------------------------------------------------------------------------------------------------------


class DryTemplate:
    """DRY samplers for these parameters. From any thread.

    Made away from the engine's thread: llama.cpp looks for each breaker through the whole vocabulary, 10 ms and more.
    """

    def __init__(self, llama: Llama, dry: Dry) -> None:
        self._last_n = llama.n_cells if dry.last_n < 0 else min(dry.last_n, llama.n_cells)
        breakers = [breaker.encode() for breaker in dry.breakers]
        self._handle: Any = llama_cpp.llama_sampler_init_dry(
            llama.vocab_handle,
            dry.multiplier,
            dry.base,
            dry.allowed_length,
            self._last_n,
            ctypes.cast((ctypes.c_char_p * len(breakers))(*breakers), ctypes.POINTER(ctypes.c_char_p)),
            len(breakers),
        )
        weakref.finalize(self, llama_cpp.llama_sampler_free, self._handle).atexit = False

    def sampler(self, history: Sequence[int]) -> Any:
        """A new C sampler, for a chain to own, that knows the prompt."""
        sampler = llama_cpp.llama_sampler_clone(self._handle)
        for token in history[-self._last_n :]:
            llama_cpp.llama_sampler_accept(sampler, token)
        return sampler
