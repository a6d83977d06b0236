"""An Engine over a FakeLlama, and what its jobs received."""

from __future__ import annotations

import threading
from collections.abc import Callable

from serve_app.engine.engine import Engine, Outbox
from serve_app.engine.figures import EngineOptions
from serve_app.engine.generation import Job
from serve_app.protocol import Delta, Done, Event, Failed, Sampling, Started
from tests.engine.fake_llama import FakeLlama

PATIENCE_S = 20.0


class Heard:
    """The events of one job."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.ended = threading.Event()

    def take(self, events: list[Event]) -> None:
        self.events += events
        if isinstance(events[-1], Done | Failed):
            self.ended.set()

    @property
    def terminals(self) -> list[Event]:
        return [event for event in self.events if isinstance(event, Done | Failed)]

    @property
    def end(self) -> Event:
        """The one terminal event; nothing may follow it."""
        assert len(self.terminals) == 1, self.terminals
        assert self.events[-1] is self.terminals[0]
        return self.terminals[0]

    def text(self, choice: int = 0) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta) and event.choice == choice)

    @property
    def started(self) -> int:
        return sum(isinstance(event, Started) for event in self.events)


class Running:
    """A started engine; ``dead`` is set by its ``on_death``."""

    def __init__(
        self,
        llama: FakeLlama,
        *,
        n_slots: int = 4,
        n_prefill: int = 8,
        publish: Callable[[Outbox], None] | None = None,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.llama = llama
        self.n_deaths = 0
        self.dead = threading.Event()
        options = EngineOptions(n_slots=n_slots, n_prefill=n_prefill)
        self.engine = Engine(llama, options, publish or deliver, self._died, clock)  # type: ignore[arg-type]

    def _died(self) -> None:
        self.n_deaths += 1
        self.dead.set()

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.close()
        assert not self.engine.alive
        assert self.llama.closed.is_set()

    def submit(self, *jobs: tuple[Job, Heard]) -> list[Heard]:
        for job, _ in jobs:
            self.engine.submit(job)
        return [heard for _, heard in jobs]

    def finish(self, *jobs: tuple[Job, Heard]) -> list[Heard]:
        """Submit, start if need be, and wait until every job ended."""
        heard = self.submit(*jobs)
        if not self.engine.alive:
            self.engine.start()
        for one in heard:
            assert one.ended.wait(PATIENCE_S)
        return heard


def deliver(outbox: Outbox) -> None:
    for job, events in outbox:
        job.sink(events)


def job(*prompts: list[int], n: int = 4, tenant: str = "t", choices: int = 1, **sampling: object) -> tuple[Job, Heard]:
    heard = Heard()
    wanted = Sampling(temperature=0, max_tokens=n, **sampling)  # type: ignore[arg-type]
    made = Job(tenant, tuple(map(tuple, prompts)), wanted, 1, 4096, heard.take, choices=choices)
    return made, heard


def words(tokens: list[int]) -> str:
    return "".join(f"<{token}>" for token in tokens)
