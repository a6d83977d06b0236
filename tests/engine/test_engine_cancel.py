"""Cancelling: free after at most one step, and nobody else notices."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.engine.llama import Decoded
from serve_app.protocol import Done, Failed
from tests.engine.fake_llama import FakeLlama, continuation
from tests.engine.running import Running, job, words


@pytest.mark.parametrize("at", range(12))
def test_a_job_cancelled_in_any_step_is_gone_in_the_next_and_the_others_go_on(at: int) -> None:
    def at_decode(n: int) -> None:
        if n == at:
            running.engine.cancel(victim)

    victim, heard = job([1, 2, 3] * 6, n=4000, choices=2)
    llama = FakeLlama(before_decode=at_decode)
    prompts = [[1, 2, 3], [7] * 11, [8]]
    with Running(llama) as running:
        running.submit((victim, heard))
        others = running.finish(*(job(p, n=20) for p in prompts))
        assert all(one.text() == words(continuation(p, 20)) for p, one in zip(prompts, others, strict=True))
        assert heard.terminals == []
        cancelled = {id(generation.sequence) for generation in victim.generations}
        assert not [c for plan in llama.plans[at + 1 :] for c in plan if id(c.sequence) in cancelled]
        assert running.engine.stats().n_busy_slots == running.engine.stats().n_waiting == 0


def test_a_job_cancelled_before_it_was_opened_never_runs() -> None:
    llama = FakeLlama()
    with Running(llama) as running:
        victim, heard = job([1])
        running.submit((victim, heard))
        running.engine.cancel(victim)
        running.engine.cancel(victim)
        running.finish(job([2]))
        assert heard.events == []


def test_what_a_cancelled_job_computed_stays_warm_for_its_tenant_only() -> None:
    prompt = list(range(1, 30))
    with Running(FakeLlama()) as running:
        victim, _ = job(prompt, n=4000)
        running.submit((victim, _))
        running.finish(job(prompt, n=1))
        running.engine.cancel(victim)
        same, other = running.finish(job(prompt, n=1), job(prompt, n=1, tenant="else"))
        assert isinstance(same.end, Done)
        assert same.end.usage.cached_tokens == len(prompt) - 1
        assert isinstance(other.end, Done)
        assert other.end.usage.cached_tokens == 0


_JOBS = st.tuples(
    st.lists(st.integers(1, 3), min_size=1, max_size=30), st.integers(0, 6), st.integers(1, 3), st.sampled_from("ab")
)


@settings(max_examples=120, deadline=None)
@given(
    st.lists(_JOBS, min_size=1, max_size=8),
    st.dictionaries(st.integers(0, 20), st.integers(0, 7), max_size=4),
    st.dictionaries(st.integers(1, 25), st.sampled_from([Decoded.NO_SPACE, Decoded.INVALID]), max_size=6),
    st.integers(36, 120),
)
def test_whatever_happens_every_job_ends_once_and_no_slot_leaks(wanted, cancels, script, n_cells) -> None:
    def at_decode(n: int) -> None:
        victim = cancels.get(n, len(jobs))
        if victim < len(jobs):
            running.engine.cancel(jobs[victim][0])

    jobs = [job(prompt, n=n, choices=choices, tenant=tenant) for prompt, n, choices, tenant in wanted]
    spared = [pair for at, pair in enumerate(jobs) if at not in cancels.values()]
    llama = FakeLlama(n_cells=n_cells, before_decode=at_decode)
    llama._outcome = lambda plan: script.get(llama.calls["decode"], Decoded.OK)
    with Running(llama) as running:
        running.submit(*(pair for pair in jobs if pair not in spared))
        running.finish(*spared, job([9], n=1))
        running.engine._slots.check()
        for at, (prompt, n, choices, _) in enumerate(wanted):
            heard = jobs[at][1]
            assert len(heard.terminals) <= 1
            answers = [heard.text(choice) for choice in range(choices)]
            expected = words(continuation(prompt, n))
            assert all(expected.startswith(answer) for answer in answers)
            if heard.terminals and not isinstance(heard.end, Failed):
                assert answers == [expected] * choices
        for pair in jobs:
            running.engine.cancel(pair[0])
        running.finish(job([9], n=1))
        stats = running.engine.stats()
        assert (stats.n_busy_slots, stats.n_running, stats.n_waiting) == (0, 0, 0)
        assert not running.engine._of
        assert not running.engine._jobs
