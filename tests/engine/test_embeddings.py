"""Embeddings by llama.cpp: what they are, held against the model's own arithmetic."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from serve_app.engine.embedding_backend import EmbeddingBackend
from serve_app.engine.loading import EmbeddingModelOptions, load_embedding
from serve_app.engine.model import ModelLoadError
from serve_app.protocol import Done, Embed, Embedded, Failed, FailureCode, Generate, Started, Text
from tests.minilm import REFERENCE, minilm_path
from tests.minilm_reference import N_EMBD, SENTENCES
from tests.model import model_path

pytestmark = pytest.mark.asyncio(loop_scope="session")

_ids = itertools.count()
TEXTS = tuple(SENTENCES)


def embedding(*inputs: str | tuple[int, ...], **options: Any) -> Embed:
    return Embed(f"e{next(_ids)}", "t", "mini", inputs, **options)


async def vectors(backend: EmbeddingBackend, wanted: Embed) -> Any:
    """One row for each text, in the order of the texts."""
    found: dict[int, bytes] = {}
    events = [event async for batch in backend.generate(wanted) for event in batch]
    assert isinstance(events[0], Started), events[0]
    assert isinstance(events[-1], Done), events[-1]
    assert events[0].prompt_tokens == events[-1].usage.prompt_tokens
    for event in events[1:-1]:
        assert isinstance(event, Embedded)
        found |= dict(event.vectors)
    return np.stack([np.frombuffer(found[at], "<f4") for at in range(len(wanted.inputs))])


async def refusal(backend: EmbeddingBackend, wanted: Embed | Generate) -> Failed:
    events = [event async for batch in backend.generate(wanted) for event in batch]
    assert len(events) == 1
    assert isinstance(events[0], Failed)
    return events[0]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def minilm() -> AsyncIterator[EmbeddingBackend]:
    made = load_embedding(EmbeddingModelOptions("mini", minilm_path(), n_threads=2, dimensions=(64, 128)))
    yield made
    await made.close()


async def test_vectors_are_those_of_the_models_own_arithmetic(minilm: EmbeddingBackend) -> None:
    cosines = (await vectors(minilm, embedding(*TEXTS)) * np.load(REFERENCE)).sum(axis=1)
    assert cosines.min() > 0.9999, cosines


async def test_texts_that_mean_the_same_are_closer(minilm: EmbeddingBackend) -> None:
    eating, meal, crash, equities, _ = await vectors(minilm, embedding(*TEXTS))
    assert eating @ meal > 0.5 > eating @ crash
    assert crash @ equities > 0.3 > meal @ equities


async def test_token_ids_are_taken_as_they_are(minilm: EmbeddingBackend) -> None:
    """Hugging Face's ids, [CLS] and [SEP] included, give what the text gives."""
    by_text = await vectors(minilm, embedding(*TEXTS))
    by_ids = await vectors(minilm, embedding(*(tuple(ids) for ids in SENTENCES.values())))
    np.testing.assert_allclose(by_ids, by_text, atol=1e-5)


async def test_a_text_gets_the_same_vector_alone_and_among_many(minilm: EmbeddingBackend) -> None:
    texts = tuple(f"{text} {' and so on' * (number % 7)} {number}" for number in range(40) for text in TEXTS[:3])
    several = [embedding(*texts[at : at + 30]) for at in range(0, len(texts), 30)]
    together = np.concatenate(await asyncio.gather(*(vectors(minilm, one) for one in several)))
    for at in (0, 29, 30, 61, 119):
        alone = await vectors(minilm, embedding(texts[at]))
        assert float(alone[0] @ together[at]) > 0.9999, at


async def test_requests_share_batches(minilm: EmbeddingBackend) -> None:
    before = minilm.engine.stats().n_batches
    await asyncio.gather(*(vectors(minilm, embedding(f"number {at}")) for at in range(64)))
    assert minilm.engine.stats().n_batches - before < 32


