"""Company, cache, cancellations and lack of space change no answer; nothing leaks."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading

import pytest

from serve_app.engine.backend import LocalBackend
from serve_app.engine.generation import Generation, Job
from serve_app.engine.llama import Decoded, Llama, LlamaOptions
from serve_app.engine.loading import LocalModelOptions, load
from serve_app.engine.sequence import Chunk, Sequence
from serve_app.protocol import Done
from tests.engine.asking import Answer, ask, chat, leave, request
from tests.model import model_path

pytestmark = pytest.mark.asyncio(loop_scope="session")

N_CASES = 64
N_PROMPTS = 12
N_TOKENS = 6
UNDECIDED = 0.7
"""The size of rounding in log-probabilities: kernels differ by the size of the batch and the place of the cells."""

STEMS = ["Once upon a time", "The sea is", "def add(a, b):", "List three fruits:", "Why is the sky blue? Because"]
TAILS = ["", " and", " there was", " in the morning we", "\n\n", " one two three four five six seven", " été 漢字"]


def same(alone: Answer, other: Answer) -> bool:
    """Token for token, up to the first place where the model itself was undecided."""
    for expected, got in zip(alone.logprobs(), other.logprobs(), strict=True):
        if expected.token != got.token:
            best = expected.top[0][1]
            return got.token in [token for token, logprob, _ in expected.top if logprob > best - UNDECIDED]
    return True


async def test_batched_and_cached_equal_alone_and_cold_whoever_leaves(backend: LocalBackend) -> None:
    random_ = random.Random(11)
    texts = random_.sample([stem + tail for stem in STEMS for tail in TAILS], N_PROMPTS)
    alone = {t: await ask(backend, request(t, n=N_TOKENS, logprobs=8, tenant=f"cold {t}")) for t in texts}
    gate = asyncio.Semaphore(12)

    async def case() -> None:
        text = random_.choice(texts)
        wanted = request(text, n=N_TOKENS, logprobs=8, tenant=random_.choice("xyz"))
        async with gate:
            if random_.random() < 0.3:
                await leave(backend, wanted, random_.randrange(4))
            else:
                assert same(alone[text], await ask(backend, wanted))

    await asyncio.gather(*(case() for _ in range(N_CASES)))
    assert backend.engine.stats().n_cached_tokens > 0


async def test_what_others_hold_in_the_memory_never_changes_a_bit() -> None:
    """The same cells are taken in both runs; only what stands in the others' differs."""
    llama = Llama(LlamaOptions(model_path(), n_cells=1024, n_slots=3, n_batch=64, n_threads=2))
    tokens = llama.tokenize("The capital of France is Paris. The capital of Italy is", special=False)

    def run(seed: int) -> list[bytes]:
        random_ = random.Random(seed)
        crowd = [[random_.randrange(100, 40_000) for _ in range(8 * len(tokens))] for _ in range(2)]
        sequences = [Sequence(list(held), "t") for held in (tokens, *crowd)]
        rows = []
        for seq_id, sequence in enumerate(sequences):
            sequence.seq_id = seq_id
            llama.forget(seq_id, 0)
        for at in range(len(tokens)):
            plan = [
                Chunk(sequences[0], at, 1, 1, 0),
                *(Chunk(s, 8 * at, 8, 1, n) for n, s in enumerate(sequences[1:], 1)),
            ]
            assert llama.decode(plan) is Decoded.OK
            rows.append(llama.logits(plan[0], 0)[0].tobytes())
            if at == len(tokens) // 2:
                llama.forget(1, 4 * at)
                sequences[1].tokens[4 * at :] = []
                sequences.pop(1)
        return rows

    first, second = run(1), run(2)
    llama.close()
    assert first == second


async def test_four_long_and_twelve_short_all_end_properly_where_memory_is_short() -> None:
    tiny = load(LocalModelOptions("tiny", model_path(), n_context=192, n_cells=256, n_threads=2))
    try:
        long = [request(f"{at} " + "very " * 70, n=8, tenant=f"{at}", ignore_eos=True) for at in range(4)]
        short = [request(f"Number {at}", n=3, tenant=f"{at}", ignore_eos=True) for at in range(12)]
        answers = await asyncio.gather(*(ask(tiny, wanted) for wanted in long + short))
        assert all(isinstance(answer.end, Done) for answer in answers)
        assert [answer.usage.completion_tokens for answer in answers] == [8] * 4 + [3] * 12
        assert tiny.engine.stats().n_busy_slots == 0
    finally:
        await tiny.close()


def _held() -> tuple[int, int, int, int]:
    gc.collect()
    jobs = sum(isinstance(thing, Job | Generation) for thing in gc.get_objects())
    return len(asyncio.all_tasks()), threading.active_count(), len(os.listdir("/proc/self/fd")), jobs  # noqa: PTH208


async def test_hundreds_of_chats_leave_no_slot_task_thread_or_file_behind(backend: LocalBackend) -> None:
    def wanted(at: int, n: int) -> object:
        return request(chat(f"Hello {at}"), n=n, temperature=1.0, logit_bias=((5, -1.0),))

    await ask(backend, wanted(0, 1))
    before = _held()
    for at in range(200):
        await (leave(backend, wanted(at, 4), 1) if at % 10 == 9 else ask(backend, wanted(at, 1)))
    await asyncio.gather(*(ask(backend, wanted(at, 2)) for at in range(16)))
    await ask(backend, wanted(0, 1))
    stats = backend.engine.stats()
    assert (stats.n_busy_slots, stats.n_running, stats.n_waiting) == (0, 0, 0)
    assert all(now <= then + 1 for now, then in zip(_held(), before, strict=True))
    backend.engine._slots.check()


async def test_a_stream_of_silence_still_shows_signs_of_life(backend: LocalBackend) -> None:
    """What waits in the queue hears an empty list from time to time."""
    streams = [backend.generate(request(f"{at}", n=200, ignore_eos=True)) for at in range(17)]
    for stream in streams:
        first = await anext(stream)
        if not first:
            break
    else:
        pytest.fail("17 streams ran in 16 slots")
    for stream in streams:
        await stream.aclose()
    assert (await ask(backend, request("after", n=1))).finish() == "length"
