"""Kept answers on both databases: of all attempts at a key's work one is under way, and its answer is everybody's."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from serve_app.protocol import Attempt, Claim, KeptAnswer
from serve_app.store import SqlStore
from tests.store.entries import FakeClock, count

FIRST = Attempt("acme", "key", b"digest", "attempt-1", "ingress-1")
SECOND = replace(FIRST, id="attempt-2", writer="ingress-2")
ANSWER = KeptAnswer(200, ((b"content-type", b"text/event-stream"), (b"x", b"\xe9")), b"data: \x00\xff\n\n" * 1000)


async def test_of_many_attempts_one_is_told_to_work_and_all_get_its_answer(store: SqlStore) -> None:
    attempts = [replace(FIRST, id=f"attempt-{n}") for n in range(8)]
    claims = await asyncio.gather(*(store.answers.claim(attempt) for attempt in attempts))
    assert sorted(claims) == [Claim.MINE] + [Claim.RUNNING] * 7
    (mine,) = [attempt for attempt, claim in zip(attempts, claims, strict=True) if claim is Claim.MINE]
    waiting = [asyncio.create_task(store.answers.claim(attempt, 60)) for attempt in attempts if attempt != mine]
    await store.answers.claim(attempts[0], 0)
    assert await store.answers.keep(mine, ANSWER)
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [ANSWER] * 7


async def test_a_claim_that_is_repeated_is_still_ones_own(store: SqlStore) -> None:
    assert [await store.answers.claim(FIRST) for _ in range(2)] == [Claim.MINE] * 2
    assert await store.answers.claim(SECOND, 0.001) is Claim.RUNNING


async def test_another_request_under_the_key_is_told_apart_and_another_tenants_key_is_its_own(store: SqlStore) -> None:
    await store.answers.claim(FIRST)
    assert await store.answers.claim(replace(SECOND, digest=b"other")) is Claim.ANOTHER
    await store.answers.keep(FIRST, ANSWER)
    assert await store.answers.claim(replace(SECOND, digest=b"other")) is Claim.ANOTHER
    assert await store.answers.claim(replace(SECOND, tenant="other")) is Claim.MINE


async def test_a_released_key_wakes_who_waits_and_is_theirs_and_a_kept_answer_cannot_be_released(
    store: SqlStore,
) -> None:
    await store.answers.claim(FIRST)
    waiting = asyncio.create_task(store.answers.claim(SECOND, 60))
    await store.answers.claim(replace(SECOND, id="attempt-3"), 0)
    await store.answers.release(FIRST)
    async with asyncio.timeout(5):
        assert await waiting is Claim.MINE
    assert not await store.answers.keep(FIRST, ANSWER)
    assert await store.answers.keep(SECOND, ANSWER)
    await store.answers.release(SECOND)
    assert await store.answers.claim(replace(FIRST, id="attempt-4")) == ANSWER


async def test_a_dead_writers_key_goes_to_the_next_and_a_living_ones_does_not(
    store: SqlStore, clock: FakeClock
) -> None:
    await store.answers.claim(FIRST)
    for _ in range(4):
        clock.now += 15
        await store.beat(FIRST.writer)
    assert await store.answers.claim(SECOND) is Claim.RUNNING
    clock.now += 21
    assert await store.answers.claim(SECOND) is Claim.MINE
    assert not await store.answers.keep(FIRST, ANSWER)


async def test_a_store_that_could_not_listen_takes_nobody_for_dead(store: SqlStore, clock: FakeClock) -> None:
    await store.answers.claim(FIRST)
    clock.now += 300
    store._hearing_since_s = clock.now - 19
    assert await store.answers.claim(SECOND) is Claim.RUNNING


async def test_an_attempt_that_outlasts_every_request_is_dead_and_an_answer_is_kept_for_a_day(
    store: SqlStore, clock: FakeClock
) -> None:
    await store.answers.claim(FIRST)
    clock.now += 901
    await store.beat(FIRST.writer)
    assert await store.answers.claim(SECOND) is Claim.MINE
    await store.answers.keep(SECOND, ANSWER)
    clock.now += 86_399
    await store.reap(20)
    assert await store.answers.claim(FIRST) == ANSWER
    clock.now += 2
    await store.reap(20)
    assert await count(store, "answers") == 0
