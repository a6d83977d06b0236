"""LoRA adapters of a model: applied once, when it is opened.

A context computes all its sequences with the same adapters, and KV cells computed with one are wrong with another. So
an adapter belongs to a model, not to a request: two fine-tunes of one base are two models over the same file, whose
weights the operating system keeps in memory once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import llama_cpp

from serve_app.engine.model import ModelLoadError


def apply(model: Any, context: Any, adapters: Sequence[tuple[str, float]]) -> None:
    """Put (path, scale) pairs on the context. They are freed with the model. Raises ModelLoadError."""
    if not adapters:
        return
    handles = [_read(model, path, number) for number, (path, _) in enumerate(adapters, 1)]
    many = len(adapters)
    pointers = (llama_cpp.llama_adapter_lora_p_ctypes * many)(
        *(ctypes.cast(handle, llama_cpp.llama_adapter_lora_p_ctypes) for handle in handles)
    )
    scales = (ctypes.c_float * many)(*(scale for _, scale in adapters))
    if llama_cpp.llama_set_adapters_lora(context, pointers, many, scales):
        raise ModelLoadError("llama.cpp cannot apply its LoRA adapters")


def _read(model: Any, path: str, number: int) -> Any:
    handle = llama_cpp.llama_adapter_lora_init(model, path.encode())
    if not handle:
        raise ModelLoadError(f"its LoRA adapter {number} cannot be read, or is not made for this model")
    return handle
