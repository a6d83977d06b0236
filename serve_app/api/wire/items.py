"""The items of responses and conversations: as clients send them, and as they are kept and shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from serve_app.api.wire.shape import Shape, unsupported, wrong
from serve_app.protocol import Json

Status = Literal["in_progress", "completed", "incomplete"]
ItemId = Annotated[str, Field(pattern=r"\A[A-Za-z0-9_.:-]{1,128}\z")]
CallId = Annotated[str, Field(min_length=1, max_length=128)]

_TEXTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class Part(Shape):
    """A part of some content. Texts are texts, whatever they are called; images and files are an upstream's to read."""

    type: Literal["input_text", "output_text", "text", "refusal", "input_image", "input_file"]
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: Literal["auto", "low", "high", "original"] = "auto"
    file_data: str | None = None
    filename: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _has_what_its_type_says(cls, data: Any) -> Any:
        kind = data.get("type") if isinstance(data, dict) else None
        needed = {"refusal": "refusal", "input_image": "image_url", "input_file": "file_data"}.get(str(kind), "text")
        if kind is not None and data.get(needed) is None:
            by_reference = data.get("file_id") is not None or data.get("file_url") is not None
            raise unsupported("must carry its content itself") if by_reference else wrong(f"must have '{needed}'")
        return data

    @property
    def words(self) -> str | None:
        """None: it is no text."""
        return self.refusal if self.type == "refusal" else self.text if self.type in _TEXTS else None

    def kept(self, role: str) -> Json:
        if self.type == "refusal":
            return {"type": "refusal", "refusal": self.refusal}
        if self.type == "input_image":
            return {"type": "input_image", "image_url": self.image_url, "detail": self.detail}
        if self.type == "input_file":
            return {"type": "input_file", "file_data": self.file_data, "filename": self.filename}
        return text_part(self.text or "", role)


def text_part(text: str, role: str) -> Json:
    """A text as the role's own kind of part."""
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def _content_kind(content: Any) -> str:
    return "~parts" if isinstance(content, list) else "~text"


Content = Annotated[
    Annotated[str, Tag("~text")] | Annotated[list[Part], Tag("~parts")],
    Discriminator(_content_kind),
]


class _Item(Shape):
    id: ItemId | None = None
    status: Status = "completed"

    def kept(self, new_id: Callable[[], str]) -> Json:
        """The item with an id, in the form in which it is stored and shown."""
        raise NotImplementedError


class MessageItem(_Item):
    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    phase: Literal["commentary", "final_answer"] | None = None

    def kept(self, new_id: Callable[[], str]) -> Json:
        content = self.content
        parts = [part.kept(self.role) for part in content] if isinstance(content, list) else None
        shown = [text_part(str(content), self.role)] if parts is None else parts
        head = {"id": self.id or f"msg_{new_id()}", "type": "message", "status": self.status}
        phase = {} if self.phase is None else {"phase": self.phase}
        return head | {"role": self.role, "content": shown} | phase


class FunctionCallItem(_Item):
    type: Literal["function_call"]
    call_id: CallId
    name: str
    arguments: str

    def kept(self, new_id: Callable[[], str]) -> Json:
        head = {"id": self.id or f"fc_{new_id()}", "type": self.type, "status": self.status}
        return head | {"call_id": self.call_id, "name": self.name, "arguments": self.arguments}


class FunctionOutputItem(_Item):
    type: Literal["function_call_output"]
    call_id: CallId
    output: Content

    def kept(self, new_id: Callable[[], str]) -> Json:
        head = {"id": self.id or f"fco_{new_id()}", "type": self.type, "status": self.status}
        return head | {"call_id": self.call_id, "output": _output(self.output)}


class CustomCallItem(_Item):
    type: Literal["custom_tool_call"]
    call_id: CallId
    name: str
    input: str

    def kept(self, new_id: Callable[[], str]) -> Json:
        head = {"id": self.id or f"ctc_{new_id()}", "type": self.type, "status": self.status}
        return head | {"call_id": self.call_id, "name": self.name, "input": self.input}


class CustomOutputItem(_Item):
    type: Literal["custom_tool_call_output"]
    call_id: CallId
    output: Content

    def kept(self, new_id: Callable[[], str]) -> Json:
        head = {"id": self.id or f"ctco_{new_id()}", "type": self.type, "status": self.status}
        return head | {"call_id": self.call_id, "output": _output(self.output)}


class Thought(Shape):
    type: Literal["summary_text", "reasoning_text"]
    text: str


class ReasoningItem(_Item):
    type: Literal["reasoning"]
    summary: list[Thought] = Field(default_factory=list)
    content: list[Thought] = Field(default_factory=list)
    encrypted_content: str | None = None

    def kept(self, new_id: Callable[[], str]) -> Json:
        head: Json = {"id": self.id or f"rs_{new_id()}", "type": "reasoning", "status": self.status}
        head["summary"] = [thought.model_dump() for thought in self.summary]
        if self.content:
            head["content"] = [thought.model_dump() for thought in self.content]
        return head if self.encrypted_content is None else head | {"encrypted_content": self.encrypted_content}


class CompactionItem(_Item):
    type: Literal["compaction"]
    encrypted_content: str

    def kept(self, new_id: Callable[[], str]) -> Json:
        id_ = self.id or f"cmp_{new_id()}"
        return {"id": id_, "type": "compaction", "encrypted_content": self.encrypted_content}


class ReferenceItem(Shape):
    """An item that is kept here already."""

    type: Literal["item_reference"] = "item_reference"
    id: ItemId


class NoItem(Shape):
    """What is none of them: built-in tools of OpenAI's, and mistakes."""

    @model_validator(mode="before")
    @classmethod
    def _refuse(cls, data: Any) -> Any:
        if isinstance(data, dict) and isinstance(data.get("type"), str):
            raise unsupported("is an item of a kind that cannot be used here")
        raise wrong("must be an item with a 'type' or a 'role'")


_KINDS = (
    "message",
    "function_call",
    "function_call_output",
    "custom_tool_call",
    "custom_tool_call_output",
    "reasoning",
    "compaction",
    "item_reference",
)


def _kind(item: Any) -> str:
    """The member of the union; ``type`` may be left out of messages and of references."""
    if not isinstance(item, dict):
        return "~none"
    kind = item.get("type") or ("message" if "role" in item else "item_reference" if set(item) == {"id"} else None)
    return f"~{kind}" if kind in _KINDS else "~none"


KeptItem = (
    MessageItem
    | FunctionCallItem
    | FunctionOutputItem
    | CustomCallItem
    | CustomOutputItem
    | ReasoningItem
    | CompactionItem
)
AnyItem = Annotated[
    Annotated[MessageItem, Tag("~message")]
    | Annotated[FunctionCallItem, Tag("~function_call")]
    | Annotated[FunctionOutputItem, Tag("~function_call_output")]
    | Annotated[CustomCallItem, Tag("~custom_tool_call")]
    | Annotated[CustomOutputItem, Tag("~custom_tool_call_output")]
    | Annotated[ReasoningItem, Tag("~reasoning")]
    | Annotated[CompactionItem, Tag("~compaction")]
    | Annotated[ReferenceItem, Tag("~item_reference")]
    | Annotated[NoItem, Tag("~none")],
    Discriminator(_kind),
]


def _output(output: str | list[Part]) -> str | list[Json]:
    return output if isinstance(output, str) else [part.kept("tool") for part in output]
