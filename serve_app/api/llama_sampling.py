"""llama-server's parameters -> the samplers they turn on."""

from __future__ import annotations

from typing import TypedDict

from serve_app.api.wire.llama_sampling import LlamaSampling
from serve_app.protocol import Dry, DynamicTemperature, Mirostat, Xtc


class Samplers(TypedDict):
    """Fields of ``Sampling``."""

    repeat_last_n: int
    top_n_sigma: float | None
    dynamic_temperature: DynamicTemperature | None
    dry: Dry | None
    xtc: Xtc | None
    mirostat: Mirostat | None


def samplers(request: LlamaSampling) -> Samplers:
    """Those that do nothing are None, so that a plain greedy request stays one."""
    return Samplers(
        repeat_last_n=request.repeat_last_n,
        top_n_sigma=request.top_n_sigma if request.top_n_sigma > 0 else None,
        dynamic_temperature=DynamicTemperature(request.dynatemp_range, request.dynatemp_exponent)
        if request.dynatemp_range
        else None,
        dry=_dry(request) if request.dry_multiplier and request.dry_penalty_last_n else None,
        xtc=Xtc(request.xtc_probability, request.xtc_threshold) if request.xtc_probability else None,
        mirostat=Mirostat(request.mirostat, request.mirostat_tau, request.mirostat_eta) if request.mirostat else None,
    )


def _dry(request: LlamaSampling) -> Dry:
    return Dry(
        multiplier=request.dry_multiplier,
        base=request.dry_base,
        allowed_length=request.dry_allowed_length,
        last_n=request.dry_penalty_last_n,
        breakers=tuple(request.dry_sequence_breakers),
    )
