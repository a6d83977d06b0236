"""Responses and conversations in the database: places in histories, one row per new item, one answer at a time."""

from __future__ import annotations

from typing import Any

from serve_app.protocol import Closed, CompletionQuery, History, Json, Opened, ResponseTurn, Usage
from serve_app.store import SqlStore
from tests.store.entries import T0, FakeClock, count, rows

ALL = CompletionQuery(limit=100)
CONVERSATION = {"id": "conv_1", "object": "conversation", "created_at": 1, "metadata": {}}


def item(name: str, text: str = "hello") -> Json:
    return {"id": name, "type": "message", "role": "user", "content": text}


def opening(name: str, *items: Json, tenant: str = "acme", writer: str = "w1", entry: str = "", **more: Any) -> Opened:
    response = {"id": f"resp_{name}", "status": "queued" if more.get("background") else "in_progress", "output": []}
    turn = ResponseTurn(f"resp_{name}", items, response, **more)
    return Opened(entry or name, writer, tenant, f"req-{name}", "llama", "responses", "local", T0, None, turn)


def closing(entry: Opened, *output: Json, status: str = "completed") -> Closed:
    assert isinstance(entry.turn, ResponseTurn)
    ledger_status = "completed" if status in ("completed", "incomplete") else "failed"
    response = entry.turn.response | {"status": status, "output": list(output)}
    return Closed(entry, ledger_status, Usage(3, 5), 1.0, completion=response)


async def answered(store: SqlStore, name: str, *, base: bytes | None = None, **more: Any) -> History:
    """A response of one item and one answer; the history after it."""
    entry = opening(name, item(f"in_{name}"), base=base, **more)
    assert await store.write([entry]) == frozenset()
    await store.write([closing(entry, item(f"out_{name}"))])
    found = await store.responses.history("acme", f"resp_{name}")
    assert found is not None
    return found


def ids(found: Any) -> list[str]:
    return [one["id"] for one in found]


async def test_a_response_can_be_read_while_it_runs_and_after_by_its_tenant_only(store: SqlStore) -> None:
    entry = opening("a", item("in"))
    await store.write([entry])
    assert (await store.responses.get("acme", "resp_a") or {})["status"] == "in_progress"
    assert await store.responses.history("acme", "resp_a") is None
    await store.write([closing(entry, item("out"))])
    assert (await store.responses.get("acme", "resp_a") or {})["output"] == [item("out")]
    page = await store.responses.input_items("acme", "resp_a", ALL)
    assert page is not None
    assert ids(page.data) == ["in"]
    assert await store.responses.get("other", "resp_a") is None
    assert await store.responses.history("other", "resp_a") is None
    assert await store.responses.input_items("other", "resp_a", ALL) is None
    assert await store.responses.items("other", ["in"]) == {}
    assert await store.responses.items("acme", ["in", "none"]) == {"in": item("in")}
    assert not await store.responses.delete("other", "resp_a")


async def test_a_response_that_goes_on_costs_one_row_per_new_item_and_so_does_a_fork(store: SqlStore) -> None:
    history = await answered(store, "0")
    for number in range(1, 10):
        history = await answered(store, str(number), base=history.tip)
    assert len(history.items) == await count(store, "messages") == 20
    first = await store.responses.history("acme", "resp_0")
    assert first is not None
    await answered(store, "fork", base=first.tip)
    assert await count(store, "messages") == 22


async def test_deleting_a_response_in_the_middle_leaves_those_that_go_on_from_it_whole(store: SqlStore) -> None:
    first = await answered(store, "a")
    second = await answered(store, "b", base=first.tip)
    third = await answered(store, "c", base=second.tip)
    assert await store.responses.delete("acme", "resp_b")
    assert not await store.responses.delete("acme", "resp_b")
    assert await store.responses.get("acme", "resp_b") is None
    assert await store.responses.history("acme", "resp_c") == third
    assert ids(third.items) == ["in_a", "out_a", "in_b", "out_b", "in_c", "out_c"]
    assert await store.responses.delete("acme", "resp_c")
    assert ids((await store.responses.history("acme", "resp_a") or History()).items) == ["in_a", "out_a"]
    assert await count(store, "messages") == 2
    assert await store.responses.delete("acme", "resp_a")
    assert await count(store, "messages") == 0


