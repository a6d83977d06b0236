"""``POST /v1/embeddings``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from serve_app.api.wire.completions import Tokens, prompt_kind
from serve_app.api.wire.options import INT32_MAX, AtLeastOne, Called
from serve_app.api.wire.shape import unsupported

_MOST_INPUTS = 2048

InputText = Annotated[str, Field(min_length=1)]
Input = Annotated[
    Annotated[InputText, Tag("~text")]
    | Annotated[list[InputText], Field(min_length=1, max_length=_MOST_INPUTS), Tag("~texts")]
    | Annotated[Tokens, Tag("~tokens")]
    | Annotated[list[Tokens], Field(min_length=1, max_length=_MOST_INPUTS), Tag("~token_lists")],
    Discriminator(prompt_kind),
]


class ForwardedEmbeddings(Called):
    """What we must know of a request that goes on to an upstream."""

    @model_validator(mode="after")
    def _never_streamed(self) -> ForwardedEmbeddings:
        if self.stream:
            raise unsupported("is not possible for embeddings", at="stream")
        return self


class EmbeddingsRequest(ForwardedEmbeddings):
    """Every parameter of OpenAI's, and two ways to say that texts which are too long may be cut."""

    input: Input
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: AtLeastOne | None = None
    truncate: bool = False
    truncate_prompt_tokens: int | None = Field(None, ge=-1, le=INT32_MAX)
    """vLLM's: to that many tokens; -1: to what the model takes."""

    @property
    def inputs(self) -> tuple[str | tuple[int, ...], ...]:
        """One or more texts, each as text or as token ids."""
        if isinstance(self.input, str):
            return (self.input,)
        if isinstance(self.input[0], int):
            return (tuple(token for token in self.input if isinstance(token, int)),)
        return tuple(one if isinstance(one, str) else tuple(one) for one in self.input if not isinstance(one, int))

    @property
    def truncate_to(self) -> int | None:
        """The most tokens of a text that count; None: a text that is too long is refused."""
        if self.truncate_prompt_tokens is None:
            return INT32_MAX if self.truncate else None
        return INT32_MAX if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens
