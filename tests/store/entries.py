"""Entries and questions as tests write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import text

from serve_app.protocol import Closed, Json, Opened, Turn, Usage
from serve_app.store import SqlStore

T0 = 1_700_000_000.0


class FakeClock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.now = T0

    def __call__(self) -> float:
        return self.now


def opened(
    name: str,
    messages: Sequence[Json] = ({"role": "user", "content": "hello"},),
    *,
    tenant: str = "acme",
    model: str = "llama",
    writer: str = "ingress-1",
    metadata: Mapping[str, str] | None = None,
    started_s: float = T0,
    stored: bool = True,
    user: str | None = None,
) -> Opened:
    turn = Turn(f"chatcmpl-{name}", tuple(messages), metadata or {}) if stored else None
    return Opened(name, writer, tenant, f"req-{name}", model, "chat/completions", "local", started_s, user, turn)


def closed(entry: Opened, status: Any = "completed", *, text: str | None = "hi", **changes: Any) -> Closed:
    """``text`` None: nothing was generated."""
    completion = None if text is None or entry.turn is None else completion_of(entry, text)
    values = {"usage": Usage(3, 5), "duration_s": 1.5, "first_token_s": 0.25, "completion": completion, **changes}
    return Closed(entry, status, **values)


def completion_of(entry: Opened, text: str = "hi") -> Json:
    assert entry.turn is not None
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return {
        "id": entry.turn.completion_id,
        "object": "chat.completion",
        "created": int(entry.started_s),
        "model": entry.model,
        "choices": [choice],
        "metadata": dict(entry.turn.metadata),
    }


def user(content: Any) -> Json:
    return {"role": "user", "content": content}


async def rows(store: SqlStore, query: str) -> list[tuple[Any, ...]]:
    """What the database itself says."""
    async with store._database.reading() as connection:
        return [tuple(row) for row in await connection.execute(text(query))]


async def count(store: SqlStore, table: str) -> int:
    return int((await rows(store, f"SELECT count(*) FROM {table}"))[0][0])
