"""``POST /v1/messages`` and ``/v1/messages/count_tokens``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from serve_app.api.wire.options import AtLeastOne, Share
from serve_app.api.wire.shape import Shape, unsupported, wrong
from serve_app.protocol import Json

_FIELDS: dict[str, tuple[str, ...]] = {
    "text": ("text",),
    "thinking": ("thinking",),
    "redacted_thinking": (),
    "tool_use": ("id", "name", "input"),
    "tool_result": ("tool_use_id",),
    "image": ("source",),
}
"""The blocks we read, and what each must have. Thinking that was redacted tells us nothing, and is left out."""


def _kind(content: Any) -> str:
    return "~blocks" if isinstance(content, list) else "~text"


class Source(Shape):
    """An image, in the message or somewhere else."""

    type: Literal["base64", "url"]
    media_type: str = ""
    data: str = ""
    url: str = ""

    @property
    def address(self) -> str:
        return self.url if self.type == "url" else f"data:{self.media_type};base64,{self.data}"


class Block(Shape):
    """One part of what was said."""

    type: str
    text: str | None = None
    thinking: str | None = None
    id: str | None = None
    name: str | None = None
    input: Json | None = None
    tool_use_id: str | None = None
    content: Content | None = None
    is_error: bool = False
    source: Source | None = None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Block:
        if self.type not in _FIELDS:
            raise unsupported("is of a type that is not read here", at="type")
        for field in _FIELDS[self.type]:
            if getattr(self, field) is None:
                raise wrong(f"is required in a block of type '{self.type}'", "missing_required_parameter", at=field)
        return self


Content = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[Block], Tag("~blocks")],
    Discriminator(_kind),
]


def blocks(content: str | list[Block] | None) -> list[Block]:
    """Content in its long form."""
    if isinstance(content, str):
        return [Block(type="text", text=content)] if content else []
    return content or []


class Said(Shape):
    """A message."""

    role: Literal["user", "assistant"]
    content: Content


class Tool(Shape):
    """A tool of the client's own. Those that the server would run are not there to be run."""

    type: str = "custom"
    name: str
    description: str | None = None
    input_schema: Json | None = None

    @model_validator(mode="after")
    def _is_the_clients(self) -> Tool:
        if self.type != "custom":
            raise unsupported("must be 'custom': this server runs no tools itself", at="type")
        if self.input_schema is None:
            raise wrong("is required", "missing_required_parameter", at="input_schema")
        return self


class ToolChoice(Shape):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class Thinking(Shape):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1)


class OutputFormat(Shape):
    type: Literal["json_schema"]
    schema_: Json = Field(alias="schema")


class OutputConfig(Shape):
    format: OutputFormat | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class About(Shape):
    user_id: str | None = None


class Countable(Shape):
    """What a prompt is made of. What caches, bills or routes at Anthropic is ignored, by decision."""

    model: str
    messages: list[Said] = Field(min_length=1)
    system: Content | None = None
    tools: list[Tool] = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(Countable):
    max_tokens: AtLeastOne
    stop_sequences: list[str] = Field(default_factory=list)
    stream: bool = False
    temperature: Share | None = None
    top_p: Share | None = None
    top_k: int | None = Field(None, ge=0)
    metadata: About | None = None
    output_config: OutputConfig | None = None
