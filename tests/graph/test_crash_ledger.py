"""kill -9 of ingress, store and model at random moments under load: what was acknowledged is there, whole, and once.

``CRASH_TURNS=1000`` (``make test-crash``) asks for the full figure; what runs without it is a sample.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import httpx2
import openai
import orjson
import psutil
import pytest

from tests.running import Graph, start_graph, stop_graph, wait_for

TURNS = int(os.environ.get("CRASH_TURNS", "40"))
RESPONSES = TURNS // 5
SECONDS = 120 + TURNS * 1.0
"""How long it may take to get so many through, kills and restarts included."""

pytestmark = [pytest.mark.graph, pytest.mark.timeout(int(SECONDS) + 300)]

CALLERS = 8
VICTIMS = ("Ingress", "ConversationStore", "LocalModel")
BETWEEN = max(8, TURNS // 40)
"""Turns that must get through between one kill and the next: so that there is always something to lose."""

CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, model_file: Path) -> Iterator[Graph]:
    model = {"file": str(model_file), "threads": 1, "slots": CALLERS, "context": 1024}
    graph = start_graph(tmp_path_factory.mktemp("crash"), {"models": {"llama": model}}, {})
    yield graph
    assert stop_graph(graph) == []


def stream(client: httpx.Client) -> tuple[str, list[tuple[int, str]]]:
    """The events of a stored stream, up to the fourth, and then the connection is lost."""
    body = {"model": "llama", "messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 60}
    read: list[tuple[int, str]] = []
    with client.stream("POST", CHAT, json=body | {"ignore_eos": True, "store": True, "stream": True}) as response:
        for event in events(response):
            read.append(event)
            if len(read) == 4:
                break
    return str(orjson.loads(read[0][1])["id"]), read


def events(response: httpx.Response) -> Iterator[tuple[int, str]]:
    position = -1
    for line in response.iter_lines():
        if line.startswith("id: "):
            position = int(line[4:])
        elif line.startswith("data: "):
            yield position, line[6:]


def test_a_lost_connection_is_resumed_where_it_was_lost(graph: Graph) -> None:
    with httpx.Client(base_url=graph.url, timeout=60) as client:
        id_, read = stream(client)
        header = {"last-event-id": str(read[-1][0])}
        with client.stream("GET", f"{CHAT}/{id_}", params={"stream": "true"}, headers=header) as response:
            assert response.status_code == 200
            read += list(events(response))
        kept = client.get(f"{CHAT}/{id_}").json()["choices"][0]
    chunks = [orjson.loads(data)["choices"][0] for _, data in read[:-1]]
    assert [position for position, _ in read] == list(range(len(read)))
    assert read[-1][1] == "[DONE]"
    assert kept["finish_reason"] == "length"
    assert "".join(choice["delta"].get("content") or "" for choice in chunks) == kept["message"]["content"]


def test_a_request_that_comes_twice_is_generated_once(graph: Graph) -> None:
    body = {"model": "llama", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 60, "ignore_eos": True}
    headers = {"idempotency-key": "once"}
    with httpx.Client(base_url=graph.url, timeout=60) as client:
        with suppress(httpx.ReadTimeout):
            client.post(CHAT, json=body, headers=headers, timeout=0.1)
        answers = [client.post(CHAT, json=body, headers=headers) for _ in range(2)]
        other = client.post(CHAT, json=body | {"n": 2}, headers=headers)
    assert [answer.headers["idempotent-replayed"] for answer in answers] == ["true", "true"]
    assert answers[0].content == answers[1].content
    assert other.status_code == 422


@dataclass
class Told:
    """What clients were told: the text of each stored turn that was acknowledged, by its id; and how often not."""

    texts: dict[str, str] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    refused: Counter[str] = field(default_factory=Counter)
    responses: dict[str, int] = field(default_factory=dict)
    kills: Counter[str] = field(default_factory=Counter)
    tried: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def more_turns(self, amount: int) -> None:
        wanted = len(self.texts) + amount
        while len(self.texts) < wanted:
            await self.news.wait()
            self.news.clear()

    def enough(self) -> bool:
        return len(self.texts) >= TURNS and len(self.responses) >= RESPONSES and set(self.kills) == set(VICTIMS)


async def begin(client: openai.AsyncOpenAI, attempt: int, told: Told) -> None:
    """A response in the background. Acknowledged is what has an id."""
    try:
        response = await client.responses.create(
            model="llama",
            input=f"Say something about the number {attempt}.",
            background=True,
            max_output_tokens=16,
            metadata={"attempt": str(attempt)},
            extra_body={"ignore_eos": True},
        )
    except (openai.APIError, httpx2.HTTPError) as error:
        told.refused[f"background: {type(error).__name__}"] += 1
        await asyncio.sleep(0.2)
    else:
        told.responses[response.id] = attempt


async def ask(client: openai.AsyncOpenAI, attempt: int, told: Told) -> None:
    """One turn, streamed or whole. Acknowledged is what has its end: the body, or a finish reason in the stream."""
    asked = client.chat.completions.create(
        model="llama",
        messages=[{"role": "user", "content": f"Say something about the number {attempt}."}],
        max_tokens=4,
        store=True,
        metadata={"attempt": str(attempt)},
        stream=attempt % 2 == 0,
        extra_body={"ignore_eos": True},
    )
    try:
        answer = await asked
        if isinstance(answer, openai.AsyncStream):
            text, id_, finish = "", "", None
            async for chunk in answer:
                id_, choice = chunk.id, chunk.choices[0]
                text, finish = text + (choice.delta.content or ""), choice.finish_reason or finish
            if finish is None:
                told.refused["a stream without an end"] += 1
                return
        else:
            id_, text = answer.id, answer.choices[0].message.content or ""
    except openai.APIStatusError as error:
        told.refused[f"{error.status_code} {error.code}"] += 1
        await asyncio.sleep(0.2)
    except (openai.APIError, httpx2.HTTPError) as error:  # the SDK wraps no error that comes within a body
        told.refused[type(error).__name__] += 1
        await asyncio.sleep(0.2)
    else:
        told.texts[id_], told.attempts[id_] = text, attempt
        told.news.set()


async def caller(client: openai.AsyncOpenAI, told: Told, until: float) -> None:
    while not told.enough() and time.monotonic() < until:
        told.tried += 1
        await (begin if told.tried % 5 == 0 and len(told.responses) < RESPONSES else ask)(client, told.tried, told)


async def killer(graph: Graph, told: Told, chance: random.Random) -> None:
    """Strikes one replica after another, each kind as often as any other."""
    while True:
        for victim in chance.sample(VICTIMS, len(VICTIMS)):
            await told.more_turns(BETWEEN)
            await asyncio.sleep(chance.uniform(0, 1))
            for replica in graph.replicas(victim)[:1]:
                with suppress(psutil.NoSuchProcess):
                    replica.send_signal(signal.SIGKILL)
                    told.kills[victim] += 1


async def storm(graph: Graph) -> Told:
    told, until = Told(), time.monotonic() + SECONDS
    async with graph.async_client() as client:
        striking = asyncio.create_task(killer(graph, told, random.Random(10)))
        try:
            await asyncio.gather(*(caller(client, told, until) for _ in range(CALLERS)))
        finally:
            striking.cancel()
    return told


def test_every_acknowledged_turn_is_there_whole_and_once(graph: Graph) -> None:
    told = asyncio.run(storm(graph))
    acknowledged = f"{len(told.texts)} turns and {len(told.responses)} responses acknowledged of {told.tried}"
    sys.stdout.write(f"{acknowledged}; kills {dict(told.kills)}; refused {dict(told.refused)}\n")
    assert len(told.texts) >= TURNS, graph.process.text[-3000:]
    assert len(told.responses) >= RESPONSES
    assert set(told.kills) == set(VICTIMS)
    assert "a stream without an end" not in told.refused
    with httpx.Client(base_url=graph.url, timeout=10) as client:

        def healed() -> bool:
            with suppress(httpx.HTTPError):
                return client.get("/ready").status_code == 200
            return False

        wait_for(healed, 60, "the graph has healed")
        for id_, text in told.texts.items():
            answer = client.get(f"{CHAT}/{id_}")
            assert answer.status_code == 200, f"lost: {id_}"
            kept = answer.json()
            assert kept["choices"][0]["message"]["content"] == text, f"halved: {id_}"
            assert kept["choices"][0]["finish_reason"] == "length"
            assert kept["metadata"] == {"attempt": str(told.attempts[id_])}
        wait_for(lambda: all(ended(client, id_) for id_ in told.responses), 120, "every response has its end")
        for id_, attempt in told.responses.items():
            kept = client.get(f"/v1/responses/{id_}").json()
            said = [part["text"] for item in kept["output"] for part in item.get("content", [])]
            assert (kept["status"], len(said)) == ("incomplete", 1), f"halved or doubled: {id_} {kept['status']}"
            assert said[0]
            assert kept["incomplete_details"] == {"reason": "max_output_tokens"}
            assert kept["metadata"] == {"attempt": str(attempt)}
    stored = Counter(attempts_stored(graph))
    assert not [attempt for attempt, times in stored.items() if times > 1], "doubled"
    assert {str(attempt) for attempt in told.attempts.values()} <= set(stored)
    with closing(sqlite3.connect(f"file:{graph.database}?mode=ro", uri=True)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def ended(client: httpx.Client, response_id: str) -> bool:
    answer = client.get(f"/v1/responses/{response_id}")
    assert answer.status_code in (200, 503), f"lost: {response_id}"
    return answer.status_code == 200 and answer.json()["status"] not in ("queued", "in_progress")


def attempts_stored(graph: Graph) -> Iterator[str]:
    """Of each turn of the storm that clients can see, whoever was told of it."""
    with closing(sqlite3.connect(f"file:{graph.database}?mode=ro", uri=True)) as database:
        for (metadata,) in database.execute("SELECT metadata FROM turns WHERE completion IS NOT NULL"):
            yield from orjson.loads(metadata).values()
