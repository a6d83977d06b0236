"""What a replica of a model really takes: threads, CPUs, GPUs and bytes, as Ray is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from config.settings import ModelSettings

_OVERHEAD_BYTES = 512 << 20
"""The Python process with Ray, and llama.cpp's compute buffers: measured 350 MB."""

_BITS = {"f16": 16, "q8_0": 8.5, "q5_1": 6, "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5}
"""Of one number in a KV cell."""

_KV_BYTES_PER_FILE_BYTE = 1 / 4096
"""A KV cell takes about this share of the model file (SmolLM2-135M: 23 kB of 98 MB; an 8B model: 131 kB of 4.7 GB)."""


@dataclass(frozen=True, slots=True)
class ModelResources:
    """``n_threads`` for llama.cpp, the rest for Ray's scheduler; they say the same."""

    n_threads: int
    num_cpus: float
    memory_bytes: int
    num_gpus: float = 0
    accelerator_type: str | None = None
    custom: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    def actor_options(self) -> dict[str, Any]:
        """``ray_actor_options`` of the deployment."""
        options: dict[str, Any] = {"num_cpus": self.num_cpus, "memory": self.memory_bytes}
        if self.num_gpus:
            options["num_gpus"] = self.num_gpus
        if self.accelerator_type:
            options["accelerator_type"] = self.accelerator_type
        if self.custom:
            options["resources"] = dict(self.custom)
        if self.labels:
            options["label_selector"] = dict(self.labels)
        return options


def plan(models: Mapping[str, ModelSettings], n_cpus: int) -> dict[str, ModelResources]:
    """Share the machine's CPUs: models that name their threads get them, the others an equal part of what is left.

    A part below one CPU means one thread that shares its core. The ingress and the store are not counted: they wait
    on sockets, and a thread of llama.cpp that waits passively leaves them the time they need.
    """
    named = sum(model.threads or 0 for model in models.values())
    unnamed = sum(model.threads is None for model in models.values())
    part = max((n_cpus - named) / unnamed, 0.1) if unnamed else 0.0
    return {name: _resources(model, part) for name, model in models.items()}


def _resources(model: ModelSettings, part: float) -> ModelResources:
    n_threads = model.threads or max(1, int(part))
    return ModelResources(
        n_threads=n_threads,
        num_cpus=model.threads or (int(part) if part >= 1 else round(part, 2)),
        memory_bytes=model.memory_bytes or _memory(model),
        num_gpus=model.num_gpus,
        accelerator_type=model.accelerator_type,
        custom=model.resources,
        labels=model.labels,
    )


def _memory(model: ModelSettings) -> int:
    try:
        size = model.file.stat().st_size
    except OSError:
        size = 0
    bits = (_BITS[model.cache_type_k] + _BITS[model.cache_type_v]) / 2
    return _OVERHEAD_BYTES + size + int(size * _KV_BYTES_PER_FILE_BYTE * bits / _BITS["f16"] * model.n_cells)


def total_cpus(models: Mapping[str, ModelSettings], n_cpus: int) -> float:
    """CPUs that one replica of every model takes together."""
    return sum(each.num_cpus for each in plan(models, n_cpus).values())
