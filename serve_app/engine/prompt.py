"""Prompter: a request's words -> token ids, or a refusal that says why. The last check before the engine."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from serve_app.engine.conversation import conversation
from serve_app.engine.families import Dialect
from serve_app.engine.llama import Llama
from serve_app.engine.reasoning import Thinking, thinking
from serve_app.engine.template import ChatTemplate, Segment, TemplateError
from serve_app.errors import RequestError
from serve_app.protocol import Chat, FailureCode, Generate, Text

_INLINE_CHARS = 4096
_BYTES_PER_TOKEN = 64

Tokens = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request's prompts as token ids, and whether the answer to it may begin with reasoning."""

    prompts: tuple[Tokens, ...]
    thinking: Thinking = Thinking.NEVER


class Prompter:
    """Tokenizes for one model whose conversations may hold ``n_context`` tokens."""

    def __init__(self, llama: Llama, template: ChatTemplate, dialect: Dialect, n_context: int) -> None:
        self.dialect = dialect
        self._llama = llama
        self._template = template
        self._n_context = n_context

    async def prepare(self, request: Generate) -> Prepared:
        """Every prompt is short enough to leave room for an answer. Raises RequestError."""
        prompts, state = [], Thinking.NEVER
        for prompt in request.prompts:
            if isinstance(prompt, Chat):
                tokens, state = await self._chat(prompt)
            else:
                tokens = await self._text(prompt)
            tokens = tokens or (self._llama.eos,)  # logits exist only behind a token
            # With nothing to generate the prompt may fill the context; else one token must fit behind it.
            if len(tokens) + (request.sampling.max_tokens != 0) > self._n_context:
                raise self._too_long(f"{len(tokens)}", "messages" if isinstance(prompt, Chat) else "prompt")
            prompts.append(tokens)
        return Prepared(tuple(prompts), state)

    def _too_long(self, n_tokens: str, param: str) -> RequestError:
        message = (
            f"This model's maximum context length is {self._n_context} tokens. "
            f"However, your {param} resulted in {n_tokens} tokens. Please reduce the length of the {param}."
        )
        return RequestError(FailureCode.CONTEXT_LENGTH, message, param=param)

    def written(self, chat: Chat) -> str:
        """A conversation as the template writes it. Raises RequestError."""
        return "".join(segment.text for segment in self._segments(chat))

    async def _chat(self, chat: Chat) -> tuple[Tokens, Thinking]:
        segments = self._segments(chat)
        state = thinking("".join(segment.text for segment in segments[-2:]), self.dialect.tags)
        return self._with_bos(await self._tokenize(segments)), state

    def _segments(self, chat: Chat) -> list[Segment]:
        messages, tools = conversation(chat, self.dialect)
        size = sum(len(str(message.get("content") or "")) for message in messages)
        self._refuse_hopeless(size, "messages")
        try:
            return self._template.segments(messages, tools=tools, **chat.template_options)
        except TemplateError as error:
            raise RequestError(
                FailureCode.INVALID_REQUEST, f"The model's chat template: {error}.", "messages"
            ) from error

    async def _text(self, text: Text) -> Tokens:
        self._refuse_hopeless(len(text.prompt) + len(text.suffix or ""), "prompt")
        if not isinstance(text.prompt, str):
            tokens = self._checked(text.prompt)
        else:
            tokens = await self._tokenize([Segment(text.prompt, special=False)])
        if text.suffix is not None:
            return await self._infill(tokens, text.suffix)
        return self._with_bos(tokens) if isinstance(text.prompt, str) else tokens

    def _checked(self, tokens: Tokens) -> Tokens:
        if not tokens or min(tokens) < 0 or max(tokens) >= self._llama.n_vocab:
            message = (
                f"Token ids must be of this model's own vocabulary, 0 to {self._llama.n_vocab - 1}; send text instead."
            )
            raise RequestError(FailureCode.INVALID_REQUEST, message, "prompt")
        return tokens

    async def _infill(self, prefix: Tokens, suffix: str) -> Tokens:
        marks = self._llama.infill
        if marks is None:
            raise RequestError(FailureCode.UNSUPPORTED, "This model was not trained to fill in a suffix.", "suffix")
        after = await self._tokenize([Segment(suffix, special=False)])
        return (*self._with_bos((marks[0], *prefix)), marks[1], *after, marks[2])

    def _refuse_hopeless(self, n_chars: int, param: str) -> None:
        """No tokenizer needs to look at a text that is far too long."""
        if n_chars > _BYTES_PER_TOKEN * self._n_context:
            raise self._too_long(f"more than {self._n_context}", param)

    def _with_bos(self, tokens: Tokens) -> Tokens:
        """The beginning token where the vocabulary wants one and the template did not write it."""
        if self._llama.adds_bos and tokens[:1] != (self._llama.bos,):
            return (self._llama.bos, *tokens)
        return tokens

    async def _tokenize(self, segments: list[Segment]) -> Tokens:
        """Long texts in a thread: tokenizing runs at about 5 MB/s and must not hold up the event loop."""
        if sum(len(segment.text) for segment in segments) <= _INLINE_CHARS:
            return self._tokenize_now(segments)
        return await asyncio.to_thread(self._tokenize_now, segments)

    def _tokenize_now(self, segments: list[Segment]) -> Tokens:
        return tuple(t for part in segments for t in self._llama.tokenize(part.text, special=part.special))
