"""What may be done to the tables, each inside a writing transaction that the caller began and commits.

The transaction is the only writing one, so what is read here stays true until the commit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from sqlalchemy import Executable, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import Json
from serve_app.store import endings
from serve_app.store.chains import add_messages, chunks, collect
from serve_app.store.rows import Key, Ledger, Row, StoredTurn, completion_object, encode, pairs
from serve_app.store.schema import IN_PROGRESS, OPEN, labels, turns, usage, writers
from serve_app.store.statements import CLOSING, statements


async def record(connection: AsyncConnection, ledger: Ledger, now_s: float) -> frozenset[str]:
    """Writes the entries, but for those it refuses: their ids. What is closed, or deleted, is left as it is."""
    refused: frozenset[str] = frozenset()
    if ledger.turns:
        await _record_turns(connection, ledger.turns)
    if ledger.responses:
        refused = await endings.record(connection, ledger.responses)
    await _record_usage(connection, [row for name, row in ledger.usage.items() if name not in refused])
    if ledger.openers:
        await hear(connection, sorted(ledger.openers), now_s)
    return refused


async def hear(connection: AsyncConnection, names: Sequence[str], now_s: float) -> None:
    """These writers live."""
    rows = [{"writer": name, "seen_s": now_s} for name in names]
    await connection.execute(statements(connection.dialect.name).hear_writer, rows)


async def reap(connection: AsyncConnection, silent_since_s: float) -> int:
    """Gives up what silent writers left in progress, and forgets them. How many entries that were."""
    silent = select(writers.c.writer).where(writers.c.seen_s < silent_since_s)
    rowcounts = {}
    for table in (turns, usage):
        abandoned = (table.c.status == IN_PROGRESS) & table.c.writer.in_(silent)
        result = await connection.execute(update(table).where(abandoned).values(status="incomplete"))
        rowcounts[table.name] = result.rowcount
    await endings.give_up(connection, silent_since_s)
    await connection.execute(delete(writers).where(writers.c.seen_s < silent_since_s))
    return rowcounts["usage"]


async def set_metadata(
    connection: AsyncConnection, tenant: str, completion_id: str, metadata: Mapping[str, str]
) -> Json | None:
    mine = (turns.c.completion_id == completion_id) & (turns.c.tenant == tenant)
    completion = (await connection.execute(select(turns.c.completion).where(mine))).scalar()
    if completion is None:
        return None
    body = encode(dict(metadata))
    await connection.execute(update(turns).where(mine).values(metadata=body))
    await _relabel(connection, (completion_id, tenant), pairs(metadata))
    return completion_object(completion, body)


async def delete_turn(connection: AsyncConnection, tenant: str, completion_id: str) -> bool:
    """Removes the turn's content, in whatever state it is, and every message that no other turn needs."""
    mine = (turns.c.completion_id == completion_id) & (turns.c.tenant == tenant)
    row = (await connection.execute(select(turns.c.tip).where(mine, turns.c.status != "deleted"))).first()
    if row is None:
        return False
    emptied = {"status": "deleted", "tip": None, "completion": None, "metadata": encode({})}
    await connection.execute(update(turns).where(mine).values(emptied))
    await _relabel(connection, (completion_id, tenant), [])
    if row.tip is not None:
        await collect(connection, row.tip)
    return True


async def _record_turns(connection: AsyncConnection, given: Mapping[Key, StoredTurn]) -> None:
    known = await _statuses(connection, given)
    new = [turn for key, turn in given.items() if key not in known]
    closed = [turn for key, turn in given.items() if known.get(key) in OPEN and turn.row["status"] != "in_progress"]
    to_do = statements(connection.dialect.name)
    messages_of_new = {row["hash"]: row for turn in new for row in turn.chain}
    await add_messages(connection, messages_of_new.values())
    await _execute_many(connection, to_do.add_turns, [turn.row for turn in new])
    names = ("completion_id", "tenant", *CLOSING)
    closing = [{f"its_{name}": turn.row[name] for name in names} for turn in closed]
    await _execute_many(connection, to_do.close_turn, closing)
    found = [row for turn in (*new, *closed) for row in _label_rows(turn.key, turn.pairs)]
    await _execute_many(connection, to_do.add_labels, found)


async def _statuses(connection: AsyncConnection, keys: Iterable[Key]) -> dict[Key, str]:
    known: dict[Key, str] = {}
    query = statements(connection.dialect.name).turn_statuses
    for chunk in chunks([completion_id for completion_id, _ in keys]):
        for row in await connection.execute(query, {"ids": chunk}):
            known[row.completion_id, row.tenant] = row.status
    return known


async def _record_usage(connection: AsyncConnection, rows: Iterable[Row]) -> None:
    opened: list[Row] = []
    closed: list[Row] = []
    for row in rows:
        (opened if row["status"] == "in_progress" else closed).append(row)
    to_do = statements(connection.dialect.name)
    await _execute_many(connection, to_do.open_usage, opened)
    await _execute_many(connection, to_do.close_usage, closed)


async def _execute_many(connection: AsyncConnection, statement: Executable, rows: Collection[Row]) -> None:
    if rows:
        await connection.execute(statement, list(rows))


async def _relabel(connection: AsyncConnection, key: Key, found: Sequence[bytes]) -> None:
    completion_id, tenant = key
    mine = (labels.c.completion_id == completion_id) & (labels.c.tenant == tenant)
    await connection.execute(delete(labels).where(mine))
    await _execute_many(connection, statements(connection.dialect.name).add_labels, _label_rows(key, found))


def _label_rows(key: Key, found: Sequence[bytes]) -> list[Row]:
    completion_id, tenant = key
    return [{"completion_id": completion_id, "tenant": tenant, "pair": pair} for pair in found]
