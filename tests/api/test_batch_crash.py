from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai

from serve_app.store import SqlStore
from tests.running import Process, answers, free_port, start, wait_for
from tests.store.entries import rows

N_LINES = 5000


@contextmanager
def server(folder: Path) -> Iterator[tuple[openai.OpenAI, Process]]:
    port = free_port()
    process = start([sys.executable, "-m", "tests.batch_server", str(port), str(folder)], {})
    try:
        wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 30, process.text)
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=5), process
    finally:
        process.popen.kill()
        process.popen.wait(10)


def line(number: int) -> str:
    body = {"model": "echo", "messages": [{"role": "user", "content": f"say {number}"}]}
    return json.dumps({"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def done(client: openai.OpenAI, batch_id: str) -> int:
    counts = client.batches.retrieve(batch_id).request_counts
    return counts.completed if counts else 0


async def statuses(folder: Path) -> dict[str, int]:
    store = await SqlStore.open(f"sqlite:///{folder}/batch.db")
    try:
        found = await rows(store, "SELECT status, count(*) FROM usage GROUP BY status")
    finally:
        await store.close()
    return {str(status): int(count) for status, count in found}


def test_a_batch_of_5000_lines_survives_two_kills_and_a_restart_with_each_line_once(tmp_path: Path) -> None:
    with server(tmp_path) as (client, _):
        content = "\n".join(line(number) for number in range(N_LINES)).encode()
        file = client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
        wait_for(lambda: done(client, batch.id) > 0, 20, "the first lines")
    with server(tmp_path) as (client, _):
        before = done(client, batch.id)
        wait_for(lambda: done(client, batch.id) > before + 200, 20, "more lines")
        assert client.batches.retrieve(batch.id).status == "in_progress"
    with server(tmp_path) as (client, process):
        wait_for(lambda: client.batches.retrieve(batch.id).status == "completed", 60, "the end")
        ended = client.batches.retrieve(batch.id)
        output = [json.loads(row) for row in client.files.content(str(ended.output_file_id)).content.splitlines()]
        process.popen.terminate()
        process.popen.wait(15)
    assert ended.request_counts is not None
    assert ended.request_counts.model_dump() == {"total": N_LINES, "completed": N_LINES, "failed": 0}
    assert ended.error_file_id is None
    assert [row["custom_id"] for row in output] == [f"r{number}" for number in range(N_LINES)]
    said = [row["response"]["body"]["choices"][0]["message"]["content"] for row in output]
    assert said == [f"say {number}" for number in range(N_LINES)]
    left = {path.name for path in (tmp_path / "files").iterdir()}
    assert left == {file.id, ended.output_file_id}
    asked = asyncio.run(statuses(tmp_path))
    assert N_LINES <= asked["completed"] < N_LINES + 2 * 64, "no more was asked twice than was under way at a kill"
