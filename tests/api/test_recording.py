"""What a recorder notes, a follower reads: every event once and in order, whatever happens to the store in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest

from serve_app.api.background import Background
from serve_app.api.recording import Recorder, StreamLost, StreamUnknown, Tempo, follow
from serve_app.protocol import StoreError
from tests.fakes import MemoryStore

QUICK = Tempo(linger_s=0.001, beat_s=0.02, patience_s=5)
EVENTS = [f"data: {n}\n\n".encode() for n in range(50)]


@pytest.fixture
async def background() -> AsyncGenerator[Background]:
    held = Background()
    yield held
    await held.stop()


async def everything(store: MemoryStore, after: int = -1) -> list[tuple[int, bytes]]:
    return [pair async for pairs in follow(store.streams, "acme", "s", after, wait_s=1) for pair in pairs]


async def test_a_follower_reads_what_is_noted_from_any_position_on(background: Background) -> None:
    store = MemoryStore()
    recorder = Recorder(store.streams, "acme", "s", background, QUICK)
    await store.streams.until(lambda: store.streams.kept)
    followers = [asyncio.create_task(everything(store, after)) for after in (-1, 0, 20, 48, 49)]
    for event in EVENTS:
        recorder.note(event)
        await asyncio.sleep(0)
    recorder.end()
    async with asyncio.timeout(5):
        read = await asyncio.gather(*followers)
    assert read == [list(enumerate(EVENTS))[after + 1 :] for after in (-1, 0, 20, 48, 49)]
    assert await everything(store, 30) == list(enumerate(EVENTS))[31:]


async def test_a_store_that_is_away_for_a_moment_costs_neither_side_an_event(background: Background) -> None:
    store = MemoryStore()
    recorder = Recorder(store.streams, "acme", "s", background, QUICK)
    await store.streams.until(lambda: store.streams.kept)
    follower = asyncio.create_task(everything(store))
    await store.streams.until(lambda: store.streams.waiting)
    failures = iter([True, False] * 10)

    async def flaky(call: str) -> None:
        if next(failures, False):
            raise StoreError

    store.fault = flaky
    for event in EVENTS:
        recorder.note(event)
        await asyncio.sleep(0)
    recorder.end()
    async with asyncio.timeout(10):
        assert await follower == list(enumerate(EVENTS))


async def test_noting_goes_on_while_the_store_hangs_and_ends_when_it_was_away_for_too_long(
    background: Background,
) -> None:
    store = MemoryStore()
    store.down = True
    recorder = Recorder(store.streams, "acme", "s", background, Tempo(linger_s=0, patience_s=0))
    assert [recorder.note(event) for event in EVENTS] == list(range(50))
    async with asyncio.timeout(5):
        await recorder.settled()
    assert recorder.note(b"later") == 50
    assert recorder._pending == []


async def test_a_quiet_recorder_is_heard_and_learns_that_it_is_followed(background: Background) -> None:
    store = MemoryStore()
    recorder = Recorder(store.streams, "acme", "s", background, QUICK)
    await store.streams.until(lambda: store.calls.count("streams.append") > 3)
    assert recorder.followed_s == float("-inf")
    follower = asyncio.create_task(everything(store))
    await store.streams.until(lambda: recorder.followed_s > 0)
    recorder.end()
    assert await follower == []


async def test_an_unknown_stream_and_a_lost_one_are_told_apart() -> None:
    store = MemoryStore()
    with pytest.raises(StreamUnknown):
        await everything(store)
    await store.streams.append("acme", "s", 0, EVENTS[:1], False)
    store.streams.silent_s = 21
    follower = follow(store.streams, "acme", "s", -1, wait_s=0.001)
    assert await anext(follower) == [(0, EVENTS[0])]
    assert await anext(follower) == []
    with pytest.raises(StreamLost):
        await anext(follower)
    store.down = True
    with pytest.raises(StoreError):
        await everything(store)


async def test_background_work_is_ended_with_the_application_and_what_it_did_is_written_down() -> None:
    background, store = Background(), MemoryStore()
    recorder = Recorder(store.streams, "acme", "s", background, QUICK)

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            recorder.note(b"the end")
            recorder.end()

    background.start(work(), "work")
    await store.streams.until(lambda: store.streams.kept)
    async with asyncio.timeout(10):
        await background.stop()
    assert await everything(store) == [(0, b"the end")]
