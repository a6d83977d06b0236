"""Kept answers: what was answered to a request that may be sent twice, so that its work is done once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """A whole HTTP answer: of a stream, all of its events."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


class Claim(StrEnum):
    """What somebody who wants to do a key's work is told, where there is no answer yet."""

    MINE = "mine"
    """Do it, and say how it ended: ``keep`` or ``release``."""

    RUNNING = "running"
    """Another attempt is at it."""

    ANOTHER = "another"
    """The key belongs to a different request."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try at the work of a tenant's key. ``digest`` is the request's; ``id`` is the try's own.

    ``writer`` is the ingress that makes it: an attempt is dead when its writer is silent.
    """

    tenant: str
    key: str
    digest: bytes
    id: str
    writer: str


class Answers(Protocol):
    """Answers are kept for a day. Every method raises ``StoreError`` when the database cannot answer."""

    async def claim(self, attempt: Attempt, wait_s: float = 0.0) -> KeptAnswer | Claim:
        """The answer, or who is to make it: of all attempts that live, one. Idempotent by the attempt's id.

        While another attempt runs, waits up to ``wait_s`` for its end.
        """
        ...

    async def keep(self, attempt: Attempt, answer: KeptAnswer) -> bool:
        """Durable on return. False when the attempt was taken for dead, and the key is another's by now."""
        ...

    async def release(self, attempt: Attempt) -> None:
        """The attempt died without an answer: the next one may try."""
        ...
