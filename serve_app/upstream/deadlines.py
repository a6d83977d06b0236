"""How long an upstream may take, and who is told when it took longer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. ``first_byte_s`` runs from the start of a request, retries included, to the first event of a stream.

    ``whole_s`` stands in for it when no stream was asked for: the first byte then follows the whole generation.
    ``idle_s`` is the longest silence afterwards; comments do not break it. ``pool_s``: the wait for a connection when
    all are in use. ``beat_s``: how often waiting is announced. ``raw_idle_s``: ``idle_s`` for what is passed on unread.
    """

    connect_s: float = 5.0
    pool_s: float = 2.0
    first_byte_s: float = 60.0
    whole_s: float = 600.0
    idle_s: float = 30.0
    raw_idle_s: float = 120.0
    beat_s: float = 2.0


class Patience:
    """The deadlines of one request, running. What has come and was not taken yet is no silence. Seconds."""

    def __init__(
        self, clock: Callable[[], float], *, first_s: float, idle_s: float, beat_s: float, total_s: float = math.inf
    ) -> None:
        self._clock = clock
        self._idle_s = idle_s
        self._beat_s = beat_s
        now = clock()
        self._silence = now + first_s, f"The upstream sent nothing for {first_s:g} s."
        self._total = now + total_s, f"The request took longer than its {total_s:g} s."

    def look_again_s(self) -> float:
        """How long to wait before something must be said or decided."""
        return max(0.0, min(self._beat_s, min(self._silence, self._total)[0] - self._clock()))

    def verdict(self, events: Sequence[object]) -> str | None:
        """What to tell the client if a deadline has passed, given what came meanwhile."""
        now = self._clock()
        if events:
            message = f"The upstream went silent for {self._idle_s:g} s in the middle of its answer."
            self._silence = now + self._idle_s, message
        limit, message = min(self._silence, self._total)
        return message if now >= limit else None
