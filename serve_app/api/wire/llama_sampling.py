"""Samplers of llama.cpp under llama-server's names, with its defaults."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from serve_app.api.wire.shape import Shape

Breaker = Annotated[str, Field(min_length=1, max_length=8)]


class LlamaSampling(Shape):
    """A sampler is off unless its first parameter turns it on."""

    repeat_last_n: int = Field(-1, ge=-1, le=2**20)
    """How many tokens the three penalties look back; unlike llama-server's 64, all of them, as OpenAI's do."""

    dynatemp_range: float = Field(0.0, ge=0, le=2)
    dynatemp_exponent: float = Field(1.0, ge=0, le=10)
    top_n_sigma: float = Field(-1.0, ge=-1, le=100)
    dry_multiplier: float = Field(0.0, ge=0, le=100)
    dry_base: float = Field(1.75, ge=1, le=100)
    dry_allowed_length: int = Field(2, ge=0, le=2**20)
    dry_penalty_last_n: int = Field(64, ge=-1, le=2**20)
    dry_sequence_breakers: list[Breaker] = Field(default=["\n", ":", '"', "*"], max_length=8)
    """Short and few: llama.cpp looks for each through the whole vocabulary."""

    xtc_probability: float = Field(0.0, ge=0, le=1)
    xtc_threshold: float = Field(0.1, ge=0, le=1)
    mirostat: Literal[0, 1, 2] = 0
    mirostat_tau: float = Field(5.0, ge=0, le=100)
    mirostat_eta: float = Field(0.1, ge=0, le=1)
