"""From a GGUF file to a backend that answers; every way in which that can fail, in one line for the operator."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serve_app.engine.backend import LocalBackend, LocalOptions
from serve_app.engine.embedder import Embedder, EmbedderOptions, Pooling
from serve_app.engine.embedding_backend import EmbeddingBackend, EmbeddingOptions
from serve_app.engine.families import dialect
from serve_app.engine.figures import EngineOptions
from serve_app.engine.llama import CacheType, Llama, LlamaOptions
from serve_app.engine.model import ModelLoadError
from serve_app.engine.prompt import Prompter
from serve_app.engine.template import CHATML, ChatTemplate, probe

_GGUF_MAGIC = b"GGUF"

_RESIDENTS = 4
"""Conversations that keep their prefix for each that runs: people read and type longer than a model answers."""

_MOST_SEQUENCES = 128
"""llama.cpp keeps room for a row of logits for each: 4 bytes for every token of the vocabulary."""


@dataclass(frozen=True, slots=True)
class LocalModelOptions:
    """One model as the operator declares it.

    ``copies``: paths where this node may have the same file nearer; the first that exists is read instead of ``path``.
    ``n_context``: most tokens of one conversation. ``n_cells``: KV cells that all ``n_slots`` conversations share,
    written as ``type_k`` and ``type_v`` say. ``lora``: adapters, each a path and a scale.
    """

    model: str
    path: str
    n_context: int = 4096
    n_slots: int = 16
    n_cells: int = 16384
    n_threads: int = 1
    n_gpu_layers: int = 0
    n_batch: int = 512
    n_prefill: int = 128
    n_queue: int = 256
    type_k: CacheType = "f16"
    type_v: CacheType = "f16"
    lora: tuple[tuple[str, float], ...] = ()
    copies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EmbeddingModelOptions:
    """One embedding model as the operator declares it. ``pooling`` None: as its file says.

    ``copies``: as those of a LocalModelOptions.
    ``n_context``: most tokens of one text. ``dimensions``: what its vectors may be cut to.
    """

    model: str
    path: str
    n_context: int = 512
    n_threads: int = 1
    n_gpu_layers: int = 0
    n_queue: int = 256
    pooling: Literal["mean", "cls", "last"] | None = None
    dimensions: tuple[int, ...] = ()
    copies: tuple[str, ...] = ()


def load(options: LocalModelOptions, on_death: Callable[[], None] = lambda: None) -> LocalBackend:
    """Open the model and start its engine. Blocks while the file is read. Raises ModelLoadError."""
    path = _nearest(options.copies, options.path)
    _check_file(path)
    n_resident = max(options.n_slots, min(_RESIDENTS * options.n_slots, _MOST_SEQUENCES))
    llama = Llama(
        LlamaOptions(
            path=str(path),
            n_cells=max(options.n_cells, options.n_context),
            n_slots=n_resident,
            n_batch=max(options.n_batch, n_resident),
            n_rows=max(128, n_resident),
            n_threads=options.n_threads,
            n_gpu_layers=options.n_gpu_layers,
            type_k=options.type_k,
            type_v=options.type_v,
            lora=options.lora,
        )
    )
    n_context = min(options.n_context, llama.n_train, llama.n_cells)
    return LocalBackend(
        llama,
        _prompter(llama, n_context),
        LocalOptions(
            model=options.model,
            created=int(path.stat().st_mtime),
            n_context=n_context,
            engine=EngineOptions(options.n_slots, n_resident, options.n_prefill, options.n_queue),
        ),
        new_id=lambda: uuid.uuid4().hex[:24],
        new_seed=lambda: random.getrandbits(32),
        on_death=on_death,
    )


def load_embedding(options: EmbeddingModelOptions, on_death: Callable[[], None] = lambda: None) -> EmbeddingBackend:
    """Open the embedding model and start its engine. Blocks while the file is read. Raises ModelLoadError."""
    path = _nearest(options.copies, options.path)
    _check_file(path)
    embedder = Embedder(
        EmbedderOptions(
            path=str(path),
            n_context=options.n_context,
            n_threads=options.n_threads,
            n_gpu_layers=options.n_gpu_layers,
            pooling=Pooling[options.pooling.upper()] if options.pooling else Pooling.MODEL,
        )
    )
    if any(size >= embedder.n_embd for size in options.dimensions):
        raise ModelLoadError(f"`dimensions` are sizes below that of its vectors, {embedder.n_embd}")
    return EmbeddingBackend(
        embedder,
        EmbeddingOptions(options.model, int(path.stat().st_mtime), options.dimensions, options.n_queue),
        on_death=on_death,
    )


def _nearest(copies: tuple[str, ...], path: str) -> Path:
    return next((Path(copy) for copy in copies if Path(copy).is_file()), Path(path))


def _check_file(path: Path) -> None:
    """llama.cpp says "failed to load" to everything; these are the cases an operator meets."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except FileNotFoundError:
        raise ModelLoadError("its file does not exist") from None
    except OSError:
        raise ModelLoadError("its file cannot be read") from None
    if magic != _GGUF_MAGIC:
        raise ModelLoadError("its file is not a GGUF file")


def _prompter(llama: Llama, n_context: int) -> Prompter:
    source = llama.chat_template or CHATML
    complaint = probe(source)
    if complaint:
        raise ModelLoadError(complaint)
    template = ChatTemplate(
        source,
        controls=llama.control_texts,
        bos=llama.written(llama.bos),
        eos=llama.written(llama.eos),
    )
    spoken = dialect(template, source)
    llama.show(spoken.controls)
    return Prompter(llama, template, spoken, n_context)
