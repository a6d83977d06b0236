"""Pages of a table that is listed by creation."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import ColumnElement, RowMapping, Table, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import CursorNotFound


async def page(
    connection: AsyncConnection,
    table: Table,
    conditions: Sequence[ColumnElement[bool]],
    after: str | None,
    limit: int,
    *,
    newest_first: bool = False,
) -> tuple[Sequence[RowMapping], bool]:
    """At most ``limit`` rows, and whether there are more. ``after`` may name a row that is not in the list any more,
    but was; ``CursorNotFound`` for any other."""
    at = tuple_(table.c.created_s, table.c.id)
    query = select(table).where(*conditions)
    if after is not None:
        created_s = (await connection.execute(select(table.c.created_s).where(table.c.id == after))).scalar()
        if created_s is None:
            raise CursorNotFound
        cursor = tuple_(literal(created_s, table.c.created_s.type), literal(after, table.c.id.type))
        query = query.where(at < cursor if newest_first else at > cursor)
    order = [column.desc() if newest_first else column for column in (table.c.created_s, table.c.id)]
    rows = (await connection.execute(query.order_by(*order).limit(limit + 1))).mappings().all()
    return rows[:limit], len(rows) > limit
