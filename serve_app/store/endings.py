"""What becomes of responses inside a writing transaction: begun, ended, given up, taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Update, and_, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import Json
from serve_app.store.chains import add_messages, collect
from serve_app.store.rows import KeptResponse, Key, decode, encode, items, tip_of
from serve_app.store.schema import RESPONSE_OPEN, conversations, messages, responses, writers

_MOST_ATTEMPTS = 3
_APPENDED = ("completed", "incomplete")
"""How a response ended whose items its conversation keeps."""

_LOST = "The server was stopped while it generated this response."
_LOST_TOO_OFTEN = "The server was stopped each time it generated this response."
_NOT_AGAIN = "The server was stopped while it generated this response, and cannot generate it again."


def at(key: Key) -> ColumnElement[bool]:
    return and_(responses.c.response_id == key[0], responses.c.tenant == key[1])


async def record(connection: AsyncConnection, entries: Mapping[Key, KeptResponse]) -> frozenset[str]:
    """Writes the entries, in order. The ids of those that were refused."""
    return frozenset([entry.opened.entry_id for entry in entries.values() if not await _record(connection, entry)])


async def append(connection: AsyncConnection, key: Key, added: Sequence[Json]) -> bool:
    """Puts items behind the last of a conversation; whether there is such a conversation."""
    mine = and_(conversations.c.conversation_id == key[0], conversations.c.tenant == key[1])
    found = (await connection.execute(select(conversations.c.tip).where(mine))).first()
    if found is None:
        return False
    rows = items(key[1], added, found.tip)
    await add_messages(connection, rows)
    await connection.execute(update(conversations).where(mine).values(tip=tip_of(rows, found.tip)))
    return True


async def delete_response(connection: AsyncConnection, key: Key) -> bool:
    """Removes the content, in whatever state it is, and every item that nothing else needs."""
    query = select(responses.c.given, responses.c.tip).where(at(key), responses.c.status != "deleted")
    row = (await connection.execute(query)).first()
    if row is None:
        return False
    emptied = {"status": "deleted", "given": None, "tip": None, "response": None, "request": None}
    await connection.execute(update(responses).where(at(key)).values(emptied))
    if (tip := row.tip or row.given) is not None:
        await collect(connection, tip)
    return True


async def give_up(connection: AsyncConnection, silent_since_s: float) -> None:
    """What silent writers left open ends as failed. What ran in the background waits for another writer."""
    abandoned = and_(responses.c.status == RESPONSE_OPEN, _orphaned(silent_since_s), responses.c.background.is_(False))
    for row in (await connection.execute(_unfinished().where(abandoned))).all():
        await _fail(connection, row, _LOST)


async def claim(connection: AsyncConnection, writer: str, waiting: ColumnElement[bool], most: int) -> list[Any]:
    """Rows that are now the writer's to answer."""
    claimed = []
    for row in (await connection.execute(_unfinished().where(waiting).limit(most))).all():
        if row.request is None or row.attempts >= _MOST_ATTEMPTS:
            await _fail(connection, row, _NOT_AGAIN if row.request is None else _LOST_TOO_OFTEN)
            continue
        taken = {"writer": writer, "attempts": row.attempts + 1}
        await connection.execute(update(responses).where(at((row.response_id, row.tenant))).values(taken))
        claimed.append(row)
    return claimed


def unattended(writer: str, silent_since_s: float, held: Sequence[Key]) -> ColumnElement[bool]:
    """Background responses of dead writers, and this one's own that it does not know of; ``held`` are tenant and id."""
    own = and_(responses.c.writer == writer, tuple_(responses.c.tenant, responses.c.response_id).not_in(held))
    running = and_(responses.c.status == RESPONSE_OPEN, responses.c.background.is_(True))
    return and_(running, or_(own, and_(responses.c.writer != writer, _orphaned(silent_since_s))))


def ended(key: Key, response: Json | bytes, tip: bytes | None) -> Update:
    """Nobody may write it any more."""
    body = response if isinstance(response, bytes) else encode(response)
    values = {"status": "ended", "response": body, "tip": tip, "request": None}
    return update(responses).where(at(key)).values(values)


async def _record(connection: AsyncConnection, entry: KeptResponse) -> bool:
    query = select(responses.c.status, responses.c.writer).where(at(entry.key))
    known = (await connection.execute(query)).first()
    if known is None and not entry.abandoned and not await _may_begin(connection, entry):
        return False
    if known is None:
        await add_messages(connection, [] if entry.abandoned else entry.given)
        await connection.execute(insert(responses), entry.row)
    elif (known.status, known.writer) != ("open", entry.opened.writer):
        return True
    if entry.closed is not None:
        await _end(connection, entry)
    return True


async def _may_begin(connection: AsyncConnection, entry: KeptResponse) -> bool:
    """Whether the history it goes on from is still there, and nobody else answers in its conversation."""
    base, conversation = entry.turn.base, entry.turn.conversation
    if base is not None:
        query = select(messages.c.hash).where(messages.c.hash == base)
        if (await connection.execute(query)).first() is None:
            return False
    if conversation is None:
        return True
    mine = (responses.c.tenant == entry.opened.tenant, responses.c.conversation == conversation)
    holder = select(responses.c.response_id).where(*mine, responses.c.status == RESPONSE_OPEN)
    return (await connection.execute(holder.limit(1))).first() is None


async def _end(connection: AsyncConnection, entry: KeptResponse) -> None:
    completion = entry.closed.completion if entry.closed else None
    if completion is None:
        await delete_response(connection, entry.key)
        return
    await add_messages(connection, entry.output)
    await connection.execute(ended(entry.key, entry.response, entry.tip))
    if entry.turn.conversation and completion["status"] in _APPENDED:
        key = (entry.turn.conversation, entry.opened.tenant)
        await append(connection, key, [*entry.turn.added, *entry.turn.items, *entry.said])


def _orphaned(silent_since_s: float) -> ColumnElement[bool]:
    living = select(writers.c.writer).where(writers.c.seen_s >= silent_since_s)
    return responses.c.writer.not_in(living)


def _unfinished() -> Any:
    columns = ("response_id", "tenant", "given", "response", "request", "attempts")
    return select(*(responses.c[name] for name in columns))


async def _fail(connection: AsyncConnection, row: Any, message: str) -> None:
    failure = {"status": "failed", "error": {"code": "server_error", "message": message}}
    key = (row.response_id, row.tenant)
    await connection.execute(ended(key, decode(row.response) | failure, row.given))
