"""What an operator may set for a model, on real llama.cpp: LoRA adapters, the types of the KV cache."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from serve_app.engine.backend import LocalBackend
from serve_app.engine.loading import LocalModelOptions, load
from serve_app.engine.model import ModelLoadError
from tests.engine.asking import Answer, ask, request
from tests.model import model_path

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNT = "1, 2, 3, 4,"
N_EMBD, RANK = 576, 4


@asynccontextmanager
async def model(**options: Any) -> AsyncIterator[LocalBackend]:
    made = load(LocalModelOptions("llama", model_path(), n_context=256, n_slots=2, n_cells=512, n_threads=2, **options))
    try:
        yield made
    finally:
        await made.close()


async def answer(**options: Any) -> Answer:
    async with model(**options) as backend:
        return await ask(backend, request(COUNT, n=8, logprobs=0))


def adapter(path: Path, strength: float, n_embd: int = N_EMBD) -> str:
    """A LoRA adapter of the first layer's queries: ``strength`` * random A and B."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(RANK))
    for layer in range(30):
        name = f"blk.{layer}.attn_q.weight"
        writer.add_tensor(f"{name}.lora_a", random.standard_normal((RANK, n_embd), np.float32))
        writer.add_tensor(f"{name}.lora_b", strength * random.standard_normal((n_embd, RANK), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return str(path)


async def test_an_adapter_changes_the_model_by_its_scale(tmp_path: Path) -> None:
    plain = await answer()
    path = adapter(tmp_path / "a.gguf", 0.1)
    nothing = await answer(lora=((path, 0.0),))
    tuned = await answer(lora=((path, 1.0),))
    first = [each.logprobs()[0].logprob or 0.0 for each in (plain, nothing, tuned)]
    assert nothing.text() == plain.text()
    assert first[1] == pytest.approx(first[0], abs=1e-3)
    assert abs(first[2] - first[0]) > 0.01


async def test_an_adapter_that_does_not_fit_is_an_operators_error(tmp_path: Path) -> None:
    for path in (adapter(tmp_path / "narrow.gguf", 0.1, n_embd=64), str(tmp_path / "none.gguf"), model_path()):
        with pytest.raises(ModelLoadError, match="LoRA adapter 1"):
            load(LocalModelOptions("llama", model_path(), n_context=64, n_slots=1, n_cells=64, lora=((path, 1.0),)))


@pytest.mark.parametrize("types", [("q8_0", "q8_0"), ("q8_0", "q4_0")])
async def test_a_smaller_cache_answers_alike_cold_and_from_its_prefixes(types: tuple[str, str]) -> None:
    whole = await answer()
    async with model(type_k=types[0], type_v=types[1]) as backend:
        cold, warm = [await ask(backend, request(COUNT, n=8, logprobs=0)) for _ in range(2)]
    assert cold.text() == warm.text()
    assert warm.usage.cached_tokens > 0
    scores = [each.logprobs()[0].logprob or 0.0 for each in (whole, cold)]
    assert scores[1] == pytest.approx(scores[0], abs=0.3)
