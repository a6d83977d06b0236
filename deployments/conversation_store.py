"""ConversationStore: the persistence actor. One replica owns the database; a shell over ``SqlStore``."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any

from deployments.handles import LEDGER
from serve_app.protocol import StoreError

if TYPE_CHECKING:
    from serve_app.store.store import SqlStore

_log = logging.getLogger("ray.serve")
_RETRY_S = 2.0


class ConversationStore:
    """Holds the ``Store``. A database that is down when the actor starts is tried again until it answers."""

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

    async def call(self, room: str, method: str, *arguments: Any, **named: Any) -> Any:
        """A method of the store, or of one of its rooms. Only an ingress holds the handle that sends this."""
        store = self._ready()
        return await getattr(store if room == LEDGER else getattr(store, room), method)(*arguments, **named)

    async def __del__(self) -> None:
        self._opening.cancel()
        if self._store:
            await self._store.close()
