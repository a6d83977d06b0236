"""A stored stream whose client lost its connection goes on, and is read on from where it was lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import httpx
import orjson
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletionChunk

from serve_app.api.app import create_app
from serve_app.api.directory import UpstreamRoute
from serve_app.api.limits import Limits
from serve_app.protocol import Delta, Done, Failed, FailureCode
from tests.api.contract import typed
from tests.api.conversation import CHAT, DONE, HELLO, STARTED, Books, asking, chunk
from tests.api.serving import failure, listening, make_context, serving
from tests.fakes import FakeBackend, Step

WORDS = ["Once", " upon", " a", " time", " there", " was", " é", "🦙", "."]


class Told(FakeBackend):
    """Says a word each time it is told to go on, and its end when there are no more."""

    def __init__(self, *end: Step) -> None:
        self.turns = [asyncio.Event() for _ in range(len(WORDS) + 1)]
        words: list[Step] = [
            step for turn, word in zip(self.turns, WORDS, strict=False) for step in (turn, [Delta(0, word)])
        ]
        super().__init__([STARTED], *words, self.turns[-1], *(end or ([Delta(0, finish="stop")], [DONE])))

    def say(self, first: int, following: int) -> None:
        for turn in self.turns[first:following]:
            turn.set()


def events(body: bytes) -> list[tuple[int, bytes]]:
    """Of a stream of events: id and data of each."""
    found = []
    for block in body.split(b"\n\n"):
        lines = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line and not line.startswith(b":"))
        if b"data" in lines:
            found.append((int(lines[b"id"]), lines[b"data"]))
    return found


def text(read: list[tuple[int, bytes]]) -> str:
    chunks = [orjson.loads(data) for _, data in read if data != b"[DONE]"]
    return "".join(choice["delta"].get("content") or "" for one in chunks for choice in one.get("choices", []))


async def lines(response: httpx.Response) -> AsyncGenerator[tuple[int, bytes]]:
    """Events as they arrive."""
    position = -1
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            position = int(line[4:])
        elif line.startswith("data: "):
            yield position, line[6:].encode()


@pytest.mark.parametrize("cut", [1, 2, 7, len(WORDS)])
async def test_a_client_that_comes_back_reads_every_character_once(cut: int) -> None:
    """Cut after any word, by a real connection's end; the rest comes after that, and is read from another ingress."""
    backend, books = Told(), Books()
    here = make_context(local={"llama": backend}, store=books)
    there = make_context(local={"llama": backend}, store=books)
    async with (
        listening(create_app(here, own_request_id=True)) as one,
        listening(create_app(there, own_request_id=True)) as two,
        httpx.AsyncClient() as client,
    ):
        read: list[tuple[int, bytes]] = []
        backend.say(0, cut)
        async with client.stream("POST", one + CHAT, json=HELLO | {"stream": True, "store": True}) as response:
            async for position, data in lines(response):
                read.append((position, data))
                if len(read) == cut + 1:
                    break
        stream_id = orjson.loads(read[0][1])["id"]
        header = {"last-event-id": str(read[-1][0])}
        async with client.stream("GET", f"{two}{CHAT}/{stream_id}?stream=true", headers=header) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            backend.say(cut, len(WORDS) + 1)
            read += [pair async for pair in lines(response)]
        kept = (await client.get(f"{one}{CHAT}/{stream_id}")).json()
    assert [position for position, _ in read] == list(range(len(WORDS) + 3))
    assert text(read) == "".join(WORDS) == kept["choices"][0]["message"]["content"]
    assert read[-1][1] == b"[DONE]"
    assert len(backend.requests) == 1
    assert (await books.closed()).status == "completed"


async def test_an_ended_stream_is_read_again_from_any_position_and_by_either_name_of_it() -> None:
    backend, books = Told(), Books()
    backend.say(0, 99)
    async with serving(make_context(local={"llama": backend}, store=books)) as client:
        whole = events((await client.post(CHAT, json=HELLO | {"stream": True, "store": True})).content)
        url = f"{CHAT}/{orjson.loads(whole[0][1])['id']}"
        assert [position for position, _ in whole] == list(range(len(whole)))
        for _, data in whole[:-1]:
            typed(ChatCompletionChunk, orjson.loads(data))
        assert events((await client.get(url, params={"stream": "true"})).content) == whole
        for after in range(len(whole)):
            asked = await client.get(url, params={"stream": "true", "starting_after": after})
            assert events(asked.content) == whole[after + 1 :]
        # A client that reconnects by itself repeats its first address: the header is newer.
        params = {"stream": "true", "starting_after": "1"}
        again = await client.get(url, params=params, headers={"last-event-id": "3"})
        assert events(again.content) == whole[4:]
        assert (await client.get(url, params={"stream": "false"})).json()["object"] == "chat.completion"
        await client.delete(url)
        assert (await client.get(url, params={"stream": "true"})).status_code == 404


@pytest.mark.parametrize(
    ("query", "header", "param"),
    [
        ({"stream": "yes"}, None, "stream"),
        ({"stream": "true", "starting_after": "-1"}, None, "starting_after"),
        ({"stream": "true", "starting_after": "x"}, None, "starting_after"),
        ({"stream": "true", "starting_after": "٣"}, None, "starting_after"),
        ({"stream": "true"}, "chatcmpl-1", "starting_after"),
    ],
)
async def test_a_position_that_is_none_is_refused(query: dict[str, str], header: str | None, param: str) -> None:
    async with serving(make_context()) as client:
        headers = {"last-event-id": header} if header else {}
        response = await client.get(f"{CHAT}/chatcmpl-1", params=query, headers=headers)
    assert (response.status_code, failure(response)["param"]) == (400, param)


