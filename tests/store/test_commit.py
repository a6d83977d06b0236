from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from serve_app.protocol import StoreError
from serve_app.store import SqlStore
from serve_app.store.commit import CommitQueue
from tests.store.entries import closed, count, opened


class Disk:
    """A commit that can be held, and fails as its works say."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.stored: list[str] = []
        self.free = asyncio.Event()
        self.free.set()
        self.out = False

    async def commit(self, works: Sequence[str]) -> list[str]:
        self.batches.append(list(works))
        await self.free.wait()
        if self.out:
            raise StoreError("out")
        if any(work.startswith("bad") for work in works):
            raise ValueError("bad")
        self.stored += works
        return [work.upper() for work in works]


@pytest.fixture
def disk() -> Disk:
    return Disk()


@pytest_asyncio.fixture
async def queue(disk: Disk) -> AsyncIterator[CommitQueue[str]]:
    opened_queue = CommitQueue(disk.commit, capacity=100)
    yield opened_queue
    await opened_queue.close()


async def _submit(queue: CommitQueue[str], *works: str) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(queue.submit(work)) for work in works]
    await asyncio.sleep(0)
    return tasks


async def test_what_queues_during_a_commit_is_the_next_commit(queue: CommitQueue[str], disk: Disk) -> None:
    disk.free.clear()
    first = await _submit(queue, "a")
    await asyncio.sleep(0)
    later = await _submit(queue, *"bcdefg")
    disk.free.set()
    assert await asyncio.gather(*first, *later) == list("ABCDEFG")
    assert disk.batches == [["a"], list("bcdefg")]


async def test_only_the_faulty_works_are_refused_and_order_is_kept(queue: CommitQueue[str], disk: Disk) -> None:
    works = [f"bad{index}" if index in (2, 9, 10) else f"w{index:02}" for index in range(16)]
    results = await asyncio.gather(*(queue.submit(work) for work in works), return_exceptions=True)
    assert [index for index, result in enumerate(results) if isinstance(result, StoreError)] == [2, 9, 10]
    assert disk.stored == [work for work in works if not work.startswith("bad")]


async def test_an_outage_refuses_everybody_who_waits_at_once(queue: CommitQueue[str], disk: Disk) -> None:
    disk.free.clear()
    first = await _submit(queue, "a", "bad", "b")
    await asyncio.sleep(0)
    later = await _submit(queue, "c")
    disk.out = True
    disk.free.set()
    results = await asyncio.gather(*first, *later, return_exceptions=True)
    assert all(isinstance(result, StoreError) for result in results)
    assert len(disk.batches) == 1
    disk.out = False
    assert await queue.submit("again") == "AGAIN"


async def test_a_full_queue_refuses_and_still_takes_one_large_work(queue: CommitQueue[str], disk: Disk) -> None:
    disk.free.clear()
    first = await _submit(queue, "a")
    await asyncio.sleep(0)
    large = asyncio.create_task(queue.submit("large", size=1000))
    await asyncio.sleep(0)
    with pytest.raises(StoreError):
        await queue.submit("late")
    disk.free.set()
    assert await asyncio.gather(*first, large) == ["A", "LARGE"]


async def test_a_caller_who_leaves_stops_nobody(queue: CommitQueue[str], disk: Disk) -> None:
    disk.free.clear()
    tasks = await _submit(queue, "a", "b")
    tasks[0].cancel()
    await asyncio.sleep(0)
    disk.free.set()
    assert await tasks[1] == "B"
    assert disk.stored == ["a", "b"]


async def test_closing_writes_what_is_queued_and_refuses_the_rest(disk: Disk) -> None:
    queue = CommitQueue(disk.commit, capacity=100)
    tasks = await _submit(queue, "a", "b")
    await queue.close()
    assert await asyncio.gather(*tasks) == ["A", "B"]
    with pytest.raises(StoreError):
        await queue.submit("c")


async def test_many_concurrent_writes_share_few_transactions(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    transactions = 0
    writing = store._database.writing

    def counted() -> object:
        nonlocal transactions
        transactions += 1
        return writing()

    monkeypatch.setattr(store._database, "writing", counted)

    async def caller(number: int) -> None:
        for turn in range(3):
            entry = opened(f"{number}-{turn}")
            await store.write([entry])
            await store.write([closed(entry)])

    await asyncio.gather(*(caller(number) for number in range(32)))
    assert await count(store, "usage") == 96
    assert transactions <= 12
