"""What is kept of a request, and the Store that keeps it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from serve_app.protocol.answers import Answers
from serve_app.protocol.batches import Batches
from serve_app.protocol.events import Usage
from serve_app.protocol.files import Files
from serve_app.protocol.keys import Keys
from serve_app.protocol.responses import Conversations, Responses, ResponseTurn
from serve_app.protocol.streams import Streams
from serve_app.protocol.vocabulary import Json, Order


@dataclass(frozen=True, slots=True)
class Turn:
    """A chat completion to keep (``store: true``): its id, its request and its messages, as the client sent them."""

    completion_id: str
    messages: tuple[Json, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Opened:
    """A request was admitted. Becomes one usage row, and one stored turn or response when ``turn`` is given.

    ``writer`` names the ingress replica that will close it; ``started_s`` is wall-clock seconds since the epoch.
    """

    entry_id: str
    writer: str
    tenant: str
    request_id: str
    model: str
    route: str
    served_by: Literal["local", "upstream"]
    started_s: float
    user: str | None = None
    turn: Turn | ResponseTurn | None = None


@dataclass(frozen=True, slots=True)
class Closed:
    """A request ended. Carries its ``Opened`` so that it can be written even if the opening never was.

    ``completion`` is the whole object for a stored turn, a ``chat.completion`` or a ``response``: with what was
    generated when the request was cut, None when there is nothing to keep. Seconds are durations.
    """

    opened: Opened
    status: Literal["completed", "failed", "cancelled"]
    usage: Usage
    duration_s: float
    first_token_s: float | None = None
    failure: str | None = None
    completion: Json | None = None


@dataclass(frozen=True, slots=True)
class CompletionQuery:
    """A page of stored completions, by creation. ``after`` is the last id of the page before."""

    after: str | None = None
    limit: int = 20
    order: Order = "asc"
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Page:
    """``data`` in order; ``has_more``: there is another page after it."""

    data: tuple[Json, ...]
    has_more: bool


class StoreError(Exception):
    """The store cannot answer now (down, locked, full, overloaded). Retry later; nothing was half done."""


class CursorNotFound(Exception):
    """``after`` names nothing in the list."""


class Store(Protocol):
    """Durable state. Every method raises ``StoreError`` when the database cannot answer; reads never cross tenants."""

    streams: Streams
    responses: Responses
    conversations: Conversations
    files: Files
    answers: Answers
    batches: Batches
    keys: Keys

    async def write(self, entries: Sequence[Opened | Closed]) -> frozenset[str]:
        """Durable on return, all or nothing, idempotent by ``entry_id``; a late ``Opened`` never reopens.

        Answers with the ids of the openings it refused, of which it kept nothing: their conversation is busy with
        another response, or the history they go on from is gone.

        Raises ``ValueError`` for entries that can never be written (what is not JSON).
        """
        ...

    async def beat(self, writer: str) -> None:
        """The writer lives. Entries it opened stay in progress."""
        ...

    async def reap(self, older_than_s: float) -> int:
        """Entries in progress whose writer was silent that long become ``incomplete``; how many did."""
        ...

    async def completions(self, tenant: str, query: CompletionQuery) -> Page: ...

    async def completion(self, tenant: str, completion_id: str) -> Json | None: ...

    async def set_metadata(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> Json | None: ...

    async def delete_completion(self, tenant: str, completion_id: str) -> bool: ...

    async def messages(self, tenant: str, completion_id: str, query: CompletionQuery) -> Page | None:
        """The request's messages, each with an ``id``; only ``after``, ``limit`` and ``order`` of the query count."""
        ...

    async def check(self) -> None:
        """Raises ``StoreError`` unless a write could succeed now."""
        ...
