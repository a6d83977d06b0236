"""llama.cpp's samplers under llama-server's names, on a real model: each does what it is for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from serve_app.engine.backend import LocalBackend
from serve_app.engine.loading import LocalModelOptions, load
from serve_app.protocol import Dry, DynamicTemperature, Mirostat, Xtc
from tests.engine.asking import ask, request
from tests.model import model_path

pytestmark = pytest.mark.asyncio(loop_scope="session")

COUNT = "1, 2, 3, 4,"
ROUND = "one two three one two three one two three one two"


@pytest_asyncio.fixture(loop_scope="session")
async def backend() -> AsyncIterator[LocalBackend]:
    """Fresh, on one thread: what is compared here to the letter was computed in the same steps each time."""
    made = load(LocalModelOptions("llama", model_path(), n_context=512, n_cells=1024, n_threads=1))
    for prompt in (COUNT, ROUND):
        await ask(made, request(prompt, n=1))
    yield made
    await made.close()


async def test_dry_breaks_a_repetition_that_the_prompt_began(backend: LocalBackend) -> None:
    """With the first token already, which would go on with what stands in the prompt three times."""
    assert (await ask(backend, request(ROUND, n=8))).text().startswith(" three one two three")
    assert not (await ask(backend, request(ROUND, n=8, dry=Dry(5.0)))).text().startswith(" three")


async def test_dry_looks_no_further_back_than_told(backend: LocalBackend) -> None:
    plain = (await ask(backend, request(ROUND, n=1))).text()
    assert (await ask(backend, request(ROUND, n=1, dry=Dry(50.0, last_n=2)))).text() == plain
    assert (await ask(backend, request(ROUND, n=1, dry=Dry(50.0, last_n=-1)))).text() != plain


async def test_a_breaker_ends_what_counts_as_repeated(backend: LocalBackend) -> None:
    plain = (await ask(backend, request(ROUND, n=1))).text()
    assert (await ask(backend, request(ROUND, n=1, dry=Dry(50.0, breakers=(" two",))))).text() == plain


async def test_xtc_leaves_out_the_likeliest_where_others_would_do(backend: LocalBackend) -> None:
    prompt = "My favourite animal is the"
    likely = (await ask(backend, request(prompt, n=1, logprobs=3))).logprobs()[0]
    options = {"temperature": 1.0, "top_k": 3}
    texts = [
        (await ask(backend, request(prompt, n=1, seed=seed, xtc=Xtc(1.0, 1e-6), **options))).text() for seed in range(8)
    ]
    assert set(texts) == {likely.top[-1][0]}


async def test_mirostat_is_its_own_master_and_repeats_with_its_seed(backend: LocalBackend) -> None:
    for mirostat in (Mirostat(1), Mirostat(2)):
        wanted: dict[str, Any] = {"temperature": 1.0, "n": 16, "mirostat": mirostat}
        first, again, other = [await ask(backend, request(COUNT, seed=seed, **wanted)) for seed in (1, 1, 2)]
        assert first.text() == again.text() != other.text()
    calm = await ask(backend, request(COUNT, n=8, temperature=1.0, seed=5, mirostat=Mirostat(2, tau=0.0, eta=1.0)))
    greedy = await ask(backend, request(COUNT, n=8))
    assert calm.text()[3:] in greedy.text() or calm.text() == greedy.text()


async def test_penalties_look_no_further_back_than_told(backend: LocalBackend) -> None:
    plain = (await ask(backend, request(ROUND, n=8))).text()
    assert (await ask(backend, request(ROUND, n=8, presence_penalty=2.0, repeat_last_n=0))).text() == plain
    assert (await ask(backend, request(ROUND, n=8, presence_penalty=2.0, repeat_last_n=8))).text() != plain
    assert (await ask(backend, request(ROUND, n=8, presence_penalty=2.0))).text() != plain


@pytest.mark.parametrize("narrow", [{"top_n_sigma": 1e-6}, {"dynamic_temperature": DynamicTemperature(0.0)}])
async def test_narrow_samplers_are_greedy(backend: LocalBackend, narrow: dict[str, object]) -> None:
    greedy = (await ask(backend, request(COUNT, n=5))).text()
    temperature = 1.0 if "top_n_sigma" in narrow else 1e-6
    assert (await ask(backend, request(COUNT, n=5, seed=3, temperature=temperature, **narrow))).text() == greedy
