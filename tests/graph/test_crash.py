"""Two replicas: where requests go, and kill -9 at each place: what breaks is said, what was promised is kept."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.crowd import Ending, crowd
from tests.graph.conftest import KEY
from tests.running import ROOT, Graph, wait_for

pytestmark = pytest.mark.graph


async def test_every_second_turn_finds_its_first_and_both_replicas_work(pair: Graph) -> None:
    """16 conversations at once: more than one replica's share, so that none can hold them all."""

    async def two_turns(client: openai.AsyncOpenAI, number: int) -> int:
        opening = {"role": "user", "content": f"Story number {number}: " + f"the tale of {number} continues. " * 12}
        first = await client.chat.completions.create(
            model="llama", messages=[opening], max_tokens=24, temperature=0, extra_body={"ignore_eos": True}
        )
        answer = {"role": "assistant", "content": first.choices[0].message.content}
        second = await client.chat.completions.create(
            model="llama", messages=[opening, answer, {"role": "user", "content": "Go on."}], max_tokens=4
        )
        assert second.usage is not None
        assert second.usage.prompt_tokens_details is not None
        return second.usage.prompt_tokens_details.cached_tokens or 0

    before = [process.cpu_times().user for process in pair.replicas("LocalModel")]
    async with pair.async_client() as client:
        cached = await asyncio.gather(*(two_turns(client, number) for number in range(16)))
    worked = [p.cpu_times().user - b for p, b in zip(pair.replicas("LocalModel"), before, strict=True)]
    assert sum(count > 80 for count in cached) >= 14, cached
    assert min(worked) > 0.2 * max(worked), worked


def struck(graph: Graph, victim: str, blow: signal.Signals = signal.SIGKILL) -> list[Ending]:
    """16 streams; when all of them talk, one replica of ``victim`` is struck."""
    return asyncio.run(crowd(graph.async_client(), lambda: graph.replicas(victim)[0].send_signal(blow)))


def ask(graph: Graph, **options: object) -> str:
    reply = graph.client().chat.completions.create(
        model="llama", messages=[{"role": "user", "content": "Hi"}], max_tokens=4, **options
    )
    return str(reply.choices[0].message.content)


def test_a_wrong_key_and_no_key_are_refused(pair: Graph) -> None:
    for headers in ({"Authorization": "Bearer sk-wrong"}, {}):
        answer = httpx.get(f"{pair.url}/v1/models", headers=headers)
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
    assert httpx.get(f"{pair.url}/v1/models", headers={"api-key": KEY}).status_code == 200
    assert httpx.get(f"{pair.url}/health").status_code == 200


def keys(graph: Graph, *arguments: str) -> Any:
    """What ``llm-backend keys`` says, on the database of the graph that is running."""
    command = [sys.executable, "-m", "deployments.cli", "keys", *arguments, "--json"]
    environment = os.environ | {"DATABASE_URL": f"sqlite:///{graph.database}"}
    return json.loads(subprocess.run(command, env=environment, check=True, capture_output=True, cwd=ROOT).stdout)


def test_a_key_opens_as_soon_as_it_is_made_and_nothing_5_seconds_after_it_is_revoked(pair: Graph) -> None:
    made = keys(pair, "create", "ci", "--model", "llama", "--weight", "2")
    mine = replace(pair, key=made["value"])
    assert ask(mine, store=True)
    assert [model.id for model in mine.client().models.list()] == ["llama"]
    keys(pair, "revoke", made["id"])
    headers = {"api-key": mine.key}
    wait_for(lambda: httpx.get(f"{pair.url}/v1/models", headers=headers).status_code == 401, 5, "the key is refused")
    assert ask(pair)


def test_a_killed_engine_ends_its_streams_with_one_error_event_and_is_back_within_10_s(pair: Graph) -> None:
    wait_for(lambda: len(pair.replicas("LocalModel")) == 2, 60, "two replicas")
    endings = struck(pair, "LocalModel")
    killed_at = time.monotonic()
    lost = [ending for ending in endings if ending.error]
    finished = [ending for ending in endings if not ending.error]
    assert lost, "the killed replica had streams"
    assert finished, "the other replica had streams"
    assert {ending.error for ending in lost} == {"engine_lost"}
    assert all(ending.finish is None for ending in lost)
    assert all(ending.finish == "length" for ending in finished)
    for _ in range(5):
        assert ask(pair) is not None
    wait_for(lambda: len(pair.replicas("LocalModel")) == 2, 10 - (time.monotonic() - killed_at), "the replica is back")


