"""Two hundred JSON schemas, all different, in the manner of what applications ask for; the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

Schema = dict[str, Any]

_WORDS = ("name", "city", "age", "état", "kind", "is open", "tags", "id", "größe", "x-y", "note", "価格", "zip", "a.b")
_FORMATS = ("date", "date-time", "uuid", "ipv4", "email")
_PATTERNS = ("^[a-c]{3}$", "^[A-Z][0-9]{2}$", "^(yes|no)$", "^\\d{3}-\\d{4}$", "^#[0-9a-f]{6}$", "^é+x$")


def record(**properties: Any) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def schemas(count: int = 200, seed: int = 1) -> list[Schema]:
    """``count`` of them, each of a kind of its own or with other bounds."""
    chance = random.Random(seed)
    found: dict[str, Schema] = {}
    while len(found) < count:
        made = _shared(chance) if chance.random() < 0.1 else _any(chance, chance.choice([0, 1, 1, 2]))
        found.setdefault(repr(made), made)
    return list(found.values())


def _any(chance: random.Random, depth: int) -> Schema:
    makers: list[Callable[[random.Random, int], Schema]] = [_scalar, _string, _number, _choice]
    if depth:
        makers += [_object, _object, _array, _union, _tuple, _optional]
    return chance.choice(makers)(chance, depth - 1)


def _scalar(chance: random.Random, depth: int) -> Schema:
    return {"type": chance.choice(["boolean", "null"])}


def _string(chance: random.Random, depth: int) -> Schema:
    return chance.choice(
        [
            {"type": "string", "maxLength": chance.randint(1, 12)},
            {"type": "string", "minLength": chance.randint(1, 3), "maxLength": chance.randint(4, 9)},
            {"type": "string", "pattern": chance.choice(_PATTERNS)},
            {"type": "string", "format": chance.choice(_FORMATS)},
        ]
    )


def _number(chance: random.Random, depth: int) -> Schema:
    low = chance.randint(-50, 50)
    kind = chance.choice(["integer", "number"])
    bounds = chance.choice(
        [
            {"minimum": low, "maximum": low + chance.randint(0, 500)},
            {"exclusiveMinimum": low, "exclusiveMaximum": low + chance.randint(2, 99)},
        ]
    )
    multiple = {"multipleOf": chance.choice([2, 5, 10])} if kind == "integer" and "maximum" in bounds else {}
    return {"type": kind, **bounds, **({"multipleOf": 1} if multiple and bounds["maximum"] - low < 20 else multiple)}


def _choice(chance: random.Random, depth: int) -> Schema:
    values = ["red", "green", 3, None, True, {"a": [1, "ü"]}, 2.5, "two words", []]
    picked = chance.sample(values, chance.randint(1, 5))
    return {"const": picked[0]} if len(picked) == 1 else {"enum": picked}


def _object(chance: random.Random, depth: int) -> Schema:
    return record(**{name: _any(chance, depth) for name in chance.sample(_WORDS, chance.randint(1, 3))})


def _optional(chance: random.Random, depth: int) -> Schema:
    made = record(**{name: _any(chance, depth) for name in chance.sample(_WORDS, 3)})
    return {**made, "required": made["required"][:1]}


def _array(chance: random.Random, depth: int) -> Schema:
    least = chance.randint(0, 2)
    return {"type": "array", "items": _any(chance, depth), "minItems": least, "maxItems": least + chance.randint(0, 1)}


def _tuple(chance: random.Random, depth: int) -> Schema:
    items = [_any(chance, depth) for _ in range(chance.randint(1, 3))]
    return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}


def _union(chance: random.Random, depth: int) -> Schema:
    return {"anyOf": [_any(chance, depth) for _ in range(chance.randint(2, 3))]}


def _shared(chance: random.Random) -> Schema:
    one = {"$ref": "#/$defs/one"}
    return {"$defs": {"one": _any(chance, 0)}, **record(a=one, b={"type": "array", "items": one, "maxItems": 2})}
