from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import event, inspect, text
from sqlalchemy.ext.asyncio import create_async_engine

from serve_app.protocol import CompletionQuery, StoreError
from serve_app.store import SqlStore
from serve_app.store.database import parse
from serve_app.store.migrations import migrate, revert
from serve_app.store.schema import METADATA
from tests.postgres_server import PostgresServer
from tests.store.entries import FakeClock, closed, count, opened, rows

ROOT = Path(__file__).parents[2]
TABLES = {"messages", "turns", "labels", "usage", "writers", "streams", "stretches", "alembic_version"}
TABLES |= {"responses", "conversations", "answers"}
TABLES |= {"files", "uploads", "parts", "batches"}
TABLES |= {"projects", "service_accounts", "api_keys", "keyring"}

OPENER = """
import asyncio, sys
from serve_app.store import SqlStore
from tests.store.entries import opened

async def main(url, name):
    store = await SqlStore.open(url)
    await store.write([opened(name)])
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
def empty_url(request: pytest.FixtureRequest, sqlite_url: str) -> str:
    """Of a database without tables."""
    if request.param == "sqlite":
        return sqlite_url
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.create_database()


async def _structure(url: str) -> list[str]:
    engine = create_async_engine(parse(url)[0])
    async with engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            query = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name"
        else:
            query = (
                "SELECT concat_ws(' ', table_name, column_name, data_type, is_nullable, collation_name) AS line"
                " FROM information_schema.columns WHERE table_schema = 'public'"
                " UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY line"
            )
        found = [str(line) for (line,) in await connection.execute(text(query))]
    await engine.dispose()
    return found


async def test_up_down_up_is_up(empty_url: str) -> None:
    await migrate(empty_url)
    first = await _structure(empty_url)
    await migrate(empty_url)
    assert await _structure(empty_url) == first
    await revert(empty_url)
    assert not any("turns" in line for line in await _structure(empty_url))
    await migrate(empty_url)
    assert await _structure(empty_url) == first


async def test_the_migrations_make_what_the_code_expects(url: str) -> None:
    await migrate(url)
    engine = create_async_engine(parse(url)[0])
    async with engine.connect() as connection:
        tables = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
        found = await connection.run_sync(lambda sync: compare_metadata(MigrationContext.configure(sync), METADATA))
    await engine.dispose()
    assert tables == TABLES
    assert found == []


async def test_stores_that_start_at_once_migrate_once(empty_url: str) -> None:
    def run() -> list[tuple[int, bytes]]:
        commands = [[sys.executable, "-c", OPENER, empty_url, str(number)] for number in range(2)]
        started = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE) for command in commands]
        return [(process.wait(30), process.communicate()[1]) for process in started]

    assert await asyncio.to_thread(run) == [(0, b"")] * 2
    store = await SqlStore.open(empty_url)
    assert await count(store, "usage") == 2
    await store.close()


async def test_two_stores_on_one_database_write_side_by_side(url: str) -> None:
    one, two = await SqlStore.open(url), await SqlStore.open(url)
    try:
        writes = [store.write([closed(opened(str(n)))]) for n in range(20) for store in (one, two)]
        deletions = [store.delete_completion("acme", f"chatcmpl-{n}") for n in range(20) for store in (one, two)]
        await asyncio.gather(*writes)
        assert sum(await asyncio.gather(*deletions)) == 20
        assert [await count(one, table) for table in ("usage", "messages")] == [20, 0]
    finally:
        await one.close()
        await two.close()


async def test_sqlite_runs_as_durable_as_promised(sqlite_url: str) -> None:
    store = await SqlStore.open(sqlite_url)
    async with store._database.writing() as writer, store._database.reading() as reader:
        for connection in (writer, reader):
            names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            values = [(await connection.exec_driver_sql(f"PRAGMA {name}")).scalar() for name in names]
            assert values == ["wal", 2, 1, 5000]
    await store.close()


async def test_a_weaker_setting_is_refused_by_name(sqlite_url: str) -> None:
    store = await SqlStore.open(sqlite_url)
    async with store._database._writer.connect() as connection:
        await connection.exec_driver_sql("PRAGMA synchronous=NORMAL")
    with pytest.raises(StoreError, match=r"^The store's database has synchronous=1 and must have 2\.$"):
        await store._database.verify()
    await store.close()


async def test_lists_and_the_reaper_read_no_more_than_they_need(sqlite_url: str) -> None:
    clock = FakeClock()
    store = await SqlStore.open(sqlite_url, clock=clock)
    asked: list[tuple[str, tuple[object, ...]]] = []

    def note(_connection: object, _cursor: object, statement: str, values: Any, *_rest: object) -> None:
        asked.append((statement, values))

    for engine in (store._database._readers, store._database._writer):
        event.listen(engine.sync_engine, "before_cursor_execute", note)
    for query in (CompletionQuery(), CompletionQuery(model="m"), CompletionQuery(metadata={"k": "v"}, order="desc")):
        await store.completions("acme", query)
    clock.now += 60
    await store.reap(30)
    plans = []
    for statement, values in [item for item in asked if item[0].startswith(("SELECT", "UPDATE"))]:
        async with store._database.reading() as connection:
            plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)
            plans += [str(row[3]) for row in plan]
    await store.close()
    what_runs = {"SCAN writers", "SCAN responses USING INDEX ix_responses_open"}
    assert not [step for step in plans if step.startswith("SCAN") and step not in what_runs]
    assert not [step for step in plans if "TEMP B-TREE" in step]
    assert [step for step in plans if "ix_turns_in_progress" in step]


@pytest.mark.postgres
async def test_a_postgres_that_may_lose_commits_is_refused(postgres: PostgresServer, postgres_url: str) -> None:
    """The store asks for durable commits itself; what a proxy may still take away is found out."""
    store = await SqlStore.open(postgres_url)
    assert await rows(store, "SHOW synchronous_commit") == [("on",)]
    async with store._database._writer.connect() as connection:
        await connection.exec_driver_sql("SET synchronous_commit = off")
        await connection.commit()
    with pytest.raises(StoreError, match="synchronous_commit=off"):
        await store._database.verify()
    await store.close()


@pytest.mark.parametrize(
    "bad",
    [
        "postgresql://user:secret-word@127.0.0.1:1/x",
        "postgres://user:secret-word@127.0.0.1:1/x?sslmode=require",
        "postgresql://user:secret-word@127.0.0.1:1/x?nonsense=1",
        "mysql://user:secret-word@127.0.0.1/x",
        "user:secret-word",
        "postgresql://user:secret-word@host:port/x",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:////proc/secret-word/x.db",
    ],
)
async def test_a_start_that_fails_says_so_in_one_line_without_secrets(bad: str) -> None:
    with pytest.raises(StoreError) as raised:
        await SqlStore.open(bad)
    assert "secret-word" not in str(raised.value)
    assert "\n" not in str(raised.value)
    assert raised.value.__suppress_context__ or raised.value.__context__ is None


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_text("not a database, but long enough to be one" * 100)
    with pytest.raises(StoreError, match="SQLITE_NOTADB"):
        await SqlStore.open(f"sqlite:///{tmp_path}/x.db")


async def test_a_newer_database_is_refused(sqlite_url: str) -> None:
    await migrate(sqlite_url)
    connection = sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="newer version"):
        await SqlStore.open(sqlite_url)


async def test_folders_are_made_and_common_spellings_understood(tmp_path: Path) -> None:
    for index, prefix in enumerate(("sqlite:///", "sqlite+aiosqlite:///")):
        store = await SqlStore.open(f"{prefix}{tmp_path}/new/{index}/x.db")
        await store.close()
    spelled = ("postgres://u:p@h/d", "postgresql://u:p@h/d", "postgresql+asyncpg://u:p@h/d")
    assert {parse(url)[0].drivername for url in spelled} == {"postgresql+asyncpg"}
    assert dict(parse("postgres://u:p@h/d?sslmode=require")[0].query) == {"ssl": "require"}
