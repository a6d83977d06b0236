"""Samplers of llama.cpp beyond OpenAI's parameters; ranges were checked at the door."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Dry:
    """Don't Repeat Yourself: what would make a sequence of tokens longer that stood in the text before is penalised.

    ``last_n`` tokens of prompt and answer are looked at, -1: all. Sequences end at the ``breakers``.
    """

    multiplier: float
    base: float = 1.75
    allowed_length: int = 2
    last_n: int = 64
    breakers: tuple[str, ...] = ("\n", ":", '"', "*")


@dataclass(frozen=True, slots=True)
class Xtc:
    """Exclude Top Choices: with this probability all tokens above the threshold but the least of them are removed."""

    probability: float
    threshold: float = 0.1


@dataclass(frozen=True, slots=True)
class Mirostat:
    """Holds the surprise of the text near ``tau``; takes the place of every truncation but ``logit_bias``."""

    version: Literal[1, 2]
    tau: float = 5.0
    eta: float = 0.1


@dataclass(frozen=True, slots=True)
class DynamicTemperature:
    """The temperature moves by ``spread`` around its value, with the entropy of the distribution."""

    spread: float
    exponent: float = 1.0
