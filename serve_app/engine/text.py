"""TextAssembler: token bytes in, text that can no longer change out."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from serve_app.protocol import TokenLogprob


class TextAssembler:
    """Holds back what may still change: half a code point, and what may be the beginning of a stop string.

    Never emits then retracts; the concatenation of all emitted text is the decoded bytes, cut at the first stop.
    Log-probability entries leave with the last byte of their token, so that their bytes join to the same text.
    """

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(text.encode() for text in stop)
        self._longest = max((len(stop) for stop in self._stop), default=1)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = b""
        self._entries: deque[tuple[TokenLogprob, int]] = deque()
        self._entry_bytes = 0
        self._emitted = 0
        self.stopped = False

    def push(self, piece: bytes, entry: TokenLogprob | None = None) -> tuple[str, tuple[TokenLogprob, ...]]:
        """Add one token's bytes; returns what became final. After a stop was found nothing comes any more."""
        if self.stopped:
            return "", ()
        if entry is not None:
            self._entry_bytes += len(piece)
            self._entries.append((entry, self._entry_bytes))
        self._held += piece
        cut = self._find_stop()
        if cut is not None:
            self.stopped = True
            self._held = self._held[:cut]
            return self._emit(len(self._held), final=True)
        return self._emit(len(self._held) - self._may_begin_stop(), final=False)

    def finish(self) -> tuple[str, tuple[TokenLogprob, ...]]:
        """The generation ended: everything held back is text after all."""
        if self.stopped:
            return "", ()
        self.stopped = True
        return self._emit(len(self._held), final=True)

    def _find_stop(self) -> int | None:
        """Where the stop string that is complete first begins: the same however the text is cut into tokens."""
        found = [(at + len(stop), at) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        return min(found)[1] if found else None

    def _may_begin_stop(self) -> int:
        """Length of the longest tail that is a proper beginning of a stop string."""
        for length in range(min(self._longest - 1, len(self._held)), 0, -1):
            tail = self._held[-length:]
            if any(stop.startswith(tail) for stop in self._stop):
                return length
        return 0

    def _emit(self, size: int, *, final: bool) -> tuple[str, tuple[TokenLogprob, ...]]:
        ready, self._held = self._held[:size], self._held[size:]
        text = self._decoder.decode(ready, final)
        self._emitted += len(ready)
        pending = 0 if final else len(self._decoder.getstate()[0])
        return text, self._entries_until(self._emitted - pending, final=final)

    def _entries_until(self, end: int, *, final: bool) -> tuple[TokenLogprob, ...]:
        ready = []
        while self._entries and self._entries[0][1] <= end:
            ready.append(self._entries.popleft()[0])
        if final and self._entries:
            entry, entry_end = self._entries.popleft()
            visible = len(entry.data) - (entry_end - end)
            if visible > 0:  # the stop string began inside this token
                kept = entry.data[:visible]
                ready.append(replace(entry, token=kept.decode("utf-8", "replace"), data=kept))
            self._entries.clear()
        return tuple(ready)