async def test_what_is_not_recorded_or_another_tenants_is_404() -> None:
    backend, store = Told(), Books()
    backend.say(0, 99)
    async with serving(make_context(local={"llama": backend}, store=store, keys=("a", "b")), key="a") as client:
        plain = await client.post(CHAT, json=HELLO | {"stream": True})
        assert b"\nid:" not in b"\n" + plain.content
        url = f"{CHAT}/{orjson.loads(plain.content.split(b'data: ')[1])['id']}"
        assert (await client.get(url, params={"stream": "true"})).status_code == 404
        stored = events((await client.post(CHAT, json=HELLO | {"stream": True, "store": True})).content)
        url = f"{CHAT}/{orjson.loads(stored[0][1])['id']}"
        theirs = await client.get(url, params={"stream": "true"}, headers={"authorization": "Bearer b"})
    assert (theirs.status_code, failure(theirs)["code"]) == (404, "not_found")


async def test_a_stream_nobody_reads_is_given_up_when_its_time_is_over_and_says_so() -> None:
    backend, books = Told(), Books()
    backend.say(0, 2)
    context = make_context(local={"llama": backend}, store=books, limits=Limits(resume_s=0.05))
    async with asking(context, stream=True, store=True) as (client, task):
        await client.has(3)
        client.leave()
        await task
        assert backend.running == 1
        async with asyncio.timeout(5):
            await backend.closed.wait()
        assert (await books.closed()).status == "cancelled"
        await books.streams.until(lambda: books.streams.ended)
        ((*_, last),) = books.streams.kept.values()
    assert orjson.loads(last.split(b"data: ")[1])["error"]["code"] == "stream_lost"


async def test_a_stream_is_generated_on_for_as_long_as_somebody_reads_along() -> None:
    backend, books = Told(), Books()
    backend.say(0, 2)
    context = make_context(local={"llama": backend}, store=books, limits=Limits(resume_s=1, keep_alive_s=0.1))
    async with asking(context, stream=True, store=True) as (client, task), serving(replace(context)) as other:
        await client.has(3)
        client.leave()
        await task
        stream_id = client.chunks[0]["id"]
        reading = asyncio.create_task(other.get(f"{CHAT}/{stream_id}", params={"stream": "true"}))
        await books.streams.until(lambda: books.streams.waiting)
        for turn in range(2, len(WORDS) + 1):  # longer than a second in all
            await asyncio.sleep(0.2)
            backend.say(turn, turn + 1)
        response = await reading
    assert text(events(response.content)) == "".join(WORDS)
    assert (await books.closed()).status == "completed"


@pytest.mark.parametrize("end", [Failed(FailureCode.ENGINE_LOST, "Lost."), None])
async def test_a_stream_that_ends_badly_is_read_again_with_its_error(end: Failed | None) -> None:
    """Be it the model's failure, or the server's stop."""
    backend, books = Told([end] if end else asyncio.Event()), Books()
    backend.say(0, 99)
    context = make_context(local={"llama": backend}, store=books)
    async with asking(context, stream=True, store=True) as (client, task):
        await client.has(len(WORDS) + 1)
        if end:
            await task
    # The application has stopped.
    await books.streams.until(lambda: books.streams.ended)
    async with serving(make_context(store=books)) as other:
        read = events((await other.get(f"{CHAT}/{client.chunks[0]['id']}", params={"stream": "true"})).content)
    assert text(read) == "".join(WORDS)
    assert orjson.loads(read[-1][1])["error"]["code"] == ("engine_lost" if end else "stream_lost")
    assert (await books.closed()).status == ("failed" if end else "cancelled")


async def test_a_store_that_cannot_record_is_no_reason_to_fail_or_to_slow_a_stream() -> None:
    backend, books = Told(), Books()
    backend.say(0, 99)

    async def away(call: str) -> None:
        if call.startswith("streams"):
            await asyncio.Event().wait()

    books.fault = away
    async with asking(make_context(local={"llama": backend}, store=books), stream=True, store=True) as (client, task):
        async with asyncio.timeout(5):
            await task
    assert client.text == "".join(WORDS)
    assert client.frames[-1] == b"data: [DONE]\n\n"


async def test_an_upstreams_stored_stream_is_resumed_like_any_other() -> None:
    go_on, books = asyncio.Event(), Books()
    backend = FakeBackend([STARTED], chunk("Hel"), go_on, chunk("lo"), chunk(finish="stop"), [Done()])
    context = make_context(upstreams={"openai": UpstreamRoute(backend)}, store=books)
    async with (
        asking(context, stream=True, store=True, model="gpt-4o") as (client, task),
        serving(replace(context)) as other,
    ):
        await client.has(1)
        client.leave()
        await task
        go_on.set()
        url = f"{CHAT}/{client.chunks[0]['id']}"
        rest = events((await other.get(url, params={"stream": "true", "starting_after": client.ids[-1]})).content)
    assert client.text + text(rest) == "Hello"


async def test_the_sdk_reads_a_stream_whose_events_have_ids() -> None:
    backend = Told()
    backend.say(0, 99)
    gate = create_app(make_context(local={"llama": backend}), own_request_id=True)
    async with listening(gate) as url, AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
        stream = await sdk.chat.completions.create(**HELLO, stream=True, store=True)
        said = [one.choices[0].delta.content or "" async for one in stream if one.choices]
    assert "".join(said) == "".join(WORDS)
