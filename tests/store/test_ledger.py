from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.protocol import Closed, CompletionQuery, CursorNotFound, Json, Opened, StoreError, Usage
from serve_app.store import SqlStore
from tests.store.entries import T0, FakeClock, closed, completion_of, count, opened, rows

IN_EXAMPLES = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
USAGE = "SELECT status, prompt_tokens, completion_tokens, duration_s, first_token_s, failure, writer FROM usage"


async def test_a_closing_without_its_opening_makes_the_full_row(store: SqlStore) -> None:
    await store.write([closed(opened("a", user="u"), "failed", failure="timeout", text=None, first_token_s=None)])
    assert await rows(store, USAGE) == [("failed", 3, 5, 1.5, None, "timeout", "ingress-1")]
    names = 'SELECT entry_id, tenant, request_id, model, route, served_by, "user", started_s FROM usage'
    assert await rows(store, names) == [("a", "acme", "req-a", "llama", "chat/completions", "local", "u", T0)]


async def test_a_request_that_is_not_stored_is_accounted_only(store: SqlStore) -> None:
    await store.write([closed(opened("a", stored=False))])
    assert [await count(store, table) for table in ("usage", "turns", "messages")] == [1, 0, 0]


@IN_EXAMPLES
@given(
    order=st.lists(st.sampled_from(["opened", "closed"]), min_size=1, max_size=8),
    cuts=st.lists(st.booleans(), min_size=8, max_size=8),
)
async def test_any_order_and_repetition_ends_the_same(store: SqlStore, order: list[str], cuts: list[bool]) -> None:
    """The last word is the closing's if there was one; ``cuts`` are where one write ends and the next begins."""
    tenant = uuid4().hex
    entry = opened(uuid4().hex, tenant=tenant, metadata={"k": "v"})
    entries = [entry if kind == "opened" else closed(entry) for kind in order]
    write: list[Opened | Closed] = []
    for item, cut in zip(entries, cuts, strict=False):
        write.append(item)
        if cut:
            await store.write(write)
            write = []
    await store.write(write)
    done = "closed" in order
    status = "completed" if done else "in_progress"
    assert await rows(store, f"SELECT status FROM usage WHERE tenant = '{tenant}'") == [(status,)]
    assert await rows(store, f"SELECT status FROM turns WHERE tenant = '{tenant}'") == [(status,)]
    page = await store.completions(tenant, CompletionQuery(metadata={"k": "v"}))
    assert page.data == ((completion_of(entry),) if done else ())


async def test_the_first_closing_stands(store: SqlStore) -> None:
    entry = opened("a")
    await store.write([closed(entry, "cancelled", text="first")])
    await store.write([closed(entry, "completed", text="second", usage=Usage(9, 9))])
    assert (await rows(store, USAGE))[0][:3] == ("cancelled", 3, 5)
    assert await store.completion("acme", "chatcmpl-a") == completion_of(entry, "first")


async def test_entries_of_silent_writers_become_incomplete(store: SqlStore, clock: FakeClock) -> None:
    live, dead, done = opened("live", writer="live"), opened("dead", writer="dead"), opened("done", writer="dead")
    unstored = opened("unstored", writer="dead", stored=False)
    await store.write([live, dead, unstored, closed(done)])
    clock.now += 20
    await store.beat("live")
    clock.now += 20
    assert await store.reap(30) == 2
    statuses = "SELECT entry_id, status FROM usage ORDER BY 1"
    expected = [("dead", "incomplete"), ("done", "completed"), ("live", "in_progress"), ("unstored", "incomplete")]
    assert await rows(store, statuses) == expected
    assert await rows(store, "SELECT status FROM turns WHERE completion_id = 'chatcmpl-dead'") == [("incomplete",)]
    assert await store.reap(30) == 0
    assert await rows(store, "SELECT writer FROM writers") == [("live",)]


async def test_a_closing_after_the_reaper_wins(store: SqlStore, clock: FakeClock) -> None:
    entry = opened("a")
    await store.write([entry])
    clock.now += 60
    assert await store.reap(30) == 1
    await store.write([entry])
    assert (await rows(store, USAGE))[0][0] == "incomplete"
    await store.write([closed(entry)])
    assert (await rows(store, USAGE))[0][0] == "completed"
    assert await store.completion("acme", "chatcmpl-a") == completion_of(entry)


