"""The engine when llama.cpp misbehaves: every job ends exactly once, and only who must suffer does."""

from __future__ import annotations

import threading

import pytest

from serve_app.engine.engine import Outbox
from serve_app.engine.llama import Decoded
from serve_app.protocol import Done, Event, Failed, FailureCode
from tests.engine.fake_llama import FakeLlama, continuation
from tests.engine.running import PATIENCE_S, Heard, Running, deliver, job, words
from tests.fakes import FakeClock

POISON = 13


def code(end: Event) -> FailureCode | None:
    return end.code if isinstance(end, Failed) else None


def test_every_job_gets_its_own_text_and_one_good_end() -> None:
    prompts = [[1, 2, 3], [1, 2, 3, 4], [9] * 50, [5]]
    with Running(FakeLlama(), n_slots=3) as running:
        for prompt, heard in zip(prompts, running.finish(*(job(p, n=6) for p in prompts)), strict=True):
            assert isinstance(heard.end, Done)
            assert heard.started == 1
            assert heard.text() == words(continuation(prompt, 6))


def test_choices_and_prompts_of_one_job_end_together_and_the_prompt_is_computed_once() -> None:
    llama = FakeLlama()
    with Running(llama) as running:
        (heard,) = running.finish(job([1, 2, 3, 4, 5], [6, 7], n=3, choices=3))
        assert [heard.text(at) for at in range(6)] == 3 * [words(continuation([1, 2, 3, 4, 5], 3))] + 3 * [
            words(continuation([6, 7], 3))
        ]
        assert isinstance(heard.end, Done)
        assert (heard.end.usage.prompt_tokens, heard.end.usage.completion_tokens) == (7, 18)
        # The choices that follow compute the last token of the prompt, for its logits.
        assert running.engine.stats().n_prompt_tokens == 5 + 2 + 2 * 2


def test_only_the_culprit_of_a_refused_batch_fails() -> None:
    llama = FakeLlama(outcome=_refuses_poison)
    prompts = [[1, 2, 3], [4, 5, POISON, 6], [7, 8], [9] * 20]
    with Running(llama) as running:
        good, bad, other, long = running.finish(*(job(p, n=5) for p in prompts))
        assert code(bad.end) is FailureCode.INTERNAL
        for prompt, heard in ((prompts[0], good), (prompts[2], other), (prompts[3], long)):
            assert heard.text() == words(continuation(prompt, 5))
            assert isinstance(heard.end, Done)


def _refuses_poison(plan: object) -> Decoded:
    chunks = [c.sequence.tokens[c.start : c.start + c.count] for c in plan]  # type: ignore[attr-defined]
    return Decoded.INVALID if any(POISON in tokens for tokens in chunks) else Decoded.OK


def test_a_job_that_cannot_be_set_up_fails_alone() -> None:
    def no_mask() -> None:
        raise OSError("no grammar")

    with Running(FakeLlama()) as running:
        (bad, heard), good = job([1], [2], n=2), job([3], n=2)
        bad.mask = no_mask  # type: ignore[assignment]
        running.finish((bad, heard), good)
        assert code(heard.end) is FailureCode.INTERNAL
        assert good[1].text() == words(continuation([3], 2))


def test_a_refused_job_with_many_choices_fails_once() -> None:
    with Running(FakeLlama(outcome=_refuses_poison)) as running:
        bad, good = running.finish(job([POISON], [POISON, 1], n=2, choices=2), job([1], n=2))
        assert code(bad.end) is FailureCode.INTERNAL
        assert isinstance(good.end, Done)


def test_four_long_and_twelve_short_all_end_properly_on_little_memory() -> None:
    llama = FakeLlama(n_cells=48)
    prompts = [[at] * 30 for at in range(1, 5)] + [[40 + at] * 3 for at in range(12)]
    with Running(llama, n_slots=8) as running:
        heard = running.finish(*(job(p, n=10) for p in prompts))
        for prompt, one in zip(prompts, heard, strict=True):
            assert isinstance(one.end, Done)
            assert one.text() == words(continuation(prompt, 10))
        assert running.engine.stats().n_busy_slots == 0


def test_lack_of_space_takes_idle_prefixes_then_the_youngest_then_the_largest() -> None:
    llama = FakeLlama(n_cells=40)
    with Running(llama) as running:
        running.finish(job([50] * 12, n=1, tenant="idle"))
        idle_seq = llama.plans[0][0].sequence
        old, young = running.finish(job([1] * 10, n=12), job([2] * 10, n=12))
        assert isinstance(old.end, Done)
        assert isinstance(young.end, Done)
        assert young.text() == words(continuation([2] * 10, 12))
        assert (0, 0) in llama.forgotten[1:], "the idle prefix went first"
        assert idle_seq.seq_id is None
        (big,) = running.finish(job([3] * 20, n=100))
        assert code(big.end) is FailureCode.CONTEXT_LENGTH
        assert isinstance(big.end, Failed)
        assert big.end.usage.completion_tokens == 21, "it went as far as the memory did"


