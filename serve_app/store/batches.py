"""The room of batches: ``Batches`` over SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import ColumnElement, literal, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import Batch, Batches, BatchPage, CursorNotFound, Ending, Progress, Usage
from serve_app.store import writes
from serve_app.store.desk import Desk
from serve_app.store.files import add_file
from serve_app.store.rows import decode, encode
from serve_app.store.schema import writers
from serve_app.store.schema_files import batches

_OBJECTS = ("metadata", "times", "problems", "usage")
_BEFORE = {"in_progress": "validating", "finalizing": "in_progress"}


class BatchRoom(Batches):
    """Belongs to the store's event loop. A batch is open until ``ended_s``."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, batch: Batch) -> None:
        row = _encoded(asdict(batch))
        await self._desk.write(lambda connection: connection.execute(batches.insert(), row))

    async def batch(self, tenant: str, batch_id: str) -> Batch | None:
        async with self._desk.reading() as connection:
            return await _one(connection, batches.c.tenant == tenant, batches.c.id == batch_id)

    async def batches(self, tenant: str, after: str | None, limit: int) -> BatchPage:
        page = select(batches).where(batches.c.tenant == tenant)
        async with self._desk.reading() as connection:
            if after is not None:
                page = page.where(await _older(connection, tenant, after))
            ordered = page.order_by(batches.c.created_s.desc(), batches.c.id.desc())
            rows = (await connection.execute(ordered.limit(limit + 1))).mappings().all()
        return BatchPage(tuple(_batch(row) for row in rows[:limit]), len(rows) > limit)

    async def cancel(self, tenant: str, batch_id: str) -> Batch | None:
        async def run(connection: AsyncConnection) -> Batch | None:
            found = await _one(connection, batches.c.tenant == tenant, batches.c.id == batch_id)
            if found is None or found.status not in ("validating", "in_progress"):
                return found
            return await self._change(connection, found, status="cancelling")

        return await self._desk.write(run)

    async def claim(self, owner: str, silent_s: float) -> Batch | None:
        async def run(connection: AsyncConnection) -> Batch | None:
            now_s = self._desk.clock()
            await writes.hear(connection, [owner], now_s)
            alive = select(writers.c.writer).where(writers.c.seen_s >= now_s - silent_s)
            free = or_(batches.c.owner.is_(None), batches.c.owner.not_in(alive))
            query = select(batches.c.id).where(batches.c.ended_s.is_(None), free)
            batch_id = (await connection.execute(query.order_by(batches.c.created_s).limit(1))).scalar()
            if batch_id is None:
                return None
            await connection.execute(update(batches).where(batches.c.id == batch_id).values(owner=owner))
            return await _one(connection, batches.c.id == batch_id)

        return await self._desk.write(run)

    async def report(self, batch_id: str, owner: str, progress: Progress) -> Batch | None:
        async def run(connection: AsyncConnection) -> Batch | None:
            found = await _one(connection, *_owned(batch_id, owner))
            if found is None:
                return None
            moves = found.status == _BEFORE[progress.status]
            values = {name: value for name, value in asdict(progress).items() if value is not None}
            return await self._change(
                connection, found, **values | {"status": progress.status if moves else found.status}
            )

        return await self._desk.write(run, size=256)

    async def finish(self, batch_id: str, owner: str, ending: Ending) -> Batch | None:
        async def run(connection: AsyncConnection) -> Batch | None:
            found = await _one(connection, *_owned(batch_id, owner))
            if found is None:
                return None
            values = asdict(ending)
            for name in ("output", "errors"):
                file = getattr(ending, name)
                del values[name]
                if file is not None:
                    await add_file(connection, file)
                    values["output_file_id" if name == "output" else "error_file_id"] = file.id
            return await self._change(connection, found, **values, ended_s=self._desk.clock())

        return await self._desk.write(run)

    async def release(self, owner: str) -> None:
        mine = (batches.c.owner == owner) & batches.c.ended_s.is_(None)
        await self._desk.write(lambda connection: connection.execute(update(batches).where(mine).values(owner=None)))

    async def _change(self, connection: AsyncConnection, found: Batch, **values: Any) -> Batch | None:
        if values["status"] != found.status:
            values["times"] = {**found.times, values["status"]: self._desk.clock()}
        await connection.execute(update(batches).where(batches.c.id == found.id).values(_encoded(values)))
        return await _one(connection, batches.c.id == found.id)


def _owned(batch_id: str, owner: str) -> tuple[ColumnElement[bool], ...]:
    return batches.c.id == batch_id, batches.c.owner == owner, batches.c.ended_s.is_(None)


async def _one(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> Batch | None:
    row = (await connection.execute(select(batches).where(*conditions))).mappings().first()
    return None if row is None else _batch(row)


async def _older(connection: AsyncConnection, tenant: str, batch_id: str) -> ColumnElement[bool]:
    found = select(batches.c.created_s).where(batches.c.tenant == tenant, batches.c.id == batch_id)
    row = (await connection.execute(found)).first()
    if row is None:
        raise CursorNotFound
    cursor = tuple_(literal(row.created_s, batches.c.created_s.type), literal(batch_id, batches.c.id.type))
    return tuple_(batches.c.created_s, batches.c.id) < cursor


def _encoded(values: dict[str, Any]) -> dict[str, Any]:
    return values | {name: encode(values[name]) for name in _OBJECTS if name in values}


def _batch(row: Mapping[Any, Any]) -> Batch:
    values = {name: value for name, value in row.items() if name not in ("owner", "ended_s")}
    values |= {name: decode(values[name]) for name in _OBJECTS}
    return Batch(**values | {"problems": tuple(values["problems"]), "usage": Usage(**values["usage"])})
