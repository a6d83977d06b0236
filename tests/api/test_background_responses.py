"""Responses in the background: made to their end by one ingress, whichever dies, and followed from any."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response

from serve_app.protocol import Delta, Failed, FailureCode, Json, Opened, ResponseTurn
from tests.api.responding import DONE, QUICK, STARTED, events_of, house, lawful, saying
from tests.api.serving import failure
from tests.fakes import FakeBackend

HELLO: list[Any] = [[Delta(0, "Hel")], [Delta(0, "lo")], [Delta(0, finish="stop")], DONE]
RUNNING = ("queued", "in_progress")


async def ended(client: openai.AsyncOpenAI, response_id: str) -> Response:
    """The response once it is not running any more."""
    async with asyncio.timeout(20):
        # As clients do.
        while (found := await client.responses.retrieve(response_id)).status in RUNNING:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return found


async def test_it_is_queued_then_in_progress_then_done_and_readable_on_another_ingress(tmp_path: Path) -> None:
    room, talking = asyncio.Event(), asyncio.Event()
    model = FakeBackend(room, STARTED, talking, *HELLO)
    async with house(tmp_path / "b.db", {"llama": model}) as one, house(tmp_path / "b.db", {}, writer="w2") as two:
        client, elsewhere = one.client(), two.client()
        made = await client.responses.create(model="llama", input="Hi", background=True)
        assert (made.status, made.output, made.background) == ("queued", [], True)
        room.set()
        async with asyncio.timeout(10):
            while (await elsewhere.responses.retrieve(made.id)).status != "in_progress":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        with pytest.raises(openai.BadRequestError) as refused:
            await client.responses.create(model="llama", input="x", previous_response_id=made.id)
        assert refused.value.code == "previous_response_not_ended"
        talking.set()
        done = await ended(elsewhere, made.id)
        assert (done.status, done.output_text, done.id) == ("completed", "Hello", made.id)


async def test_its_stream_outlives_the_client_and_is_followed_from_where_it_was_left_on_another_ingress(
    tmp_path: Path,
) -> None:
    going_on = asyncio.Event()
    model = FakeBackend(STARTED, [Delta(0, "Hel")], going_on, *HELLO[1:])
    async with house(tmp_path / "b.db", {"llama": model}) as one, house(tmp_path / "b.db", {}, writer="w2") as two:
        stream = await one.client().responses.create(model="llama", input="Hi", background=True, stream=True)
        seen: list[Json] = []
        async for event in stream:
            seen.append(event.to_dict())
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        going_on.set()
        response_id, last = seen[0]["response"]["id"], seen[-1]["sequence_number"]
        follow = await two.client().responses.retrieve(response_id, stream=True, starting_after=last)
        seen += [event.to_dict() async for event in follow]
        async with (
            httpx.AsyncClient() as http,
            http.stream("GET", f"{two.url}/v1/responses/{response_id}", params={"stream": "true"}) as replayed,
        ):
            again = lawful(await events_of(replayed))
    assert [event["sequence_number"] for event in seen] == list(range(len(seen)))
    assert seen == again
    assert [event["type"] for event in seen[:3]] == ["response.created", "response.queued", "response.in_progress"]
    assert seen[-1]["response"]["output"][0]["content"][0]["text"] == "Hello"


async def test_cancelling_on_another_ingress_stops_the_model_and_can_be_repeated(tmp_path: Path) -> None:
    model = FakeBackend(STARTED, [Delta(0, "Hel")], asyncio.Event())
    async with (
        house(tmp_path / "b.db", {"llama": model}, watch=QUICK) as one,
        house(tmp_path / "b.db", {}, writer="w2") as two,
    ):
        made = await one.client().responses.create(model="llama", input="Hi", background=True)
        await model.started.wait()
        for _ in range(2):
            assert (await two.client().responses.cancel(made.id)).status == "cancelled"
        async with asyncio.timeout(10):
            await model.closed.wait()
        assert (await one.client().responses.retrieve(made.id)).status == "cancelled"


async def test_only_what_runs_in_the_background_can_be_cancelled(tmp_path: Path) -> None:
    async with house(tmp_path / "b.db", {"llama": saying("x")}) as home:
        client = home.client()
        made = await client.responses.create(model="llama", input="Hi")
        with pytest.raises(openai.BadRequestError):
            await client.responses.cancel(made.id)
        with pytest.raises(openai.NotFoundError):
            await client.responses.cancel("resp_none")


async def test_an_ingress_that_stops_leaves_it_to_another_which_makes_it_once(tmp_path: Path) -> None:
    hanging, model = FakeBackend(STARTED, [Delta(0, "Hel")], asyncio.Event()), saying("Hello")
    async with house(tmp_path / "b.db", {"llama": hanging}, writer="w1") as one:
        client = one.client()
        conversation = (await client.conversations.create()).id
        made = await client.responses.create(model="llama", input="Hi", background=True, conversation=conversation)
        await hanging.started.wait()
    async with house(tmp_path / "b.db", {"llama": model}, writer="w2", watch=QUICK) as two:
        done = await ended(two.client(), made.id)
        items = [item async for item in two.client().conversations.items.list(conversation, order="asc")]
    assert (done.status, done.output_text, done.created_at) == ("completed", "Hello", made.created_at)
    assert len(model.requests) == 1
    assert [item.content[0].text for item in items] == ["Hi", "Hello"]  # type: ignore[union-attr]


async def test_it_fails_with_a_reason_when_it_cannot_be_made_again(tmp_path: Path) -> None:
    hanging = FakeBackend(STARTED, asyncio.Event())
    async with house(tmp_path / "b.db", {"llama": hanging}, writer="w1") as one:
        made = await one.client().responses.create(model="llama", input="Hi", background=True)
        await hanging.started.wait()
    async with house(tmp_path / "b.db", {"other": saying("x")}, writer="w2", watch=QUICK) as two:
        failed = await ended(two.client(), made.id)
    assert failed.status == "failed"
    assert failed.error
    assert "does not exist" in failed.error.message


async def test_one_whose_claim_was_lost_on_its_way_is_found_again(tmp_path: Path) -> None:
    """The store gave it to this writer, and nobody makes it."""
    async with house(tmp_path / "b.db", {"llama": saying("Hello")}, watch=QUICK) as home:
        response: Json = {"id": "resp_lost", "status": "queued", "created_at": 1, "model": "llama", "output": []}
        item = {"id": "msg_1", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
        request = {"body": {"model": "llama", "background": True}, "n_items": 1}
        turn = ResponseTurn("resp_lost", (item,), response, background=True, request=request)
        writer = home.context.ledger.writer
        opened = Opened("e1", writer, "local", "r1", "llama", "responses", "local", time.time(), None, turn)
        await home.context.store.write([opened])
        done = await ended(home.client(), "resp_lost")
    assert (done.status, done.output_text) == ("completed", "Hello")


async def test_a_model_without_room_is_asked_again(tmp_path: Path) -> None:
    class Full(FakeBackend):
        async def generate(self, request: Any) -> Any:
            if not self.requests:
                self.requests.append(request)
                yield [Failed(FailureCode.QUEUE_FULL, "Full.", retry_after_s=0.01)]
                return
            async for batch in super().generate(request):
                yield batch

    async with house(tmp_path / "b.db", {"llama": Full(STARTED, *HELLO)}) as home:
        made = await home.client().responses.create(model="llama", input="Hi", background=True)
        assert (await ended(home.client(), made.id)).output_text == "Hello"


async def test_a_deleted_one_stops_and_stays_deleted(tmp_path: Path) -> None:
    model = FakeBackend(STARTED, asyncio.Event())
    async with house(tmp_path / "b.db", {"llama": model}) as home:
        made = await home.client().responses.create(model="llama", input="Hi", background=True)
        await model.started.wait()
        await home.client().responses.delete(made.id)
        async with asyncio.timeout(10):
            await model.closed.wait()
        with pytest.raises(openai.NotFoundError):
            await home.client().responses.retrieve(made.id)
        async with httpx.AsyncClient() as http:
            gone = await http.get(f"{home.url}/v1/responses/{made.id}", params={"stream": "true"})
        assert (gone.status_code, failure(gone)["code"]) == (404, "not_found")
