"""Requests to a real backend, and their answers put together."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from serve_app.engine.backend import LocalBackend
from serve_app.protocol import (
    Chat,
    Constraint,
    Delta,
    Done,
    Event,
    Failed,
    Generate,
    Sampling,
    Started,
    Text,
    TokenLogprob,
    ToolCallDelta,
    Usage,
)

_ids = itertools.count()


@dataclass(frozen=True)
class Answer:
    events: list[Event]

    @property
    def end(self) -> Done | Failed:
        ends = [event for event in self.events if isinstance(event, Done | Failed)]
        assert len(ends) == 1
        assert self.events[-1] is ends[0]
        return ends[0]

    @property
    def usage(self) -> Usage:
        assert isinstance(self.end, Done), self.end
        return self.end.usage

    def deltas(self, choice: int = 0) -> list[Delta]:
        return [event for event in self.events if isinstance(event, Delta) and event.choice == choice]

    def text(self, choice: int = 0) -> str:
        return "".join(delta.text for delta in self.deltas(choice))

    def logprobs(self, choice: int = 0) -> list[TokenLogprob]:
        return [entry for delta in self.deltas(choice) for entry in delta.logprobs]

    def calls(self, choice: int = 0) -> list[ToolCallDelta]:
        """Whole calls, put together from their pieces."""
        calls: dict[int, ToolCallDelta] = {}
        for piece in (piece for delta in self.deltas(choice) for piece in delta.tool_calls):
            told = calls.setdefault(piece.index, ToolCallDelta(piece.index, "", piece.id, piece.name))
            calls[piece.index] = replace(told, arguments=told.arguments + piece.arguments)
        return list(calls.values())

    def finish(self, choice: int = 0) -> str | None:
        finishes = [delta.finish for delta in self.deltas(choice) if delta.finish]
        assert len(finishes) == 1
        return finishes[0]


def chat(text: str, **options: object) -> Chat:
    return Chat(({"role": "user", "content": text},), **options)  # type: ignore[arg-type]


def request(
    *prompts: Chat | Text | str,
    n: int | None = 8,
    tenant: str = "t",
    choices: int = 1,
    echo: bool = False,
    constraint: Constraint | None = None,
    temperature: float = 0.0,
    **sampling: object,
) -> Generate:
    """Greedy unless told; a plain string is a raw prompt."""
    wanted = Sampling(temperature=temperature, max_tokens=n, **sampling)  # type: ignore[arg-type]
    texts = tuple(Text(prompt) if isinstance(prompt, str) else prompt for prompt in prompts)
    return Generate(f"r{next(_ids)}", tenant, "llama", texts, wanted, choices, echo, constraint)


async def ask(backend: LocalBackend, wanted: Generate) -> Answer:
    events: list[Event] = []
    async for batch in backend.generate(wanted):
        events += batch
    assert isinstance(events[0], Started | Failed)
    return Answer(events)


async def leave(backend: LocalBackend, wanted: Generate, after: int) -> None:
    """Close the stream once that many lists of events have come."""
    stream = backend.generate(wanted)
    async for _ in stream:
        after -= 1
        if after <= 0:
            break
    await stream.aclose()
