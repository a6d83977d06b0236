"""The ledger's promise under every mixture of store failures and callers that leave."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.api.ledger import Ledger
from serve_app.api.pending import Rhythm
from serve_app.errors import RequestError
from serve_app.protocol import Opened, StoreError
from tests.api.test_ledger import closing, opening
from tests.fakes import MemoryStore

QUICK = Rhythm(beat_s=0.01, reap_s=0.01, first_retry_s=0.001, last_retry_s=0.01, call_s=0.02, stop_s=2.0)

MOODS = ["well", "fail", "hang", "slow", "fail after commit", "hang after commit", "slow after commit"]
fault_plans = st.lists(st.sampled_from(MOODS), max_size=12)
leaving = st.sampled_from([None, None, None, 1, 2, 4, 10])
"""After so many turns of the loop the caller is cancelled; None: it stays."""

requests = st.lists(st.tuples(st.booleans(), leaving, leaving), min_size=1, max_size=8)


async def _fail(call: str) -> None:
    raise StoreError


async def _take_a_while(call: str) -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _hang(call: str) -> None:
    await asyncio.Event().wait()


AFTER_COMMIT = {"fail after commit": _fail, "hang after commit": _hang, "slow after commit": _take_a_while}
BEFORE_COMMIT = {"fail": _fail, "hang": _hang, "slow": _take_a_while}


async def _request(ledger: Ledger, opened: Opened, cut_open: int | None, cut_close: int | None) -> str:
    """One request that may be cancelled after so many turns of the loop; what it was told."""
    try:
        await _cut(ledger.open(opened), cut_open)
    except RequestError:
        return "refused"
    except asyncio.CancelledError:
        return "cancelled"
    try:
        return "durable" if await _cut(ledger.close(closing(opened)), cut_close) else "pending"
    except asyncio.CancelledError:
        return "pending"


async def _cut(work: Awaitable[object], turns: int | None) -> object:
    task = asyncio.ensure_future(work)
    if turns is not None:
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
    return await task


@settings(max_examples=100, deadline=None)
@given(plan=fault_plans, asked=requests)
async def test_no_entry_is_lost_or_left_open_whatever_fails_and_whoever_leaves(
    plan: list[str], asked: list[tuple[bool, int | None, int | None]]
) -> None:
    store, faults = MemoryStore(), iter(plan)

    async def before(call: str) -> None:
        mood = next(faults, "well") if call == "write" else "well"
        store.reply_fault = AFTER_COMMIT.get(mood)
        if mood in BEFORE_COMMIT:
            await BEFORE_COMMIT[mood](call)

    store.fault = before
    ledger = Ledger(store, "writer-1", store_timeout_s=0.01, rhythm=QUICK)
    ledger.start()
    entries = [opening(f"e{n}", stored=stored) for n, (stored, _, _) in enumerate(asked)]
    told = await asyncio.gather(*(_request(ledger, one, *cuts[1:]) for one, cuts in zip(entries, asked, strict=True)))
    await ledger.stop()
    for opened, outcome in zip(entries, told, strict=True):
        row = store.rows.get(opened.entry_id)
        expected = {"refused": {None, "failed"}, "cancelled": {None, "cancelled"}}.get(outcome, {"completed"})
        assert (row.closed.status if row and row.closed else None) in expected
        assert row is None or row.closed is not None
