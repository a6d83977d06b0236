"""EmbeddingBackend: a Backend over one embedding engine."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from serve_app.engine.embedder import Embedder
from serve_app.engine.embedding_engine import EmbeddingEngine, Outbox
from serve_app.engine.embedding_queue import EmbeddingJob, Tokens
from serve_app.engine.lexicon import Lexicon
from serve_app.engine.mailbox import Mailbox, deliver, must_take_jobs
from serve_app.errors import RequestError
from serve_app.protocol import Done, Embed, Event, Failed, FailureCode, ModelCard, Started, Words, Work

_INLINE_CHARS = 4096
_CHARS_PER_TOKEN = 64


@dataclass(frozen=True, slots=True)
class EmbeddingOptions:
    """``dimensions``: what vectors may be cut to, for models trained for that. ``n_queue``: most waiting requests."""

    model: str
    created: int
    dimensions: tuple[int, ...] = ()
    n_queue: int = 256
    stall_s: float = 30.0


class EmbeddingBackend:
    """Answers ``Embed`` from an Embedder. Lives on one event loop; owns the engine thread."""

    def __init__(
        self, embedder: Embedder, options: EmbeddingOptions, *, on_death: Callable[[], None] = lambda: None
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._embedder = embedder
        self._options = options
        self._lexicon = Lexicon(embedder)
        self.engine = EmbeddingEngine(embedder, options.n_queue, self._publish, on_death)
        self.engine.start()

    def _publish(self, outbox: Outbox) -> None:
        """Any thread: one call to the loop per batch."""
        self._loop.call_soon_threadsafe(deliver, outbox)

    async def models(self) -> tuple[ModelCard, ...]:
        card = ModelCard(self._options.model, self._options.created, "llm-backend", self._embedder.n_context)
        return (card,) if self.engine.alive else ()

    async def generate(self, request: Work) -> AsyncGenerator[list[Event], None]:
        """See Backend. Nothing is refused after ``Started``."""
        if isinstance(request, Words):
            yield await self._lexicon.answer(request)
            return
        mailbox = Mailbox()
        try:
            job = await self._job(request, mailbox)
        except RequestError as error:
            yield [error.failed]
            return
        try:
            yield [Started(job.n_tokens)]
            self.engine.submit(job)
            while True:
                events = await mailbox.take(self.engine, self._options.stall_s)
                yield events
                if events and isinstance(events[-1], Done | Failed):
                    return
        finally:
            self.engine.cancel(job)

    async def _job(self, request: Work, mailbox: Mailbox) -> EmbeddingJob:
        """Check what only the model can check, and turn words into numbers."""
        if not isinstance(request, Embed):
            message = f"The model {self._options.model} computes embeddings only: it does not generate text."
            raise RequestError(FailureCode.INVALID_REQUEST, message, "model")
        must_take_jobs(self.engine)
        dimensions = self._dimensions(request.dimensions)
        n_chars = sum(len(text) for text in request.inputs)
        if n_chars <= _INLINE_CHARS:
            texts = self._tokens(request)
        else:  # tokenizing runs at about 5 MB/s and must not hold up the event loop
            texts = await asyncio.to_thread(self._tokens, request)
        return EmbeddingJob(texts, dimensions, mailbox.put)

    def _dimensions(self, wanted: int | None) -> int | None:
        whole, offered = self._embedder.n_embd, self._options.dimensions
        if wanted is None or wanted == whole:
            return None
        if wanted not in offered:
            sizes = ", ".join(map(str, (*offered, whole)))
            message = f"This model's embeddings have {sizes} dimensions."
            raise RequestError(FailureCode.INVALID_REQUEST, message, "dimensions")
        return wanted

    def _tokens(self, request: Embed) -> tuple[Tokens, ...]:
        several = len(request.inputs) > 1
        return tuple(
            self._text(text, request.truncate_to, f"input[{at}]" if several else "input")
            for at, text in enumerate(request.inputs)
        )

    def _text(self, text: str | Tokens, truncate_to: int | None, param: str) -> Tokens:
        """One text as the model wants it. Token ids are taken as they are: who sends them has framed them."""
        most = self._embedder.n_context if truncate_to is None else min(truncate_to, self._embedder.n_context)
        if isinstance(text, str):
            head, tail = self._embedder.head, self._embedder.tail
            tokens = self._words(text, most, truncate_to is not None, param)
        else:
            head, tail = (), ()
            tokens = self._checked(text, param)
        n_frame = len(head) + len(tail)
        if n_frame + len(tokens) > most and truncate_to is None:
            raise self._too_long(f"{n_frame + len(tokens)}", param)
        if most <= n_frame:
            message = f"Invalid parameter: 'truncate_prompt_tokens' must be at least {n_frame + 1} for this model."
            raise RequestError(FailureCode.INVALID_REQUEST, message, "truncate_prompt_tokens")
        return (*head, *tokens[: most - n_frame], *tail)

    def _words(self, text: str, most: int, truncate: bool, param: str) -> Tokens:
        """No tokenizer needs to look at a text that is far too long."""
        if len(text) > _CHARS_PER_TOKEN * most:
            if not truncate:
                raise self._too_long(f"more than {most}", param)
            text = text[: _CHARS_PER_TOKEN * most]
        return tuple(self._embedder.tokenize(text, special=False))

    def _checked(self, tokens: Tokens, param: str) -> Tokens:
        if max(tokens) >= self._embedder.n_vocab:
            message = (
                f"Token ids must be of this model's own vocabulary, 0 to {self._embedder.n_vocab - 1}; "
                "send text instead (LangChain: check_embedding_ctx_length=False)."
            )
            raise RequestError(FailureCode.INVALID_REQUEST, message, param)
        return tokens

    def _too_long(self, n_tokens: str, param: str) -> RequestError:
        message = (
            f"This model's maximum context length is {self._embedder.n_context} tokens. However, your {param} "
            f"resulted in {n_tokens} tokens. Please reduce its length, or send `truncate: true`."
        )
        return RequestError(FailureCode.CONTEXT_LENGTH, message, param)

    async def close(self) -> None:
        """End the engine; running requests end with ``server_shutting_down``."""
        await asyncio.to_thread(self.engine.close)
