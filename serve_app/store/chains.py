"""Chains of messages: followed from their tip up, and taken away as far as nothing else needs them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import takewhile
from typing import TypeVar

from sqlalchemy import CTE, delete, exists, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.store.rows import Row
from serve_app.store.schema import conversations, messages, responses, turns
from serve_app.store.statements import statements

Value = TypeVar("Value")

_CHUNK = 1000
"""Values in one IN list: both databases refuse statements of more than 32,766 parameters."""

_POINTERS = (turns.c.tip, responses.c.given, responses.c.tip, conversations.c.tip)
"""What keeps a chain."""


async def add_messages(connection: AsyncConnection, rows: Collection[Row]) -> None:
    """Those that are not there yet."""
    if rows:
        await connection.execute(statements(connection.dialect.name).add_messages, list(rows))


def ancestry(tip: bytes) -> CTE:
    """A chain from its tip up: ``hash``, ``child`` (the message after it, none for the tip), ``depth`` from the tip."""
    start = select(messages.c.hash, messages.c.parent, literal(None, messages.c.hash.type).label("child"))
    start = start.add_columns(literal(0).label("depth")).where(messages.c.hash == tip)
    links = start.cte("ancestry", recursive=True)
    step = select(messages.c.hash, messages.c.parent, links.c.hash, links.c.depth + 1)
    return links.union_all(step.join(links, messages.c.hash == links.c.parent))


async def bodies(connection: AsyncConnection, tip: bytes | None) -> Sequence[bytes]:
    """The messages of a chain, first to last."""
    if tip is None:
        return []
    links = ancestry(tip)
    query = select(messages.c.body).join(links, messages.c.hash == links.c.hash).order_by(links.c.depth.desc())
    return (await connection.execute(query)).scalars().all()


async def collect(connection: AsyncConnection, tip: bytes) -> None:
    """Deletes messages from the tip up, as far as nothing points at them and nothing else goes on from them."""
    links = ancestry(tip)
    other = messages.alias()
    forked = exists().where(other.c.parent == links.c.hash, or_(links.c.child.is_(None), other.c.hash != links.c.child))
    pointed_at = [exists().where(pointer == links.c.hash) for pointer in _POINTERS]
    query = select(links.c.hash, or_(forked, *pointed_at).label("needed")).order_by(links.c.depth)
    rows = (await connection.execute(query)).all()
    unneeded = [row.hash for row in takewhile(lambda row: not row.needed, rows)]
    for chunk in chunks(unneeded):
        await connection.execute(delete(messages).where(messages.c.hash.in_(chunk)))


def chunks(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    for start in range(0, len(values), _CHUNK):
        yield values[start : start + _CHUNK]
