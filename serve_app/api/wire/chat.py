"""``POST /v1/chat/completions`` for a local model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from serve_app.api.wire.messages import AnyMessage, Message, NoMessage
from serve_app.api.wire.options import AtLeastOne, Metadata, Sampled, TemplateOptions
from serve_app.api.wire.shape import Shape, limits_of, wrong
from serve_app.api.wire.tools import (
    AllowedTools,
    Function,
    FunctionCall,
    Functions,
    Name,
    Named,
    NamedFunction,
    Schema,
    ToolChoice,
    Tools,
)


class PlainFormat(Shape):
    type: Literal["text", "json_object", "json_schema"]


class NamedSchema(Shape):
    """Without ``schema``: any JSON object."""

    name: Name
    description: str | None = None
    schema_: Schema | None = Field(None, alias="schema")
    strict: bool = False


class SchemaFormat(Shape):
    type: Literal["json_schema"]
    json_schema: NamedSchema


ResponseFormat = Annotated[
    Annotated[PlainFormat, Tag("~plain")] | Annotated[SchemaFormat, Tag("~schema")],
    Discriminator(lambda it: "~schema" if isinstance(it, dict) and it.get("type") == "json_schema" else "~plain"),
]


class ChatRequest(Sampled):
    """Every parameter of OpenAI's, and the extras we accept. What is not named here or above is ignored.

    Without effect, by decision: ``verbosity`` and ``reasoning_effort`` beyond what the model's template makes of them,
    and how long a cache is kept (as long as there is space).
    """

    messages: list[AnyMessage] = Field(min_length=1)
    max_completion_tokens: AtLeastOne | None = None
    max_tokens: AtLeastOne | None = None
    logprobs: bool = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    tools: Tools = Field(default_factory=list)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool = True
    functions: Functions | None = None
    function_call: FunctionCall | None = None
    response_format: ResponseFormat | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    chat_template_kwargs: TemplateOptions = Field(default_factory=dict)
    store: bool = False
    metadata: Metadata = Field(default_factory=dict)
    safety_identifier: str | None = Field(None, max_length=64)
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None

    @property
    def most_tokens(self) -> int | None:
        """How long the answer may be; the newer of the two names wins."""
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    @property
    def conversation(self) -> list[Message]:
        return [message for message in self.messages if not isinstance(message, NoMessage)]

    @property
    def callable_functions(self) -> list[Function]:
        """From ``tools``, or from the older ``functions``."""
        return [tool.function for tool in self.tools] or self.functions or []

    @field_validator("messages", mode="before")
    @classmethod
    def _not_too_many(cls, messages: object, info: ValidationInfo) -> object:
        if isinstance(messages, list) and len(messages) > (most := limits_of(info).max_messages):
            raise wrong(f"must have at most {most} items", "array_above_max_length")
        return messages

    @model_validator(mode="after")
    def _parameters_agree(self) -> ChatRequest:
        if self.top_logprobs is not None and not self.logprobs:
            raise wrong("is only allowed when 'logprobs' is true", at="top_logprobs")
        if self.most_tokens is not None and self.min_tokens > self.most_tokens:
            raise wrong("must not be above the most tokens asked for", at="min_tokens")
        if self.structured_outputs and self.response_format and self.response_format.type != "text":
            raise wrong("cannot be combined with 'response_format'", at="structured_outputs")
        return self

    @model_validator(mode="after")
    def _choice_is_among_the_tools(self) -> ChatRequest:
        if self.functions and self.tools:
            raise wrong("cannot be combined with 'tools'", at="functions")
        if self.tool_choice is not None and not self.tools:
            raise wrong("is only allowed when 'tools' are given", at="tool_choice")
        if self.function_call is not None and not self.functions:
            raise wrong("is only allowed when 'functions' are given", at="function_call")
        known = {function.name for function in self.callable_functions}
        if not set(self._chosen()) <= known:
            raise wrong("names a function that is not given", at="tool_choice" if self.tools else "function_call")
        return self

    def _chosen(self) -> list[str]:
        match self.tool_choice or self.function_call:
            case NamedFunction(function=named) | (Named() as named):
                return [named.name]
            case AllowedTools(names=names):
                return names
        return []
