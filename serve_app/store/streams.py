"""The room of recorded streams: ``Streams`` over SQLAlchemy."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from sqlalchemy import ColumnElement, Table, delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import Streams, Stretch
from serve_app.store.desk import Desk
from serve_app.store.schema import streams, stretches
from serve_app.store.waiting import Bell

_KEPT_S = 600.0
_READ_ALONG_S = 15.0
"""A reader that asked that lately is taken to be on its way with its next question."""

_ROWS = 64
_SWEPT = 200
"""Streams forgotten in one transaction: others wait for it."""

_LENGTH = 4

Key = tuple[str, str]


class StreamRoom(Streams):
    """Belongs to the store's event loop. Who reads along is known to this process alone, and for a moment only."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._bell = Bell()
        self._asked_s: dict[Key, float] = {}

    async def append(self, tenant: str, stream_id: str, first: int, events: Sequence[bytes], ended: bool) -> bool:
        key = tenant, stream_id
        size = 1024 + sum(map(len, events))
        await self._desk.write(lambda connection: self._append(connection, key, first, events, ended), size)
        self._bell.ring(key)
        return self._desk.clock() - self._asked_s.get(key, float("-inf")) < _READ_ALONG_S

    async def read(self, tenant: str, stream_id: str, after: int, limit: int, wait_s: float = 0.0) -> Stretch | None:
        key = tenant, stream_id
        with self._bell.listening(key) as rung:
            found = await self._look(key, after, limit)
            if found is None or found.ended:
                return found
            self._asked_s[key] = self._desk.clock()
            if found.events:
                return found
            try:
                async with asyncio.timeout(wait_s):
                    await rung.wait()
            except TimeoutError:
                return found
        return await self._look(key, after, limit)

    async def drop(self, tenant: str, stream_id: str) -> None:
        await self._desk.write(lambda connection: _forget(connection, [(tenant, stream_id)]))

    async def sweep(self) -> None:
        """Forgets what is past its time, a bounded number at once."""
        now_s = self._desk.clock()
        self._asked_s = {key: asked_s for key, asked_s in self._asked_s.items() if now_s - asked_s < _READ_ALONG_S}
        query = select(streams.c.tenant, streams.c.stream_id).where(streams.c.heard_s < now_s - _KEPT_S).limit(_SWEPT)
        async with self._desk.reading() as connection:
            stale = [(row.tenant, row.stream_id) for row in await connection.execute(query)]
        if stale:
            await self._desk.write(lambda connection: _forget(connection, stale))

    async def _append(
        self, connection: AsyncConnection, key: Key, first: int, events: Sequence[bytes], ended: bool
    ) -> None:
        known = await _head(connection, key)
        following, over = known or (0, False)
        fresh = list(events[following - first :]) if first <= following and not over else []
        if fresh:
            row = _keyed(key) | {"first": following, "following": following + len(fresh), "events": _pack(fresh)}
            await connection.execute(stretches.insert(), row)
        ended = over or (ended and first <= following)
        values = {"following": following + len(fresh), "ended": ended, "heard_s": self._desk.clock()}
        insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(streams)
        change = insert.on_conflict_do_update(index_elements=["tenant", "stream_id"], set_=values)
        if not over:
            await connection.execute(change, _keyed(key) | values)

    async def _look(self, key: Key, after: int, limit: int) -> Stretch | None:
        async with self._desk.reading() as connection:
            # The head first: what it counts is there to be read, whatever is appended in between.
            query = select(streams.c.following, streams.c.ended, streams.c.heard_s).where(*_of(streams, key))
            head = (await connection.execute(query)).first()
            if head is None:
                return None
            rows = select(stretches.c.first, stretches.c.events).where(
                *_of(stretches, key), stretches.c.following > after + 1, stretches.c.following <= head.following
            )
            found = (await connection.execute(rows.order_by(stretches.c.first).limit(_ROWS))).all()
        numbered = [pair for row in found for pair in enumerate(_unpack(row.events), row.first) if pair[0] > after]
        shown = tuple(numbered[:limit])
        reached = shown[-1][0] if shown else after
        return Stretch(shown, head.ended and reached >= head.following - 1, self._desk.clock() - head.heard_s)


async def _head(connection: AsyncConnection, key: Key) -> tuple[int, bool] | None:
    row = (await connection.execute(select(streams.c.following, streams.c.ended).where(*_of(streams, key)))).first()
    return None if row is None else (row.following, row.ended)


async def _forget(connection: AsyncConnection, keys: Sequence[Key]) -> None:
    for table in (stretches, streams):
        await connection.execute(delete(table).where(tuple_(table.c.tenant, table.c.stream_id).in_(keys)))


def _of(table: Table, key: Key) -> tuple[ColumnElement[bool], ...]:
    return table.c.tenant == key[0], table.c.stream_id == key[1]


def _keyed(key: Key) -> dict[str, object]:
    return {"tenant": key[0], "stream_id": key[1]}


def _pack(events: Sequence[bytes]) -> bytes:
    """Many events as one value: each behind its length."""
    return b"".join(part for event in events for part in (len(event).to_bytes(_LENGTH), event))


def _unpack(packed: bytes) -> Iterator[bytes]:
    place = 0
    while place < len(packed):
        start = place + _LENGTH
        place = start + int.from_bytes(packed[place:start])
        yield packed[start:place]
