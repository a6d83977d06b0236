"""ConversationStore: the persistence actor. One replica owns the database; a shell over ``SqlStore``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from serve_app.protocol import Closed, CompletionQuery, Json, Opened, Page, StoreError

if TYPE_CHECKING:
    from serve_app.store.store import SqlStore

_log = logging.getLogger("ray.serve")
_RETRY_S = 2.0


class ConversationStore:
    """Implements ``Store``. A database that is down when the actor starts is tried again until it answers."""

    async def __init__(self, url: str, log_level: str = "INFO") -> None:  # type: ignore[misc]  # Serve awaits it
        logging.getLogger("llm_backend").setLevel(log_level)
        self._store: SqlStore | None = None
        self._complaint = "The store is starting."
        self._opening = asyncio.create_task(self._open(url))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self._opening), 5.0)

    async def _open(self, url: str) -> None:
        # Here, not above: who builds the graph does without SQLAlchemy, 0.6 s of imports.
        from serve_app.store.store import SqlStore

        while True:
            try:
                self._store = await SqlStore.open(url)
                return
            except StoreError as error:
                if self._complaint != str(error):
                    self._complaint = str(error)
                    _log.error(self._complaint)
            await asyncio.sleep(_RETRY_S)

    def _ready(self) -> SqlStore:
        if self._store is None:
            raise StoreError(self._complaint)
        return self._store

    async def write(self, entries: Sequence[Opened | Closed]) -> None:
        await self._ready().write(entries)

    async def beat(self, writer: str) -> None:
        await self._ready().beat(writer)

    async def reap(self, older_than_s: float) -> int:
        return await self._ready().reap(older_than_s)

    async def completions(self, tenant: str, query: CompletionQuery) -> Page:
        return await self._ready().completions(tenant, query)

    async def completion(self, tenant: str, completion_id: str) -> Json | None:
        return await self._ready().completion(tenant, completion_id)

    async def set_metadata(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> Json | None:
        return await self._ready().set_metadata(tenant, completion_id, metadata)

    async def delete_completion(self, tenant: str, completion_id: str) -> bool:
        return await self._ready().delete_completion(tenant, completion_id)

    async def messages(self, tenant: str, completion_id: str, query: CompletionQuery) -> Page | None:
        return await self._ready().messages(tenant, completion_id, query)

    async def check(self) -> None:
        await self._ready().check()

    async def __del__(self) -> None:
        self._opening.cancel()
        if self._store:
            await self._store.close()
