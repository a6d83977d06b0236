"""One database, two flavours: how to reach it, what must be true of it, and how its errors are told.

Everything that differs between SQLite and Postgres outside the SQL dialect stands in the two ``Flavour`` values.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from sqlalchemy import URL, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError, StatementError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from serve_app.protocol import StoreError


@dataclass(frozen=True, slots=True)
class Flavour:
    """What one kind of database needs.

    ``exclusive`` makes a transaction the only writing one, across processes. ``patience_s`` bounds every transaction
    and read from outside; SQLite's bound is its own busy timeout, since a thread in it cannot be interrupted.
    ``settings`` maps a question to the answer without which the store must not start.
    """

    driver: str
    exclusive: str
    patience_s: float | None
    engine: Mapping[str, Any]
    settings: Mapping[str, str]
    on_connect: Sequence[str] = ()
    on_connect_reading: Sequence[str] = ()
    reading: Mapping[str, Any] = field(default_factory=dict)


SQLITE = Flavour(
    driver="sqlite+aiosqlite",
    exclusive="BEGIN IMMEDIATE",
    patience_s=None,
    engine={"connect_args": {"timeout": 5.0, "isolation_level": None}, "pool_timeout": 2},
    settings={
        "PRAGMA journal_mode": "wal",
        "PRAGMA synchronous": "2",
        "PRAGMA foreign_keys": "1",
        "PRAGMA busy_timeout": "5000",
    },
    on_connect=("PRAGMA synchronous=FULL", "PRAGMA foreign_keys=ON"),
    on_connect_reading=("PRAGMA query_only=ON",),
)


class _Connection(asyncpg.Connection):
    """Says goodbye to a server that does not answer quickly, so that a deadline is one and not two."""

    async def close(self, *, timeout: float | None = None) -> None:
        await super().close(timeout=0.2)


_SESSION = {
    "application_name": "llm-backend",
    "statement_timeout": "5s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "10s",
    "synchronous_commit": "on",
}

POSTGRES = Flavour(
    driver="postgresql+asyncpg",
    exclusive="SELECT pg_advisory_xact_lock(7214401)",
    patience_s=2.0,
    engine={
        "connect_args": {"timeout": 2, "server_settings": _SESSION, "connection_class": _Connection},
        "pool_pre_ping": True,
        "pool_timeout": 2,
    },
    settings={
        "SHOW synchronous_commit": "on",
        "SHOW statement_timeout": "5s",
        "SHOW lock_timeout": "3s",
        "SHOW idle_in_transaction_session_timeout": "10s",
        "SHOW server_encoding": "UTF8",
    },
    reading={"isolation_level": "AUTOCOMMIT"},
)


def parse(url: str) -> tuple[URL, Flavour]:
    """The URL with the driver we use, whichever of the usual spellings was given; libpq's ``sslmode`` is understood."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise StoreError("The store's URL is not a database URL.") from None
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise StoreError("The store needs a SQLite file: an in-memory database cannot be durable.")
        return parsed.set(drivername=SQLITE.driver), SQLITE
    if parsed.get_backend_name() not in ("postgres", "postgresql"):
        raise StoreError("The store's URL must begin with sqlite:// or postgresql://.")
    query = {"ssl" if key == "sslmode" else key: value for key, value in parsed.query.items()}
    return parsed.set(drivername=POSTGRES.driver, query=query), POSTGRES


def make_folder(url: URL) -> None:
    if url.get_backend_name() == "sqlite":
        Path(str(url.database)).parent.mkdir(parents=True, exist_ok=True)


def reason(error: BaseException) -> str:
    """A name for logs and start-up errors that holds no URL, SQL or value."""
    driver = getattr(error, "orig", None) or error
    code = getattr(driver, "sqlite_errorname", None) or getattr(driver, "sqlstate", None)
    return str(code or type(driver).__name__)


def _is_fault_of_the_data(error: BaseException) -> bool:
    """Whether other statements could succeed now. SQLSTATE 22 bad data, 23 constraint, 54 a limit; ValueError is how
    asyncpg refuses a value before sending it."""
    if not isinstance(error, DBAPIError):
        return isinstance(error, StatementError)
    if error.connection_invalidated:
        return False
    driver = error.orig
    names = {ancestor.__name__ for ancestor in type(driver).__mro__}
    state = getattr(driver, "sqlstate", None) or ""
    refused = isinstance(getattr(driver, "__cause__", None), ValueError)
    return bool(names & {"DataError", "IntegrityError"}) or state[:2] in ("22", "23", "54") or refused


class Database:
    """Owns the engines: one connection that writes, a pool that reads. Belongs to one event loop."""

    def __init__(self, url: URL, flavour: Flavour) -> None:
        self._flavour = flavour
        self._writer = _engine(url, flavour, flavour.on_connect, pool_size=1, max_overflow=0)
        on_connect = (*flavour.on_connect, *flavour.on_connect_reading)
        self._readers = _engine(url, flavour, on_connect, pool_size=4, max_overflow=4, **flavour.reading)

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection]:
        """The only writing transaction there is; committed on leaving, unless by an exception.

        ``StoreError``: the database is out. Any other exception: what was written is at fault.
        """
        async with _told(self._flavour.patience_s), self._writer.connect() as connection:
            await connection.exec_driver_sql(self._flavour.exclusive)
            yield connection
            await connection.commit()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """Sees every commit acknowledged before. Each statement is its own snapshot."""
        async with _told(self._flavour.patience_s), self._readers.connect() as connection:
            yield connection

    async def verify(self) -> None:
        """Raises ``StoreError`` naming the first setting that the database did not accept."""
        async with self.writing() as writer, self.reading() as reader:
            for connection in (writer, reader):
                for question, wanted in self._flavour.settings.items():
                    found = str((await connection.exec_driver_sql(question)).scalar())
                    if found != wanted:
                        setting = question.split()[1]
                        raise StoreError(f"The store's database has {setting}={found} and must have {wanted}.")

    async def close(self) -> None:
        await self._writer.dispose()
        await self._readers.dispose()


def _engine(url: URL, flavour: Flavour, on_connect: Sequence[str], **options: Any) -> AsyncEngine:
    engine = create_async_engine(url, hide_parameters=True, **flavour.engine, **options)

    def configure(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for statement in on_connect:
            cursor.execute(statement)
        cursor.close()

    if on_connect:
        event.listen(engine.sync_engine, "connect", configure)
    return engine


@asynccontextmanager
async def _told(patience_s: float | None) -> AsyncGenerator[None]:
    """Errors that mean "the database cannot answer" become ``StoreError``: one line, and nothing of the cause in it."""
    try:
        async with asyncio.timeout(patience_s):
            yield
    except (SQLAlchemyError, OSError, TimeoutError) as error:
        if _is_fault_of_the_data(error):
            raise
        logging.getLogger(__name__).warning("the database cannot answer: %s", reason(error))
        raise StoreError("The storage is unavailable.") from None
