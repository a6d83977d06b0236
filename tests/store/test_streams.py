"""Recorded streams on both databases: every event once, in order, for its tenant, for its time."""

from __future__ import annotations

import asyncio
import random

from serve_app.protocol import Stretch
from serve_app.store import SqlStore
from tests.store.entries import FakeClock, count

EVENTS = [f"data: {n}\n\n".encode() for n in range(10)]


def numbered(first: int, following: int) -> tuple[tuple[int, bytes], ...]:
    return tuple((n, EVENTS[n]) for n in range(first, following))


async def test_events_are_read_after_any_position_in_order_and_each_once(store: SqlStore) -> None:
    for first, following in ((0, 3), (3, 4), (4, 10)):
        await store.streams.append("acme", "s", first, EVENTS[first:following], following == 10)
    for after in range(-1, 10):
        assert await store.streams.read("acme", "s", after, 100) == Stretch(numbered(after + 1, 10), ended=True)
    assert await store.streams.read("acme", "s", 1, 3) == Stretch(numbered(2, 5), ended=False)
    assert await store.streams.read("acme", "s", 6, 3) == Stretch(numbered(7, 10), ended=True)


async def test_a_write_that_is_repeated_or_comes_late_or_early_changes_nothing(store: SqlStore) -> None:
    streams, draw = store.streams, random.Random(7)
    await streams.append("acme", "s", 0, EVENTS[:2], False)
    await streams.append("acme", "s", 5, EVENTS[5:], True)  # a gap
    assert await streams.read("acme", "s", -1, 100) == Stretch(numbered(0, 2), ended=False)
    known = 2
    while known < 10:
        first = draw.randrange(known + 1)
        following = draw.randrange(first, 11)
        await streams.append("acme", "s", first, EVENTS[first:following], False)
        known = max(known, following)
    await streams.append("acme", "s", 10, [], True)
    await streams.append("acme", "s", 10, [b"after the end"], False)
    assert await streams.read("acme", "s", -1, 100) == Stretch(numbered(0, 10), ended=True)


async def test_many_stretches_are_read_page_by_page(store: SqlStore) -> None:
    events = [str(n).encode() for n in range(150)]
    for n, event in enumerate(events):
        await store.streams.append("acme", "s", n, [event], n == 149)
    read: list[bytes] = []
    ended = False
    while not ended:
        found = await store.streams.read("acme", "s", len(read) - 1, 40)
        assert found is not None
        assert 0 < len(found.events) <= 40
        read += [event for _, event in found.events]
        ended = found.ended
    assert read == events


async def test_a_reader_is_woken_by_the_write_it_waits_for_and_the_recorder_learns_of_it(store: SqlStore) -> None:
    assert not await store.streams.append("acme", "s", 0, [], False)
    waiting = asyncio.create_task(store.streams.read("acme", "s", -1, 100, 60))
    await store.streams.read("acme", "s", -1, 100)  # comes back after the other began to wait
    assert await store.streams.append("acme", "s", 0, EVENTS[:1], False)
    async with asyncio.timeout(5):
        assert await waiting == Stretch(numbered(0, 1), ended=False)
    waiting = asyncio.create_task(store.streams.read("acme", "s", 0, 100, 60))
    await asyncio.sleep(0)
    await store.streams.append("acme", "s", 1, [], True)
    async with asyncio.timeout(5):
        assert await waiting == Stretch((), ended=True)


async def test_a_reader_who_waits_in_vain_learns_how_long_nothing_was_heard(store: SqlStore, clock: FakeClock) -> None:
    await store.streams.append("acme", "s", 0, [], False)
    clock.now += 30
    assert await store.streams.read("acme", "s", -1, 100, 0.001) == Stretch((), ended=False, silent_s=30)


async def test_another_tenants_stream_does_not_exist(store: SqlStore) -> None:
    await store.streams.append("acme", "s", 0, EVENTS, True)
    assert await store.streams.read("other", "s", -1, 100, 60) is None
    await store.streams.append("other", "s", 0, [b"theirs"], True)
    assert await store.streams.read("acme", "s", 8, 100) == Stretch(numbered(9, 10), ended=True)


async def test_streams_are_forgotten_ten_minutes_after_they_were_last_heard(store: SqlStore, clock: FakeClock) -> None:
    for n in range(250):
        await store.streams.append("acme", f"old-{n}", 0, EVENTS[:1], n % 2 == 0)
    clock.now += 300
    await store.streams.append("acme", "new", 0, EVENTS[:1], True)
    clock.now += 301
    for _ in range(2):
        await store.reap(20)
    assert [await count(store, table) for table in ("streams", "stretches")] == [1, 1]
    assert await store.streams.read("acme", "new", -1, 100) is not None


async def test_a_dropped_stream_is_gone_and_takes_nothing_that_comes_later(store: SqlStore) -> None:
    await store.streams.append("acme", "s", 0, EVENTS[:3], False)
    await store.streams.drop("acme", "s")
    assert await store.streams.read("acme", "s", -1, 100) is None
    await store.streams.append("acme", "s", 3, EVENTS[3:5], False)
    assert await count(store, "stretches") == 0
