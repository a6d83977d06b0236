"""``POST /v1/completions`` for a local model."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from serve_app.api.wire.options import INT32_MAX, Sampled, TokenId, choices
from serve_app.api.wire.shape import wrong

_MAX_ANSWERS = 128


def prompt_kind(prompt: Any) -> str:
    """Which of the four forms a prompt has, so that a refusal speaks of that form only."""
    if not isinstance(prompt, list):
        return "~text"
    first = prompt[0] if prompt else ""
    return "~texts" if isinstance(first, str) else "~token_lists" if isinstance(first, list) else "~tokens"


Tokens = Annotated[list[TokenId], Field(min_length=1)]
Prompt = Annotated[
    Annotated[str, Tag("~text")]
    | Annotated[list[str], Field(min_length=1), Tag("~texts")]
    | Annotated[Tokens, Tag("~tokens")]
    | Annotated[list[Tokens], Tag("~token_lists")],
    Discriminator(prompt_kind),
]


class CompletionRequest(Sampled):
    """Every parameter of OpenAI's, and the extras we accept. An omitted prompt is an empty one."""

    prompt: Prompt = ""
    max_tokens: int = Field(16, ge=0, le=INT32_MAX)
    best_of: int | None = Field(None, ge=0)
    echo: bool = False
    logprobs: int | None = Field(None, ge=0, le=5)
    suffix: str | None = None

    @property
    def prompts(self) -> tuple[str | tuple[int, ...], ...]:
        """One or more prompts, each text or token ids."""
        if isinstance(self.prompt, str):
            return (self.prompt,)
        if isinstance(self.prompt[0], int):
            return (tuple(token for token in self.prompt if isinstance(token, int)),)
        return tuple(one if isinstance(one, str) else tuple(one) for one in self.prompt if not isinstance(one, int))

    @property
    def candidates(self) -> int:
        """How many answers are generated for each prompt; ``n`` of them are kept."""
        return self.best_of or self.n

    @field_validator("best_of")
    @classmethod
    def _few_candidates(cls, best_of: int | None, info: ValidationInfo) -> int | None:
        return choices(best_of, info) if best_of else None

    @model_validator(mode="after")
    def _parameters_agree(self) -> CompletionRequest:
        if self.max_tokens == 0 and not self.echo:
            raise wrong("must be at least 1 without 'echo'", "integer_below_min_value", at="max_tokens")
        if self.suffix is not None and self.echo:
            raise wrong("cannot be combined with 'suffix'", at="echo")
        if self.min_tokens > self.max_tokens:
            raise wrong("must not be above 'max_tokens'", at="min_tokens")
        if len(self.prompts) * self.candidates > _MAX_ANSWERS:
            raise wrong(f"asks for more than {_MAX_ANSWERS} answers at once", "array_above_max_length", at="prompt")
        return self

    @model_validator(mode="after")
    def _best_of_can_be_chosen(self) -> CompletionRequest:
        if self.candidates < self.n:
            raise wrong("must be at least 'n'", at="best_of")
        if self.candidates > self.n and (self.stream or self.echo):
            raise wrong("above 'n' cannot be combined with 'stream' or 'echo'", at="best_of")
        return self
