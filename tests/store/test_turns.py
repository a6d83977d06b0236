from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serve_app.protocol import CompletionQuery, CursorNotFound
from serve_app.store import SqlStore
from tests.store.entries import T0, closed, completion_of, count, opened, rows, user

EVERY = CompletionQuery(limit=100)


async def test_a_finished_turn_can_be_read_by_its_tenant_only(store: SqlStore) -> None:
    entry = opened("a", metadata={"topic": "x"})
    await store.write([entry])
    assert await store.completion("acme", "chatcmpl-a") is None
    await store.write([closed(entry)])
    assert await store.completion("acme", "chatcmpl-a") == completion_of(entry)
    assert (await store.completions("acme", EVERY)).data == (completion_of(entry),)
    assert await store.completion("other", "chatcmpl-a") is None
    assert (await store.completions("other", EVERY)).data == ()
    assert await store.messages("other", "chatcmpl-a", EVERY) is None
    assert await store.set_metadata("other", "chatcmpl-a", {}) is None
    assert not await store.delete_completion("other", "chatcmpl-a")
    assert await store.completion("acme", "chatcmpl-a") == completion_of(entry)


async def test_equal_ids_of_two_tenants_are_two_turns(store: SqlStore) -> None:
    mine, theirs = opened("a"), opened("a", [user("theirs")], tenant="other")
    theirs = type(theirs)(**{field: getattr(theirs, field) for field in theirs.__slots__} | {"entry_id": "b"})
    await store.write([closed(mine, text="mine"), closed(theirs, text="theirs")])
    found = [await store.completion(tenant, "chatcmpl-a") for tenant in ("acme", "other")]
    assert [item["choices"][0]["message"]["content"] for item in found if item] == ["mine", "theirs"]


async def test_what_was_cut_keeps_what_was_generated(store: SqlStore) -> None:
    with_text, without = opened("a"), opened("b")
    cut = completion_of(with_text, "half an ans")
    cut["metadata"] = {"cut": "cancelled"}
    await store.write([with_text, without])
    await store.write([closed(with_text, "cancelled", completion=cut), closed(without, "failed", text=None)])
    assert (await store.completions("acme", EVERY)).data == (cut,)
    assert (await store.completions("acme", CompletionQuery(metadata={"cut": "cancelled"}))).data == (cut,)
    assert await rows(store, "SELECT completion_id, status FROM turns ORDER BY 1") == [
        ("chatcmpl-a", "cancelled"),
        ("chatcmpl-b", "failed"),
    ]


async def test_a_conversation_costs_one_row_per_new_message(store: SqlStore) -> None:
    talk = [user("question 0")]
    for turn in range(10):
        entry = opened(f"t{turn}", talk)
        await store.write([entry])
        await store.write([closed(entry)])
        assert await count(store, "messages") == 2 * turn + 1
        talk = [*talk, {"role": "assistant", "content": f"answer {turn}"}, user(f"question {turn + 1}")]
    fork = [*talk[:5], user("another way")]
    await store.write([closed(opened("fork", fork))])
    await store.write([closed(opened("theirs", fork, tenant="other"))])
    assert await count(store, "messages") == 19 + 1 + 6
    page = await store.messages("acme", "chatcmpl-fork", EVERY)
    assert page is not None
    assert [{**item, "id": 0} for item in page.data] == [{**message, "id": 0} for message in fork]


async def test_deleting_leaves_none_of_the_text_and_all_of_the_others(store: SqlStore) -> None:
    first, second = opened("a", [user("1")]), opened("b", [user("1"), user("2"), user("3")], metadata={"k": "v"})
    fork = opened("c", [user("1"), user("2"), user("4")])
    await store.write([closed(entry) for entry in (first, second, fork)])
    assert await store.delete_completion("acme", "chatcmpl-b")
    assert not await store.delete_completion("acme", "chatcmpl-b")
    assert await store.completion("acme", "chatcmpl-b") is None
    assert (await count(store, "messages"), await count(store, "labels")) == (3, 0)
    assert await store.delete_completion("acme", "chatcmpl-c")
    assert await count(store, "messages") == 1
    page = await store.messages("acme", "chatcmpl-a", EVERY)
    assert page is not None
    assert [item["content"] for item in page.data] == ["1"]
    assert await store.delete_completion("acme", "chatcmpl-a")
    assert await count(store, "messages") == 0
    assert await count(store, "usage") == 3


