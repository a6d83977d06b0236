"""What happened, on its way to the store: one writer per ingress, many requests per commit.

Nothing here waits for the database except the two callers that asked for it: other requests' entries go to the spool,
which survives this process, and to the store a moment later. While the store cannot answer, what is pending stays
pending, in order, and is tried again; a stored request is refused, any other is served all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from itertools import islice
from typing import Literal

from serve_app.api.pending import Item, Rhythm, durable
from serve_app.api.spool import Spool
from serve_app.errors import RequestError
from serve_app.protocol import Closed, FailureCode, Opened, Store, StoreError, Usage

log = logging.getLogger(__name__)

_BATCH = 256
_PATIENCE_S = 0.25
_DROP_LOG_S = 60.0
_UNAVAILABLE = "The request asked to be stored, and storage is not available now. Try again, or send `store: false`."
_BUSY = "Another response is being generated in this conversation, or what it goes on from was deleted. Try again."


class Ledger:
    """Owns the pending entries and three tasks: flush, beat, reap. Everything runs on the loop that called ``start``.

    ``_pending`` holds at most one item per entry: a ``Closed`` supersedes an ``Opened`` that was not written yet, for
    it carries it. An item leaves only when it is durable, or when a store that is well rejects it.
    """

    def __init__(
        self,
        store: Store,
        writer: str,
        *,
        store_timeout_s: float = 2.0,
        max_pending: int = 10_000,
        rhythm: Rhythm | None = None,
        spool: Spool | None = None,
    ) -> None:
        self.writer = writer
        self._spool = spool
        self._store = store
        self._store_timeout_s = store_timeout_s
        self._max_pending = max_pending
        self.rhythm = rhythm or Rhythm()
        self._pending: dict[str, Item] = {}
        self._flight_since: float | None = None
        self._failing_since: float | None = None
        self._wake = asyncio.Event()
        self._urgent = asyncio.Event()
        self._stopping = False
        self._tasks: tuple[asyncio.Task[None], ...] = ()
        self._dropped = 0
        self._dropped_logged_s = float("-inf")

    def start(self) -> None:
        """Begins the background work; once."""
        rhythm = self.rhythm
        for entry in self._spool.recover() if self._spool else ():
            self._add(entry)
        self._tasks = (
            asyncio.create_task(self._flush()),
            asyncio.create_task(self._every(rhythm.beat_s, lambda: self._store.beat(self.writer))),
            asyncio.create_task(self._every(rhythm.reap_s, lambda: self._store.reap(rhythm.reap_older_than_s))),
        )

    async def stop(self) -> None:
        """Writes what is pending, for ``stop_s`` at most, and ends the background work."""
        self._stopping = True
        self._wake.set()
        self._urgent.set()
        if self._tasks:
            await asyncio.wait(self._tasks[:1], timeout=self.rhythm.stop_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._pending:
            log.error("%d ledger entries could not be stored before the end", len(self._pending))
        if self._spool:
            self._spool.close()

    async def open(self, opened: Opened) -> None:
        """Notes a request. With a turn: durable on return, or ``RequestError``; without: returns at once.

        Of what the store refused nothing is kept anywhere.

        The entry is the caller's to close once this has returned. Refused, it is withdrawn; cancelled, it is closed
        as cancelled.
        """
        if opened.turn is None:
            self._note(opened)
            self._add_unless_full(opened, self._max_pending)
            return
        if self._down():
            raise RequestError(FailureCode.STORAGE_UNAVAILABLE, _UNAVAILABLE)
        item = self._add(opened)
        try:
            kept = await durable(item, self._store_timeout_s)
        except asyncio.CancelledError:
            self._end(item, "cancelled")
            raise
        if item.refused:
            raise RequestError(FailureCode.CONFLICT, _BUSY, detail="conversation_locked")
        if not kept:
            self._withdraw(item)
            raise RequestError(FailureCode.STORAGE_UNAVAILABLE, _UNAVAILABLE)

    async def close(self, closed: Closed) -> bool:
        """Notes how a request ended. Whether that is durable already; if not, it is tried until it is.

        With a turn: waits up to ``store_timeout_s``. Without: the spool has it; where there is none, a moment, and only
        while the store is well.
        """
        if closed.opened.turn is not None:
            return await durable(self._add(closed), self._store_timeout_s)
        noted = self._note(closed)
        item = self._add_unless_full(closed, 2 * self._max_pending)
        if noted:
            return True
        return item is not None and not self._ailing() and await durable(item, _PATIENCE_S)

    def _note(self, entry: Opened | Closed) -> bool:
        """Whether a crash of this process can no longer lose the entry."""
        if self._spool is None:
            return False
        try:
            self._spool.note(entry)
        except OSError:
            log.exception("the spool cannot be written: entries wait for the database instead")
            self._spool = None
        return self._spool is not None

    # --- what is pending ----------------------------------------------------------------------------------------

    def _add(self, entry: Opened | Closed) -> Item:
        loop = asyncio.get_running_loop()
        item = Item(entry, loop.create_future(), loop.time())
        self._pending[item.opened.entry_id] = item
        self._wake.set()
        if self._spool is None or item.opened.turn is not None:
            self._urgent.set()
        return item

    def _add_unless_full(self, entry: Opened | Closed, limit: int) -> Item | None:
        """Openings have the lower limit: beyond it, their closings alone are kept, which carry them."""
        opened = entry if isinstance(entry, Opened) else entry.opened
        if len(self._pending) < limit or opened.entry_id in self._pending:
            return self._add(entry)
        self._dropped += 1
        now_s = asyncio.get_running_loop().time()
        if now_s - self._dropped_logged_s >= _DROP_LOG_S:
            self._dropped_logged_s = now_s
            log.error("the store has not answered for too long: %d ledger entries dropped so far", self._dropped)
        return None

    def _withdraw(self, item: Item) -> None:
        """Nobody will close this opening: forget it, or close it where it may have reached the store."""
        if item.stored.done():
            return
        if item.tried:
            self._end(item, "failed", FailureCode.STORAGE_UNAVAILABLE)
        else:
            del self._pending[item.opened.entry_id]

    def _end(self, item: Item, status: Literal["failed", "cancelled"], failure: FailureCode | None = None) -> None:
        duration_s = asyncio.get_running_loop().time() - item.since_s
        self._add(Closed(item.opened, status, Usage(), duration_s, failure=failure))

    # --- the store ----------------------------------------------------------------------------------------------

    def _down(self) -> bool:
        """Whether nothing is written any more, or writing has failed or hung for as long as a caller would wait."""
        if self._stopping:
            return True
        now_s = asyncio.get_running_loop().time()
        since = (self._failing_since, self._flight_since)
        return any(moment is not None and now_s - moment >= self._store_timeout_s for moment in since)

    def _ailing(self) -> bool:
        """Whether waiting for the store would only slow down a request that does not depend on it."""
        late_s = asyncio.get_running_loop().time() - _PATIENCE_S
        return self._failing_since is not None or (self._flight_since is not None and self._flight_since < late_s)

    async def _flush(self) -> None:
        backoff_s = self.rhythm.first_retry_s
        while self._pending or not self._stopping:
            if not self._pending and self._failing_since is None:
                self._wake.clear()
                await self._wake.wait()
                continue
            await self._gather()
            try:
                await self._fly(list(islice(self._pending.values(), _BATCH)))
            except Exception as error:
                self._suspect(error)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, self.rhythm.last_retry_s)
            else:
                self._recovered()
                backoff_s = self.rhythm.first_retry_s

    async def _gather(self) -> None:
        """Wait for more to write, unless somebody waits for what there is or it is a commit's worth already."""
        if not self._urgent.is_set() and len(self._pending) < _BATCH:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.rhythm.linger_s):
                    await self._urgent.wait()
        self._urgent.clear()
        if len(self._pending) > _BATCH or self._stopping:
            self._urgent.set()

    async def _fly(self, items: list[Item]) -> None:
        """One commit of these items, or, with nothing to write, a probe. Raises when the store cannot answer."""
        for item in items:
            item.tried = True
        self._flight_since = asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(self.rhythm.call_s):
                refused = await self._put([item.entry for item in items])
        except (StoreError, TimeoutError):
            raise
        except Exception as error:
            await self._isolate(items, error)
        else:
            for item in items:
                item.refused = item.opened.entry_id in refused
            self._land(items, stored=True)
        finally:
            self._flight_since = None

    async def _put(self, entries: list[Opened | Closed]) -> frozenset[str]:
        if entries:
            return await self._store.write(entries)
        await self._store.check()
        return frozenset()

    async def _isolate(self, items: list[Item], error: Exception) -> None:
        """Finds the entries that a store which is well rejects, so that they cannot hold up all the others."""
        if len(items) > 1:
            middle = len(items) // 2
            await self._fly(items[:middle])
            await self._fly(items[middle:])
            return
        async with asyncio.timeout(self.rhythm.call_s):
            await self._store.check()
        for item in items:
            log.error("the store rejects ledger entry %s", item.opened.entry_id, exc_info=error)
        self._land(items, stored=False)

    def _land(self, items: list[Item], *, stored: bool) -> None:
        for item in items:
            item.stored.set_result(stored and not item.refused)
            if self._pending.get(item.opened.entry_id) is item:
                del self._pending[item.opened.entry_id]
                self._settle(item.entry)

    def _settle(self, entry: Opened | Closed) -> None:
        """The spool may forget what has ended, and what a dead writer began: the reaper ends that."""
        if self._spool and (isinstance(entry, Closed) or entry.writer != self.writer):
            self._spool.settle(entry.entry_id if isinstance(entry, Opened) else entry.opened.entry_id)

    def _suspect(self, error: Exception) -> None:
        if not isinstance(error, StoreError | TimeoutError):
            log.error("a call to the store failed", exc_info=error)
        if self._failing_since is None:
            log.warning("the store does not answer; %d ledger entries wait", len(self._pending))
            self._failing_since = asyncio.get_running_loop().time()
        self._wake.set()

    def _recovered(self) -> None:
        if self._failing_since is not None:
            log.warning("the store answers again")
        self._failing_since = None

    async def _every(self, interval_s: float, call: Callable[[], Awaitable[object]]) -> None:
        while True:
            try:
                async with asyncio.timeout(self.rhythm.call_s):
                    await call()
            except Exception as error:
                self._suspect(error)
            await asyncio.sleep(interval_s)
