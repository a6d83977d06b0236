"""Recorded streams: the events of an answer, kept so that a client that lost its connection can go on reading."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Stretch:
    """What follows a position: ``events`` in order, each with its own. ``ended``: nothing comes after these.

    ``silent_s``: how long ago its recorder was heard; events or not, a living one is heard every few seconds.
    """

    events: tuple[tuple[int, bytes], ...]
    ended: bool
    silent_s: float = 0.0


class Streams(Protocol):
    """A stream is a tenant's and has one recorder. Its positions count from 0, without gaps.

    It is forgotten ten minutes after its end, or after its recorder fell silent. Every method raises ``StoreError``
    when the database cannot answer.
    """

    async def append(self, tenant: str, stream_id: str, first: int, events: Sequence[bytes], ended: bool) -> bool:
        """Durable on return; whether somebody reads along. ``first`` is the position of the first of ``events``.

        Without events it is a sign of life, or an end. Positions that are there already stay as they are, so that a
        write whose answer was lost can be repeated, with more behind it; what would leave a gap is not taken.
        """
        ...

    async def read(self, tenant: str, stream_id: str, after: int, limit: int, wait_s: float = 0.0) -> Stretch | None:
        """At most ``limit`` events after the position, -1 for all; None: there is no such stream.

        While there is none yet, waits up to ``wait_s`` for one: the answer comes as soon as something is appended.
        """
        ...

    async def drop(self, tenant: str, stream_id: str) -> None:
        """Forgets the stream now. What a recorder still appends to it is not taken."""
        ...
