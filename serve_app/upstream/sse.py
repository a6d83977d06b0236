"""Server-sent events, read as they come: bytes in any pieces -> the data of each whole event."""

from __future__ import annotations

_BOM = b"\xef\xbb\xbf"


class EventTooLong(Exception):
    """One line or one event is longer than the parser was told to hold."""


class SseParser:
    """An incremental reader of one stream.

    Only an event closed by its blank line is ever returned, so a stream cut anywhere yields no spurious event. Fields
    other than ``data`` and comments are dropped. Holds at most ``limit`` bytes of an unfinished event.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._line = bytearray()
        """The line that has begun and not ended."""
        self._data: list[bytes] = []
        """The data lines of the event that has begun and not ended, ``_size`` bytes together."""
        self._size = 0
        self._first_line = True
        self._after_cr = False

    def push(self, data: bytes) -> list[bytes]:
        """The data of each event that ``data`` completes. Raises ``EventTooLong``; the parser is of no use then."""
        data = self._one_kind_of_line_end(data)
        if b"\n" not in data:
            self._line += data
            self._check(len(self._line))
            return []
        *lines, rest = (bytes(self._line) + data).split(b"\n")
        self._line[:] = rest
        events = self._events(lines)
        self._check(len(rest))
        return events

    def _one_kind_of_line_end(self, data: bytes) -> bytes:
        """CR and CRLF as LF. A CR ends its line at once; an LF that follows it, even in a later piece, is its tail."""
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _events(self, lines: list[bytes]) -> list[bytes]:
        if self._first_line:
            self._first_line = False
            lines[0] = lines[0].removeprefix(_BOM)
        events = []
        for line in lines:
            if line.startswith(b"data:"):
                self._check(len(line))
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._size += len(line)
            elif line == b"data":
                self._data.append(b"")
            elif line:
                self._check(len(line))
            elif self._data:
                events.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                self._data.clear()
                self._size = 0
        return events

    def _check(self, more: int) -> None:
        if self._size + more > self._limit:
            raise EventTooLong
