"""Passing on through real Ray: small bodies in a message, large ones spooled, the provider's key where it belongs."""

from __future__ import annotations

import os
import sqlite3

import httpx
import pytest

from tests.graph.conftest import FAR_KEY
from tests.running import Graph, wait_for
from tests.upstream_server import JSON, Reply, UpstreamServer

pytestmark = pytest.mark.graph


@pytest.mark.parametrize("size", [1000, 11 * 1024 * 1024])
def test_a_file_of_any_size_reaches_the_upstream_byte_for_byte(graph: Graph, far: UpstreamServer, size: int) -> None:
    file, sound = os.urandom(size), os.urandom(size)
    far.script.append(Reply(headers={"content-type": "audio/mpeg"}, pieces=(sound,)))
    answer = httpx.post(
        f"{graph.url}/v1/audio/translations", files={"file": file}, data={"model": "far-model"}, timeout=60
    )
    assert answer.content == sound
    asked = far.asked[-1]
    assert file in asked.body
    assert len(asked.body) == int(asked.headers["content-length"])
    assert asked.headers["authorization"] == f"Bearer {FAR_KEY}"

    def row() -> list[tuple[str, str]]:
        with sqlite3.connect(f"file:{graph.database}?mode=ro", uri=True) as database:
            return database.execute("select status, model from usage where route = 'audio/translations'").fetchall()

    wait_for(lambda: ("completed", "far-model") in row(), 10, "the usage row")


def test_a_refusal_of_the_far_side_passes_through_ray_in_its_own_words(graph: Graph, far: UpstreamServer) -> None:
    body = b'{"error":{"message":"No such thing","type":"t","param":null,"code":"c"}}'
    far.script.append(Reply(404, JSON, (body,)))
    answer = httpx.get(f"{graph.url}/v1/evals/eval-1", headers={"x-upstream": "far"})
    assert (answer.status_code, answer.content) == (404, body)
