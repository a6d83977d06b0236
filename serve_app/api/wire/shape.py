"""What every wire shape has in common: ``null`` is "not sent", unknown fields are ignored, refusals are a table."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from serve_app.api.limits import Limits
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Json

ShapeT = TypeVar("ShapeT", bound="Shape")

_UNSUPPORTED = "unsupported_parameter"

_TABLE: dict[str, tuple[str, str]] = {
    "string_type": ("invalid_type", "must be a string"),
    "int_type": ("invalid_type", "must be an integer"),
    "int_from_float": ("invalid_type", "must be an integer"),
    "int_parsing_size": ("invalid_value", "is out of range"),
    "float_type": ("invalid_type", "must be a number"),
    "bool_type": ("invalid_type", "must be true or false"),
    "list_type": ("invalid_type", "must be an array"),
    "dict_type": ("invalid_type", "must be an object"),
    "model_type": ("invalid_type", "must be an object"),
    "literal_error": ("invalid_value", "must be one of {expected}"),
    "string_pattern_mismatch": ("invalid_value", "must match {pattern}"),
    "string_too_short": ("string_below_min_length", "must have at least {min_length} characters"),
    "string_too_long": ("string_above_max_length", "must have at most {max_length} characters"),
    "too_short": ("array_below_min_length", "must have at least {min_length} items"),
    "too_long": ("array_above_max_length", "must have at most {max_length} items"),
}
_BOUNDS = {
    "greater_than": ("below_min_value", "must be greater than {gt}"),
    "greater_than_equal": ("below_min_value", "must be at least {ge}"),
    "less_than_equal": ("above_max_value", "must be at most {le}"),
}


class Shape(BaseModel):
    """Strict: no number for a string, no string for a number, no NaN."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_sent(cls, data: Any) -> Any:
        return {name: value for name, value in data.items() if value is not None} if isinstance(data, dict) else data


def read(shape: type[ShapeT], body: Json, limits: Limits) -> ShapeT:
    """The body as ``shape``, or a ``RequestError`` that names the first parameter at fault, never its value."""
    try:
        return shape.model_validate(body, context=limits)
    except ValidationError as error:
        raise _refusal(error.errors(include_url=False, include_input=False)[0]) from None


def wrong(phrase: str, code: str = "invalid_value", at: str = "") -> PydanticCustomError:
    """For validators to raise. ``phrase`` follows the parameter's name: "must be …"; it quotes no value.

    ``at`` names the field at fault, for a validator of a whole shape.
    """
    return PydanticCustomError("wire", "{phrase}", {"phrase": phrase, "code": code, "at": at})


def unsupported(phrase: str, at: str = "") -> PydanticCustomError:
    """For validators to raise: understood, and refused because ignoring it would change what the client gets."""
    return wrong(phrase, _UNSUPPORTED, at)


def limits_of(info: ValidationInfo) -> Limits:
    """The limits a shape is read under; ``read`` always gives them."""
    if not isinstance(info.context, Limits):
        raise TypeError("a wire shape is read with its limits as context")
    return info.context


def _refusal(error: ErrorDetails) -> RequestError:
    at = error.get("ctx", {}).get("at", "")
    param = _path((*error["loc"], at) if at else error["loc"])
    code, phrase = _explain(error)
    if code == _UNSUPPORTED:
        return RequestError(FailureCode.UNSUPPORTED, f"Unsupported parameter: '{param}' {phrase}.", param=param)
    if code == "missing_required_parameter":
        return RequestError(FailureCode.INVALID_REQUEST, f"Missing required parameter: '{param}'.", param, code)
    name = f"'{param}'" if param else "the request"
    return RequestError(FailureCode.INVALID_REQUEST, f"Invalid parameter: {name} {phrase}.", param, code)


def _explain(error: ErrorDetails) -> tuple[str, str]:
    kind, context = error["type"], error.get("ctx", {})
    if kind == "wire":
        return context["code"], context["phrase"]
    if kind == "missing":
        return "missing_required_parameter", ""
    if kind in _BOUNDS:
        code, phrase = _BOUNDS[kind]
        bound = next(iter(context.values()))
        return f"{'integer' if isinstance(bound, int) else 'decimal'}_{code}", phrase.format(**context)
    code, phrase = _TABLE.get(kind, ("invalid_value", "is not valid"))
    return code, phrase.format(**context)


def _path(loc: tuple[int | str, ...]) -> str | None:
    """``messages[0].content``; the names of union members start with ``~`` and are not part of the path."""
    path = ""
    for step in loc:
        if isinstance(step, int):
            path += f"[{step}]"
        elif not step.startswith("~"):
            path += f".{step}" if path else step
    return path or None
