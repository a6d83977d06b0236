"""KubeRay's CRDs as strict JSON schemas: what the API server would say, without one."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
import pytest
import yaml

from tests.k8s.rendering import ROOT

CRDS = ROOT.parent / "shared" / "kuberay" / "crds"


def complaints(manifest: dict[str, Any]) -> list[str]:
    """Skips the test where the CRDs are not at hand."""
    schema = _schema(f"ray.io_{manifest['kind'].lower()}s.yaml")
    found = jsonschema.Draft202012Validator(schema).iter_errors(_defaulted(schema, manifest))
    return [f"{'.'.join(map(str, error.absolute_path))}: {error.message[:200]}" for error in found]


@cache
def _schema(file: str) -> dict[str, Any]:
    path = CRDS / file
    if not path.exists():
        pytest.skip(f"KubeRay's CRD is not here: {path}")
    with path.open("rb") as source:
        crd = yaml.load(source, Loader=yaml.CSafeLoader)
    served = next(version for version in crd["spec"]["versions"] if version["name"] == "v1")
    schema = _strict(served["schema"]["openAPIV3Schema"])
    schema["properties"] |= {"metadata": {"type": "object"}, "apiVersion": {"const": "ray.io/v1"}}
    return schema


def _strict(node: Any) -> Any:
    """OpenAPI as the API server reads it: unknown fields are errors, quantities may be numbers, null is a type."""
    if isinstance(node, list):
        return [_strict(each) for each in node]
    if not isinstance(node, dict):
        return node
    plain = {name: _strict(value) for name, value in node.items() if name not in ("nullable", "format")}
    if node.get("x-kubernetes-int-or-string") is True:
        plain.pop("type", None)
        plain["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    if isinstance(node.get("properties"), dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        plain.setdefault("additionalProperties", False)
    return {"anyOf": [plain, {"type": "null"}]} if node.get("nullable") is True else plain


def _defaulted(schema: dict[str, Any], value: Any) -> Any:
    """The API server fills in defaults before it validates."""
    if isinstance(value, list):
        return [_defaulted(schema.get("items", {}), each) for each in value]
    if not isinstance(value, dict):
        return value
    properties = schema.get("properties", {})
    defaults = {name: each["default"] for name, each in properties.items() if "default" in each}
    return {name: _defaulted(properties.get(name, {}), each) for name, each in {**defaults, **value}.items()}
