"""What a model wrote -> reasoning, content and calls of tools, while it is being written.

However the text is cut into deltas, what is read is the same. A call is told as soon as its name is known and its
arguments begin; their text is passed on as the model writes it. What turns out to be no call is content.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

from serve_app.engine.reasoning import ReasoningReader, overlap
from serve_app.engine.syntax import Syntax
from serve_app.protocol import Delta, ToolCallDelta

_LONGEST_HEAD = 400
"""Longer than anything ``Syntax.reads`` can match. Characters."""

_BRACKET = re.compile(r'[{}\[\]"]')
_STRING_END = re.compile(r'["\\]')


class AnswerReader:
    """Reads one choice."""

    def __init__(self, reasoning: ReasoningReader | None, calls: CallReader | None) -> None:
        self._reasoning = reasoning
        self._calls = calls

    def read(self, delta: Delta) -> Delta:
        """The same delta, its text taken apart."""
        final = delta.finish is not None
        reasoning, text = self._reasoning.read(delta.text, final=final) if self._reasoning else ("", delta.text)
        calls: tuple[ToolCallDelta, ...] = ()
        if self._calls:
            text, calls = self._calls.read(text, final=final)
        called = self._calls is not None and self._calls.n_calls > 0
        finish = "tool_calls" if delta.finish == "stop" and called else delta.finish
        return replace(delta, text=text, reasoning=reasoning, tool_calls=calls, finish=finish)


class ObjectScanner:
    """Finds where a JSON object ends that arrives in pieces. ``depth``: brackets that are open already."""

    def __init__(self, depth: int = 0) -> None:
        self._depth = depth
        self._in_string = False
        self._escaped = False

    def feed(self, text: str) -> int | None:
        """Where in ``text`` the object ends, None if it goes on. Every piece is looked at once."""
        at = 0
        while at < len(text):
            if self._escaped:
                self._escaped = False
                at += 1
                continue
            found = (_STRING_END if self._in_string else _BRACKET).search(text, at)
            if found is None:
                return None
            at = found.end()
            self._take(found.group())
            if self._depth == 0:
                return at
        return None

    def _take(self, character: str) -> None:
        if character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = not self._in_string
        else:
            self._depth += 1 if character in "{[" else -1


class CallReader:
    """Splits text into content and calls of the functions ``names``. White space around a call belongs to it.

    A machine of five states, each a method that takes what it can from ``_held`` and tells whether to go on:
    text, a call's head, its arguments, the rest of its object, what follows it.
    """

    def __init__(self, syntax: Syntax, names: frozenset[str], new_id: Callable[[], str]) -> None:
        self._syntax = syntax
        self._names = names
        self._new_id = new_id
        self._held = ""
        self._skipped = ""
        self._state = self._beginning if syntax.bare else self._text
        self._scanner = ObjectScanner()
        self._n_scanned = 0
        self._after_call = False
        self._content: list[str] = []
        self._calls: list[ToolCallDelta] = []
        self.n_calls = 0

    def read(self, text: str, *, final: bool) -> tuple[str, tuple[ToolCallDelta, ...]]:
        """Content and pieces of calls that are certain now; when it is the ``final`` text, all there is."""
        self._held += text
        self._content, self._calls = [], []
        while self._state(final):
            pass
        return "".join(self._content), tuple(self._calls)

    # --- states

    def _beginning(self, final: bool) -> bool:
        """An answer that begins with an object may be a call."""
        start = self._held.lstrip()
        if not start and not final:
            return False
        self._state = self._text
        if start.startswith("{"):
            self._expect_call(self._held[: -len(start)], start)
        return True

    def _text(self, final: bool) -> bool:
        before, opening, rest = self._held.partition(self._syntax.opening)
        if opening:
            kept = before.rstrip()
            self._say(kept)
            self._expect_call(before[len(kept) :] + opening, rest)
            return True
        ready = before if final else before[: len(before) - overlap(before, self._syntax.opening)].rstrip()
        self._say(ready)
        self._held = before[len(ready) :]
        return False

    def _head(self, final: bool) -> bool:
        head = self._syntax.reads.match(self._held)
        if head:
            if head[1] not in self._names:
                return self._reject()
            self._open_call(head[1])
            self._held = self._held[head.end() :]
            self._scanner, self._state = ObjectScanner(), self._arguments
            return True
        if self._syntax.wrapped:
            return self._whole_object(final)
        undecided = "{" not in self._held and len(self._held) <= _LONGEST_HEAD and not final
        return False if undecided else self._reject()

    def _whole_object(self, final: bool) -> bool:
        """A call in another order than usual is read when it is complete."""
        start = self._held.lstrip()
        if self._syntax.begin and start.startswith(self._syntax.begin):
            start = start[len(self._syntax.begin) :].lstrip()
        if start and start[0] != "{":
            return self._reject()
        end = self._scanner.feed(start[self._n_scanned :])
        if end is None:
            self._n_scanned = len(start)
            return self._reject() if final else False
        end += self._n_scanned
        call = _parsed(start[:end])
        if call is None or call[0] not in self._names:
            return self._reject()
        self._open_call(*call)
        self._held, self._state = start[end:], self._following
        return True

    def _arguments(self, final: bool) -> bool:
        end = self._scanner.feed(self._held)
        text = self._held if end is None else self._held[:end]
        self._held = self._held[len(text) :]
        if text:
            self._tell(ToolCallDelta(self.n_calls - 1, text))
        if end is None:
            return False
        self._scanner = ObjectScanner(depth=1)
        self._state = self._rest_of_object if self._syntax.wrapped else self._following
        return True

    def _rest_of_object(self, final: bool) -> bool:
        end = self._scanner.feed(self._held)
        self._held = "" if end is None else self._held[end:]
        if end is None:
            return False
        self._state = self._following
        return True

    def _following(self, final: bool) -> bool:
        self._held = self._held.lstrip()
        if not self._held:
            return False
        for mark in self._syntax.marks:
            if self._held.startswith(mark):
                self._held = self._held[len(mark) :]
                return True
            if mark.startswith(self._held) and not final:
                return False
        if self._syntax.repeats and self._held[0] == "{":
            self._expect_call("", self._held)
        else:
            self._state = self._text
        return True

    # --- what they do

    def _expect_call(self, skipped: str, rest: str) -> None:
        self._skipped, self._held = skipped, rest
        self._scanner, self._n_scanned = ObjectScanner(), 0
        self._state = self._head

    def _reject(self) -> bool:
        """It was no call: what was taken for its opening is content, and so may be what follows."""
        self._say(self._skipped)
        self._state = self._text
        return True

    def _open_call(self, name: str, arguments: str = "") -> None:
        self._tell(ToolCallDelta(self.n_calls, arguments, id=f"call_{self._new_id()}", name=name))
        self.n_calls += 1
        self._after_call = True

    def _tell(self, piece: ToolCallDelta) -> None:
        """Pieces of the same call that are ready together travel as one."""
        last = self._calls[-1] if self._calls else None
        if last is not None and last.index == piece.index:
            self._calls[-1] = replace(last, arguments=last.arguments + piece.arguments)
        else:
            self._calls.append(piece)

    def _say(self, text: str) -> None:
        if self._after_call:
            text = text.lstrip()
            self._after_call = not text
        self._content.append(text)


def _parsed(text: str) -> tuple[str, str] | None:
    """Name and arguments of an object that is a call; arguments may be missing, or be JSON in a string."""
    try:
        body = json.loads(text)
        name, arguments = body["name"], body.get("arguments", body.get("parameters", {}))
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
        written = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        written.encode()  # refuses half a surrogate pair
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None
    return (name, written) if isinstance(name, str) and isinstance(arguments, dict) else None
