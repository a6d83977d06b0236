"""Two replicas of a model: a conversation stays where its prefix is, and many conversations spread."""

from __future__ import annotations

import asyncio

import openai
import pytest

from tests.running import Graph

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
