"""``POST /api/chat``, ``/api/generate``, ``/api/embed`` and ``/api/show``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from serve_app.api.wire.embeddings import InputText
from serve_app.api.wire.shape import Shape, unsupported
from serve_app.protocol import Json

_PASSED = (
    *("temperature", "top_p", "top_k", "min_p", "typical_p", "seed", "stop", "mirostat"),
    *("repeat_penalty", "presence_penalty", "frequency_penalty"),
)


def _kind(value: Any) -> str:
    return "~schema" if isinstance(value, dict) else "~word"


Format = Annotated[
    Annotated[Literal["", "json"], Tag("~word")] | Annotated[Json, Tag("~schema")],
    Discriminator(_kind),
]
Think = Annotated[
    Annotated[bool, Tag("~switch")] | Annotated[Literal["low", "medium", "high"], Tag("~level")],
    Discriminator(lambda value: "~level" if isinstance(value, str) else "~switch"),
]


class Options(Shape):
    """How tokens are chosen. What is about loading a model is ignored: models are loaded by the operator."""

    num_predict: int | None = None
    chosen: Json = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _choose(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {**data, "chosen": {name: data[name] for name in _PASSED if data.get(name) is not None}}

    @property
    def as_chat(self) -> Json:
        """In OpenAI's words. Below zero: as long as the context allows."""
        if self.num_predict is None or self.num_predict < 0:
            return self.chosen
        return self.chosen | {"max_tokens": self.num_predict}


class Called(Shape):
    """``keep_alive`` and the like are ignored: a model that is served stays loaded."""

    model: str
    stream: bool = True
    options: Options = Options()
    format: Format = ""
    think: Think | None = None
    logprobs: bool = False
    top_logprobs: int | None = None

    @property
    def as_chat(self) -> Json:
        """What chats and prompts have in common, in OpenAI's words."""
        chat: Json = {"model": self.model, "stream": self.stream, **self.options.as_chat}
        if self.logprobs:
            chat |= {"logprobs": True, "top_logprobs": self.top_logprobs or 0}
        if isinstance(self.format, dict):
            schema = {"name": "format", "schema": self.format}
            chat["response_format"] = {"type": "json_schema", "json_schema": schema}
        elif self.format:
            chat["response_format"] = {"type": "json_object"}
        if isinstance(self.think, str):
            chat["reasoning_effort"] = self.think
        elif self.think is False:
            chat["reasoning_effort"] = "none"
        return chat


class CalledFunction(Shape):
    name: str
    arguments: Json = Field(default_factory=dict)


class ToolCall(Shape):
    function: CalledFunction


class Message(Shape):
    role: Literal["system", "user", "assistant", "tool"]
    content: str = ""
    thinking: str | None = None
    images: list[str] = Field(default_factory=list)
    tool_calls: list[ToolCall] = Field(default_factory=list)
    tool_name: str | None = None


class ChatRequest(Called):
    messages: list[Message] = Field(default_factory=list)
    tools: list[Json] = Field(default_factory=list)


class GenerateRequest(Called):
    """``raw``: the prompt is not put into the model's template."""

    prompt: str = ""
    suffix: str = ""
    system: str = ""
    raw: bool = False
    images: list[str] = Field(default_factory=list)
    template: str = ""
    context: list[int] = Field(default_factory=list)

    @model_validator(mode="after")
    def _nothing_unsupported(self) -> GenerateRequest:
        if self.template:
            raise unsupported("cannot be given: a model has its own", at="template")
        if self.context:
            raise unsupported("is not kept: send the conversation to /api/chat", at="context")
        if self.images and (self.raw or self.suffix):
            raise unsupported("cannot be combined with 'raw' or 'suffix'", at="images")
        return self


class EmbedRequest(Shape):
    """Texts that are too long are cut unless ``truncate`` is false."""

    model: str
    input: Annotated[
        Annotated[InputText, Tag("~text")] | Annotated[list[InputText], Tag("~texts")],
        Discriminator(lambda value: "~texts" if isinstance(value, list) else "~text"),
    ]
    truncate: bool = True
    dimensions: int | None = None


class ShowRequest(Shape):
    """``name`` is what ``model`` was called once."""

    model: str = ""
    name: str = ""
