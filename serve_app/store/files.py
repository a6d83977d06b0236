"""The room of files and uploads: ``Files`` over SQLAlchemy. Bytes are elsewhere; here is what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, Table, delete, literal, or_, select, tuple_, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import CursorNotFound, File, FilePage, FileQuery, Files, Part, Upload
from serve_app.store.desk import Desk
from serve_app.store.schema_files import batches, files, parts, uploads

_REMEMBERED_S = 86_400.0
"""How long an upload is known after it could last be completed."""


class FileRoom(Files):
    """Belongs to the store's event loop."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def add(self, file: File) -> None:
        await self._desk.write(lambda connection: add_file(connection, file))

    async def file(self, tenant: str, file_id: str) -> File | None:
        query = select(files).where(*self._mine(tenant), files.c.id == file_id)
        async with self._desk.reading() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _file(row)

    async def files(self, tenant: str, query: FileQuery) -> FilePage:
        page = select(files).where(*self._mine(tenant))
        if query.purpose is not None:
            page = page.where(files.c.purpose == query.purpose)
        async with self._desk.reading() as connection:
            if query.after is not None:
                page = page.where(await _beyond(connection, tenant, query))
            columns = (files.c.created_s, files.c.id)
            ordered = page.order_by(*(column.asc() if query.order == "asc" else column.desc() for column in columns))
            rows = (await connection.execute(ordered.limit(query.limit + 1))).all()
        return FilePage(tuple(_file(row) for row in rows[: query.limit]), len(rows) > query.limit)

    async def delete(self, tenant: str, file_id: str) -> bool:
        async def run(connection: AsyncConnection) -> bool:
            gone = delete(files).where(*self._mine(tenant), files.c.id == file_id)
            return (await connection.execute(gone)).rowcount > 0

        return await self._desk.write(run)

    async def unneeded(self, names: Sequence[str]) -> frozenset[str]:
        async with self._desk.reading() as connection:
            found = [(await connection.execute(query)).scalars() for query in self._needed(names)]
        return frozenset(names).difference(*found)

    async def open_upload(self, upload: Upload) -> None:
        row = asdict(upload)
        row["file_id"] = row.pop("file")
        await self._desk.write(lambda connection: connection.execute(uploads.insert(), row))

    async def upload(self, tenant: str, upload_id: str) -> Upload | None:
        async with self._desk.reading() as connection:
            return await self._upload(connection, tenant, upload_id)

    async def add_part(self, tenant: str, upload_id: str, part: Part) -> Upload | None:
        async def run(connection: AsyncConnection) -> Upload | None:
            upload = await self._upload(connection, tenant, upload_id)
            if upload is not None and upload.status == "pending":
                await connection.execute(parts.insert(), {"upload_id": upload_id} | asdict(part))
            return upload

        return await self._desk.write(run)

    async def parts(self, tenant: str, upload_id: str) -> tuple[Part, ...]:
        query = select(parts.c.id, parts.c.bytes, parts.c.created_s).join(uploads, uploads.c.id == parts.c.upload_id)
        query = query.where(uploads.c.tenant == tenant, uploads.c.id == upload_id)
        async with self._desk.reading() as connection:
            rows = await connection.execute(query.order_by(parts.c.created_s, parts.c.id))
            return tuple(Part(*row) for row in rows)

    async def finish_upload(self, tenant: str, upload_id: str, file: File | None) -> Upload | None:
        async def run(connection: AsyncConnection) -> Upload | None:
            upload = await self._upload(connection, tenant, upload_id)
            if upload is None or upload.status != "pending":
                return upload
            if file is not None:
                await add_file(connection, file)
            finished = replace(upload, status="completed" if file else "cancelled", file=file)
            values = {"status": finished.status, "file_id": file.id if file else None}
            await connection.execute(update(uploads).where(uploads.c.id == upload_id).values(values))
            await connection.execute(delete(parts).where(parts.c.upload_id == upload_id))
            return finished

        return await self._desk.write(run)

    async def sweep(self) -> None:
        """Forgets what is past its time."""
        now_s = self._desk.clock()
        over = uploads.c.expires_s < now_s - _REMEMBERED_S
        await self._forget(files, files.c.expires_s < now_s)
        await self._forget(parts, parts.c.upload_id.in_(select(uploads.c.id).where(over)))
        await self._forget(uploads, over)

    async def _forget(self, table: Table, stale: ColumnElement[bool]) -> None:
        async with self._desk.reading() as connection:
            found = (await connection.execute(select(table.c.id).where(stale).limit(1))).first()
        if found is not None:
            await self._desk.write(lambda connection: connection.execute(delete(table).where(stale)))

    async def _upload(self, connection: AsyncConnection, tenant: str, upload_id: str) -> Upload | None:
        query = select(uploads).where(uploads.c.tenant == tenant, uploads.c.id == upload_id)
        row = (await connection.execute(query)).mappings().first()
        if row is None:
            return None
        values = dict(row)
        file_id = values.pop("file_id")
        found = (await connection.execute(select(files).where(files.c.id == file_id))).first()
        if values["status"] == "pending" and values["expires_s"] <= self._desk.clock():
            values["status"] = "expired"
        return Upload(**values, file=None if found is None else _file(found))

    def _mine(self, tenant: str) -> tuple[ColumnElement[bool], ...]:
        return files.c.tenant == tenant, self._lasting()

    def _lasting(self) -> ColumnElement[bool]:
        return or_(files.c.expires_s.is_(None), files.c.expires_s > self._desk.clock())

    def _needed(self, names: Sequence[str]) -> tuple[Select[tuple[Any]], ...]:
        pending = (uploads.c.status == "pending") & (uploads.c.expires_s > self._desk.clock())
        growing = select(parts.c.id).join(uploads, uploads.c.id == parts.c.upload_id).where(pending)
        return (
            select(files.c.id).where(files.c.id.in_(names), self._lasting()),
            growing.where(parts.c.id.in_(names)),
            select(batches.c.input_file_id).where(batches.c.ended_s.is_(None), batches.c.input_file_id.in_(names)),
        )


async def add_file(connection: AsyncConnection, file: File) -> None:
    """Inside a writing transaction; nothing if it is there."""
    insert = (sqlite if connection.dialect.name == "sqlite" else postgresql).insert(files)
    await connection.execute(insert.on_conflict_do_nothing(), asdict(file))


async def _beyond(connection: AsyncConnection, tenant: str, query: FileQuery) -> ColumnElement[bool]:
    found = select(files.c.created_s).where(files.c.tenant == tenant, files.c.id == query.after)
    row = (await connection.execute(found)).first()
    if row is None:
        raise CursorNotFound
    place = tuple_(files.c.created_s, files.c.id)
    cursor = tuple_(literal(row.created_s, files.c.created_s.type), literal(query.after, files.c.id.type))
    return place > cursor if query.order == "asc" else place < cursor


def _file(row: Row[Any]) -> File:
    return File(**row._mapping)
