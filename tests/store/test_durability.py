from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from serve_app.protocol import CompletionQuery, StoreError
from serve_app.store import SqlStore
from tests.postgres_server import PostgresServer
from tests.store.entries import FakeClock, closed, completion_of, count, opened, rows, user

ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, os, sys
from serve_app.store import SqlStore
from tests.store.entries import closed, opened, user

async def caller(store, ledger, run, number):
    for turn in range(1_000_000):
        entry = opened(f"{run}-{number}-{turn}", [user("hello"), user(f"{run}-{number}-{turn}")])
        await store.write([entry])
        os.write(ledger, f"opened {entry.entry_id}\\n".encode())
        await store.write([closed(entry)])
        os.write(ledger, f"closed {entry.entry_id}\\n".encode())

async def main(url, path, run):
    store = await SqlStore.open(url)
    ledger = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(ledger, b"ready\\n")
    await asyncio.gather(*(caller(store, ledger, run, number) for number in range(8)))

asyncio.run(main(*sys.argv[1:]))
"""


def _run_and_kill(url: str, ledger: Path, run: int, after_s: float) -> None:
    """The moment counts from when the writer acknowledged that it writes."""
    ready = ledger.read_text().count("ready") if ledger.exists() else 0
    process = subprocess.Popen([sys.executable, "-c", WRITER, url, str(ledger), str(run)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 20
        while not ledger.exists() or ledger.read_text().count("ready") == ready:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(after_s)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


async def test_no_acknowledged_write_is_lost_halved_or_doubled_by_kill_9(tmp_path: Path, sqlite_url: str) -> None:
    ledger = tmp_path / "acknowledged"
    chance = random.Random(7)
    for run in range(5):
        await asyncio.to_thread(_run_and_kill, sqlite_url, ledger, run, chance.uniform(0.05, 0.4))
    lines = [line.split() for line in ledger.read_text().splitlines() if line != "ready"]
    assert len(lines) > 50
    store = await SqlStore.open(sqlite_url)
    try:
        found = {
            row[0]: row[1:]
            for row in await rows(
                store,
                "SELECT u.entry_id, u.status, t.status, t.completion IS NOT NULL FROM usage u"
                " LEFT JOIN turns t ON t.completion_id = 'chatcmpl-' || u.entry_id",
            )
        }
        assert len(found) == await count(store, "usage") == await count(store, "turns")
        assert set(found.values()) <= {("in_progress", "in_progress", 0), ("completed", "completed", 1)}
        for kind, entry_id in lines:
            assert entry_id in found
            assert kind == "opened" or found[entry_id][0] == "completed"
        for entry_id in random.Random(1).sample(sorted(found), 30):
            entry = opened(entry_id, [user("hello"), user(entry_id)])
            await store.write([entry, closed(entry)])
            assert await store.completion("acme", f"chatcmpl-{entry_id}") == completion_of(entry)
            page = await store.messages("acme", f"chatcmpl-{entry_id}", CompletionQuery())
            assert page is not None
            assert [item["content"] for item in page.data] == ["hello", entry_id]
        assert await rows(store, "PRAGMA integrity_check") == [("ok",)]
    finally:
        await store.close()


LOCKER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


@contextmanager
def _locked(path: str, seconds: float) -> Iterator[None]:
    """Another process holds SQLite's write lock, at most that long."""
    command = [sys.executable, "-c", LOCKER, path, str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        try:
            yield
        finally:
            process.kill()


async def test_a_write_waits_for_another_process_and_reads_do_not(sqlite_url: str) -> None:
    store = await SqlStore.open(sqlite_url)
    try:
        await store.write([closed(opened("before"))])
        with _locked(sqlite_url.removeprefix("sqlite:///"), 1.5):
            start = time.monotonic()
            write = asyncio.create_task(store.write([opened("a")]))
            assert await store.completion("acme", "chatcmpl-before") is not None
            assert not write.done()
            await write
            assert 0.5 < time.monotonic() - start < 5
    finally:
        await store.close()


async def test_a_lock_that_is_never_given_back_is_an_error_and_no_more(sqlite_url: str) -> None:
    store = await SqlStore.open(sqlite_url)
    try:
        with _locked(sqlite_url.removeprefix("sqlite:///"), 60):
            start = time.monotonic()
            with pytest.raises(StoreError):
                await store.check()
            assert time.monotonic() - start < 6.5
        await store.check()
    finally:
        await store.close()


async def test_a_full_disk_is_an_error_until_there_is_room(sqlite_url: str) -> None:
    store = await SqlStore.open(sqlite_url)

    async def limit(pages: int) -> None:
        async with store._database.writing() as connection:
            await connection.exec_driver_sql(f"PRAGMA max_page_count={pages}")

    try:
        small, large = opened("small"), opened("large", [user("x" * 200_000)])
        await store.write([small])
        await limit(45)
        with pytest.raises(StoreError):
            await store.write([closed(large)])
        assert [await count(store, table) for table in ("usage", "turns", "messages")] == [1, 1, 1]
        await limit(1_000_000)
        await store.write([closed(small), closed(large)])
        assert await store.completion("acme", "chatcmpl-large") == completion_of(large)
    finally:
        await store.close()


@pytest.mark.postgres
async def test_a_stopped_postgres_is_an_error_within_2_s_until_it_is_back(
    postgres: PostgresServer, postgres_url: str
) -> None:
    clock = FakeClock()
    store = await SqlStore.open(postgres_url, clock=clock)
    try:
        await store.write([opened("a")])
        clock.now += 60
        await asyncio.to_thread(postgres.stop)
        try:
            for call in (store.write([opened("b")]), store.completion("acme", "x"), store.check()):
                start = time.monotonic()
                with pytest.raises(StoreError):
                    await call
                assert time.monotonic() - start < 2.5
        finally:
            await asyncio.to_thread(postgres.start)
        await store.write([closed(opened("b"))])
        assert await store.completion("acme", "chatcmpl-b") is not None
        assert await store.reap(30) == 0, "no writer could be heard meanwhile"
        clock.now += 60
        assert await store.reap(30) == 1
    finally:
        await store.close()


@pytest.mark.postgres
async def test_a_frozen_postgres_is_an_error_within_2_s(postgres: PostgresServer, postgres_url: str) -> None:
    store = await SqlStore.open(postgres_url)
    try:
        await store.check()
        with postgres.frozen():
            start = time.monotonic()
            calls = [store.write([opened(str(index))]) for index in range(5)]
            calls.append(store.completion("acme", "x"))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, StoreError) for result in results)
            assert time.monotonic() - start < 3
        await store.check()
    finally:
        await store.close()
