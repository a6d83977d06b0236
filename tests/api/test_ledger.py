from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from serve_app.api.ledger import Ledger
from serve_app.api.pending import Rhythm
from serve_app.errors import RequestError
from serve_app.protocol import Closed, FailureCode, Opened, StoreError, Turn, Usage
from tests.fakes import MemoryStore

QUICK = Rhythm(beat_s=0.01, reap_s=0.01, first_retry_s=0.001, last_retry_s=0.01, call_s=0.5, stop_s=2.0)
TIMEOUT_S = 0.1


def opening(name: str, *, stored: bool = False) -> Opened:
    turn = Turn(f"chatcmpl-{name}", ({"role": "user", "content": "Hi"},)) if stored else None
    return Opened(name, "writer-1", "tenant", "request", "llama", "chat/completions", "local", 1.0, turn=turn)


def closing(opened: Opened) -> Closed:
    completion = {"id": opened.turn.completion_id} if opened.turn else None
    return Closed(opened, "completed", Usage(1, 1), 0.1, completion=completion)


@asynccontextmanager
async def running(store: MemoryStore, *, rhythm: Rhythm = QUICK, max_pending: int = 1000) -> AsyncIterator[Ledger]:
    ledger = Ledger(store, "writer-1", store_timeout_s=TIMEOUT_S, max_pending=max_pending, rhythm=rhythm)
    ledger.start()
    try:
        yield ledger
    finally:
        await ledger.stop()


async def refused(opening: Awaitable[None]) -> None:
    with pytest.raises(RequestError) as caught:
        await opening
    assert caught.value.failed.code is FailureCode.STORAGE_UNAVAILABLE


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


async def test_a_stored_request_is_durable_when_open_and_close_return(store: MemoryStore) -> None:
    async with running(store) as ledger:
        opened = opening("a", stored=True)
        await ledger.open(opened)
        assert store.rows["a"].closed is None
        assert await ledger.close(closing(opened))
        assert store.rows["a"].closed is not None
        assert store.rows["a"].writes == ["Opened", "Closed"]


async def test_a_request_that_is_not_stored_never_waits_to_open(store: MemoryStore) -> None:
    store.hold = asyncio.Event()
    async with running(store) as ledger:
        await asyncio.wait_for(ledger.open(opening("a")), 0.01)
        store.hold.set()
        await store.until(lambda: "a" in store.rows)
        assert await ledger.close(closing(opening("a")))


async def test_requests_of_the_same_moment_share_a_commit(store: MemoryStore) -> None:
    async with running(store) as ledger:
        await asyncio.gather(*(ledger.open(opening(f"e{n}", stored=True)) for n in range(50)))
    assert len(store.rows) == 50
    assert len(store.writes) <= 2


async def test_a_close_that_overtakes_its_open_is_one_write(store: MemoryStore) -> None:
    async with running(store) as ledger:
        await ledger.open(opening("a"))
        assert await ledger.close(closing(opening("a")))
    assert store.rows["a"].writes == ["Closed"]


async def test_a_stored_request_is_refused_in_time_and_leaves_nothing_when_the_store_is_down(
    store: MemoryStore,
) -> None:
    async def fail(call: str) -> None:
        raise StoreError

    store.fault = fail
    async with running(store) as ledger:
        started = asyncio.get_running_loop().time()
        await refused(ledger.open(opening("a", stored=True)))
        assert asyncio.get_running_loop().time() - started < TIMEOUT_S + 5  # whatever else the machine does
        await refused(asyncio.wait_for(ledger.open(opening("b", stored=True)), 5))
        store.fault = None
        await store.until(lambda: "a" in store.rows)
        await ledger.open(opening("c", stored=True))
    assert store.rows["a"].closed.status == "failed"
    assert set(store.rows) == {"a", "c"}


async def test_a_request_refused_before_it_was_ever_sent_to_the_store_is_forgotten(store: MemoryStore) -> None:
    store.hold = asyncio.Event()
    async with running(store) as ledger:
        await ledger.open(opening("first"))
        await asyncio.sleep(0)
        await refused(ledger.open(opening("second", stored=True)))
        store.hold.set()
    assert set(store.rows) == {"first"}


async def test_a_refused_request_whose_opening_arrived_after_all_is_closed_as_failed(store: MemoryStore) -> None:
    store.hold = asyncio.Event()
    async with running(store) as ledger:
        await refused(ledger.open(opening("a", stored=True)))
        store.hold.set()
        await store.until(lambda: "a" in store.rows and store.rows["a"].closed)
    assert (store.rows["a"].closed.status, store.rows["a"].closed.failure) == ("failed", "storage_unavailable")


