"""The room of keys, as far as it is about projects and their service accounts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import Account, AccountPage, Project, ProjectPage
from serve_app.store.desk import Desk
from serve_app.store.listed import page
from serve_app.store.schema_keys import accounts, keyring, projects


class ProjectRoom:
    """Half of ``Keys``."""

    _desk: Desk

    async def open_project(self, project: Project) -> Project:
        async def run(connection: AsyncConnection) -> Project:
            living = (projects.c.name == project.name) & projects.c.archived_s.is_(None)
            oldest = select(projects).where(living).order_by(projects.c.created_s, projects.c.id).limit(1)
            row = (await connection.execute(oldest)).mappings().first()
            if row is None:
                await connection.execute(projects.insert(), asdict(project))
                return project
            return Project(**row)

        return await self._desk.write(run)

    async def add_project(self, project: Project) -> None:
        await self._desk.write(lambda connection: connection.execute(projects.insert(), asdict(project)))

    async def project(self, project_id: str) -> Project | None:
        async with self._desk.reading() as connection:
            return await _project(connection, project_id)

    async def projects(self, after: str | None, limit: int, archived: bool) -> ProjectPage:
        conditions = [] if archived else [projects.c.archived_s.is_(None)]
        async with self._desk.reading() as connection:
            rows, more = await page(connection, projects, conditions, after, limit)
        return ProjectPage(tuple(Project(**row) for row in rows), more)

    async def rename_project(self, project_id: str, name: str) -> Project | None:
        return await self._change_project(project_id, {"name": name})

    async def archive_project(self, project_id: str) -> Project | None:
        return await self._change_project(project_id, {"archived_s": self._desk.clock()})

    async def _change_project(self, project_id: str, values: Mapping[str, Any]) -> Project | None:
        async def run(connection: AsyncConnection) -> Project | None:
            which = (projects.c.id == project_id) & projects.c.archived_s.is_(None)
            changed = await connection.execute(update(projects).where(which).values(**values))
            if not changed.rowcount:
                return None
            await touch(connection)
            return await _project(connection, project_id)

        return await self._desk.write(run)

    async def add_account(self, account: Account) -> bool:
        async def run(connection: AsyncConnection) -> bool:
            if not await live_project(connection, account.project):
                return False
            await connection.execute(accounts.insert(), asdict(account))
            return True

        return await self._desk.write(run)

    async def account(self, project_id: str, account_id: str) -> Account | None:
        async with self._desk.reading() as connection:
            return await _account(connection, project_id, account_id)

    async def accounts(self, project_id: str, after: str | None, limit: int) -> AccountPage:
        async with self._desk.reading() as connection:
            rows, more = await page(connection, accounts, [accounts.c.project == project_id], after, limit)
        return AccountPage(tuple(Account(**row) for row in rows), more)

    async def rename_account(self, project_id: str, account_id: str, name: str) -> Account | None:
        async def run(connection: AsyncConnection) -> Account | None:
            which = (accounts.c.project == project_id) & (accounts.c.id == account_id)
            await connection.execute(update(accounts).where(which).values(name=name))
            return await _account(connection, project_id, account_id)

        return await self._desk.write(run)


async def version(connection: AsyncConnection) -> int:
    """Of the keyring; 0 before its first key."""
    return (await connection.execute(select(keyring.c.version))).scalar() or 0


async def touch(connection: AsyncConnection) -> None:
    """What opens the door is changed in this transaction: whoever knows the version before has to look again."""
    changed = await connection.execute(update(keyring).values(version=keyring.c.version + 1))
    if not changed.rowcount:
        await connection.execute(insert(keyring), {"id": 1, "version": 1})


async def live_project(connection: AsyncConnection, project_id: str) -> bool:
    """Whether it exists and is not archived."""
    found = await _project(connection, project_id)
    return found is not None and found.archived_s is None


async def _project(connection: AsyncConnection, project_id: str) -> Project | None:
    row = (await connection.execute(select(projects).where(projects.c.id == project_id))).mappings().first()
    return None if row is None else Project(**row)


async def _account(connection: AsyncConnection, project_id: str, account_id: str) -> Account | None:
    which = (accounts.c.project == project_id) & (accounts.c.id == account_id)
    row = (await connection.execute(select(accounts).where(which))).mappings().first()
    return None if row is None else Account(**row)
