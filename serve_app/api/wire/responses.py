"""``POST /v1/responses``, and what stands beside it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from serve_app.api.listing import ID, Number
from serve_app.api.wire.chat import NamedSchema
from serve_app.api.wire.items import AnyItem, ItemId
from serve_app.api.wire.options import INT32_MAX, Metadata, Sampled, TemplateOptions
from serve_app.api.wire.shape import Shape, limits_of, unsupported, wrong
from serve_app.api.wire.tools import Function, Name
from serve_app.protocol import CompletionQuery, Order

_HOSTED = "is a tool that OpenAI runs: this server knows functions and custom tools only"
_NOT_HERE = ("prompt", "context_management")
"""Parameters that would change the answer, and that nothing here can honour."""


class FunctionTool(Function):
    type: Literal["function"]


class PlainInput(Shape):
    type: Literal["text", "grammar"] = "text"

    @model_validator(mode="after")
    def _only_text(self) -> PlainInput:
        if self.type == "grammar":
            raise unsupported("cannot be a grammar", at="type")
        return self


class CustomTool(Shape):
    """A tool whose input is a text."""

    type: Literal["custom"]
    name: Name
    description: str | None = None
    format: PlainInput = Field(default_factory=PlainInput)


class HostedTool(Shape):
    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        raise unsupported(_HOSTED, at="type")


def _type_of(value: Any, *known: str) -> str:
    kind = value.get("type") if isinstance(value, dict) else None
    return f"~{kind}" if kind in known else "~none"


AnyTool = Annotated[
    Annotated[FunctionTool, Tag("~function")]
    | Annotated[CustomTool, Tag("~custom")]
    | Annotated[HostedTool, Tag("~none")],
    Discriminator(lambda tool: _type_of(tool, "function", "custom")),
]


class NamedTool(Shape):
    type: Literal["function", "custom"]
    name: Name


class AllowedTools(Shape):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedTool] = Field(min_length=1)


class HostedChoice(HostedTool):
    pass


def _choice_kind(choice: Any) -> str:
    if isinstance(choice, str):
        return "~mode"
    kind = _type_of(choice, "function", "custom", "allowed_tools")
    return "~named" if kind in ("~function", "~custom") else kind


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("~mode")]
    | Annotated[NamedTool, Tag("~named")]
    | Annotated[AllowedTools, Tag("~allowed_tools")]
    | Annotated[HostedChoice, Tag("~none")],
    Discriminator(_choice_kind),
]


class PlainFormat(Shape):
    type: Literal["text", "json_object"]


class SchemaFormat(NamedSchema):
    type: Literal["json_schema"]


TextFormat = Annotated[
    Annotated[PlainFormat, Tag("~plain")] | Annotated[SchemaFormat, Tag("~json_schema")],
    Discriminator(lambda it: "~json_schema" if _type_of(it, "json_schema") != "~none" else "~plain"),
]


class TextOptions(Shape):
    format: TextFormat = Field(default_factory=lambda: PlainFormat(type="text"))
    verbosity: Literal["low", "medium", "high"] | None = None


class Reasoning(Shape):
    """``summary`` is accepted: reasoning is shown whole here, which no summary improves upon."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


