from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from serve_app.protocol import Batch, CursorNotFound, Ending, File, Progress, Usage
from serve_app.store import SqlStore
from tests.store.entries import T0, FakeClock, count

FIRST = Progress("in_progress", total=5, model="llama")


def batch(name: str, *, created_s: float = T0, tenant: str = "acme") -> Batch:
    return Batch(f"batch_{name}", tenant, "/v1/x", "file-in", "24h", created_s, created_s + 60, 30.0, {"k": "v"})


async def claimed(store: SqlStore, owner: str) -> str | None:
    found = await store.batches.claim(owner, silent_s=20)
    return found.id if found else None


async def test_a_batch_is_claimed_by_one_and_the_oldest_first(store: SqlStore) -> None:
    await asyncio.gather(*(store.batches.create(batch(str(n), created_s=T0 + n)) for n in range(3)))
    found = await asyncio.gather(*(claimed(store, f"w{n}") for n in range(5)))
    assert sorted(name or "" for name in found) == ["", "", "batch_0", "batch_1", "batch_2"]
    assert await claimed(store, "w9") is None


async def test_a_silent_owner_loses_its_batch_and_hears_of_it(store: SqlStore, clock: FakeClock) -> None:
    await store.batches.create(batch("a"))
    assert await claimed(store, "one") == "batch_a"
    clock.now += 15
    await store.beat("one")
    clock.now += 15
    assert await claimed(store, "two") is None
    clock.now += 10
    assert await claimed(store, "two") == "batch_a"
    assert await store.batches.report("batch_a", "one", FIRST) is None
    assert await store.batches.finish("batch_a", "one", Ending("completed")) is None
    assert await store.batches.report("batch_a", "two", FIRST) is not None


async def test_what_its_owner_releases_is_claimed_at_once(store: SqlStore) -> None:
    await store.batches.create(batch("a"))
    assert await claimed(store, "one") == "batch_a"
    await store.batches.release("one")
    assert await claimed(store, "two") == "batch_a"


async def test_a_batch_is_told_as_far_as_it_is(store: SqlStore, clock: FakeClock) -> None:
    await store.batches.create(batch("a"))
    await claimed(store, "w")
    clock.now += 1
    await store.batches.report("batch_a", "w", FIRST)
    clock.now += 1
    await store.batches.report("batch_a", "w", replace(FIRST, completed=2, failed=1, model=None))
    found = await store.batches.batch("acme", "batch_a")
    assert found == replace(
        batch("a"), status="in_progress", total=5, completed=2, failed=1, model="llama", times={"in_progress": T0 + 1}
    )
    assert await store.batches.batch("other", "batch_a") is None


async def test_the_end_and_its_files_are_one_write(store: SqlStore) -> None:
    await store.files.add(File("file-in", "acme", 1, T0, "in", "batch"))
    await store.batches.create(batch("a"))
    await claimed(store, "w")
    await store.batches.report("batch_a", "w", FIRST)
    assert await store.files.delete("acme", "file-in")
    assert await store.files.unneeded(["file-in"]) == frozenset(), "it is still being worked on"
    await store.batches.report("batch_a", "w", replace(FIRST, status="finalizing"))
    output = File("file-out", "acme", 1, T0, "out", "batch_output")
    ending = Ending("completed", 5, 4, 1, output=output, errors=replace(output, id="file-err"), usage=Usage(1, 2, 3, 4))
    ends = await asyncio.gather(*(store.batches.finish("batch_a", "w", ending) for _ in range(3)))
    assert [end is not None for end in ends] == [True, False, False]
    assert ends[0] is not None
    assert (ends[0].output_file_id, ends[0].error_file_id, ends[0].usage) == ("file-out", "file-err", Usage(1, 2, 3, 4))
    assert list(ends[0].times) == ["in_progress", "finalizing", "completed"]
    assert await count(store, "files") == 2
    assert await store.files.unneeded(["file-in", "file-out"]) == {"file-in"}
    assert await claimed(store, "two") is None


async def test_cancelling_wins_over_progress_but_not_over_an_end(store: SqlStore) -> None:
    for name in "ab":
        await store.batches.create(batch(name))
        await claimed(store, "w")
        await store.batches.report(f"batch_{name}", "w", FIRST)
    for _ in range(2):
        found = await store.batches.cancel("acme", "batch_a")
        assert found is not None
        assert found.status == "cancelling"
    told = await store.batches.report("batch_a", "w", replace(FIRST, status="finalizing"))
    assert told is not None
    assert told.status == "cancelling"
    await store.batches.finish("batch_b", "w", Ending("completed"))
    late = await store.batches.cancel("acme", "batch_b")
    assert late is not None
    assert late.status == "completed"
    assert await store.batches.cancel("other", "batch_a") is None


async def test_batches_of_one_instant_are_paged_without_loss(store: SqlStore) -> None:
    await asyncio.gather(*(store.batches.create(batch(str(number))) for number in range(5)))
    seen: list[str] = []
    more = True
    while more:
        page = await store.batches.batches("acme", seen[-1] if seen else None, 2)
        seen += [each.id for each in page.data]
        more = page.has_more
    assert seen == [f"batch_{number}" for number in range(4, -1, -1)]
    with pytest.raises(CursorNotFound):
        await store.batches.batches("other", "batch_1", 2)
