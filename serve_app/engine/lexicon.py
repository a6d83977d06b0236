"""Lexicon: a model's words and its numbers for them, for whoever wants to count or look."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from serve_app.engine.model import Model
from serve_app.errors import RequestError
from serve_app.protocol import (
    Chat,
    Detokenize,
    Done,
    Event,
    FailureCode,
    Render,
    Started,
    Tokenize,
    Tokenized,
    Words,
    Written,
)


class Lexicon:
    """``write``: how the model's template writes a conversation; None for models that hold none."""

    def __init__(self, model: Model, write: Callable[[Chat], str] | None = None) -> None:
        self._model = model
        self._write = write

    async def answer(self, request: Words) -> list[Event]:
        """All events of an answer. In a thread: texts may be megabytes."""
        try:
            return [Started(), await asyncio.to_thread(self._answer, request), Done()]
        except RequestError as error:
            return [error.failed]

    def _answer(self, request: Words) -> Tokenized | Written:
        match request:
            case Tokenize(text=text, special=special, framed=framed):
                tokens = self._model.tokenize(text, special=special, framed=framed)
                return Tokenized(tuple((token, self._model.piece(token, special=True)) for token in tokens))
            case Detokenize(tokens=tokens):
                return Written(self._text(tokens))
            case Render(chat=chat):
                return Written(self._written(chat))

    def _text(self, tokens: tuple[int, ...]) -> str:
        if max(tokens, default=0) >= self._model.n_vocab:
            message = f"Token ids must be of this model's own vocabulary, 0 to {self._model.n_vocab - 1}."
            raise RequestError(FailureCode.INVALID_REQUEST, message, "tokens")
        return b"".join(self._model.piece(token, special=True) for token in tokens).decode("utf-8", "replace")

    def _written(self, chat: Chat) -> str:
        if self._write is None:
            raise RequestError(FailureCode.INVALID_REQUEST, "This model has no chat template.", "model")
        return self._write(chat)