async def test_vectors_are_of_length_one_also_when_cut(minilm: EmbeddingBackend) -> None:
    whole, cut = [await vectors(minilm, embedding(*TEXTS, dimensions=size)) for size in (N_EMBD, 64)]
    assert whole.shape == (len(TEXTS), N_EMBD)
    assert cut.shape == (len(TEXTS), 64)
    for rows in (whole, cut):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(cut, whole[:, :64] / np.linalg.norm(whole[:, :64], axis=1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("size", [1, 100, N_EMBD + 1])
async def test_a_size_the_model_was_not_declared_for_is_refused(minilm: EmbeddingBackend, size: int) -> None:
    failed = await refusal(minilm, embedding("a", dimensions=size))
    assert (failed.code, failed.param) == (FailureCode.INVALID_REQUEST, "dimensions")
    assert "64, 128, 384" in failed.message


async def test_a_text_that_is_too_long_is_refused_and_named(minilm: EmbeddingBackend) -> None:
    failed = await refusal(minilm, embedding("short", "word " * 511))
    assert (failed.code, failed.param) == (FailureCode.CONTEXT_LENGTH, "input[1]")
    assert "513 tokens" in failed.message
    hopeless = await refusal(minilm, embedding("word " * 100_000))
    assert (hopeless.code, hopeless.param) == (FailureCode.CONTEXT_LENGTH, "input")


async def test_a_text_is_cut_where_the_client_says_so(minilm: EmbeddingBackend) -> None:
    whole = await vectors(minilm, embedding("word " * 510))
    cut = await vectors(minilm, embedding("word " * 5000, truncate_to=10**9))
    np.testing.assert_allclose(cut, whole, atol=1e-5)
    four = await vectors(minilm, embedding("one two three four", truncate_to=4))
    np.testing.assert_allclose(four, await vectors(minilm, embedding("one two")), atol=1e-5)
    failed = await refusal(minilm, embedding("one", truncate_to=2))
    assert failed.param == "truncate_prompt_tokens"


async def test_ids_of_another_vocabulary_are_refused_with_the_way_out(minilm: EmbeddingBackend) -> None:
    failed = await refusal(minilm, embedding((101, 2), (99_000,)))
    assert (failed.code, failed.param) == (FailureCode.INVALID_REQUEST, "input[1]")
    assert "send text" in failed.message
    assert "30521" in failed.message


async def test_who_asks_an_embedding_model_for_text_is_told_so(minilm: EmbeddingBackend) -> None:
    failed = await refusal(minilm, Generate("g", "t", "mini", (Text("hi"),)))
    assert (failed.code, failed.param) == (FailureCode.INVALID_REQUEST, "model")


async def test_a_decoder_embeds_by_its_last_token() -> None:
    options = EmbeddingModelOptions("smol", model_path(), n_context=256, n_threads=2, pooling="last")
    backend = load_embedding(options)
    try:
        texts = ("The cat sat on the mat.", "A cat is sitting on a rug.", "def main(): return 42")
        rows = await vectors(backend, embedding(*texts))
        again = await vectors(backend, embedding(*reversed(texts)))
    finally:
        await backend.close()
    assert rows[0] @ rows[1] > rows[0] @ rows[2]
    assert (rows * again[::-1]).sum(axis=1).min() > 0.999


async def test_a_model_that_names_no_pooling_is_not_served_without_one() -> None:
    with pytest.raises(ModelLoadError, match="pooling"):
        load_embedding(EmbeddingModelOptions("smol", model_path()))


@pytest.mark.parametrize(
    "texts",
    [
        [],
        [()],
        [(101,)] * 65,
        [(101,) * 513],
        [(101,) * 300, (101,) * 300],
        [(-1,)],
        [(30522,)],
    ],
    ids=["nothing", "an empty text", "too many texts", "too long", "too much", "negative", "no such token"],
)
async def test_what_llama_would_abort_on_never_reaches_it(
    minilm: EmbeddingBackend, texts: list[tuple[int, ...]]
) -> None:
    with pytest.raises(ValueError, match="abort"):
        minilm._embedder.embed(texts)
    assert (await vectors(minilm, embedding("a"))).shape == (1, N_EMBD)