def _plain_input(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


def _not_too_many(given: list[Any], info: ValidationInfo) -> list[Any]:
    if len(given) > (most := limits_of(info).max_messages):
        raise wrong(f"must have at most {most} items", "array_above_max_length")
    return given


def _conversation_id(given: Any) -> Any:
    return given.get("id") if isinstance(given, dict) else given


Items = Annotated[list[AnyItem], AfterValidator(_not_too_many)]
Include = Literal[
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
    "message.input_image.image_url",
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
]


class Asked(Sampled):
    """What the model is to be given, whatever it is then asked to do with it."""

    input: Annotated[Items, BeforeValidator(_plain_input)] = Field(default_factory=list)
    instructions: str | None = None
    previous_response_id: ItemId | None = None
    conversation: Annotated[ItemId, BeforeValidator(_conversation_id)] | None = None
    tools: list[AnyTool] = Field(default_factory=list)
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    text: TextOptions = Field(default_factory=TextOptions)
    reasoning: Reasoning = Field(default_factory=Reasoning)
    truncation: Literal["auto", "disabled"] = "disabled"

    @model_validator(mode="before")
    @classmethod
    def _nothing_unknown(cls, data: Any) -> Any:
        for name in _NOT_HERE:
            if isinstance(data, dict) and data.get(name) is not None:
                raise unsupported("is not supported by this server", at=name)
        return data

    @model_validator(mode="after")
    def _one_past(self) -> Asked:
        if self.previous_response_id is not None and self.conversation is not None:
            raise wrong("cannot be combined with 'conversation'", at="previous_response_id")
        return self

    @model_validator(mode="after")
    def _choice_is_among_the_tools(self) -> Asked:
        chosen = self.tool_choice
        if isinstance(chosen, str):
            if chosen == "required" and not self.tools:
                raise wrong("is only allowed to be 'required' when 'tools' are given", at="tool_choice")
            return self
        named = chosen.tools if isinstance(chosen, AllowedTools) else [chosen]
        known = {(tool.type, tool.name) for tool in self.tools if not isinstance(tool, HostedTool)}
        if not {(tool.type, tool.name) for tool in named if isinstance(tool, NamedTool)} <= known:
            raise wrong("names a tool that is not given", at="tool_choice")
        return self

    @property
    def custom_tools(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools if isinstance(tool, CustomTool))


class ResponseRequest(Asked):
    """Every parameter of OpenAI's, and the extras we accept. What is not named here or above is ignored.

    Without effect, by decision: ``max_tool_calls`` (it counts calls of tools that OpenAI runs), ``prompt_cache_key``
    and its kin (prefixes are kept per tenant anyway), and what ``include`` names of tools that do not exist here.
    """

    store: bool = True
    background: bool = False
    max_output_tokens: int | None = Field(None, ge=16, le=INT32_MAX)
    max_tool_calls: int | None = Field(None, ge=1)
    top_logprobs: int | None = Field(None, ge=0, le=20)
    include: list[Include] = Field(default_factory=list)
    metadata: Metadata = Field(default_factory=dict)
    chat_template_kwargs: TemplateOptions = Field(default_factory=dict)
    safety_identifier: str | None = Field(None, max_length=64)
    prompt_cache_key: str | None = None
    prompt_cache_retention: Literal["in_memory", "in-memory", "24h"] | None = None

    @property
    def wants_logprobs(self) -> bool:
        return bool(self.top_logprobs) or "message.output_text.logprobs" in self.include

    @model_validator(mode="after")
    def _parameters_agree(self) -> ResponseRequest:
        if self.background and not self.store:
            raise wrong("needs 'store'", at="background")
        if self.conversation is not None and not self.store:
            raise wrong("needs 'store'", at="conversation")
        if self.n != 1:
            raise unsupported("must be 1: a response has one output", at="n")
        if self.max_output_tokens is not None and self.min_tokens > self.max_output_tokens:
            raise wrong("must not be above 'max_output_tokens'", at="min_tokens")
        return self


class ItemPage(Shape):
    """The query string of a list of items."""

    after: str | None = Field(None, pattern=ID)
    limit: Annotated[Number, Field(ge=1, le=100)] = 20
    order: Order = "desc"

    @property
    def query(self) -> CompletionQuery:
        """The page."""
        return CompletionQuery(self.after, self.limit, self.order)


class NewConversation(Shape):
    items: list[AnyItem] = Field(default_factory=list, max_length=20)
    metadata: Metadata = Field(default_factory=dict)


class NewItems(Shape):
    items: list[AnyItem] = Field(min_length=1, max_length=20)