async def test_a_late_retry_does_not_revive_a_deleted_turn(store: SqlStore) -> None:
    entry = opened("a", metadata={"k": "v"})
    await store.write([entry])
    assert await store.delete_completion("acme", "chatcmpl-a")
    await store.write([entry, closed(entry)])
    await store.write([closed(entry)])
    assert await store.completion("acme", "chatcmpl-a") is None
    assert (await count(store, "messages"), await count(store, "labels")) == (0, 0)
    assert await rows(store, "SELECT status FROM usage") == [("completed",)]


async def test_metadata_is_replaced_in_the_object_and_in_the_filter(store: SqlStore) -> None:
    entry = opened("a", metadata={"old": "1"})
    await store.write([closed(entry)])
    changed = {**completion_of(entry), "metadata": {"new": "2", "quote": 'a"b'}}
    assert await store.set_metadata("acme", "chatcmpl-a", changed["metadata"]) == changed
    await store.write([entry, closed(entry)])
    assert await store.completion("acme", "chatcmpl-a") == changed
    assert (await store.completions("acme", CompletionQuery(metadata={"old": "1"}))).data == ()
    assert (await store.completions("acme", CompletionQuery(metadata={"new": "2"}))).data == (changed,)
    assert (await store.completions("acme", CompletionQuery(metadata=changed["metadata"]))).data == (changed,)
    assert await store.set_metadata("acme", "chatcmpl-unknown", {}) is None


async def test_messages_are_paged_in_both_orders(store: SqlStore) -> None:
    await store.write([closed(opened("a", [user(str(index)) for index in range(5)]))])
    page = await store.messages("acme", "chatcmpl-a", CompletionQuery(after="chatcmpl-a-1", limit=2))
    assert page is not None
    assert ([item["content"] for item in page.data], page.has_more) == (["2", "3"], True)
    page = await store.messages("acme", "chatcmpl-a", CompletionQuery(after="chatcmpl-a-2", limit=2, order="desc"))
    assert page is not None
    assert ([item["id"] for item in page.data], page.has_more) == (["chatcmpl-a-1", "chatcmpl-a-0"], False)
    for unknown in ("chatcmpl-a-5", "chatcmpl-b-0", "x"):
        with pytest.raises(CursorNotFound):
            await store.messages("acme", "chatcmpl-a", CompletionQuery(after=unknown))


async def test_a_turn_without_messages_has_an_empty_list_of_them(store: SqlStore) -> None:
    await store.write([closed(opened("a", []))])
    page = await store.messages("acme", "chatcmpl-a", EVERY)
    assert page is not None
    assert page.data == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def _exact(value: Any) -> str:
    return repr(value)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(contents=st.lists(JSON, min_size=1, max_size=4), text=st.text())
async def test_any_json_comes_back_exactly(store: SqlStore, contents: list[Any], text: str) -> None:
    special = "nul \0, lone \ud800 and \ud83d\ude00"
    entry = opened(uuid4().hex, [user(special), *(user(content) for content in contents)], user=special)
    await store.write([entry])
    await store.write([closed(entry, text=special + text)])
    assert entry.turn is not None
    assert _exact(await store.completion("acme", entry.turn.completion_id)) == _exact(
        completion_of(entry, special + text)
    )
    page = await store.messages("acme", entry.turn.completion_id, EVERY)
    assert page is not None
    expected = [{**message, "id": f"{entry.turn.completion_id}-{i}"} for i, message in enumerate(entry.turn.messages)]
    assert _exact(list(page.data)) == _exact(expected)


@pytest.mark.parametrize("odd", ["", "\0", "\ud800", "chatcmpl-' OR 1=1 --", "é" * 3000])
async def test_an_odd_id_names_nothing(store: SqlStore, odd: str) -> None:
    assert await store.completion("acme", odd) is None
    assert await store.messages("acme", odd, EVERY) is None
    assert not await store.delete_completion("acme", odd)
    assert (await store.completions(odd, CompletionQuery(model=odd, metadata={odd: odd}))).data == ()
    with pytest.raises(CursorNotFound):
        await store.completions("acme", CompletionQuery(after=odd))


async def test_what_is_not_json_is_refused_and_harms_nobody(store: SqlStore) -> None:
    good, bad = opened("good"), opened("bad", [user(float("nan"))])
    results = await asyncio.gather(store.write([good]), store.write([bad]), return_exceptions=True)
    assert results[0] == frozenset()
    assert isinstance(results[1], ValueError)  # not StoreError, which says "try again"
    assert await rows(store, "SELECT started_s FROM usage") == [(T0,)]