async def test_a_cancelled_opening_is_kept_and_closed_as_cancelled(store: MemoryStore) -> None:
    store.hold = asyncio.Event()
    async with running(store) as ledger:
        waiting = asyncio.create_task(ledger.open(opening("a", stored=True)))
        await store.until(lambda: "write" in store.calls)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        store.hold.set()
    assert store.rows["a"].closed.status == "cancelled"


async def test_an_ending_that_could_not_be_stored_in_time_is_stored_later(store: MemoryStore) -> None:
    async with running(store) as ledger:
        opened = opening("a", stored=True)
        await ledger.open(opened)
        store.down = True
        assert not await ledger.close(closing(opened))
        store.down = False
        await store.until(lambda: store.rows["a"].closed)


async def test_a_cancelled_caller_does_not_take_the_ending_along(store: MemoryStore) -> None:
    store.hold = asyncio.Event()
    async with running(store) as ledger:
        waiting = asyncio.create_task(ledger.close(closing(opening("a", stored=True))))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        store.hold.set()
    assert store.rows["a"].closed is not None


async def test_without_a_turn_a_sick_store_costs_nothing(store: MemoryStore) -> None:
    store.down = True
    async with running(store) as ledger:
        await store.until(lambda: "write" in store.calls or "check" in store.calls)
        for n in range(20):
            assert not await asyncio.wait_for(ledger.close(closing(opening(f"e{n}"))), 0.01)
        store.down = False
    assert len(store.rows) == 20


async def test_a_hung_store_delays_an_unstored_ending_once_and_briefly(store: MemoryStore) -> None:
    store.hold = asyncio.Event()
    async with running(store, rhythm=replace(QUICK, call_s=10, stop_s=0.1)) as ledger:
        assert not await asyncio.wait_for(ledger.close(closing(opening("a"))), 0.4)
        assert not await asyncio.wait_for(ledger.close(closing(opening("b"))), 0.01)
        await refused(asyncio.wait_for(ledger.open(opening("c", stored=True)), 0.01))


async def test_memory_is_bounded_and_endings_outlive_openings(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.down = True
    async with running(store, max_pending=10) as ledger:
        await store.until(lambda: store.calls.count("check") > 1)
        for n in range(15):
            await ledger.open(opening(f"e{n}"))
        for n in range(30):
            await ledger.close(closing(opening(f"e{n}")))
        store.down = False
    assert {name for name, row in store.rows.items() if row.closed} == {f"e{n}" for n in range(20)}
    assert len([record for record in caplog.records if "dropped" in record.getMessage()]) == 1


async def test_an_entry_the_store_rejects_does_not_hold_up_the_others(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    write = store.write

    async def picky(entries: list[Opened | Closed]) -> frozenset[str]:
        if any(entry.entry_id == "bad" for entry in entries if isinstance(entry, Opened)):
            raise ValueError("cannot be written")
        return await write(entries)

    store.write = picky
    async with running(store) as ledger:
        opens = [ledger.open(opening(name, stored=True)) for name in ("a", "bad", "b")]
        results = await asyncio.gather(*opens, return_exceptions=True)
    assert [type(result) for result in results] == [type(None), RequestError, type(None)]
    assert set(store.rows) == {"a", "b"}
    assert "rejects ledger entry bad" in caplog.text


async def test_it_beats_and_reaps_and_survives_their_failures(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    failures = iter([StoreError(), RuntimeError("the actor died"), *[None] * 10_000])

    async def fault(call: str) -> None:
        if call in ("beat", "reap") and (error := next(failures)):
            raise error

    store.fault = fault
    async with running(store) as ledger:
        await store.until(lambda: store.beats and store.calls.count("reap") > 2)
        await ledger.open(opening("a", stored=True))
    assert "writer-1" in store.beats
    assert "a call to the store failed" in caplog.text


async def test_stop_writes_what_is_pending_and_gives_up_on_a_dead_store(
    store: MemoryStore, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(store) as ledger:
        for n in range(300):
            await ledger.open(opening(f"e{n}"))
    assert len(store.rows) == 300
    store.down = True
    async with running(store, rhythm=replace(QUICK, stop_s=0.05)) as ledger:
        await ledger.open(opening("late"))
    assert "1 ledger entries could not be stored" in caplog.text
