"""LocalBackend: a Backend over one engine. Words to numbers, and numbers back to meaning, on the event loop."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from serve_app.engine.chain import DryTemplate
from serve_app.engine.compiler import GrammarError
from serve_app.engine.engine import Engine, Outbox
from serve_app.engine.figures import EngineOptions
from serve_app.engine.forms import forms
from serve_app.engine.generation import Job
from serve_app.engine.grammar import Grammars
from serve_app.engine.lexicon import Lexicon
from serve_app.engine.llama import Llama
from serve_app.engine.mailbox import Mailbox, deliver, must_take_jobs
from serve_app.engine.prompt import Prepared, Prompter
from serve_app.engine.reasoning import ReasoningMeter, ReasoningReader, Thinking
from serve_app.engine.replies import AnswerReader, CallReader
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
        self._loop.call_soon_threadsafe(deliver, outbox)

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
            job, readers = await self._job(request, mailbox)
        except RequestError as error:
            yield [error.failed]
            return
        self.engine.submit(job)
        try:
            while True:
                events = await mailbox.take(self.engine, self._options.stall_s)
                yield [read for event in events if (read := _read(event, readers)) is not None]
                if events and isinstance(events[-1], Done | Failed):
                    return
        finally:
            self.engine.cancel(job)

    async def _job(self, request: Work, mailbox: Mailbox) -> tuple[Job, dict[int, AnswerReader]]:
        """Check what only the model can check, and turn words into numbers."""
        if isinstance(request, Embed):
            message = f"The model {self._options.model} generates text: it does not compute embeddings."
            raise RequestError(FailureCode.INVALID_REQUEST, message, "model")
        if not isinstance(request, Generate):
            raise RequestError(FailureCode.INTERNAL, "A local model cannot relay.")
        must_take_jobs(self.engine)
        prepared = await self._prompter.prepare(request)
        job = Job(
            tenant=request.tenant,
            prompts=prepared.prompts,
            sampling=request.sampling,
            seed=request.sampling.seed if request.sampling.seed is not None else self._new_seed(),
            n_context=self._options.n_context,
            sink=mailbox.put,
            choices=request.choices,
            tier=request.tier,
            weight=request.weight,
            echo=request.echo,
            mask=await self._mask(request, prepared),
            dry=await asyncio.to_thread(self._dry_template, request.sampling.dry) if request.sampling.dry else None,
            reasoning=self._meter(prepared),
        )
        return job, self._readers(request, prepared)

    async def _mask(self, request: Generate, prepared: Prepared) -> Callable[[], Mask] | None:
        """The strictest of the answer's grammars that can be compiled."""
        try:
            wanted = forms(_chat_of(request), request.constraint, self._prompter.dialect, prepared.thinking)
        except GrammarError as error:
            raise _unenforceable(error, request.constraint.param if request.constraint else None) from error
        for at, form in enumerate(wanted, 1):
            try:
                return await self._grammars.compile(form.source, request.tenant)
            except GrammarError as error:
                if at == len(wanted):
                    raise _unenforceable(error, form.param) from error
        return None

    def _meter(self, prepared: Prepared) -> Callable[[], ReasoningMeter] | None:
        tags = self._prompter.dialect.tags
        if tags is None or prepared.thinking is Thinking.NEVER:
            return None
        return lambda: ReasoningMeter(tags, prepared.thinking)

    def _readers(self, request: Generate, prepared: Prepared) -> dict[int, AnswerReader]:
        """One for each choice, where there may be anything but content."""
        dialect, chat = self._prompter.dialect, _chat_of(request)
        called = chat is not None and chat.tools and chat.tool_choice != "none"
        names = frozenset(tool["name"] for tool in chat.tools) if chat and called else frozenset()
        tags = dialect.tags if prepared.thinking is not Thinking.NEVER else None
        if not names and tags is None:
            return {}
        return {
            at: AnswerReader(
                ReasoningReader(tags, prepared.thinking) if tags else None,
                CallReader(dialect.syntax, names, self._new_id) if names else None,
            )
            for at in range(request.choices)
        }

    async def close(self) -> None:
        """End the engine; running streams end with ``server_shutting_down``."""
        await asyncio.to_thread(self.engine.close)
        await asyncio.to_thread(self._grammars.close)


def _chat_of(request: Generate) -> Chat | None:
    prompt = request.prompts[0]
    return prompt if isinstance(prompt, Chat) else None


def _unenforceable(error: GrammarError, param: str | None) -> RequestError:
    return RequestError(FailureCode.INVALID_REQUEST, f"The output format cannot be enforced: {error}.", param=param)


def _read(event: Event, readers: dict[int, AnswerReader]) -> Event | None:
    """None for a delta whose text is being held back."""
    if not readers or not isinstance(event, Delta):
        return event
    delta = readers[event.choice].read(event)
    told = delta.text or delta.reasoning or delta.tool_calls or delta.logprobs or delta.finish
    return delta if told else None
