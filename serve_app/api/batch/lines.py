"""The input of a batch: one request on each line, checked as a whole before the first is asked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from serve_app.api.limits import Limits
from serve_app.protocol import Json

_TOLD = 100
"""Problems that are told; who has more learns of the others when these are mended."""


@dataclass(frozen=True, slots=True)
class Line:
    """``number`` counts from 1, blank lines too; ``body`` is the request's JSON."""

    number: int
    custom_id: str
    body: Json


@dataclass(slots=True)
class Check:
    """What an input is: how many requests for which model, and what is wrong with it."""

    total: int = 0
    model: str | None = None
    problems: list[Json] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def take(self, number: int, raw: bytes, endpoint: str) -> None:
        self.total += 1
        problem = self._problem(raw, endpoint)
        if problem and len(self.problems) < _TOLD:
            self.problems.append(problem_json(*problem, line=number))

    def _problem(self, raw: bytes, endpoint: str) -> tuple[str, str, str | None] | None:
        """Code, message and parameter of what is wrong with a line, if anything is."""
        request = _loads(raw)
        if not isinstance(request, dict):
            return "invalid_json_line", "This line is not a JSON object in UTF-8.", None
        custom_id, body = request.get("custom_id"), request.get("body")
        if not isinstance(custom_id, str) or not custom_id:
            return "invalid_custom_id", "Each request needs a 'custom_id', a text.", "custom_id"
        if custom_id in self._seen:
            return "duplicate_custom_id", "The 'custom_id' of this line was used before.", "custom_id"
        self._seen.add(custom_id)
        if request.get("method") != "POST":
            return "invalid_method", "The 'method' of each request must be POST.", "method"
        if request.get("url") != endpoint:
            return "mismatched_url", "The 'url' of each request must be the batch's endpoint.", "url"
        if not isinstance(body, dict):
            return "invalid_body", "The 'body' of each request must be an object.", "body"
        if self.model is None and isinstance(body.get("model"), str):
            self.model = body["model"]
        return None


def problem_json(code: str, message: str, param: str | None = None, line: int | None = None) -> Json:
    """One of a batch's ``errors``."""
    return {"code": code, "message": message, "param": param, "line": line}


def check(path: Path, endpoint: str, limits: Limits) -> Check:
    """Reads all of it, and blocks meanwhile. Raises OSError where the file cannot be read."""
    found = Check()
    if path.stat().st_size > limits.max_batch_bytes:
        found.problems.append(
            problem_json("file_too_large", f"The file is larger than {limits.max_batch_bytes} bytes.")
        )
        return found
    for number, raw in numbered(path, limits.max_body_bytes):
        if len(raw) > limits.max_body_bytes:
            text = f"A line is longer than {limits.max_body_bytes} bytes."
            found.problems.append(problem_json("line_too_long", text, line=number))
            return found
        if found.total >= limits.max_batch_lines:
            text = f"The file holds more than {limits.max_batch_lines} requests."
            found.problems.append(problem_json("too_many_requests", text, line=number))
            return found
        found.take(number, raw, endpoint)
    if not found.total:
        found.problems.append(problem_json("empty_file", "The file holds no requests."))
    return found


def numbered(path: Path, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The lines that are not blank, with their numbers; a longer one than ``most_bytes`` comes in pieces."""
    with path.open("rb") as file:
        number = 0
        while raw := file.readline(most_bytes + 1):
            number += 1
            if raw.strip():
                yield number, raw


def lines(path: Path, limits: Limits) -> Iterator[Line]:
    """The requests of an input that was checked."""
    for number, raw in numbered(path, limits.max_body_bytes):
        request = orjson.loads(raw)
        yield Line(number, request["custom_id"], request["body"])


def _loads(raw: bytes) -> Any:
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
