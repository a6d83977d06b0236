"""The list of models is asked for rarely, and an old one is better than none."""

from __future__ import annotations

import asyncio
import time

import pytest

from serve_app.protocol import ModelCard
from serve_app.upstream.catalogue import read_cards
from tests.upstream.driving import KEY, upstream
from tests.upstream.test_breaker import Clock
from tests.upstream_server import JSON, Reply, UpstreamServer, error

LISTED = (ModelCard("up-1", 7, "them"),)


async def test_the_list_is_kept_and_asked_for_again_when_it_is_old(server: UpstreamServer) -> None:
    clock = Clock()
    async with upstream(server.port, clock=clock) as backend:
        assert await backend.models() == LISTED
        clock.now += 299
        assert await backend.models() == LISTED
        assert server.calls("/models") == 1
        clock.now += 1
        assert await backend.models() == LISTED
    assert server.calls("/models") == 2
    assert server.asked[0].headers["authorization"] == f"Bearer {KEY}"


async def test_many_at_once_ask_once(server: UpstreamServer) -> None:
    async with upstream(server.port) as backend:
        assert await asyncio.gather(*[backend.models() for _ in range(8)]) == [LISTED] * 8
    assert server.calls("/models") == 1


@pytest.mark.parametrize("reply", [error(500), error(401), Reply(headers=JSON, pieces=(b"[]",)), Reply(pieces=(b"<",))])
async def test_an_old_list_stands_in_while_the_upstream_fails_and_is_not_hammered(
    server: UpstreamServer, reply: Reply
) -> None:
    clock = Clock()
    async with upstream(server.port, clock=clock) as backend:
        await backend.models()
        server.script.extend([reply])
        clock.now += 300
        assert [await backend.models() for _ in range(3)] == [LISTED] * 3
        assert server.calls("/models") == 2
        clock.now += 10
        assert await backend.models() == LISTED
    assert server.calls("/models") == 3


async def test_a_silent_upstream_lists_nothing_in_time(server: UpstreamServer) -> None:
    server.script.append(Reply(headers=JSON, hold=True))
    async with upstream(server.port, models_timeout_s=0.2) as backend:
        began = time.monotonic()
        assert await backend.models() == ()
        assert time.monotonic() - began < 1.2
        await server.client_left.wait()


async def test_a_fixed_list_is_never_asked_for(server: UpstreamServer) -> None:
    async with upstream(server.port, models=("a", "b/c"), owned_by="us") as backend:
        assert await backend.models() == (ModelCard("a", 0, "us"), ModelCard("b/c", 0, "us"))
    assert server.asked == []


def test_entries_of_other_servers_are_read_as_far_as_they_go() -> None:
    body = b'{"data":[{"id":"a","max_model_len":4096},{"id":""},7,{"id":"b","created":"x","context_length":8}]}'
    assert read_cards(body, "us") == (ModelCard("a", 0, "us", 4096), ModelCard("b", 0, "us", 8))
