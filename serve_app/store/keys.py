"""The room of keys: ``Keys`` over SQLAlchemy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from sqlalchemy import ColumnElement, RowMapping, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import Account, Held, Key, KeyChange, KeyPage, KeyQuery, Keys, Keyset, Scope
from serve_app.store.desk import Desk
from serve_app.store.listed import page
from serve_app.store.projects import ProjectRoom, live_project, touch, version
from serve_app.store.rows import decode, encode
from serve_app.store.schema_keys import accounts, api_keys, projects


class KeyRoom(ProjectRoom, Keys):
    """Belongs to the store's event loop. Whatever changes what opens the door ``touch``es the keyring with it."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    async def keyset(self, known: int | None) -> Keyset | None:
        """The version is read before the keys: they may be newer than it says, never older."""
        async with self._desk.reading() as connection:
            found = await version(connection)
            if found == known:
                return None
            archived = select(projects.c.id).where(projects.c.archived_s.is_not(None))
            living = or_(api_keys.c.project.is_(None), api_keys.c.project.not_in(archived))
            query = select(api_keys).where(api_keys.c.revoked_s.is_(None), living)
            rows = (await connection.execute(query)).mappings().all()
        return Keyset(found, tuple(held for row in rows for held in _held(row)))

    async def add(self, key: Key, digest: str, account: Account | None = None) -> bool:
        async def run(connection: AsyncConnection) -> bool:
            if key.project is not None and not await live_project(connection, key.project):
                return False
            if account is not None:
                await connection.execute(accounts.insert(), asdict(account))
            elif key.account is not None and not await _has_account(connection, key):
                return False
            await connection.execute(api_keys.insert(), _row(key) | {"digest": digest})
            await touch(connection)
            return True

        return await self._desk.write(run)

    async def key(self, key_id: str) -> Key | None:
        async with self._desk.reading() as connection:
            return await _one(connection, key_id)

    async def keys(self, query: KeyQuery) -> KeyPage:
        conditions: list[ColumnElement[bool]] = []
        if query.organization or query.project is not None:
            conditions.append(api_keys.c.project.is_not_distinct_from(query.project))
        if not query.revoked:
            conditions.append(api_keys.c.revoked_s.is_(None))
        async with self._desk.reading() as connection:
            rows, more = await page(
                connection, api_keys, conditions, query.after, query.limit, newest_first=query.newest_first
            )
            named = select(accounts).where(accounts.c.id.in_([row["account"] for row in rows if row["account"]]))
            theirs = (await connection.execute(named)).mappings().all()
        return KeyPage(tuple(map(_key, rows)), more, tuple(Account(**row) for row in theirs))

    async def change(self, key_id: str, change: KeyChange) -> Key | None:
        values = {name: value for name, value in asdict(change).items() if value is not None}
        if change.models is not None:
            values["models"] = encode(change.models) if change.models else None
        return await self._change(key_id, values | {"id": key_id})

    async def rotate(self, key_id: str, secret: tuple[str, str], overlap_s: float) -> Key | None:
        digest, hint = secret
        until_s = self._desk.clock() + overlap_s
        former = {"former_digest": api_keys.c.digest, "former_until_s": until_s}
        return await self._change(key_id, former | {"digest": digest, "hint": hint})

    async def revoke(self, key_id: str) -> Key | None:
        async def run(connection: AsyncConnection) -> Key | None:
            await revoke(connection, api_keys.c.id == key_id, self._desk.clock())
            return await _one(connection, key_id)

        return await self._desk.write(run)

    async def _change(self, key_id: str, values: Mapping[str, Any]) -> Key | None:
        async def run(connection: AsyncConnection) -> Key | None:
            which = (api_keys.c.id == key_id) & api_keys.c.revoked_s.is_(None)
            changed = await connection.execute(update(api_keys).where(which).values(**values))
            await touch(connection)
            return await _one(connection, key_id) if changed.rowcount else None

        return await self._desk.write(run)

    async def delete_account(self, project_id: str, account_id: str) -> bool:
        async def run(connection: AsyncConnection) -> bool:
            which = (accounts.c.project == project_id) & (accounts.c.id == account_id)
            deleted = await connection.execute(accounts.delete().where(which))
            if deleted.rowcount:
                its = (api_keys.c.project == project_id) & (api_keys.c.account == account_id)
                await revoke(connection, its, self._desk.clock())
            return bool(deleted.rowcount)

        return await self._desk.write(run)


async def revoke(connection: AsyncConnection, which: ColumnElement[bool], now_s: float) -> None:
    """Those that are not revoked yet."""
    still = which & api_keys.c.revoked_s.is_(None)
    await connection.execute(update(api_keys).where(still).values(revoked_s=now_s))
    await touch(connection)


async def _has_account(connection: AsyncConnection, key: Key) -> bool:
    which = (accounts.c.project == key.project) & (accounts.c.id == key.account)
    return (await connection.execute(select(accounts.c.id).where(which))).scalar() is not None


async def _one(connection: AsyncConnection, key_id: str) -> Key | None:
    row = (await connection.execute(select(api_keys).where(api_keys.c.id == key_id))).mappings().first()
    return None if row is None else _key(row)


def _row(key: Key) -> dict[str, Any]:
    models = None if key.models is None else encode(key.models)
    return asdict(key) | {"scopes": " ".join(key.scopes), "models": models}


def _key(row: RowMapping) -> Key:
    hidden = ("digest", "former_digest", "former_until_s")
    values = {str(name): value for name, value in row.items() if name not in hidden}
    scopes = cast("Sequence[Scope]", values["scopes"].split())
    models = None if values["models"] is None else tuple(decode(values["models"]))
    return Key(**values | {"scopes": tuple(scopes), "models": models})


def _held(row: RowMapping) -> list[Held]:
    key = _key(row)
    held = [Held(row["digest"], key, key.expires_s)]
    if row["former_digest"] is not None:
        ends = [at for at in (row["former_until_s"], key.expires_s) if at is not None]
        held.append(Held(row["former_digest"], key, min(ends)))
    return held
