"""A circuit breaker: an upstream that keeps failing is left alone for a while."""

from __future__ import annotations

from collections.abc import Callable


class Breaker:
    """Opens after ``threshold`` failures in a row; after ``cooldown_s`` one caller probes while the others still wait.

    The probe is lent by starting the next cool-down, so a probe that is cancelled can never keep the circuit open.
    """

    def __init__(self, clock: Callable[[], float], threshold: int = 5, cooldown_s: float = 10.0) -> None:
        self._clock = clock
        self._threshold = threshold
        self._cooldown_s = cooldown_s
        self._failures = 0
        self._closed_to_callers_until = 0.0

    def admit(self) -> float:
        """0.0: call now, and report how it went. Else the seconds until a call may be made."""
        if self._failures < self._threshold:
            return 0.0
        now = self._clock()
        if now < self._closed_to_callers_until:
            return self._closed_to_callers_until - now
        self._closed_to_callers_until = now + self._cooldown_s
        return 0.0

    def succeeded(self) -> None:
        """The upstream answered, whatever it said."""
        self._failures = 0

    def failed(self) -> None:
        """The upstream could not be reached, or said that it is broken."""
        self._failures += 1
        if self._failures >= self._threshold:
            self._closed_to_callers_until = self._clock() + self._cooldown_s
