"""The messages of a conversation, as a text model can read them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from serve_app.api.wire.shape import Shape, unsupported, wrong
from serve_app.protocol import Json

_ROLES = ("developer", "system", "user", "assistant", "tool", "function")
_MEDIA = ("image_url", "input_audio", "file")


class Part(Shape):
    """One part of a message's content: text, or a refusal the assistant gave earlier."""

    type: str
    text: str | None = None
    refusal: str | None = None

    @model_validator(mode="after")
    def _has_its_text(self) -> Part:
        if self.type in _MEDIA:
            raise unsupported("cannot be read by this model: it reads text only")
        if self.type not in ("text", "refusal"):
            raise wrong("must be of type 'text'")
        if getattr(self, self.type) is None:
            raise wrong(f"must have a '{self.type}'")
        return self

    @property
    def words(self) -> str:
        return (self.text if self.type == "text" else self.refusal) or ""


def _content_kind(content: Any) -> str:
    return "~parts" if isinstance(content, list) else "~text"


Content = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[Part], Field(min_length=1), Tag("~parts")],
    Discriminator(_content_kind),
]


class CalledFunction(Shape):
    name: str
    arguments: str


class ToolCall(Shape):
    """A call the assistant made earlier."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction

    @model_validator(mode="before")
    @classmethod
    def _only_functions(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") == "custom":
            raise unsupported("cannot be a custom tool call: this model calls functions only")
        return data


class _Message(Shape):
    name: str | None = None

    @property
    def text(self) -> str | None:
        """The content as plain text; parts are joined by line breaks. None: there is none."""
        content = getattr(self, "content", None)
        return "\n".join(part.words for part in content) if isinstance(content, list) else content


class Instruction(_Message):
    role: Literal["developer", "system"]
    content: Content


class UserMessage(_Message):
    role: Literal["user"]
    content: Content


class AssistantMessage(_Message):
    """``reasoning`` is accepted back in the names under which servers hand it out."""

    role: Literal["assistant"]
    content: Content | None = None
    refusal: str | None = None
    audio: Json | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: CalledFunction | None = None

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.audio is not None:
            raise unsupported("cannot refer to audio: this model reads text only")
        if self.content is None and self.refusal is None and not self.tool_calls and self.function_call is None:
            raise wrong("must have 'content' or 'tool_calls'")
        return self


class ToolMessage(_Message):
    role: Literal["tool"]
    content: Content
    tool_call_id: str


class FunctionMessage(_Message):
    role: Literal["function"]
    name: str
    content: Content = ""


def _role(message: Any) -> str:
    """The member of the union; anything that is no message goes to ``NoMessage``, which says why."""
    role = message.get("role") if isinstance(message, dict) else None
    if role not in _ROLES:
        return "~none"
    return "~instruction" if role in ("developer", "system") else f"~{role}"


class NoMessage(Shape):
    role: Literal["developer", "system", "user", "assistant", "tool", "function"]


Message = Instruction | UserMessage | AssistantMessage | ToolMessage | FunctionMessage
AnyMessage = Annotated[
    Annotated[Instruction, Tag("~instruction")]
    | Annotated[UserMessage, Tag("~user")]
    | Annotated[AssistantMessage, Tag("~assistant")]
    | Annotated[ToolMessage, Tag("~tool")]
    | Annotated[FunctionMessage, Tag("~function")]
    | Annotated[NoMessage, Tag("~none")],
    Discriminator(_role),
]