async def test_writers_get_the_whole_grace_after_a_restart(store: SqlStore, clock: FakeClock, url: str) -> None:
    await store.write([opened("a")])
    clock.now += 1000
    reopened = await SqlStore.open(url, clock=clock)
    try:
        assert await reopened.reap(30) == 0
        clock.now += 29
        assert await reopened.reap(30) == 0
        clock.now += 1
        assert await reopened.reap(30) == 1
    finally:
        await reopened.close()


async def test_one_poisoned_entry_costs_nobody_else(store: SqlStore) -> None:
    entries = [opened(str(index)) for index in range(20)]
    works: list[Opened | Closed] = [*entries]
    for poisoned in (3, 11):
        works[poisoned] = closed(entries[poisoned], usage=Usage(2**70))
    results = await asyncio.gather(*(store.write([work]) for work in works), return_exceptions=True)
    assert [index for index, result in enumerate(results) if isinstance(result, StoreError)] == [3, 11]
    kept = {entry_id for (entry_id,) in await rows(store, "SELECT entry_id FROM usage")}
    assert kept == {str(index) for index in range(20)} - {"3", "11"}
    assert await count(store, "turns") == 18


async def test_a_write_of_many_entries_is_all_or_nothing(store: SqlStore) -> None:
    good = opened("good")
    with pytest.raises(StoreError):
        await store.write([good, closed(opened("bad"), usage=Usage(2**70))])
    assert [await count(store, table) for table in ("usage", "turns", "messages", "writers")] == [0, 0, 0, 0]


async def test_a_usable_store_passes_its_check_and_a_closed_one_does_not(url: str) -> None:
    store = await SqlStore.open(url)
    await store.check()
    await store.close()
    with pytest.raises(StoreError):
        await store.check()


LISTED = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["llama", "gpt"]),
        st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"])),
        st.booleans(),
    ),
    max_size=12,
)
QUERIES = st.builds(
    CompletionQuery,
    limit=st.integers(1, 4),
    order=st.sampled_from(["asc", "desc"]),
    model=st.none() | st.sampled_from(["llama", "gpt"]),
    metadata=st.dictionaries(st.sampled_from(["a", "b"]), st.sampled_from(["1", "2"])),
)


def _model_list(turns: Sequence[Json], query: CompletionQuery) -> list[Json]:
    """What a list is, said in Python."""
    found = [
        turn
        for turn in turns
        if query.model in (None, turn["model"]) and query.metadata.items() <= turn["metadata"].items()
    ]
    return sorted(found, key=lambda turn: (turn["created"], turn["id"]), reverse=query.order == "desc")


@IN_EXAMPLES
@given(drawn=LISTED, query=QUERIES)
async def test_pages_put_together_are_the_list(store: SqlStore, drawn: list[Any], query: CompletionQuery) -> None:
    tenant, turns = uuid4().hex, []
    for seconds, model, metadata, finished in drawn:
        entry = opened(uuid4().hex, tenant=tenant, model=model, metadata=metadata, started_s=T0 + seconds)
        await store.write([closed(entry) if finished else entry])
        turns += [completion_of(entry)] if finished else []
    expected, found, after = _model_list(turns, query), [], None
    while True:
        values = {field: getattr(query, field) for field in query.__slots__}
        page = await store.completions(tenant, CompletionQuery(**{**values, "after": after}))
        found += page.data
        assert page.has_more == (len(found) < len(expected))
        if not page.has_more:
            break
        after = found[-1]["id"]
    assert found == expected


async def test_a_list_can_be_emptied_page_by_page(store: SqlStore) -> None:
    """Clients delete what they just listed and go on after it."""
    await store.write([closed(opened(str(index), started_s=T0 + index)) for index in range(7)])
    seen, after, more = [], None, True
    while more:
        page = await store.completions("acme", CompletionQuery(limit=3, after=after))
        for item in page.data:
            assert await store.delete_completion("acme", item["id"])
            seen.append(item["id"])
        after, more = seen[-1], page.has_more
    assert seen == [f"chatcmpl-{index}" for index in range(7)]


async def test_an_unknown_cursor_is_told(store: SqlStore) -> None:
    await store.write([closed(opened("theirs", tenant="other")), opened("unfinished")])
    for unknown in ("nothing", "chatcmpl-theirs", "chatcmpl-unfinished"):
        with pytest.raises(CursorNotFound):
            await store.completions("acme", CompletionQuery(after=unknown))
