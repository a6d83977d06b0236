"""The keys of the store, as this ingress knows them: all of them, looked up in memory, seconds old at most.

No request asks the database who it is from. A look takes the whole set where it changed, so a wrong key costs no
memory and, however many there are, no more than one look in ``pause_s``.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

from serve_app.errors import RequestError
from serve_app.protocol import FailureCode, Held, Key, Keys, Keyset, StoreError, is_ours

_NO_STORE = "Storage is not available now, and without it API keys cannot be checked. Try again."


@dataclass(frozen=True, slots=True)
class Tempo:
    """Seconds. What is known for ``fresh_s`` is taken as it is; up to ``stale_s`` too, with a look on the way for
    those who come next; older, nobody is admitted before a look. A revoked key opens nothing after ``stale_s``.

    While the store does not answer, nobody can revoke a key in it: what is known holds for ``outage_s``.
    """

    fresh_s: float = 1.0
    stale_s: float = 5.0
    outage_s: float = 300.0
    pause_s: float = 0.1
    timeout_s: float = 2.0


@dataclass(frozen=True, slots=True)
class _Known:
    """Digests are found by hash: they cannot be chosen, so the time that takes tells nothing of the keys."""

    version: int = -1
    by_digest: dict[str, Held] = field(default_factory=dict)
    by_id: dict[str, Key] = field(default_factory=dict)

    @classmethod
    def of(cls, keyset: Keyset) -> _Known:
        by_id = {held.key.id: held.key for held in keyset.held}
        return cls(keyset.version, {held.digest: held for held in keyset.held}, by_id)


class Keyring:
    """Belongs to one event loop. ``clock`` is wall time, ``monotonic`` never goes back; both in seconds."""

    def __init__(
        self,
        keys: Keys,
        *,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        tempo: Tempo | None = None,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._monotonic = monotonic
        self._tempo = tempo or Tempo()
        self._known = _Known()
        self._seen_s = float("-inf")
        self._looked_s = float("-inf")
        self._failed = False
        self._begun = 0
        self._done = 0
        self._looking: asyncio.Task[None] | None = None

    async def in_use(self) -> bool:
        """Whether there ever was a key: then nobody is admitted without one. ``RequestError`` where nobody knows yet.

        A store that is out for long makes no keys: what was known goes on.
        """
        return (await self._recent(float("inf"))).version > 0

    async def find(self, presented: Sequence[str]) -> Key | None:
        """The key that one of these texts is. Who sends one that is not known waits for a look that begins after it
        came: a key opens the door as soon as it is made. ``RequestError`` when the store cannot be asked."""
        digests = [sha256(text.encode()).hexdigest() for text in presented if is_ours(text)]
        if not digests:
            return None
        key = self._opened(await self._recent(self._tempo.outage_s), digests)
        return key if key is not None else self._opened(await self._next(), digests)

    async def key(self, key_id: str) -> Key | None:
        """The key of that id, unless it is revoked or expired."""
        key = (await self._recent(self._tempo.outage_s)).by_id.get(key_id)
        return key if key is not None and not self._is_over(key.expires_s) else None

    async def changed(self) -> None:
        """A key was changed by this ingress: on return it knows, unless the store is out."""
        with suppress(RequestError):
            await self._next()

    def _opened(self, known: _Known, digests: Sequence[str]) -> Key | None:
        for digest in digests:
            held = known.by_digest.get(digest)
            if held and hmac.compare_digest(held.digest, digest) and not self._is_over(held.until_s):
                return held.key
        return None

    def _is_over(self, until_s: float | None) -> bool:
        return until_s is not None and self._clock() >= until_s

    # --- looks --------------------------------------------------------------------------------------------------

    async def _recent(self, outage_s: float) -> _Known:
        """What is known, as old as the tempo allows, or ``outage_s`` where the store does not answer."""
        tempo, age_s = self._tempo, self._monotonic() - self._seen_s
        if age_s < tempo.fresh_s:
            return self._known
        if age_s < tempo.stale_s or (self._failed and age_s < outage_s):
            self._look()
            return self._known
        await asyncio.shield(self._look())
        if self._failed and age_s >= outage_s:
            raise RequestError(FailureCode.STORAGE_UNAVAILABLE, _NO_STORE)
        return self._known

    async def _next(self) -> _Known:
        """What a look found that begins from now on."""
        last = self._begun
        while self._done <= last:
            await asyncio.shield(self._look())
            if self._failed:
                raise RequestError(FailureCode.STORAGE_UNAVAILABLE, _NO_STORE)
        return self._known

    def _look(self) -> asyncio.Task[None]:
        """The look that is under way, or a new one. It never raises."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._take(), name="look at the keys")
        return self._looking

    async def _take(self) -> None:
        await asyncio.sleep(self._looked_s + self._tempo.pause_s - self._monotonic())
        self._begun += 1
        self._looked_s = self._monotonic()
        try:
            async with asyncio.timeout(self._tempo.timeout_s):
                found = await self._keys.keyset(self._known.version)
        except (StoreError, TimeoutError):
            self._failed = True
            return
        if found is not None:
            self._known = _Known.of(found)
        self._failed, self._done, self._seen_s = False, self._begun, self._looked_s
