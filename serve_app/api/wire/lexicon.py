"""``/tokenize`` and ``/detokenize``, in llama-server's shapes."""

from __future__ import annotations

from pydantic import Field

from serve_app.api.wire.options import TokenId
from serve_app.api.wire.shape import Shape


class TokenizeRequest(Shape):
    content: str
    add_special: bool = False
    parse_special: bool = True
    with_pieces: bool = False


class DetokenizeRequest(Shape):
    tokens: list[TokenId] = Field(max_length=150_000)
