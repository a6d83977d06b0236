"""all-MiniLM-L6-v2's own arithmetic, in numpy and float32: what an embedding of it must be, whoever computes it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Tensors = dict[str, np.ndarray[Any, Any]]
N_EMBD, N_LAYERS, N_HEADS, EPSILON = 384, 6, 12, 1e-12

SENTENCES: dict[str, list[int]] = {
    "A man is eating food.": [101, 1037, 2158, 2003, 5983, 2833, 1012, 102],
    "Someone has a meal.": [101, 2619, 2038, 1037, 7954, 1012, 102],
    "The stock market crashed in 1929.": [101, 1996, 4518, 3006, 8007, 1999, 4612, 1012, 102],
    "Équities fell sharply during the Great Depression!": [
        *(101, 1041, 15549, 7368, 3062, 9249, 2076, 1996, 2307, 6245, 999, 102)
    ],
    "naïve café 北京": [101, 15743, 7668, 1781, 1755, 102],
}
"""Texts, and their token ids as Hugging Face's tokenizer of the model gives them."""

_erf = np.vectorize(math.erf, otypes=[np.float32])


def embed(tensors: Tensors, tokens: list[int]) -> np.ndarray[Any, Any]:
    """The mean of the last layer over all tokens, of length 1."""
    words = tensors["embeddings.word_embeddings.weight"][tokens]
    positions = tensors["embeddings.position_embeddings.weight"][: len(tokens)]
    state = _norm(
        tensors, "embeddings.LayerNorm", words + positions + tensors["embeddings.token_type_embeddings.weight"][0]
    )
    for layer in range(N_LAYERS):
        state = _layer(tensors, f"encoder.layer.{layer}", state)
    mean = state.mean(axis=0)
    return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)


def _layer(tensors: Tensors, name: str, state: Any) -> Any:
    seen = _dense(tensors, f"{name}.attention.output.dense", _attention(tensors, f"{name}.attention.self", state))
    state = _norm(tensors, f"{name}.attention.output.LayerNorm", state + seen)
    inner = _dense(tensors, f"{name}.intermediate.dense", state)
    inner = inner * 0.5 * (1 + _erf(inner / math.sqrt(2)))
    return _norm(tensors, f"{name}.output.LayerNorm", state + _dense(tensors, f"{name}.output.dense", inner))


def _attention(tensors: Tensors, name: str, state: Any) -> Any:
    query, key, value = (_heads(_dense(tensors, f"{name}.{one}", state)) for one in ("query", "key", "value"))
    scores = query @ key.transpose(0, 2, 1) / math.sqrt(N_EMBD / N_HEADS)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    seen = (weights / weights.sum(axis=-1, keepdims=True)) @ value
    return seen.transpose(1, 0, 2).reshape(len(state), N_EMBD)


def _heads(rows: Any) -> Any:
    return rows.reshape(len(rows), N_HEADS, -1).transpose(1, 0, 2)


def _dense(tensors: Tensors, name: str, rows: Any) -> Any:
    return rows @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]


def _norm(tensors: Tensors, name: str, rows: Any) -> Any:
    centred = rows - rows.mean(axis=-1, keepdims=True)
    spread = np.sqrt(centred.var(axis=-1, keepdims=True) + EPSILON)
    return centred / spread * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]
