"""A load generator for OpenAI's streaming API: N users at once, each measured by what it reads off the wire."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True, slots=True)
class Sample:
    """One stream: seconds to its first text, text chunks (one a token, in every server measured), its text."""

    first_s: float
    n_chunks: int
    text: str


@dataclass(frozen=True, slots=True)
class Round:
    """One crowd: all samples and the wall time from the first request to the last byte."""

    samples: tuple[Sample, ...]
    wall_s: float

    @property
    def tokens_per_s(self) -> float:
        return sum(sample.n_chunks for sample in self.samples) / self.wall_s

    @property
    def first_s(self) -> float:
        """Median time to first token."""
        return statistics.median(sample.first_s for sample in self.samples)


async def stream(session: aiohttp.ClientSession, url: str, body: dict[str, object]) -> Sample:
    began = time.perf_counter()
    first_s, n_chunks, text = 0.0, 0, []
    async with session.post(f"{url}/chat/completions", json={**body, "stream": True}) as answer:
        if answer.status != 200:
            raise RuntimeError(f"{url} answered {answer.status}: {(await answer.text())[:300]}")
        async for line in answer.content:
            if not line.startswith(b"data: {"):
                continue
            choices = json.loads(line[6:])["choices"]
            piece = choices[0]["delta"].get("content") if choices else None
            if piece:
                first_s = first_s or time.perf_counter() - began
                n_chunks += 1
                text.append(piece)
    return Sample(first_s, n_chunks, "".join(text))


async def crowd(url: str, bodies: list[dict[str, object]]) -> Round:
    """All requests at once."""
    timeout = aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session:
        began = time.perf_counter()
        samples = await asyncio.gather(*(stream(session, url, body) for body in bodies))
        return Round(tuple(samples), time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Rate:
    """A closed loop of ``n`` clients over ``seconds``: requests per second and their latencies."""

    per_s: float
    p50_s: float
    p99_s: float


async def closed_loop(url: str, body: dict[str, object], n: int, seconds: float) -> Rate:
    """Each client sends its next request when it has read the whole answer to the last."""
    latencies: list[float] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def client(until: float) -> None:
            while time.perf_counter() < until:
                began = time.perf_counter()
                async with session.post(f"{url}/chat/completions", json=body) as answer:
                    await answer.read()
                    answer.raise_for_status()
                latencies.append(time.perf_counter() - began)

        began = time.perf_counter()
        await asyncio.gather(*(client(began + seconds) for _ in range(n)))
        wall = time.perf_counter() - began
    latencies.sort()
    return Rate(len(latencies) / wall, statistics.median(latencies), latencies[int(len(latencies) * 0.99)])
