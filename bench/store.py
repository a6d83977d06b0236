"""``make bench-store``: what it costs to store a turn, through the persistence actor on Ray, on SQLite and on Postgres.

Two figures for each database. What storing adds to one request: how long it takes with ``store: true`` less the same
without, in turn, through the whole application before a model whose first token takes 20 ms. And how many turns a
second one ingress stores when many requests end at once: each is opened and closed, and waits for both to be durable.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import dotenv
from rich.console import Console
from rich.table import Table

from tests.postgres_server import running_server
from tests.running import ROOT

dotenv.load_dotenv(ROOT / "config" / "ray.env")

import ray  # noqa: E402  # its settings are read when it is imported
from ray import serve  # noqa: E402

from deployments.conversation_store import ConversationStore  # noqa: E402
from deployments.handles import remote_store  # noqa: E402
from serve_app.api.context import Context  # noqa: E402
from serve_app.api.ledger import Ledger  # noqa: E402
from serve_app.api.spool import Spool  # noqa: E402
from serve_app.protocol import (  # noqa: E402
    Closed,
    Delta,
    Done,
    Event,
    Json,
    ModelCard,
    Opened,
    Started,
    Store,
    Turn,
    Usage,
    Work,
)
from tests.api.serving import make_context, serving  # noqa: E402

ROUNDS = 200
CALLERS = 512
"""Requests under way at once; as many as an ingress is asked to hold is 2,000."""

_SAID = "A lighthouse is a tower that shows ships where the land is. " * 4


def _messages(number: int) -> list[Json]:
    return [{"role": "user", "content": f"Tell me about lighthouse number {number}."}]


def _opened(number: int) -> Opened:
    name = uuid.uuid4().hex
    turn = Turn(f"chatcmpl-{name}", tuple(_messages(number)), {"topic": "lighthouses"})
    return Opened(name, "bench", "tenant", name, "llama", "chat/completions", "local", time.time(), turn=turn)


def _closed(opened: Opened) -> Closed:
    message = {"role": "assistant", "content": _SAID, "refusal": None}
    completion = {
        "id": f"chatcmpl-{opened.entry_id}",
        "object": "chat.completion",
        "created": int(opened.started_s),
        "model": opened.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 12, "completion_tokens": 60, "total_tokens": 72},
    }
    return Closed(opened, "completed", Usage(12, 60), 0.5, first_token_s=0.1, completion=completion)


class Model:
    """Twenty milliseconds to its first token, two to each of the next."""

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        yield [Started(prompt_tokens=12)]
        await asyncio.sleep(0.02)
        for word in _SAID.split():
            yield [Delta(0, word)]
        yield [Delta(0, finish="stop"), Done(Usage(12, 60))]

    async def models(self) -> tuple[ModelCard, ...]:
        return (ModelCard("llama", 0, "bench"),)


async def added(context: Context, rounds: int) -> tuple[float, float]:
    """Milliseconds that storing adds to one request: of the medians, and of the 95th percentiles."""
    times: dict[bool, list[float]] = {True: [], False: []}
    async with serving(context) as client:
        for number in range(rounds + 20):
            for stored in (True, False):
                body = {"model": "llama", "messages": _messages(number), "store": stored}
                began = time.perf_counter()
                answer = await client.post("/v1/chat/completions", json=body)
                times[stored].append(1000 * (time.perf_counter() - began))
                assert answer.status_code == 200
    warm = {stored: sorted(each[20:]) for stored, each in times.items()}
    at = [int(rounds * share) for share in (0.5, 0.95)]
    return warm[True][at[0]] - warm[False][at[0]], warm[True][at[1]] - warm[False][at[1]]


async def rate(ledger: Ledger, seconds: float) -> float:
    """Turns a second."""
    done = 0
    until = time.perf_counter() + seconds

    async def caller(first: int) -> None:
        nonlocal done
        while time.perf_counter() < until:
            opened = _opened(first)
            await ledger.open(opened)
            assert await ledger.close(_closed(opened))
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(CALLERS)))
    return done / (time.perf_counter() - began)


async def measure(store: Store, folder: Path, seconds: float) -> tuple[float, float, float, float]:
    spool = Spool(folder / "spool", "bench")
    # No caller gives up: there are more of them than a second can take.
    ledger = Ledger(store, "bench", spool=spool, store_timeout_s=30)
    context = make_context(local={"llama": Model()}, store=store)
    context = replace(context, ledger=ledger, new_id=lambda: uuid.uuid4().hex, clock=time.time)
    median, slow = await added(context, ROUNDS)
    ledger = Ledger(store, "bench-2", store_timeout_s=30)
    ledger.start()
    rates = [await rate(ledger, seconds) for _ in range(3)]
    await ledger.stop()
    return median, slow, statistics.median(rates), max(rates)


async def through_the_actor(url: str, folder: Path, seconds: float) -> tuple[float, float, float, float]:
    """The persistence actor as the graph has it."""
    deployment = serve.deployment(
        name="ConversationStore", num_replicas=1, ray_actor_options={"num_cpus": 0}, max_ongoing_requests=2000
    )
    application = deployment(ConversationStore).bind(url)
    handle = await asyncio.to_thread(serve.run, application, name="bench", route_prefix=None)
    try:
        return await measure(remote_store(handle), folder, seconds)
    finally:
        await asyncio.to_thread(serve.delete, "bench")


async def compare(urls: dict[str, str], folder: Path, seconds: float) -> Table:
    """On one event loop: Ray keeps to the first that it is given."""
    table = Table("database", "added, p50", "added, p95", "turns/s, median of 3", "best of 3")
    for name, url in urls.items():
        median, slow, turns, best = await through_the_actor(url, folder / name, seconds)
        table.add_row(name, f"{median:.2f} ms", f"{slow:.2f} ms", f"{turns:,.0f}", f"{best:,.0f}")
    return table


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as folder, running_server(durable=True) as postgres:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        urls = {"SQLite": f"sqlite:///{folder}/bench.db", "Postgres": postgres.create_database()}
        table = asyncio.run(compare(urls, Path(folder), seconds))
        ray.shutdown()
    Console().print(table)


if __name__ == "__main__":
    main()
