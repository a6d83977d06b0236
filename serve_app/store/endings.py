"""What becomes of responses inside a writing transaction: begun, ended, given up, taken over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Update, and_, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import Json
from serve_app.store.chains import add_messages, chunks, collect
from serve_app.store.rows import KeptResponse, Key, decode, encode, items, tip_of
from serve_app.store.schema import RESPONSE_OPEN, conversations, responses, writers
from serve_app.store.statements import statements

_MOST_ATTEMPTS = 3
_APPENDED = ("completed", "incomplete")
"""How a response ended whose items its conversation keeps."""

_LOST = "The server was stopped while it generated this response."
_LOST_TOO_OFTEN = "The server was stopped each time it generated this response."
_NOT_AGAIN = "The server was stopped while it generated this response, and cannot generate it again."


def at(key: Key) -> ColumnElement[bool]:
    return and_(responses.c.response_id == key[0], responses.c.tenant == key[1])


async def record(connection: AsyncConnection, entries: Mapping[Key, KeptResponse]) -> frozenset[str]:
    """Writes the entries. The ids of those that were refused.

    Those of conversations go one by one, in order, since one may end what the next has been waiting for.
    """
    alone = [entry for entry in entries.values() if entry.turn.conversation is not None]
    together = [entry for entry in entries.values() if entry.turn.conversation is None]
    refused: set[str] = set()
    for group in (together, *([entry] for entry in alone)):
        if group:
            refused.update(await _record(connection, group))
    return frozenset(refused)


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


async def _record(connection: AsyncConnection, entries: Sequence[KeptResponse]) -> list[str]:
    """As few statements for many entries as for one."""
    to_do = statements(connection.dialect.name)
    known = await _standing(connection, entries)
    new = [entry for entry in entries if entry.key not in known]
    refused = await _not_to_begin(connection, [entry for entry in new if not entry.abandoned])
    begun = [entry for entry in new if entry.opened.entry_id not in refused]
    await add_messages(connection, [row for entry in begun if not entry.abandoned for row in entry.given])
    if begun:
        await connection.execute(to_do.add_responses, [entry.row for entry in begun])
    mine = [entry for entry in entries if known.get(entry.key) == ("open", entry.opened.writer)]
    await _end(connection, [entry for entry in (*begun, *mine) if entry.closed is not None])
    return refused


async def _standing(connection: AsyncConnection, entries: Sequence[KeptResponse]) -> dict[Key, tuple[str, str]]:
    """Status and writer of those that are there."""
    known: dict[Key, tuple[str, str]] = {}
    query = statements(connection.dialect.name).response_standings
    for chunk in chunks([entry.turn.response_id for entry in entries]):
        for row in await connection.execute(query, {"ids": chunk}):
            known[row.response_id, row.tenant] = (row.status, row.writer)
    return known


async def _not_to_begin(connection: AsyncConnection, entries: Sequence[KeptResponse]) -> list[str]:
    """Those whose history is gone, and those in whose conversation another one is open."""
    there: set[bytes] = set()
    query = statements(connection.dialect.name).messages_there
    for chunk in chunks([entry.turn.base for entry in entries if entry.turn.base is not None]):
        there.update([row.hash for row in await connection.execute(query, {"hashes": chunk})])
    gone = [entry for entry in entries if entry.turn.base is not None and entry.turn.base not in there]
    locked = [entry for entry in entries if await _is_locked(connection, entry)]
    return [entry.opened.entry_id for entry in (*gone, *locked)]


async def _is_locked(connection: AsyncConnection, entry: KeptResponse) -> bool:
    if entry.turn.conversation is None:
        return False
    mine = (responses.c.tenant == entry.opened.tenant, responses.c.conversation == entry.turn.conversation)
    holder = select(responses.c.response_id).where(*mine, responses.c.status == RESPONSE_OPEN)
    return (await connection.execute(holder.limit(1))).first() is not None


async def _end(connection: AsyncConnection, entries: Sequence[KeptResponse]) -> None:
    for entry in entries:
        if entry.abandoned:
            await delete_response(connection, entry.key)
    whole = [entry for entry in entries if not entry.abandoned]
    await add_messages(connection, [row for entry in whole for row in entry.output])
    if whole:
        ending = [{f"its_{name}": value for name, value in entry.ending.items()} for entry in whole]
        await connection.execute(statements(connection.dialect.name).end_response, ending)
    for entry in whole:
        if entry.turn.conversation and entry.status in _APPENDED:
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
