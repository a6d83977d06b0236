"""Embeddings through real Ray: an own model beside those that chat, and an upstream's."""

from __future__ import annotations

import sqlite3

import httpx
import openai
import pytest

from tests.running import Graph, wait_for

pytestmark = pytest.mark.graph


def test_an_embedding_model_answers_beside_those_that_chat(graph: Graph) -> None:
    with graph.client() as client:
        found = client.embeddings.create(model="embedder", input=["A cat sat.", "A cat is sitting.", "x = 42"])
    first, second, other = (item.embedding for item in found.data)
    assert len(first) == 576
    assert sum(a * a for a in first) == pytest.approx(1, abs=1e-4)
    assert cosine(first, second) > cosine(first, other)
    assert found.usage.prompt_tokens == found.usage.total_tokens > 0
    wait_for(lambda: ("embedder", "completed") in rows(graph), 10, "the usage row of the request")


def test_a_model_does_only_what_it_is_for(graph: Graph) -> None:
    with graph.client() as client:
        with pytest.raises(openai.BadRequestError, match="does not compute embeddings"):
            client.embeddings.create(model="llama", input="a")
        with pytest.raises(openai.BadRequestError, match="does not generate text"):
            client.chat.completions.create(model="embedder", messages=[{"role": "user", "content": "a"}])


def test_an_upstreams_word_on_embeddings_comes_back(graph: Graph) -> None:
    """The cloud of the tests has a model that chats only, and says so itself."""
    answer = httpx.post(f"{graph.url}/v1/embeddings", json={"model": "cloud-model", "input": "a"})
    assert answer.status_code == 400
    assert "cloud-model generates text" in answer.json()["error"]["message"]


def cosine(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


def rows(graph: Graph) -> list[tuple[str, str]]:
    with sqlite3.connect(graph.database) as database:
        return database.execute("SELECT model, status FROM usage WHERE route = 'embeddings'").fetchall()
