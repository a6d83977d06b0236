"""The number of threads follows what was measured, for each size of step."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.engine.threads import FIRST_PERIOD, LARGEST, LAST_PERIOD, TRIAL, ThreadTuner


def run(tuner: ThreadTuner, n_tokens: int, n_steps: int, seconds: dict[int, float]) -> list[int]:
    """Steps on a machine where a step with n threads takes ``seconds[n]``; the choices that were made."""
    choices = []
    for _ in range(n_steps):
        choices.append(tuner.choose(n_tokens))
        tuner.learn(n_tokens, seconds[choices[-1]])
    return choices


@pytest.mark.parametrize(("seconds", "best"), [({1: 1.0, 2: 2.0}, 1), ({1: 2.0, 2: 1.0}, 2)])
def test_the_fastest_choice_is_kept_after_one_trial_of_each(seconds: dict[int, float], best: int) -> None:
    choices = run(ThreadTuner(2), 1, 2 * TRIAL + FIRST_PERIOD, seconds)
    assert set(choices[2 * TRIAL :]) == {best}


def test_comparing_costs_one_step_in_fifty_at_most_in_the_long_run() -> None:
    choices = run(ThreadTuner(2), 1, 100 * LAST_PERIOD, {1: 1.0, 2: 2.0})
    assert choices[50 * LAST_PERIOD :].count(2) <= 50 * LAST_PERIOD / 50


def test_a_machine_that_changes_changes_the_choice_within_a_period() -> None:
    tuner = ThreadTuner(2)
    run(tuner, 1, 10 * LAST_PERIOD, {1: 1.0, 2: 2.0})
    assert run(tuner, 1, LAST_PERIOD + 2 * TRIAL, {1: 2.0, 2: 1.0})[-1] == 2


def test_sizes_of_step_are_judged_apart() -> None:
    tuner = ThreadTuner(2)
    run(tuner, 1, 50, {1: 1.0, 2: 2.0})
    run(tuner, 16, 50, {1: 2.0, 2: 1.0})
    assert (tuner.choose(1), tuner.choose(16), tuner.choose(17)) == (1, 2, 2)


def test_single_disturbed_steps_do_not_decide() -> None:
    tuner = ThreadTuner(2)
    for at in range(2 * TRIAL):
        n_threads = tuner.choose(1)
        tuner.learn(1, 100.0 if at % TRIAL == 0 else {1: 2.0, 2: 1.0}[n_threads])
    assert tuner.choose(1) == 2


def test_large_steps_and_models_on_a_gpu_use_all_threads() -> None:
    assert set(run(ThreadTuner(4), LARGEST + 1, 100, {4: 1.0})) == {4}
    assert set(run(ThreadTuner(4, adapt=False), 1, 100, {4: 1.0})) == {4}


@given(st.integers(1, 64), st.lists(st.tuples(st.integers(1, 600), st.floats(0, 10)), max_size=300))
def test_never_more_threads_than_were_given_and_never_none(n_threads: int, steps: list[tuple[int, float]]) -> None:
    tuner = ThreadTuner(n_threads)
    for n_tokens, seconds in steps:
        assert 1 <= tuner.choose(n_tokens) <= n_threads
        tuner.learn(n_tokens, seconds)
