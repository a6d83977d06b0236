"""How long an upstream may take, and who is told when it took longer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serve_app.protocol import Event, Relay


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds. ``first_byte_s`` runs from the start of a request, retries included, to the first event of a stream.

    ``whole_s`` stands in for it when no stream was asked for: the first byte then follows the whole generation.
    ``idle_s`` is the longest silence afterwards; comments do not break it. ``pool_s``: the wait for a connection when
    all are in use. ``beat_s``: how often waiting is announced.
    """

    connect_s: float = 5.0
    pool_s: float = 2.0
    first_byte_s: float = 60.0
    whole_s: float = 600.0
    idle_s: float = 30.0
    beat_s: float = 2.0


class Patience:
    """The deadlines of one request, running. What has come and was not taken yet is no silence."""

    def __init__(self, deadlines: Deadlines, request: Relay, clock: Callable[[], float]) -> None:
        self._deadlines = deadlines
        self._clock = clock
        now = clock()
        first_s = deadlines.first_byte_s if request.stream else deadlines.whole_s
        self._silence = now + first_s, f"The upstream sent nothing for {first_s:g} s."
        self._total = now + request.timeout_s, f"The request took longer than its {request.timeout_s:g} s."

    def look_again_s(self) -> float:
        """How long to wait before something must be said or decided."""
        return max(0.0, min(self._deadlines.beat_s, min(self._silence, self._total)[0] - self._clock()))

    def verdict(self, events: list[Event]) -> str | None:
        """What to tell the client if a deadline has passed, given what came meanwhile."""
        now = self._clock()
        if events:
            idle_s = self._deadlines.idle_s
            self._silence = now + idle_s, f"The upstream went silent for {idle_s:g} s in the middle of its answer."
        limit, message = min(self._silence, self._total)
        return message if now >= limit else None
