"""Requests that are passed on to an upstream as they are, and what comes back: bytes that nobody here understands."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass
from typing import Protocol

from serve_app.protocol.events import Backend, Done, Failed


@dataclass(frozen=True, slots=True)
class RawRequest:
    """``path`` is relative to the upstream's base URL and holds the query; it never leads out of it.

    ``headers``: lower-case names; no credential, nothing that belongs to one hop only. ``has_body``: one follows,
    be it empty. ``api_key``: the caller's own
    key for the upstream, where the operator allows that; else the upstream's is used. ``timeout_s``: until the answer
    begins.
    """

    request_id: str
    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = ()
    has_body: bool = False
    api_key: str | None = None
    timeout_s: float = 600.0


@dataclass(frozen=True, slots=True)
class RawHead:
    """The upstream's answer begins. ``headers`` are those that a client may see."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RawBody:
    """A piece of its body. Of an event stream: whole events only, except what no blank line ends."""

    data: bytes


RawEvent = RawHead | RawBody | Done | Failed


class Upstream(Backend, Protocol):
    """A backend that also takes what only its own kind understands."""

    def forward(self, request: RawRequest, body: AsyncIterable[bytes]) -> AsyncGenerator[list[RawEvent], None]:
        """Stream the answer: ``RawHead``, then any number of ``RawBody``, then exactly one of ``Done`` or ``Failed``.

        ``Failed`` alone: no answer came. An empty list says "alive". ``body`` is read once; what its reading raises
        may end the stream as an exception or as ``Failed``. Closing the generator ends the exchange.
        """
        ...
