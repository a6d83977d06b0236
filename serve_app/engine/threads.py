"""ThreadTuner: with how many threads a step is computed, found out by measuring while serving.

More threads are not faster where a step is small: each layer ends at a barrier, and a thread that the machine has put
aside, for Ray or for another process, lets all others wait. Measured on 2 cores beside an idle Ray, one stream of a
135M model: 56 tok/s with two threads, 112 with one; sixteen streams on a quiet machine: 255 and 170. A larger model
tips the other way. So each size of step tries every choice in turn, again and again, and keeps to what was fastest.
"""

from __future__ import annotations

import statistics

FIRST_PERIOD, LAST_PERIOD = 50, 800
"""Steps of one size from one comparison to the next: soon at first, then half as often each time."""

TRIAL = 5
"""Steps that each choice is tried for; their median counts, since single steps are disturbed."""

LARGEST = 32
"""Steps of more tokens than that are bound by arithmetic: all threads."""


class ThreadTuner:
    """Belongs to the engine thread. ``choose`` before a step, ``learn`` after it, with the same number of tokens.

    ``adapt`` off: always all threads, for models on a GPU, whose steps do not end when the call returns.
    """

    def __init__(self, n_threads: int, *, adapt: bool = True) -> None:
        self._choices = sorted({1, (n_threads + 1) // 2, n_threads}) if adapt else [n_threads]
        self._sizes: dict[int, _Size] = {}

    def choose(self, n_tokens: int) -> int:
        """Threads for a step of that many tokens."""
        return self._choices[-1] if n_tokens > LARGEST else self._size(n_tokens).choose()

    def learn(self, n_tokens: int, seconds: float) -> None:
        """How long the step took."""
        if n_tokens <= LARGEST:
            self._size(n_tokens).learn(seconds)

    def _size(self, n_tokens: int) -> _Size:
        """Steps of 1, 2–3, 4–7, 8–15, 16–31 tokens are alike."""
        return self._sizes.setdefault(n_tokens.bit_length(), _Size(self._choices))


class _Size:
    """One size of step: first in each period every choice is tried, then the best of them is kept."""

    def __init__(self, choices: list[int]) -> None:
        self._choices = choices
        self._best = choices[-1]
        self._at = 0
        self._period = FIRST_PERIOD
        self._tried: list[list[float]] = [[] for _ in choices]

    def choose(self) -> int:
        trial = self._at // TRIAL
        return self._choices[trial] if trial < len(self._choices) else self._best

    def learn(self, seconds: float) -> None:
        trial = self._at // TRIAL
        if trial < len(self._choices):
            self._tried[trial].append(seconds)
        self._at += 1
        if self._at >= self._period + TRIAL * len(self._choices):
            self._at, self._period = 0, min(2 * self._period, LAST_PERIOD)
        if self._at == TRIAL * len(self._choices):
            typical = [statistics.median(each) for each in self._tried]
            self._best = self._choices[typical.index(min(typical))]
            self._tried = [[] for _ in self._choices]
