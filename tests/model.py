"""The real model of the tests, where it is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

MODEL = Path(__file__).parent.parent / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"


def model_path() -> str:
    """Path of the model; skips the test where there is none."""
    if not MODEL.exists():
        pytest.skip(f"models/{MODEL.name} is not there: fetch it to run the tests that need a real model")
    return str(MODEL)
