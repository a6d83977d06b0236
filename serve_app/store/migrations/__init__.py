"""The schema's history, and how it is brought up to date: by the program itself, at start.

A migration runs in one transaction under the database's own exclusive lock, so two programs that start at once migrate
once, and one that is killed half-way leaves nothing. Within one process, migrate one database at a time: Alembic's
``op`` and ``context`` are the process's own.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from sqlalchemy.pool import NullPool

from serve_app.store.database import SQLITE, make_folder, parse

_LOCK_WAIT_S = 60


async def migrate(url: str) -> None:
    """To the newest version this program knows."""
    await _run(url, lambda config: command.upgrade(config, "head"))


async def revert(url: str) -> None:
    """To an empty database. Everything stored is lost."""
    await _run(url, lambda config: command.downgrade(config, "base"))


async def _run(url: str, step: Callable[[Config], None]) -> None:
    target, flavour = parse(url)
    if flavour is SQLITE:
        make_folder(target)
        await asyncio.to_thread(_use_wal, str(target.database))
        options: dict[str, Any] = {"timeout": _LOCK_WAIT_S, "isolation_level": None}
    else:
        options = {"timeout": 2, "server_settings": {"lock_timeout": f"{_LOCK_WAIT_S}s"}}
    engine = create_async_engine(target, poolclass=NullPool, hide_parameters=True, connect_args=options)
    async with engine.connect() as connection:
        await connection.exec_driver_sql(flavour.exclusive)
        await _apply(connection, step)
        await connection.commit()


async def _apply(connection: AsyncConnection, step: Callable[[Config], None]) -> None:
    def run(sync_connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(__file__).parent))
        config.attributes["connection"] = sync_connection
        step(config)

    await connection.run_sync(run)


def _use_wal(path: str) -> None:
    """The journal's mode is the file's, kept in it. It changes outside a transaction, by one connection at a time."""
    connection = sqlite3.connect(path, timeout=_LOCK_WAIT_S, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()
