from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.protocol import CursorNotFound, File, FileQuery, Part, Upload
from serve_app.store import SqlStore
from tests.store.entries import T0, FakeClock, count


def file(name: str, *, tenant: str = "acme", created_s: float = T0, expires_s: float | None = None) -> File:
    return File(f"file-{name}", tenant, 3, created_s, "a\0b", "batch", expires_s)


def upload(name: str) -> Upload:
    return Upload(f"upload_{name}", "acme", 4, T0, T0 + 3600, "f", "batch", keep_s=60.0)


async def test_a_file_is_listed_once_however_often_it_is_added(store: SqlStore) -> None:
    for _ in range(2):
        await store.files.add(file("a"))
    assert await store.files.file("acme", "file-a") == replace(file("a"), filename="a\ufffdb")
    assert len((await store.files.files("acme", FileQuery())).data) == 1
    assert await store.files.file("other", "file-a") is None


async def test_files_of_one_instant_are_paged_without_loss(store: SqlStore) -> None:
    await asyncio.gather(*(store.files.add(file(f"{number}")) for number in range(7)))
    seen: list[str] = []
    query = FileQuery(limit=3)
    while True:
        page = await store.files.files("acme", query)
        seen += [each.id for each in page.data]
        if not page.has_more:
            break
        query = FileQuery(after=seen[-1], limit=3)
    assert seen == [f"file-{number}" for number in range(6, -1, -1)]
    with pytest.raises(CursorNotFound):
        await store.files.files("other", FileQuery(after="file-1"))


async def test_what_expired_is_gone_at_once_and_forgotten_by_the_sweep(store: SqlStore, clock: FakeClock) -> None:
    await store.files.add(file("short", expires_s=T0 + 60))
    await store.files.add(file("long"))
    clock.now += 60
    assert await store.files.file("acme", "file-short") is None
    assert await store.files.unneeded(["file-short", "file-long", "x"]) == {"file-short", "x"}
    clock.now += 1
    await store.reap(20)
    assert await count(store, "files") == 1


async def test_an_upload_is_finished_once(store: SqlStore) -> None:
    await store.files.open_upload(upload("a"))
    await asyncio.gather(*(store.files.add_part("acme", "upload_a", Part(f"part_{n}", 2, T0 + n)) for n in range(2)))
    assert [part.id for part in await store.files.parts("acme", "upload_a")] == ["part_0", "part_1"]
    assert await store.files.unneeded(["part_0"]) == frozenset()
    files = [file(f"{number}") for number in range(3)]
    ends = await asyncio.gather(*(store.files.finish_upload("acme", "upload_a", each) for each in [*files, None]))
    assert {(end.status, end.file and end.file.id) for end in ends if end} == {("completed", "file-0")}
    assert await count(store, "files") == 1
    assert await store.files.parts("acme", "upload_a") == ()
    assert await store.files.unneeded(["part_0"]) == {"part_0"}
    late = await store.files.add_part("acme", "upload_a", Part("part_9", 2, T0))
    assert late is not None
    assert late.status == "completed"
    assert await count(store, "parts") == 0


async def test_an_upload_is_forgotten_a_day_after_its_time(store: SqlStore, clock: FakeClock) -> None:
    await store.files.open_upload(upload("a"))
    await store.files.add_part("acme", "upload_a", Part("part_0", 2, T0))
    assert await store.files.upload("other", "upload_a") is None
    clock.now += 3600
    found = await store.files.upload("acme", "upload_a")
    assert found is not None
    assert found.status == "expired"
    clock.now += 86_401
    await store.reap(20)
    assert [await count(store, table) for table in ("uploads", "parts")] == [0, 0]
