"""The engine's figures: what it is allowed, and what it has done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """``n_prefill``: most prompt tokens in a step that streams wait for; ``n_queue``: most waiting sequences.

    ``n_slots`` sequences run at a time; ``n_resident`` (0: as many) sequence ids keep computed prefixes.
    """

    n_slots: int = 16
    n_resident: int = 0
    n_prefill: int = 128
    n_queue: int = 256


@dataclass(frozen=True, slots=True)
class EngineStats:
    """A snapshot. Totals are since the start; ``step_s`` is the time all steps took."""

    n_running: int
    n_waiting: int
    n_busy_slots: int
    n_steps: int
    n_prompt_tokens: int
    n_generated_tokens: int
    n_cached_tokens: int
    step_s: float
