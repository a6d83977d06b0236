"""LocalBackend: a Backend over one engine. Words to numbers, and numbers back to meaning, on the event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from serve_app.engine.chain import DryTemplate
from serve_app.engine.engine import Engine, Outbox
from serve_app.engine.figures import EngineOptions
from serve_app.engine.generation import Job
from serve_app.engine.grammar import GrammarError, Grammars
from serve_app.engine.lexicon import Lexicon
from serve_app.engine.llama import Llama
from serve_app.engine.mailbox import Mailbox
from serve_app.engine.prompt import Prompter
from serve_app.engine.replies import CallReader, forced_call
from serve_app.engine.sampler import Mask
from serve_app.errors import RequestError
from serve_app.protocol import (
    Chat,
    Delta,
    Done,
    Embed,
    Event,
    Failed,
    FailureCode,
    Generate,
    ModelCard,
    Words,
    Work,
)


@dataclass(frozen=True, slots=True)
class LocalOptions:
    """``n_context``: most tokens of one conversation. ``stall_s``: a step that runs longer is no sign of life."""

    model: str
    created: int
    n_context: int
    engine: EngineOptions = EngineOptions()
    stall_s: float = 30.0


class LocalBackend:
    """Answers ``Generate`` from a Llama. Lives on one event loop; owns the engine thread. ``new_id``: random hex."""

    def __init__(
        self,
        llama: Llama,
        prompter: Prompter,
        options: LocalOptions,
        *,
        new_id: Callable[[], str],
        new_seed: Callable[[], int],
        on_death: Callable[[], None] = lambda: None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._dry_template = functools.lru_cache(maxsize=64)(functools.partial(DryTemplate, llama))
        self._prompter = prompter
        self._lexicon = Lexicon(llama, prompter.written)
        self._options = options
        self._new_id = new_id
        self._new_seed = new_seed
        self._grammars = Grammars(llama)
        self.engine = Engine(llama, options.engine, self._publish, on_death)
        self.engine.start()

    def _publish(self, outbox: Outbox) -> None:
        """Engine thread: one call to the loop per step, whatever it produced."""
        self._loop.call_soon_threadsafe(_deliver, outbox)

    async def models(self) -> tuple[ModelCard, ...]:
        options = self._options
        return (
            (ModelCard(options.model, options.created, "llm-backend", options.n_context),) if self.engine.alive else ()
        )

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        """See Backend. Nothing is refused after ``Started``."""
        if isinstance(request, Words):
            yield await self._lexicon.answer(request)
            return
        try:
            mailbox = Mailbox()
            job = await self._job(request, mailbox)
        except RequestError as error:
            yield [error.failed]
            return
        readers = self._readers(request)
        self.engine.submit(job)
        try:
            while True:
                events = await mailbox.take(self._at_work)
                yield [_read(event, readers) for event in events]
                if events and isinstance(events[-1], Done | Failed):
                    return
        finally:
            self.engine.cancel(job)

    def _at_work(self) -> bool:
        return self.engine.alive and self.engine.stalled_for() < self._options.stall_s

    async def _job(self, request: Work, mailbox: Mailbox) -> Job:
        """Check what only the model can check, and turn words into numbers."""
        if isinstance(request, Embed):
            message = f"The model {self._options.model} generates text: it does not compute embeddings."
            raise RequestError(FailureCode.INVALID_REQUEST, message, "model")
        if not isinstance(request, Generate):
            raise RequestError(FailureCode.INTERNAL, "A local model cannot relay.")
        if not self.engine.alive:
            raise RequestError(FailureCode.ENGINE_LOST, "The model's engine was lost. Please try again.")
        if self.engine.is_full:
            raise RequestError(
                FailureCode.QUEUE_FULL, "Too many requests are waiting for this model. Please slow down."
            )
        prompts = await self._prompter.tokens(request)
        return Job(
            tenant=request.tenant,
            prompts=prompts,
            sampling=request.sampling,
            seed=request.sampling.seed if request.sampling.seed is not None else self._new_seed(),
            n_context=self._options.n_context,
            sink=mailbox.put,
            choices=request.choices,
            tier=request.tier,
            echo=request.echo,
            mask=await self._mask(request),
            dry=await asyncio.to_thread(self._dry_template, request.sampling.dry) if request.sampling.dry else None,
        )

    async def _mask(self, request: Generate) -> Callable[[], Mask] | None:
        prompt = request.prompts[0]
        constraint = (forced_call(prompt) if isinstance(prompt, Chat) else None) or request.constraint
        if constraint is None:
            return None
        try:
            return await asyncio.to_thread(self._grammars.compile, constraint)
        except GrammarError as error:
            message = f"The output format cannot be enforced: {error}."
            raise RequestError(FailureCode.INVALID_REQUEST, message, param="response_format") from error

    def _readers(self, request: Work) -> dict[int, CallReader]:
        """A reader of tool calls for each choice, where tools may be called."""
        if not isinstance(request, Generate):
            return {}
        prompt = request.prompts[0]
        if not isinstance(prompt, Chat) or not prompt.tools or prompt.tool_choice == "none":
            return {}
        names = frozenset(tool["name"] for tool in prompt.tools)
        most = None if prompt.parallel_tool_calls else 1
        return {at: CallReader(names, self._new_id, most=most) for at in range(request.choices)}

    async def close(self) -> None:
        """End the engine; running streams end with ``server_shutting_down``."""
        await asyncio.to_thread(self.engine.close)


def _deliver(outbox: Outbox) -> None:
    for job, events in outbox:
        job.sink(events)


def _read(event: Event, readers: dict[int, CallReader]) -> Event:
    if readers and isinstance(event, Delta):
        return readers[event.choice].read(event)
    return event
