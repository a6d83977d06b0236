"""PrefillBudget: how many prompt tokens a step may carry while streams wait for their next token.

A prompt that is computed whole holds up every stream for as long as it takes; one computed token by token takes for
ever. In between there is a step that is ``STRETCH`` times as long as one without any prompt. What a prompt token and
a step cost depends on the model, the machine and what else runs there, so both are measured while serving.
"""

from __future__ import annotations

STRETCH = 2.5
"""Streams notice a pause of three steps; the rest is left for the steps that take longer than expected."""

FIRST = 64
"""Before anything was measured."""

LEAST = 16
"""A prompt always gets on."""

_MEMORY = 0.1
"""How much of an estimate one new measurement is."""


class PrefillBudget:
    """``most``: prompt tokens in a step whatever they cost. ``learn`` after every step; steps without streams too."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._steps_s: dict[int, float] = {}
        self._token_s: float | None = None

    def tokens(self, n_decoding: int) -> int:
        """For a step in which that many sequences decode."""
        if not n_decoding:
            return self._most
        step_s = self._steps_s.get(n_decoding.bit_length())
        if step_s is None or self._token_s is None:
            return min(FIRST, self._most)
        return max(min(LEAST, self._most), min(int((STRETCH - 1) * step_s / self._token_s), self._most))

    def learn(self, n_decoding: int, n_prompt: int, seconds: float) -> None:
        """What a step of that many tokens took."""
        size = n_decoding.bit_length()
        if not n_prompt:
            self._steps_s[size] = _moved(self._steps_s.get(size), seconds)
            return
        alone_s = self._steps_s.get(size) if n_decoding else 0.0
        if alone_s is not None:
            self._token_s = _moved(self._token_s, max(seconds - alone_s, 1e-6) / n_prompt)


def _moved(old: float | None, new: float) -> float:
    return new if old is None else old + _MEMORY * (new - old)
