"""The rooms of responses and of conversations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import and_, delete, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import CompletionQuery, Conversations, History, Json, Orphan, Page, Responses
from serve_app.store import endings
from serve_app.store.chains import add_messages, bodies, chunks, collect
from serve_app.store.desk import Desk
from serve_app.store.endings import at
from serve_app.store.reads import page_of
from serve_app.store.rows import decode, encode, item_key, items, tip_of
from serve_app.store.schema import RESPONSE_OPEN, conversations, messages, responses


class SqlResponses(Responses):
    """``hearing_since_s``: since when the store was up to hear every writer, by the desk's clock."""

    def __init__(self, desk: Desk, hearing_since_s: Callable[[], float]) -> None:
        self._desk = desk
        self._hearing_since_s = hearing_since_s

    async def get(self, tenant: str, response_id: str) -> Json | None:
        query = select(responses.c.response).where(at((response_id, tenant)), responses.c.status != "deleted")
        async with self._desk.reading() as connection:
            found = (await connection.execute(query)).scalar()
        return None if found is None else decode(found)

    async def delete(self, tenant: str, response_id: str) -> bool:
        return await self._desk.write(lambda connection: endings.delete_response(connection, (response_id, tenant)))

    async def cancel(self, tenant: str, response_id: str) -> Json | None:
        return await self._desk.write(lambda connection: _cancel(connection, tenant, response_id))

    async def history(self, tenant: str, response_id: str) -> History | None:
        query = select(responses.c.tip).where(at((response_id, tenant)), responses.c.status == "ended")
        async with self._desk.reading() as connection:
            found = (await connection.execute(query)).first()
            return None if found is None else await _history(connection, found.tip)

    async def input_items(self, tenant: str, response_id: str, query: CompletionQuery) -> Page | None:
        mine = select(responses.c.given).where(at((response_id, tenant)), responses.c.status != "deleted")
        async with self._desk.reading() as connection:
            found = (await connection.execute(mine)).first()
            return None if found is None else page_of(await _items(connection, found.given), query)

    async def items(self, tenant: str, item_ids: Sequence[str]) -> Mapping[str, Json]:
        found: list[Json] = []
        async with self._desk.reading() as connection:
            for chunk in chunks([item_key(tenant, item_id) for item_id in item_ids]):
                query = select(messages.c.body).where(messages.c.item.in_(chunk))
                found += [decode(body) for body in (await connection.execute(query)).scalars()]
        return {item["id"]: item for item in found}

    async def begin(self, tenant: str, response_id: str, writer: str) -> None:
        await self._desk.write(lambda connection: _begin(connection, tenant, response_id, writer))

    async def claim(
        self, writer: str, silent_s: float, most: int, held: Sequence[tuple[str, str]] = ()
    ) -> tuple[Orphan, ...]:
        """A store that could not listen gives every writer the whole time again; without work, there is no write."""
        silent_since_s = self._desk.clock() - silent_s
        if self._hearing_since_s() > silent_since_s:
            return ()
        waiting = endings.unattended(writer, silent_since_s, held)
        async with self._desk.reading() as connection:
            if (await connection.execute(select(responses.c.response_id).where(waiting).limit(1))).first() is None:
                return ()
        rows = await self._desk.write(lambda connection: endings.claim(connection, writer, waiting, most))
        async with self._desk.reading() as connection:
            return tuple([await _orphan(connection, row) for row in rows])

    async def lost(self, writer: str, keys: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        mine: set[tuple[str, str]] = set()
        named = tuple_(responses.c.tenant, responses.c.response_id)
        async with self._desk.reading() as connection:
            for chunk in chunks(keys):
                held = (responses.c.status == RESPONSE_OPEN, responses.c.writer == writer, named.in_(chunk))
                query = select(responses.c.tenant, responses.c.response_id).where(*held)
                mine.update((row.tenant, row.response_id) for row in await connection.execute(query))
        return tuple(key for key in keys if key not in mine)


class SqlConversations(Conversations):
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def create(self, tenant: str, conversation: Json, items: Sequence[Json]) -> None:
        await self._desk.write(lambda connection: _create(connection, tenant, conversation, items))

    async def get(self, tenant: str, conversation_id: str) -> Json | None:
        query = select(conversations.c.conversation).where(_named(tenant, conversation_id))
        async with self._desk.reading() as connection:
            found = (await connection.execute(query)).scalar()
        return None if found is None else decode(found)

    async def set_metadata(self, tenant: str, conversation_id: str, metadata: Mapping[str, str]) -> Json | None:
        return await self._desk.write(
            lambda connection: _set_metadata(connection, tenant, conversation_id, dict(metadata))
        )

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        return await self._desk.write(lambda connection: _delete(connection, tenant, conversation_id))

    async def append(self, tenant: str, conversation_id: str, items: Sequence[Json]) -> bool:
        return await self._desk.write(lambda connection: endings.append(connection, (conversation_id, tenant), items))

    async def history(self, tenant: str, conversation_id: str) -> History | None:
        query = select(conversations.c.tip).where(_named(tenant, conversation_id))
        async with self._desk.reading() as connection:
            found = (await connection.execute(query)).first()
            return None if found is None else await _history(connection, found.tip)

    async def items(self, tenant: str, conversation_id: str, query: CompletionQuery) -> Page | None:
        found = await self.history(tenant, conversation_id)
        return None if found is None else page_of(list(found.items), query)

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Json | None:
        found = await self.history(tenant, conversation_id)
        return next((item for item in found.items if item["id"] == item_id), None) if found else None

    async def remove(self, tenant: str, conversation_id: str, item_id: str) -> Json | None:
        return await self._desk.write(lambda connection: _remove(connection, tenant, conversation_id, item_id))


async def _items(connection: AsyncConnection, tip: bytes | None) -> list[Json]:
    return [decode(body) for body in await bodies(connection, tip)]


async def _history(connection: AsyncConnection, tip: bytes | None) -> History:
    return History(tuple(await _items(connection, tip)), tip)


async def _orphan(connection: AsyncConnection, row: Any) -> Orphan:
    history = await _history(connection, row.given)
    return Orphan(row.tenant, decode(row.response), decode(row.request), history)


async def _cancel(connection: AsyncConnection, tenant: str, response_id: str) -> Json | None:
    key = (response_id, tenant)
    columns = (responses.c.response, responses.c.given, responses.c.background, responses.c.status)
    row = (await connection.execute(select(*columns).where(at(key), responses.c.status != "deleted"))).first()
    if row is None:
        return None
    response: Json = decode(row.response)
    if row.background and row.status == "open":
        response["status"] = "cancelled"
        await connection.execute(endings.ended(key, response, row.given))
    return response


async def _begin(connection: AsyncConnection, tenant: str, response_id: str, writer: str) -> None:
    mine = and_(at((response_id, tenant)), responses.c.status == RESPONSE_OPEN, responses.c.writer == writer)
    found = (await connection.execute(select(responses.c.response).where(mine))).scalar()
    if found is not None:
        begun = encode(decode(found) | {"status": "in_progress"})
        await connection.execute(update(responses).where(mine).values(response=begun))


def _named(tenant: str, conversation_id: str) -> Any:
    return and_(conversations.c.conversation_id == conversation_id, conversations.c.tenant == tenant)


async def _create(connection: AsyncConnection, tenant: str, conversation: Json, given: Sequence[Json]) -> None:
    rows = items(tenant, given, None)
    await add_messages(connection, rows)
    key = {"conversation_id": conversation["id"], "tenant": tenant}
    values = {"tip": tip_of(rows, None), "conversation": encode(conversation)}
    await connection.execute(insert(conversations), key | values)


async def _set_metadata(connection: AsyncConnection, tenant: str, conversation_id: str, metadata: Json) -> Json | None:
    mine = _named(tenant, conversation_id)
    found = (await connection.execute(select(conversations.c.conversation).where(mine))).scalar()
    if found is None:
        return None
    conversation: Json = decode(found) | {"metadata": metadata}
    await connection.execute(update(conversations).where(mine).values(conversation=encode(conversation)))
    return conversation


async def _delete(connection: AsyncConnection, tenant: str, conversation_id: str) -> bool:
    mine = _named(tenant, conversation_id)
    row = (await connection.execute(select(conversations.c.tip).where(mine))).first()
    if row is None:
        return False
    await connection.execute(delete(conversations).where(mine))
    if row.tip is not None:
        await collect(connection, row.tip)
    return True


async def _remove(connection: AsyncConnection, tenant: str, conversation_id: str, item_id: str) -> Json | None:
    """What comes after the item is written anew, under it: rare, and the only time that a history is rewritten."""
    mine = _named(tenant, conversation_id)
    columns = (conversations.c.tip, conversations.c.conversation)
    row = (await connection.execute(select(*columns).where(mine))).first()
    kept = await _items(connection, row.tip) if row else []
    if row is None or all(item["id"] != item_id for item in kept):
        return None
    rows = items(tenant, [item for item in kept if item["id"] != item_id], None)
    await add_messages(connection, rows)
    await connection.execute(update(conversations).where(mine).values(tip=tip_of(rows, None)))
    await collect(connection, row.tip)
    conversation: Json = decode(row.conversation)
    return conversation
