"""Requests that the house makes of itself: through the same routes, without a socket and without the gate."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

from starlette.types import ASGIApp, Message, Receive

from serve_app.api.admission import Tenant
from serve_app.protocol import Tier

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Asked:
    """A JSON POST in a tenant's name; ``tier`` is the best it may have."""

    path: str
    body: bytes
    tenant: Tenant
    request_id: str
    tier: Tier


async def ask(app: ASGIApp, asked: Asked) -> tuple[int, bytes]:
    """Status and body of the answer. Cancelled, the request is cancelled as if its client had left."""
    status, body = 500, bytearray()

    async def send(message: Message) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            body.extend(message.get("body", b""))

    try:
        await app(_scope(asked), only(asked.body), send)
    except Exception:
        log.exception("request %s failed", asked.request_id)
        status = 500
    return status, bytes(body)


def only(body: bytes) -> Receive:
    """Gives the body, and never tells that the client left."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    return receive


def _scope(asked: Asked) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(asked.body)).encode())],
        "client": None,
        "server": None,
        "state": {"tenant": asked.tenant, "request_id": asked.request_id, "tier": asked.tier},
    }
