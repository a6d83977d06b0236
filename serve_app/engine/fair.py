"""FairQueue: who is next. By tier, and within a tier the tenant that was served least. Pure.

The rule is the virtual token counter of Sheng et al., "Fairness in Serving Large Language Models" (OSDI 2024): every
tenant has a counter of the work done for it, divided by its weight; the lowest among those who wait is next; and who
comes back after a pause is lifted to where the others are, so that nobody saves up idle time for a later flood.
"""

from __future__ import annotations

from collections import deque

from serve_app.engine.sequence import Chunk, Sequence
from serve_app.protocol import Tier

PROMPT_TOKEN, GENERATED_TOKEN = 1.0, 4.0
"""What a token counts. Measured on 2 cores: a prompt token costs a quarter of a generated one in a batch of four."""

_AWAY = 4096
"""Counters kept of tenants that have nothing waiting; beyond that all of those are forgotten."""

Line = tuple[Tier, str]


class FairQueue:
    """Waiting sequences, one line for each tenant and tier.

    ``charge`` is told of all work, whoever's it is. A tier has counters of its own: what a tenant's batches took while
    nobody else wanted anything is not held against its conversations.
    """

    def __init__(self) -> None:
        self._lines: dict[Line, deque[Sequence]] = {}
        self._served: dict[Line, float] = {}
        self._now = dict.fromkeys(Tier, 0.0)
        self._n = 0

    def __len__(self) -> int:
        return self._n

    def add(self, sequence: Sequence) -> None:
        """At the end of its tenant's line."""
        self._line(sequence).append(sequence)
        self._n += 1

    def put_back(self, sequence: Sequence) -> None:
        """At the head of its tenant's line: it was running already."""
        self._line(sequence).appendleft(sequence)
        self._n += 1

    def take(self, sequence: Sequence) -> None:
        """It starts now: whoever comes from now on is lifted to where its tenant is."""
        line = line_of(sequence)
        self._now[sequence.tier] = max(self._now[sequence.tier], self._served[line])
        self.remove(sequence)

    def remove(self, sequence: Sequence) -> None:
        line = line_of(sequence)
        self._lines[line].remove(sequence)
        self._n -= 1
        if not self._lines[line]:
            del self._lines[line]

    def charge(self, chunk: Chunk) -> None:
        """Work was done for its sequence."""
        line = line_of(chunk.sequence)
        cost = GENERATED_TOKEN if chunk.is_decode else chunk.count * PROMPT_TOKEN
        self._served[line] = self._served.get(line, self._now[line[0]]) + cost / chunk.sequence.weight

    def first(self) -> Sequence | None:
        """Who is next among those that may start now."""
        for line in sorted(self._lines, key=lambda line: (line[0], self._served[line])):
            for sequence in self._lines[line]:
                if not sequence.blocked:
                    return sequence
        return None

    def _line(self, sequence: Sequence) -> deque[Sequence]:
        line = line_of(sequence)
        if line not in self._lines:
            self._forget()
            now = self._now[sequence.tier]
            self._served[line] = max(self._served.get(line, now), now)
            self._lines[line] = deque()
        return self._lines[line]

    def _forget(self) -> None:
        if len(self._served) > _AWAY + len(self._lines):
            self._served = {line: self._served[line] for line in self._lines}


def line_of(sequence: Sequence) -> Line:
    """Where the sequence waits."""
    return sequence.tier, sequence.salt


def worse(sequence: Sequence, running: list[Sequence]) -> Sequence | None:
    """The youngest that runs in the worst tier, if that is worse than the sequence's. ``running`` is oldest first."""
    worst = max((each.tier for each in running), default=sequence.tier)
    return next(each for each in reversed(running) if each.tier is worst) if worst > sequence.tier else None


def richer(sequence: Sequence, running: list[Sequence]) -> Sequence | None:
    """The youngest of the tenant that runs most, in the same tier, for its weight.

    A tenant gives way only to one that afterwards still runs no more than it does: no exchange is worth taking back.
    """
    shares = {line_of(sequence): 0.0}
    for each in running:
        if each.tier is sequence.tier:
            shares[line_of(each)] = shares.get(line_of(each), 0.0) + 1 / each.weight
    richest = max(shares, key=lambda line: shares[line])
    if richest == line_of(sequence):
        return None
    youngest = next(each for each in reversed(running) if line_of(each) == richest)
    gained = shares[line_of(sequence)] + 1 / sequence.weight
    return youngest if shares[richest] - 1 / youngest.weight >= gained else None