async def test_a_late_opening_does_not_revive_a_response_that_was_given_up(store: SqlStore) -> None:
    entry = opening("a", item("in"))
    await store.write([Closed(entry, "failed", Usage(), 1.0)])
    await store.write([entry])
    assert await store.responses.get("acme", "resp_a") is None
    assert await count(store, "messages") == 0


async def test_an_opening_whose_history_was_deleted_meanwhile_is_refused_and_leaves_nothing(store: SqlStore) -> None:
    history = await answered(store, "a")
    await store.responses.delete("acme", "resp_a")
    assert await store.write([opening("b", item("in"), base=history.tip), opening("c")]) == {"b"}
    assert await store.responses.get("acme", "resp_b") is None
    assert await rows(store, "SELECT entry_id FROM usage ORDER BY 1") == [("a",), ("c",)]


async def test_one_response_at_a_time_answers_in_a_conversation(store: SqlStore) -> None:
    await store.conversations.create("acme", CONVERSATION, [])
    first, second = (opening(name, item(name), conversation="conv_1") for name in ("a", "b"))
    assert await store.write([first, second]) == {"b"}
    assert await store.write([second]) == {"b"}
    await store.write([closing(first, item("out"))])
    assert await store.write([second]) == frozenset()


async def test_a_conversation_gains_both_sides_when_a_response_completed_and_nothing_when_it_failed(
    store: SqlStore,
) -> None:
    await store.conversations.create("acme", CONVERSATION, [item("first")])
    before = await store.conversations.history("acme", "conv_1")
    assert before is not None
    failing = opening("a", item("in_a"), base=before.tip, conversation="conv_1")
    await store.write([failing])
    await store.write([closing(failing, item("out_a"), status="failed")])
    assert await store.conversations.history("acme", "conv_1") == before
    good = opening("b", item("in_b"), base=before.tip, conversation="conv_1")
    await store.write([good])
    assert await store.conversations.append("acme", "conv_1", [item("meanwhile")])
    await store.write([closing(good, item("out_b"))])
    after = await store.conversations.history("acme", "conv_1")
    assert after is not None
    assert ids(after.items) == ["first", "meanwhile", "in_b", "out_b"]
    seen = await store.responses.history("acme", "resp_b")
    assert ids((seen or History()).items) == ["first", "in_b", "out_b"]


async def test_items_of_a_conversation_can_be_paged_taken_out_and_are_nobody_elses(store: SqlStore) -> None:
    await store.conversations.create("acme", CONVERSATION, [item(f"i{n}") for n in range(5)])
    page = await store.conversations.items("acme", "conv_1", CompletionQuery(limit=2, order="desc"))
    assert page is not None
    assert (ids(page.data), page.has_more) == (["i4", "i3"], True)
    page = await store.conversations.items("acme", "conv_1", CompletionQuery(after="i3", limit=5, order="desc"))
    assert page is not None
    assert (ids(page.data), page.has_more) == (["i2", "i1", "i0"], False)
    assert await store.conversations.item("acme", "conv_1", "i2") == item("i2")
    assert await store.conversations.remove("acme", "conv_1", "i2") == CONVERSATION
    assert await store.conversations.remove("acme", "conv_1", "i2") is None
    found = await store.conversations.history("acme", "conv_1")
    assert ids((found or History()).items) == ["i0", "i1", "i3", "i4"]
    assert await count(store, "messages") == 4
    for answer in (
        await store.conversations.get("other", "conv_1"),
        await store.conversations.items("other", "conv_1", ALL),
        await store.conversations.set_metadata("other", "conv_1", {}),
        await store.conversations.append("other", "conv_1", [item("x")]),
        await store.conversations.delete("other", "conv_1"),
    ):
        assert not answer
    assert await store.conversations.delete("acme", "conv_1")
    assert await store.conversations.get("acme", "conv_1") is None
    assert await count(store, "messages") == 0


