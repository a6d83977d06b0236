"""What a backend answers, and the Backend itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from serve_app.protocol.vocabulary import FailureCode, Finish
from serve_app.protocol.words import Tokenized, Work, Written


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One generated token: ``logprob`` natural log, floor -9999.0; ``top`` is (token, logprob, bytes), best first."""

    token: str
    logprob: float | None
    data: bytes
    top: tuple[tuple[str, float, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of one tool call. ``id`` and ``name`` come with the first piece of a call only."""

    index: int
    arguments: str
    id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request; the prompt counts once however many choices it has."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The request was admitted: whatever could be refused has been."""

    prompt_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """What one choice gained. ``finish`` is set once per choice, on its last delta."""

    choice: int
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()
    finish: Finish | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors of some of the texts, each with the text's position: little-endian float32, of length 1."""

    vectors: tuple[tuple[int, bytes], ...]


@dataclass(frozen=True, slots=True)
class Relayed:
    """JSON of an upstream, ready for the client: one chunk of its stream, or its whole body."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Done:
    """The good end."""

    usage: Usage = Usage()


@dataclass(frozen=True, slots=True)
class Failed:
    """The bad end. ``message`` is one line for the client: no traceback, path, key or prompt.

    ``detail`` overrides OpenAI's ``code`` where an upstream named a finer one.
    """

    code: FailureCode
    message: str
    param: str | None = None
    retry_after_s: float | None = None
    detail: str | None = None
    usage: Usage = Usage()


Event = Started | Delta | Embedded | Relayed | Tokenized | Written | Done | Failed


@dataclass(frozen=True, slots=True)
class ModelCard:
    """One callable model. ``context_length`` in tokens, None when unknown (an upstream's)."""

    id: str
    created: int
    owned_by: str
    context_length: int | None = None


class Backend(Protocol):
    """Something that answers: a local engine, an upstream, or a Ray handle to either."""

    def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        """Stream the answer (package docstring). Closing the generator cancels the work; it never raises."""
        ...

    async def models(self) -> tuple[ModelCard, ...]:
        """The models it can answer for now; empty when it can answer for none. Never raises."""
        ...
