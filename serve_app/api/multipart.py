"""``multipart/form-data`` on its way to the disk: the file goes into a draft piece by piece, the fields are small."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from serve_app.api.blobs import Draft, unwritable
from serve_app.errors import RequestError
from serve_app.protocol import FailureCode

_MAX_FIELDS = 32
_MAX_FIELD_BYTES = 4096
_PIECE_BYTES = 1 << 20
"""What is written at once: each write is a trip to another thread."""


@dataclass(slots=True)
class Form:
    """What came: the text fields by name, and, of the file, what the client calls it (None: there was none)."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None


async def receive(request: Request, draft: Draft, name: str, most_bytes: int) -> Form:
    """Reads the whole body; its file ``name`` is in ``draft`` then.

    Raises ``RequestError`` for a file that is larger than ``most_bytes`` or missing, and for what is not such a form.
    """
    reader = _Reader(draft, name, most_bytes)
    try:
        parser = MultipartParser(_boundary(request), reader.callbacks())  # type: ignore[arg-type]  # names of its own
        piece = bytearray()
        async for chunk in request.stream():
            piece += chunk
            if len(piece) >= _PIECE_BYTES:
                await asyncio.to_thread(parser.write, bytes(piece))
                piece.clear()
        await asyncio.to_thread(parser.write, bytes(piece))
    except FormParserError:
        raise _refusal("The body is not valid multipart/form-data.") from None
    except OSError:
        raise unwritable() from None
    if not reader.whole:
        raise _refusal("The body is not valid multipart/form-data: its end is missing.")
    if reader.form.filename is None:
        text = f"Missing required parameter: '{name}'. It must be sent as a file."
        raise RequestError(FailureCode.INVALID_REQUEST, text, name, "missing_required_parameter")
    return reader.form


class _Reader:
    """The parser's callbacks. One part at a time; only the file may be large."""

    def __init__(self, draft: Draft, name: str, most_bytes: int) -> None:
        self.form = Form()
        self.whole = False
        self._draft = draft
        self._name = name
        self._most_bytes = most_bytes
        self._header = self._value = b""
        self._disposition = b""
        self._field: str | None = None
        self._text = b""

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._take_header,
            "on_header_value": self._take_value,
            "on_header_end": self._end_header,
            "on_headers_finished": self._begin_data,
            "on_part_data": self._take_data,
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        self._disposition = self._text = b""

    def _take_header(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._disposition = self._value
        self._header = self._value = b""

    def _begin_data(self) -> None:
        _, options = parse_options_header(self._disposition)
        name, filename = _text(options.get(b"name", b"")), options.get(b"filename")
        self._field = None if filename is not None else name
        if filename is None:
            if len(self.form.fields) >= _MAX_FIELDS:
                raise _refusal("The form has too many fields.")
        elif name != self._name or self.form.filename is not None:
            raise _refusal(f"The form must hold one file, in the field '{self._name}'.", self._name)
        else:
            self.form.filename = _text(filename)

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._field is None:
            if self._draft.size + end - start > self._most_bytes:
                raise RequestError(
                    FailureCode.TOO_LARGE, f"The file is larger than {self._most_bytes} bytes.", self._name
                )
            self._draft.write(memoryview(data)[start:end])
        else:
            self._text += data[start:end]
            if len(self._text) > _MAX_FIELD_BYTES:
                raise _refusal("A field of the form is too long.")

    def _end(self) -> None:
        if self._field is not None:
            self.form.fields[self._field] = _text(self._text)

    def _finish(self) -> None:
        self.whole = True


def _boundary(request: Request) -> bytes:
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if not boundary:
        raise _refusal("The body must be multipart/form-data, with its boundary in Content-Type.")
    return boundary


def _text(data: bytes) -> str:
    """As UTF-8, which every client of today sends."""
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


def _refusal(message: str, param: str | None = None) -> RequestError:
    return RequestError(FailureCode.INVALID_REQUEST, message, param)