def test_a_memory_that_is_always_full_fails_every_job_instead_of_turning_for_ever() -> None:
    llama = FakeLlama(outcome=lambda plan: Decoded.NO_SPACE)
    with Running(llama) as running:
        heard = running.finish(*(job([at, at], n=3) for at in range(1, 7)))
        assert {code(one.end) for one in heard} == {FailureCode.CONTEXT_LENGTH}


@pytest.mark.parametrize("at", [1, 2, 5])
@pytest.mark.parametrize("site", ["decode", "forget", "share", "logits"])
def test_whatever_call_breaks_every_job_ends_with_engine_lost(site: str, at: int) -> None:
    running = Running(FakeLlama(breaks={site: at}))
    _all_lost(running, running.finish(*_sharing_jobs()))


@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_fatal_decode_ends_every_job_with_engine_lost(at: int) -> None:
    llama = FakeLlama(outcome=lambda plan: Decoded.FATAL if llama.calls["decode"] > at else Decoded.OK)
    running = Running(llama)
    _all_lost(running, running.finish(*_sharing_jobs()))


@pytest.mark.parametrize("at", [1, 2, 5])
def test_events_that_could_not_be_published_are_not_lost(at: int) -> None:
    calls = []

    def publish(outbox: Outbox) -> None:
        calls.append(len(outbox))
        if len(calls) == at:
            raise OSError("no way out")
        deliver(outbox)

    running = Running(FakeLlama(), publish=publish)
    heard = running.finish(*_sharing_jobs())
    _all_lost(running, heard)
    assert heard[0].started == 1


def test_an_engine_that_can_tell_nobody_still_reports_its_death() -> None:
    def publish(outbox: Outbox) -> None:
        raise OSError("no way out")

    running = Running(FakeLlama(), publish=publish)
    running.submit(job([1]))
    running.engine.start()
    assert running.dead.wait(PATIENCE_S)
    running.engine.close()
    assert running.n_deaths == 1


def _sharing_jobs() -> list[tuple]:  # type: ignore[type-arg]
    """More than fit at once, with prefixes to share, so that every call site is reached while others wait."""
    return [job([1, 2, 3, 4], n=9, choices=2), *(job([1, 2, 3, at], n=9) for at in range(5, 15))]


def _all_lost(running: Running, heard: list[Heard]) -> None:
    assert running.dead.wait(PATIENCE_S)
    assert running.llama.closed.wait(PATIENCE_S)
    running.engine.close()
    assert not running.engine.alive
    assert running.n_deaths == 1
    ends = [one.end for one in heard]
    assert any(code(end) is FailureCode.ENGINE_LOST for end in ends)
    assert all(isinstance(end, Done) or code(end) is FailureCode.ENGINE_LOST for end in ends)


def test_who_comes_after_the_end_is_told_at_once() -> None:
    with Running(FakeLlama(breaks={"decode": 1})) as running:
        running.finish(job([1]))
        assert running.llama.closed.wait(PATIENCE_S)
        (late,) = running.submit(job([2]))
        assert code(late.end) is FailureCode.ENGINE_LOST


def test_closing_ends_running_and_waiting_jobs_with_shutting_down() -> None:
    reached = threading.Event()
    llama = FakeLlama(before_decode=lambda n: reached.set() if n == 3 else None)
    with Running(llama, n_slots=2) as running:
        heard = running.submit(*(job([at], n=4000) for at in range(1, 6)))
        running.engine.start()
        assert reached.wait(PATIENCE_S)
        running.engine.close()
        assert {code(one.end) for one in heard} == {FailureCode.SHUTTING_DOWN}
        assert running.n_deaths == 0
        (late,) = running.submit(job([9]))
        assert code(late.end) is FailureCode.SHUTTING_DOWN


def test_a_job_cancelled_after_its_end_hears_nothing_when_the_engine_dies() -> None:
    """The consumer of every answer cancels it in the end: such a message may be the last in the inbox."""
    done, heard = job([1], n=1)
    llama = FakeLlama(breaks={"decode": 5}, before_decode=lambda n: running.engine.cancel(done) if n == 4 else None)
    running = Running(llama)
    _, other = running.finish((done, heard), job([2], n=4000))
    assert isinstance(heard.end, Done)
    assert code(other.end) is FailureCode.ENGINE_LOST


def test_a_decode_that_never_returns_shows_as_a_growing_stall() -> None:
    entered, release, clock = threading.Event(), threading.Event(), FakeClock()

    def hang(n: int) -> None:
        entered.set()
        release.wait(PATIENCE_S)

    with Running(FakeLlama(before_decode=hang), clock=clock) as running:
        (heard,) = running.submit(job([1]))
        assert running.engine.stalled_for() == 0
        running.engine.start()
        assert entered.wait(PATIENCE_S)
        stalls = []
        for _ in range(3):
            clock.advance(10)
            stalls.append(running.engine.stalled_for())
        assert stalls == [10, 20, 30]
        running.engine.close(timeout_s=0)
        assert running.engine.alive, "nobody waits for ever"
        release.set()
        assert heard.ended.wait(PATIENCE_S)
