"""Tools, who may call them, and the schemas they come with."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, ValidationInfo, model_validator

from serve_app.api.wire.shape import Shape, limits_of, unsupported, wrong
from serve_app.protocol import Json

_MAX_PROPERTIES = 512
_MAX_ENUM_VALUES = 1000
_MAX_LEVELS = 64
"""Of JSON, where an object in an object takes two: about 30 of what OpenAI counts, who allows 10."""
_MAX_ALL_SCHEMAS_BYTES = 256 * 1024


def _bounded(schema: Json, info: ValidationInfo) -> Json:
    """A JSON schema small enough to compile; what it means is the engine's to judge."""
    if len(orjson.dumps(schema)) > (most := limits_of(info).max_tool_schema_bytes):
        raise wrong(f"must be at most {most} bytes of JSON", "string_above_max_length")
    properties, values, levels = 0, 0, 0
    level: list[Any] = [schema]
    while level and levels <= _MAX_LEVELS:
        levels += 1
        objects = [node for node in level if isinstance(node, dict)]
        properties += sum(len(found) for node in objects if isinstance(found := node.get("properties"), dict))
        values += sum(len(found) for node in objects if isinstance(found := node.get("enum"), list))
        level = [inner for node in level for inner in _members(node) if isinstance(inner, dict | list)]
    if levels > _MAX_LEVELS:
        raise wrong(f"must be nested at most {_MAX_LEVELS} levels deep")
    if properties > _MAX_PROPERTIES or values > _MAX_ENUM_VALUES:
        raise wrong(f"must have at most {_MAX_PROPERTIES} properties and {_MAX_ENUM_VALUES} enum values")
    return schema


def _members(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node


Name = Annotated[str, Field(pattern=r"\A[a-zA-Z0-9_-]{1,64}\z")]
Schema = Annotated[Json, AfterValidator(_bounded)]


class Function(Shape):
    """A function the model may call. Without ``parameters`` it takes none."""

    name: Name
    description: str | None = None
    parameters: Schema | None = None
    strict: bool = False


class Tool(Shape):
    type: Literal["function"]
    function: Function

    @model_validator(mode="before")
    @classmethod
    def _only_functions(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("type") == "custom":
            raise unsupported("cannot be a custom tool: this model calls functions only")
        return data


def _distinct(functions: list[Function], info: ValidationInfo) -> list[Function]:
    names = [function.name for function in functions]
    if len(names) > (most := limits_of(info).max_tools):
        raise wrong(f"must have at most {most} items", "array_above_max_length")
    if len(set(names)) < len(names):
        raise wrong("must not name a function twice")
    if sum(len(orjson.dumps(function.parameters)) for function in functions) > _MAX_ALL_SCHEMAS_BYTES:
        raise wrong(f"must be at most {_MAX_ALL_SCHEMAS_BYTES} bytes of JSON together", "string_above_max_length")
    return functions


def _distinct_tools(tools: list[Tool], info: ValidationInfo) -> list[Tool]:
    _distinct([tool.function for tool in tools], info)
    return tools


Tools = Annotated[list[Tool], AfterValidator(_distinct_tools)]
Functions = Annotated[list[Function], Field(min_length=1), AfterValidator(_distinct)]


class Named(Shape):
    name: str


class NamedFunction(Shape):
    type: Literal["function"]
    function: Named


class AllowedTool(Shape):
    type: Literal["function"]
    function: Named


class AllowedSet(Shape):
    mode: Literal["auto", "required"]
    tools: list[AllowedTool] = Field(min_length=1)


class AllowedTools(Shape):
    type: Literal["allowed_tools"]
    allowed_tools: AllowedSet

    @property
    def names(self) -> list[str]:
        return [tool.function.name for tool in self.allowed_tools.tools]


def _choice_kind(choice: Any) -> str:
    if not isinstance(choice, dict):
        return "~mode"
    return "~allowed" if choice.get("type") == "allowed_tools" else "~named"


def _no_custom(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "custom":
        raise unsupported("cannot name a custom tool: this model calls functions only")
    return choice


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("~mode")]
    | Annotated[NamedFunction, Tag("~named")]
    | Annotated[AllowedTools, Tag("~allowed")],
    Discriminator(_choice_kind),
    BeforeValidator(_no_custom),
]

FunctionCall = Annotated[
    Annotated[Literal["none", "auto"], Tag("~mode")] | Annotated[Named, Tag("~named")],
    Discriminator(lambda choice: "~named" if isinstance(choice, dict) else "~mode"),
]
