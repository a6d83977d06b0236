"""Queries. Every one names the tenant; a turn is there for clients once it has a completion."""

from __future__ import annotations

from sqlalchemy import ColumnElement, Select, literal, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import CompletionQuery, CursorNotFound, Json, Page
from serve_app.store.chains import bodies
from serve_app.store.rows import completion_object, decode, pairs
from serve_app.store.schema import labels, turns


async def completion(connection: AsyncConnection, tenant: str, completion_id: str) -> Json | None:
    query = select(turns.c.completion, turns.c.metadata).where(*_mine(tenant, completion_id), _visible())
    row = (await connection.execute(query)).first()
    return None if row is None else completion_object(row.completion, row.metadata)


async def completions(connection: AsyncConnection, tenant: str, query: CompletionQuery) -> Page:
    """By creation, then id. ``after`` may have been deleted since, or not match the filters: it still has a place."""
    select_page = _filtered(tenant, query)
    place = tuple_(turns.c.created, turns.c.completion_id)
    if query.after is not None:
        created = await _place_of(connection, tenant, query.after)
        cursor = tuple_(literal(created, turns.c.created.type), literal(query.after, turns.c.completion_id.type))
        select_page = select_page.where(place > cursor if query.order == "asc" else place < cursor)
    columns = (turns.c.created, turns.c.completion_id)
    ordered = select_page.order_by(*(column.asc() if query.order == "asc" else column.desc() for column in columns))
    rows = (await connection.execute(ordered.limit(query.limit + 1))).all()
    page = [completion_object(row.completion, row.metadata) for row in rows[: query.limit]]
    return Page(tuple(page), len(rows) > query.limit)


async def request_messages(
    connection: AsyncConnection, tenant: str, completion_id: str, query: CompletionQuery
) -> Page | None:
    """A message's id is its completion's with its position."""
    found = await connection.execute(select(turns.c.tip).where(*_mine(tenant, completion_id), _visible()))
    turn = found.first()
    if turn is None:
        return None
    found_bodies = await bodies(connection, turn.tip)
    listed = [{**decode(body), "id": f"{completion_id}-{index}"} for index, body in enumerate(found_bodies)]
    return page_of(listed, query)


def page_of(listed: list[Json], query: CompletionQuery) -> Page:
    """The part of a list, given oldest first, that a query asks for."""
    listed = listed if query.order == "asc" else listed[::-1]
    start = 0
    if query.after is not None:
        ids = [item["id"] for item in listed]
        if query.after not in ids:
            raise CursorNotFound
        start = ids.index(query.after) + 1
    return Page(tuple(listed[start : start + query.limit]), len(listed) > start + query.limit)


async def _place_of(connection: AsyncConnection, tenant: str, completion_id: str) -> float:
    """When a turn that is or was visible was created."""
    shown = _visible() | (turns.c.status == "deleted")
    found = await connection.execute(select(turns.c.created).where(*_mine(tenant, completion_id), shown))
    row = found.first()
    if row is None:
        raise CursorNotFound
    return float(row.created)


def _filtered(tenant: str, query: CompletionQuery) -> Select[tuple[bytes, bytes]]:
    result = select(turns.c.completion, turns.c.metadata).where(turns.c.tenant == tenant, _visible())
    if query.model is not None:
        result = result.where(turns.c.model == query.model)
    for pair in pairs(query.metadata):
        labelled = select(labels.c.completion_id).where(labels.c.tenant == tenant, labels.c.pair == pair)
        result = result.where(turns.c.completion_id.in_(labelled))
    return result


def _mine(tenant: str, completion_id: str) -> tuple[ColumnElement[bool], ...]:
    return turns.c.tenant == tenant, turns.c.completion_id == completion_id


def _visible() -> ColumnElement[bool]:
    return turns.c.completion.is_not(None)
