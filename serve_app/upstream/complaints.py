"""What an upstream says is wrong, made fit for a client's eyes: one line, bounded, no keys."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

_LONGEST_MESSAGE = 500
_SHORTEST_SECRET = 8
"""Shorter "keys" are placeholders such as ``none``; hiding them would only garble messages."""
_SECRETS = re.compile(r"\b(?:(?:sk|pk|rk|gsk|xai|org|proj)[-_]|Bearer )(?=[\w*.\-]*[\d*])[\w*.\-]{6,}")
_LABEL = re.compile(r"[\w.\-]{1,64}", re.ASCII)
_PARAM = re.compile(r"[\w.\[\]\-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Complaint:
    """OpenAI's error object, as far as the upstream filled it in. ``code`` and ``param`` are names, never prose."""

    message: str = ""
    code: str | None = None
    type: str | None = None
    param: str | None = None

    @property
    def is_about_money(self) -> bool:
        """Waiting will not help: a quota is used up or a bill is open."""
        names = (self.code or "", self.type or "")
        return any(name == "insufficient_quota" or name.startswith("billing_") for name in names)


def read(value: Any, keys: Iterable[str]) -> Complaint:
    """From the value of ``error``: OpenAI's object, or the plain string that some servers send."""
    if isinstance(value, str):
        return Complaint(clean(value, keys))
    if not isinstance(value, dict):
        return Complaint()
    message = value.get("message")
    return Complaint(
        clean(message, keys) if isinstance(message, str) else "",
        _name(value.get("code"), _LABEL, keys),
        _name(value.get("type"), _LABEL, keys),
        _name(value.get("param"), _PARAM, keys),
    )


def read_body(body: bytes, keys: Iterable[str]) -> Complaint:
    """From the body of an error answer: ``{"error": ...}``, a bare error object, or ``{"detail": "..."}``."""
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        return Complaint()
    if isinstance(value, dict):
        value = value.get("error") or value.get("detail") or value
    return read(value, keys)


def clean(text: str, keys: Iterable[str]) -> str:
    """One printable line of at most 500 characters, with every key, and whatever looks like one, taken out."""
    for key in keys:
        if len(key) >= _SHORTEST_SECRET:
            text = text.replace(key, "[redacted]")
    line = " ".join(_SECRETS.sub("[redacted]", text[: 4 * _LONGEST_MESSAGE]).split())
    return "".join(filter(str.isprintable, line))[:_LONGEST_MESSAGE]


def _name(value: Any, pattern: re.Pattern[str], keys: Iterable[str]) -> str | None:
    """A name that holds nothing to hide, or None."""
    return value if isinstance(value, str) and pattern.fullmatch(value) and clean(value, keys) == value else None
