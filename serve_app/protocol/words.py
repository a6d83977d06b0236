"""Between words and a local model's token ids, with nothing generated. Answered by ``Started``, one value, ``Done``."""

from __future__ import annotations

from dataclasses import dataclass

from serve_app.protocol.requests import Chat, Embed, Generate, Relay


@dataclass(frozen=True, slots=True)
class Tokenize:
    """``framed``: with the tokens that the vocabulary puts around a text; ``special``: control tokens that are written
    out in it become such tokens."""

    request_id: str
    model: str
    text: str
    framed: bool = False
    special: bool = True


@dataclass(frozen=True, slots=True)
class Detokenize:
    request_id: str
    model: str
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Render:
    """A conversation as the model's template writes it."""

    request_id: str
    model: str
    chat: Chat


Words = Tokenize | Detokenize | Render
Work = Generate | Embed | Relay | Words
"""Whatever a backend can be asked."""


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Each token and the bytes it stands for."""

    tokens: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Written:
    text: str