def test_a_frozen_engines_streams_end_with_a_timeout_and_the_others_go_on(pair: Graph) -> None:
    wait_for(lambda: len(pair.replicas("LocalModel")) == 2, 60, "two replicas")
    began = time.monotonic()
    try:
        endings = struck(pair, "LocalModel", signal.SIGSTOP)
        assert time.monotonic() - began < 60
        assert {ending.error for ending in endings if ending.error} == {"timeout"}
        assert [ending for ending in endings if ending.finish == "length"]
    finally:
        for replica in pair.replicas("LocalModel"):
            if replica.status() == psutil.STATUS_STOPPED:
                replica.send_signal(signal.SIGCONT)


def test_a_killed_store_loses_no_acknowledged_turn_and_unstored_traffic_goes_on(pair: Graph) -> None:
    kept = [
        pair.client()
        .chat.completions.create(
            model="llama", messages=[{"role": "user", "content": f"Turn {n}"}], max_tokens=2, store=True
        )
        .id
        for n in range(5)
    ]
    pair.replicas("ConversationStore")[0].send_signal(signal.SIGKILL)
    assert ask(pair) is not None

    def readable() -> bool:
        paths = [f"{pair.url}/v1/chat/completions/{each}" for each in kept]
        statuses = {httpx.get(path, headers={"api-key": KEY}).status_code for path in paths}
        assert statuses <= {200, 503}
        return statuses == {200}

    wait_for(readable, 30, "every acknowledged turn is readable again")


def in_background(graph: Graph, amount: int, **more: object) -> list[str]:
    """That many responses, all of them under way."""
    body = {"ignore_eos": True, "temperature": 0}
    return [
        graph.client()
        .responses.create(
            model="llama", input=f"Tell of {n}.", background=True, max_output_tokens=120, extra_body=body, **more
        )
        .id
        for n in range(amount)
    ]


def outcome(graph: Graph, response_id: str) -> str:
    """How a response stands, as far as it can be asked."""
    try:
        return str(graph.client().responses.retrieve(response_id).status)
    except openai.APIError:
        return "unknown"


def test_background_responses_survive_the_death_of_the_ingress_and_of_a_model(pair: Graph) -> None:
    wait_for(lambda: len(pair.replicas("LocalModel")) == 2, 60, "two replicas")
    conversation = pair.client().conversations.create().id
    (told,) = in_background(pair, 1, conversation=conversation)
    made = [told, *in_background(pair, 7)]
    pair.replicas("Ingress")[0].send_signal(signal.SIGKILL)
    wait_for(lambda: outcome(pair, told) != "unknown", 30, "a new ingress answers")
    pair.replicas("LocalModel")[0].send_signal(signal.SIGKILL)
    ended = {"completed", "incomplete"}
    wait_for(lambda: {outcome(pair, one) for one in made} <= ended, 60, "every response is there, whole")
    items = pair.client().conversations.items.list(conversation, order="asc").data
    assert [item.type for item in items] == ["message", "message"]
    with sqlite3.connect(f"file:{pair.database}?mode=ro", uri=True) as database:
        (attempts,) = database.execute("select max(attempts) from responses").fetchone()
    assert attempts > 1


def incomplete(graph: Graph) -> int:
    with sqlite3.connect(f"file:{graph.database}?mode=ro", uri=True) as database:
        (count,) = database.execute("select count(*) from usage where status = 'incomplete'").fetchone()
    return int(count)


def test_a_killed_ingress_never_ends_a_stream_cleanly_and_its_requests_become_incomplete(pair: Graph) -> None:
    before = incomplete(pair)
    endings = struck(pair, "Ingress")
    cut = [ending for ending in endings if ending.error == "connection"]
    assert len(cut) == len([ending for ending in endings if ending.finish is None])
    assert cut

    def serving() -> bool:
        try:
            return bool(ask(pair) is not None)
        except openai.APIError:
            return False

    wait_for(serving, 30, "a new ingress answers")
    wait_for(lambda: incomplete(pair) >= before + len(cut), 45, "the cut requests are incomplete")
