"""What an answer is held against: the official SDK's types, and OpenAI's own schemas."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import jsonschema
import pydantic
import yaml

SPEC = Path(__file__).parents[2].parent / "shared" / "openai" / "openapi.yaml"
ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)


def typed(shape: type[ModelT], body: Any, *, extras: frozenset[str] = frozenset()) -> ModelT:
    """``body`` as an SDK type: no coercion, and at no depth a key that neither the type nor ``extras`` knows."""
    parsed = shape.model_validate(body, strict=True)
    assert unknown_keys(parsed) <= extras
    return parsed


def unknown_keys(value: Any) -> set[str]:
    if isinstance(value, pydantic.BaseModel):
        inner = [getattr(value, name) for name in type(value).model_fields]
        return set(value.model_extra or {}).union(*(unknown_keys(one) for one in inner))
    if isinstance(value, list):
        return set().union(*(unknown_keys(one) for one in value))
    return set()


@cache
def document() -> dict[str, Any]:
    """OpenAI's specification, as it is."""
    with SPEC.open("rb") as file:
        loaded: dict[str, Any] = yaml.load(file, Loader=yaml.CSafeLoader)
    return loaded


@cache
def _schemas() -> dict[str, Any]:
    return {"schemas": _nullable(document()["components"]["schemas"])}


def _nullable(node: Any) -> Any:
    """OpenAPI 3.0's ``nullable``, which the document still uses, in the words of JSON schema."""
    if isinstance(node, list):
        return [_nullable(one) for one in node]
    if not isinstance(node, dict):
        return node
    plain = {name: _nullable(value) for name, value in node.items() if name not in ("nullable", "discriminator")}
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


def conforms(schema: str, body: Any) -> None:
    """Fails unless ``body`` is what OpenAI's specification says. Where that is not at hand, the SDK's types must do."""
    if not SPEC.exists():
        return
    root = {"$ref": f"#/components/schemas/{schema}", "components": _schemas()}
    errors = list(jsonschema.Draft202012Validator(root).iter_errors(body))
    assert not errors, (errors[0].json_path, errors[0].message)
