"""One line of a batch: asked until it is answered, or until there is no sense in asking again."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.types import ASGIApp

from serve_app import errors
from serve_app.api.admission import Tenant
from serve_app.api.batch.journal import Outcome
from serve_app.api.batch.lines import Line
from serve_app.api.inward import Asked, ask
from serve_app.api.traffic import Traffic
from serve_app.errors import RequestError
from serve_app.protocol import Failed, FailureCode, Json, Tier, Usage

_TRIES = 3
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0

_JAM = frozenset({429, 503})
"""There is no room, or no model, now: that is not the line's fault, and it waits."""

_FAULT = frozenset({408, 500, 502, 504})
"""May go better next time, but the line itself may be the cause."""

_LOST = FailureCode.ENGINE_LOST
"""A 503 that the line may have caused: a request that kills its model must not do so for a day."""

_STREAM = Failed(FailureCode.UNSUPPORTED, "A request of a batch is answered as a whole: it cannot stream.", "stream")
_BACKGROUND = Failed(FailureCode.UNSUPPORTED, "A batch is in the background already.", "background")


@dataclass(frozen=True, slots=True)
class Asker:
    """Asks lines on the lowest tier, as ``tenant``, which raises ``RequestError`` when it may ask no more."""

    app: ASGIApp
    traffic: Traffic
    tenant: Callable[[], Awaitable[Tenant]]
    endpoint: str
    new_id: Callable[[], str]

    async def outcome(self, line: Line) -> Outcome:
        """What became of the line, in the end."""
        refusal = _STREAM if line.body.get("stream") else _BACKGROUND if line.body.get("background") else None
        if refusal is not None:
            return self._outcome(line, self.new_id(), 400, errors.envelope(refusal))
        failures, pause_s = 0, _FIRST_PAUSE_S
        while True:
            request_id = self.new_id()
            status, body = await self._ask(line, request_id)
            if status not in _JAM or _code(body) == _LOST:
                failures += 1
                if status not in _FAULT | _JAM or failures == _TRIES:
                    return self._outcome(line, request_id, status, body)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _ask(self, line: Line, request_id: str) -> tuple[int, Any]:
        async with self.traffic.line():
            try:
                tenant = await self.tenant()
            except RequestError as refusal:
                return errors.status(refusal.failed), errors.envelope(refusal.failed)
            asked = Asked(self.endpoint, orjson.dumps(line.body), tenant, request_id, Tier.BATCH)
            status, body = await ask(self.app, asked)
        if status in _JAM:
            self.traffic.jammed()
        else:
            self.traffic.flowed()
        return status, _json(body)

    def _outcome(self, line: Line, request_id: str, status: int, body: Any) -> Outcome:
        response = {"status_code": status, "request_id": request_id, "body": body}
        return Outcome(line.number, status == 200, row(self.new_id(), line, response=response), _usage(body))


def row(new_id: str, line: Line, *, response: Json | None = None, error: Json | None = None) -> bytes:
    """A line of the output, or of the errors."""
    shape = {"id": f"batch_req_{new_id}", "custom_id": line.custom_id, "response": response, "error": error}
    return orjson.dumps(shape)


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode("utf-8", "replace")


def _code(body: Any) -> str | None:
    error = body.get("error") if isinstance(body, dict) else None
    return error.get("code") if isinstance(error, dict) else None


def _usage(body: Any) -> Usage:
    """Of an answer of any endpoint, by either of OpenAI's names."""
    usage = body.get("usage") if isinstance(body, dict) else None
    if not isinstance(usage, dict):
        return Usage()
    given, made = ("prompt", "completion") if "prompt_tokens" in usage else ("input", "output")
    return Usage(
        _count(usage, f"{given}_tokens"),
        _count(usage, f"{made}_tokens"),
        _count(usage.get(f"{given}_tokens_details"), "cached_tokens"),
        _count(usage.get(f"{made}_tokens_details"), "reasoning_tokens"),
    )


def _count(counts: Any, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    return value if isinstance(value, int) and value >= 0 else 0