async def test_a_silent_writers_response_fails_and_frees_its_conversation(store: SqlStore, clock: FakeClock) -> None:
    await store.conversations.create("acme", CONVERSATION, [])
    await store.write([opening("a", item("in"), conversation="conv_1")])
    clock.now += 100
    await store.reap(20)
    found = await store.responses.get("acme", "resp_a") or {}
    assert (found["status"], found["error"]["code"]) == ("failed", "server_error")
    assert await store.write([opening("b", item("in"), conversation="conv_1", writer="w2")]) == frozenset()


async def test_a_silent_writers_background_response_is_claimed_by_one_other_and_only_that_one_ends_it(
    store: SqlStore, clock: FakeClock
) -> None:
    history = await answered(store, "before")
    entry = opening("a", item("in"), base=history.tip, background=True, request={"model": "llama"})
    await store.write([entry])
    await store.beat("w2")
    assert await store.responses.claim("w2", 20, 10) == ()
    clock.now += 100
    await store.beat("w2")
    await store.reap(20)
    (orphan,) = await store.responses.claim("w2", 20, 10)
    assert await store.responses.claim("w3", 20, 10) == ()
    assert (orphan.tenant, orphan.request) == ("acme", {"model": "llama"})
    assert ids(orphan.history.items) == ["in_before", "out_before", "in"]
    assert await store.responses.lost("w1", [("acme", "resp_a")]) == (("acme", "resp_a"),)
    assert await store.responses.lost("w2", [("acme", "resp_a")]) == ()
    await store.write([closing(entry, item("theirs"))])
    assert (await store.responses.get("acme", "resp_a") or {})["status"] == "queued"
    again = opening("a", writer="w2", entry="again", base=orphan.history.tip, background=True)
    assert await store.write([again]) == frozenset()
    await store.write([closing(again, item("ours"))])
    assert ids((await store.responses.get("acme", "resp_a") or {})["output"]) == ["ours"]
    found = await store.responses.history("acme", "resp_a")
    assert ids((found or History()).items) == ["in_before", "out_before", "in", "ours"]


async def test_a_background_response_that_outlives_three_writers_or_cannot_begin_again_fails(
    store: SqlStore, clock: FakeClock
) -> None:
    await store.write([opening("a", item("in"), background=True, request={}), opening("b", background=True)])
    claimed = []
    for writer in ("w2", "w3", "w4"):
        clock.now += 100
        await store.beat(writer)
        claimed += [orphan.response["id"] for orphan in await store.responses.claim(writer, 20, 10)]
    assert claimed == ["resp_a", "resp_a"]
    for name in ("resp_a", "resp_b"):
        found = await store.responses.get("acme", name) or {}
        assert (found["status"], found["error"]["code"]) == ("failed", "server_error")


async def test_a_background_response_is_queued_in_progress_and_cancelled_for_good(store: SqlStore) -> None:
    entry = opening("a", item("in"), background=True, request={})
    await store.write([entry])
    await store.responses.begin("acme", "resp_a", "other-writer")
    assert (await store.responses.get("acme", "resp_a") or {})["status"] == "queued"
    await store.responses.begin("acme", "resp_a", "w1")
    assert (await store.responses.get("acme", "resp_a") or {})["status"] == "in_progress"
    for _ in range(2):
        assert (await store.responses.cancel("acme", "resp_a") or {})["status"] == "cancelled"
    await store.write([closing(entry, item("late"))])
    assert (await store.responses.get("acme", "resp_a") or {})["status"] == "cancelled"
    assert await store.responses.cancel("other", "resp_a") is None
    assert await store.responses.lost("w1", [("acme", "resp_a")]) == (("acme", "resp_a"),)


async def test_a_response_in_the_foreground_is_not_cancelled(store: SqlStore) -> None:
    await store.write([opening("a", item("in"))])
    assert (await store.responses.cancel("acme", "resp_a") or {})["status"] == "in_progress"
