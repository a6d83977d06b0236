"""Streams that all talk when something happens to their server, and how each of them ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import openai

STREAMS = 16


@dataclass
class Ending:
    """How a stream ended for its client."""

    text: str = ""
    finish: str | None = None
    error: str | None = None


async def read(client: openai.AsyncOpenAI, number: int, started: asyncio.Queue[int], max_tokens: int) -> Ending:
    ending = Ending()
    try:
        stream = await client.chat.completions.create(
            model="llama",
            messages=[{"role": "user", "content": f"Tell a story about the number {number}."}],
            max_tokens=max_tokens,
            temperature=0,
            stream=True,
            extra_body={"ignore_eos": True},
        )
        async for chunk in stream:
            if not ending.text and chunk.choices[0].delta.content:
                started.put_nowait(number)
            ending.text += chunk.choices[0].delta.content or ""
            ending.finish = chunk.choices[0].finish_reason or ending.finish
    except openai.APIStatusError as error:
        ending.error = f"status {error.status_code}"
    except openai.APIConnectionError:
        ending.error = "connection"
    except openai.APIError as error:
        ending.error = str(error.code)
    return ending


async def crowd(
    client: openai.AsyncOpenAI, strike: Callable[[], object], *, streams: int = STREAMS, max_tokens: int = 120
) -> list[Ending]:
    """These streams; when all of them talk, ``strike`` is called."""
    started: asyncio.Queue[int] = asyncio.Queue()
    async with client:
        tasks = [asyncio.create_task(read(client, number, started, max_tokens)) for number in range(streams)]
        async with asyncio.timeout(60):
            for _ in range(streams):
                await started.get()
        await asyncio.to_thread(strike)
        return await asyncio.gather(*tasks)
