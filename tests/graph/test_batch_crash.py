"""kill -9 under a batch, through Ray: another ingress goes on with it, and the store comes back to it."""

from __future__ import annotations

import json
from pathlib import Path

import openai
import pytest

from tests.running import start_graph, stop_graph, wait_for

pytestmark = [pytest.mark.graph, pytest.mark.slow]

N_LINES = 40
ENDPOINT = "/v1/chat/completions"


def line(number: int) -> str:
    messages = [{"role": "user", "content": f"Tell me about the number {number}."}]
    body = {"model": "llama", "messages": messages, "max_tokens": 24, "ignore_eos": True}
    return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": ENDPOINT, "body": body})


def test_a_batch_survives_its_ingress_and_the_store(tmp_path: Path, model_file: Path) -> None:
    models = {"models": {"llama": {"file": str(model_file), "threads": 1}}, "aliases": {}, "upstreams": {}}
    graph = start_graph(tmp_path, models, {})
    try:
        client = graph.client().with_options(max_retries=8)
        content = "\n".join(line(number) for number in range(N_LINES)).encode()
        file = client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint=ENDPOINT, completion_window="24h")

        def look() -> openai.types.Batch:
            return client.batches.retrieve(batch.id)

        wait_for(lambda: (look().request_counts or 0) and look().request_counts.completed > 0, 40, "the first lines")  # type: ignore[union-attr]
        for victim in ("ConversationStore", "Ingress"):
            graph.replicas(victim)[0].kill()
        wait_for(lambda: look().status == "completed", 100, "the end")
        rows = [json.loads(row) for row in client.files.content(str(look().output_file_id)).content.splitlines()]
    finally:
        stop_graph(graph)
    assert [row["custom_id"] for row in rows] == [f"r{number}" for number in range(N_LINES)]
    assert {row["response"]["body"]["usage"]["completion_tokens"] for row in rows} == {24}
