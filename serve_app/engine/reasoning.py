"""Reasoning before the answer: where it begins and ends, in text and in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


@dataclass(frozen=True, slots=True)
class Tags:
    """What a family of models writes around its reasoning."""

    open: str
    close: str


TAGS = (Tags("<think>", "</think>"), Tags("[THINK]", "[/THINK]"), Tags("<seed:think>", "</seed:think>"))


class Thinking(Enum):
    """What the prompt leaves open: OPENED: it ends inside of reasoning; MAY: the answer may begin with some."""

    NEVER = auto()
    MAY = auto()
    OPENED = auto()


def thinking(prompt: str, tags: Tags | None) -> Thinking:
    """``prompt``: the conversation as the template wrote it."""
    if tags is None:
        return Thinking.NEVER
    end = prompt.rstrip()
    if end.endswith(tags.open):
        return Thinking.OPENED
    return Thinking.NEVER if end.endswith(tags.close) else Thinking.MAY


def overlap(text: str, literal: str) -> int:
    """Length of the longest tail of ``text`` that is a proper beginning of ``literal``."""
    longest = min(len(text), len(literal) - 1)
    return next((size for size in range(longest, 0, -1) if literal.startswith(text[-size:])), 0)


class ReasoningReader:
    """Splits a text into reasoning and the rest as it arrives; the white space around reasoning belongs to neither."""

    def __init__(self, tags: Tags, state: Thinking) -> None:
        self._tags = tags
        self._state = state
        self._held = ""
        self._began = self._ended = False

    def read(self, text: str, *, final: bool) -> tuple[str, str]:
        """Reasoning, and the rest."""
        self._held += text
        if self._state is Thinking.MAY:
            self._look_for_beginning(final=final)
        reasoning = self._reasoning(final=final) if self._state is Thinking.OPENED else ""
        return reasoning, self._rest() if self._state is Thinking.NEVER else ""

    def _look_for_beginning(self, *, final: bool) -> None:
        start = self._held.lstrip()
        if start.startswith(self._tags.open):
            self._state, self._held = Thinking.OPENED, start[len(self._tags.open) :]
        elif final or not self._tags.open.startswith(start):
            self._state = Thinking.NEVER

    def _reasoning(self, *, final: bool) -> str:
        if not self._began:
            self._held = self._held.lstrip()
            self._began = bool(self._held)
        inside, closed, rest = self._held.partition(self._tags.close)
        if closed:
            self._state, self._held, self._ended = Thinking.NEVER, rest, True
            return inside.rstrip()
        if final:
            self._held = ""
            return inside
        ready = len(inside[: len(inside) - overlap(inside, self._tags.close)].rstrip())
        self._held = inside[ready:]
        return inside[:ready]

    def _rest(self) -> str:
        text, self._held = self._held, ""
        if self._ended:
            text = text.lstrip()
            self._ended = not text
        return text


class ReasoningMeter:
    """Counts the tokens of one choice's reasoning, tags included."""

    def __init__(self, tags: Tags, state: Thinking) -> None:
        self._open, self._close = tags.open.encode(), tags.close.encode()
        self._state = state
        self._seen = b""
        self._n_tokens = 0

    @property
    def n_tokens(self) -> int:
        """None while it is not known whether it is reasoning at all."""
        return 0 if self._state is Thinking.MAY else self._n_tokens

    def push(self, piece: bytes) -> None:
        if self._state is Thinking.NEVER:
            return
        self._n_tokens += 1
        self._seen += piece
        if self._state is Thinking.MAY:
            self._look_for_beginning()
        if self._state is Thinking.OPENED:
            if self._close in self._seen:
                self._state = Thinking.NEVER
            self._seen = self._seen[-len(self._close) :]

    def _look_for_beginning(self) -> None:
        start = self._seen.lstrip()
        if start.startswith(self._open):
            self._state = Thinking.OPENED
        elif not self._open.startswith(start):
            self._state, self._n_tokens = Thinking.NEVER, 0
