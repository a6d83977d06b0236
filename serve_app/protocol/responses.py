"""Responses and conversations: what is kept of them, and the rooms that keep it.

Both stand on histories: chains of items, each of which has an ``id``. A response is a fixed place in a history, a
conversation is a name for one that moves on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from serve_app.protocol.vocabulary import Json

if TYPE_CHECKING:
    from serve_app.protocol.ledger import CompletionQuery, Page


@dataclass(frozen=True, slots=True)
class History:
    """Items in order, and the place they lead to: what comes next is added there."""

    items: tuple[Json, ...] = ()
    tip: bytes | None = None


@dataclass(frozen=True, slots=True)
class ResponseTurn:
    """A response to keep. ``items`` is what it adds to the history at ``base``, before its own output.

    ``response`` is the object as clients see it until it ends. ``conversation``: while the response lasts nobody else
    answers there; what it adds and says is appended once it completed. ``background``: it outlives its writer; whoever
    takes it over is given ``request``, without which nobody can. Then ``base`` has its items already, and ``added`` are
    those that are still to be appended to the conversation.
    """

    response_id: str
    items: tuple[Json, ...]
    response: Json
    base: bytes | None = None
    conversation: str | None = None
    background: bool = False
    request: Json | None = None
    added: tuple[Json, ...] = ()


@dataclass(frozen=True, slots=True)
class Orphan:
    """A background response whose writer died, now its new writer's to answer again from ``history``."""

    tenant: str
    response: Json
    request: Json
    history: History


class Responses(Protocol):
    """Ledger entries with a ``ResponseTurn`` make and end them. Every method raises ``StoreError`` like the Store."""

    async def get(self, tenant: str, response_id: str) -> Json | None:
        """The response as it is now."""
        ...

    async def delete(self, tenant: str, response_id: str) -> bool:
        """Whatever goes on from it stays whole. One that still runs is stopped by that."""
        ...

    async def cancel(self, tenant: str, response_id: str) -> Json | None:
        """The response as it is after that: cancelled, if it ran in the background; what else it was, it stays."""
        ...

    async def history(self, tenant: str, response_id: str) -> History | None:
        """Everything up to and with its output. None while it has not ended, too."""
        ...

    async def input_items(self, tenant: str, response_id: str, query: CompletionQuery) -> Page | None:
        """What the model was given; only ``after``, ``limit`` and ``order`` of the query count."""
        ...

    async def items(self, tenant: str, item_ids: Sequence[str]) -> Mapping[str, Json]:
        """Those of the items that are kept, wherever they are part of a history."""
        ...

    async def begin(self, tenant: str, response_id: str, writer: str) -> None:
        """A queued response of this writer is in progress."""
        ...

    async def claim(
        self, writer: str, silent_s: float, most: int, held: Sequence[tuple[str, str]] = ()
    ) -> tuple[Orphan, ...]:
        """Background responses whose writer was silent that long: from now on this writer's, and no other's.

        Its own too, but for those (tenant, id) that it holds: the answer to an earlier claim may have been lost. One
        that outlived several writers, or cannot be begun again, ends as failed instead.
        """
        ...

    async def lost(self, writer: str, keys: Sequence[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
        """Those of the responses (tenant, id) that are not this writer's to answer any more."""
        ...


class Conversations(Protocol):
    """Named histories. Every method raises ``StoreError`` like the Store; None and False: there is no such thing."""

    async def create(self, tenant: str, conversation: Json, items: Sequence[Json]) -> None:
        """``conversation`` is the object as clients see it."""
        ...

    async def get(self, tenant: str, conversation_id: str) -> Json | None: ...

    async def set_metadata(self, tenant: str, conversation_id: str, metadata: Mapping[str, str]) -> Json | None: ...

    async def delete(self, tenant: str, conversation_id: str) -> bool:
        """Its name, and the items that no response needs."""
        ...

    async def append(self, tenant: str, conversation_id: str, items: Sequence[Json]) -> bool: ...

    async def history(self, tenant: str, conversation_id: str) -> History | None: ...

    async def items(self, tenant: str, conversation_id: str, query: CompletionQuery) -> Page | None:
        """Only ``after``, ``limit`` and ``order`` of the query count."""
        ...

    async def item(self, tenant: str, conversation_id: str, item_id: str) -> Json | None: ...

    async def remove(self, tenant: str, conversation_id: str, item_id: str) -> Json | None:
        """Takes the item out; the conversation then."""
        ...
