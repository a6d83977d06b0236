"""Requests that go on to a server that speaks OpenAI itself: read as far as we must, so that it may judge the rest."""

from __future__ import annotations

from pydantic import Field

from serve_app.api.wire.options import Called, Metadata
from serve_app.protocol import Json


class ForwardedChat(Called):
    """``store`` is ours: the answer is kept here, not there."""

    messages: list[Json] = Field(min_length=1)
    store: bool = False
    metadata: Metadata = Field(default_factory=dict)
