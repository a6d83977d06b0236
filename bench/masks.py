"""What a grammar costs a step: SmolLM2 on 16 streams, with masks and without, in one process and without HTTP.

python -m bench.masks models/SmolLM2-135M-Instruct.Q4_1.gguf
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from serve_app.engine.backend import LocalBackend
from serve_app.engine.grammar import GrammarMask
from serve_app.engine.loading import LocalModelOptions, load
from serve_app.protocol import Constraint, Generate, Sampling, Text

SCHEMA = '{"type": "array", "items": {"type": "object", "properties": {"name": {"type": "string"}}}, "minItems": 99}'


class Stopwatch:
    """Seconds and calls spent in a method."""

    def __init__(self, owner: Any, *names: str) -> None:
        self.spent_s, self.calls = 0.0, 0
        for name in names:
            setattr(owner, name, self._timed(getattr(owner, name)))

    def _timed(self, method: Any) -> Any:
        def timed(*args: Any) -> Any:
            began_s = time.thread_time()
            try:
                return method(*args)
            finally:
                self.spent_s += time.thread_time() - began_s
                self.calls += 1

        return timed


async def run(backend: LocalBackend, streams: int) -> None:
    """``streams`` answers at once, each held to the schema."""
    constraint = Constraint("json_schema", SCHEMA)
    sampling = Sampling(temperature=0.7, seed=1, max_tokens=64)
    requests = [
        Generate(f"{n}", "t", "llama", (Text(f"List {n}:"),), sampling, constraint=constraint) for n in range(streams)
    ]
    await asyncio.gather(*(_drain(backend, request) for request in requests))


async def _drain(backend: LocalBackend, request: Generate) -> None:
    async for _ in backend.generate(request):
        pass


async def main(path: str) -> None:
    backend = load(LocalModelOptions("llama", path, n_threads=2))
    assert isinstance(backend, LocalBackend)
    masks = Stopwatch(GrammarMask, "apply", "accept")
    for streams in (1, 1, 4, 16):
        masks.spent_s, masks.calls = 0.0, 0
        before = backend.engine.stats()
        await run(backend, streams)
        after = backend.engine.stats()
        step_s = after.step_s - before.step_s
        tokens = after.n_generated_tokens - before.n_generated_tokens
        share = f"{masks.spent_s / step_s:.1%} of step time"
        print(
            f"{streams:2} streams: {masks.spent_s / tokens * 1e6:4.0f} us a token, {share}, {tokens / step_s:.0f} tok/s"
        )
    await backend.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
