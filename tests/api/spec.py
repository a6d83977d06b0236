"""OpenAI's specification, cut down to what this application serves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from tests.api.contract import document

ANYTHING: dict[str, Any] = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}


def operations(app: FastAPI) -> list[tuple[str, str]]:
    """Method and path of everything that is served; what a parameter takes is left out of its name."""
    routes = [route for route in app.routes if isinstance(route, APIRoute)]
    return sorted((method, re.sub(r":\w+}", "}", route.path)) for route in routes for method in route.methods)


def served(app: FastAPI) -> dict[str, Any]:
    """A specification of the app's routes: OpenAI's where it knows them, with every component that they mention; any
    JSON object where it does not. Parameters of a path have our names."""
    theirs = document()
    known = {_shape("/v1" + path): item for path, item in theirs["paths"].items()}
    paths: dict[str, Any] = {}
    for method, path in operations(app):
        found = known.get(_shape(path), {}).get(method.lower(), ANYTHING if method == "POST" else {})
        operation = {name: found[name] for name in ("requestBody",) if name in found}
        named = [one for one in found.get("parameters", []) if one.get("in") == "query"]
        mine = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in _names(path)]
        operation |= {"parameters": [*named, *mine], "responses": {"200": {"description": "an answer"}}}
        paths.setdefault(path, {})[method.lower()] = operation
    info = {"title": "what is served", "version": "1"}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": _mentioned(paths, theirs["components"])}


def schema_of(method: str, path: str, media_type: str) -> str | None:
    """The name of the schema that OpenAI gives a route's good answer; None where it has no such route or answer."""
    for theirs, item in document()["paths"].items():
        if _shape("/v1" + theirs) == _shape(path) and method.lower() in item:
            content = item[method.lower()]["responses"].get("200", {}).get("content", {})
            reference: str = content.get(media_type, {}).get("schema", {}).get("$ref", "")
            return reference.rpartition("/")[2] or None
    return None


def _names(path: str) -> list[str]:
    return re.findall(r"\{(\w+)", path)


def _shape(path: str) -> str:
    """A path with its parameters nameless."""
    return re.sub(r"\{[^}]*\}", "{}", path)


def _mentioned(paths: dict[str, Any], components: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    waiting = list(_references(paths))
    while waiting:
        kind, name = waiting.pop().split("/")[-2:]
        if name not in found.setdefault(kind, {}):
            found[kind][name] = components[kind][name]
            waiting += _references(components[kind][name])
    return found


def _references(node: Any) -> Iterable[str]:
    if isinstance(node, list):
        for one in node:
            yield from _references(one)
    elif isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for one in node.values():
            yield from _references(one)
