"""``SqlStore``: the ledger over SQLAlchemy."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any

from alembic.util import CommandError
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import (
    Answers,
    Batches,
    Closed,
    CompletionQuery,
    Files,
    Json,
    Keys,
    Opened,
    Page,
    Store,
    StoreError,
    Streams,
)
from serve_app.store import reads, writes
from serve_app.store.answers import AnswerRoom
from serve_app.store.batches import BatchRoom
from serve_app.store.commit import CommitQueue
from serve_app.store.database import Database, parse, reason
from serve_app.store.desk import Desk, Operation
from serve_app.store.files import FileRoom
from serve_app.store.keys import KeyRoom
from serve_app.store.migrations import migrate
from serve_app.store.responses import SqlConversations, SqlResponses
from serve_app.store.rows import Ledger, joined, ledger
from serve_app.store.streams import StreamRoom

_QUEUED_BYTES = 64 << 20
"""What may wait to be written. As much again may be in the transaction that is under way."""


Work = Ledger | Operation


class SqlStore(Store):
    """Durable state in one database. Belongs to the event loop that opened it, and may be called concurrently there.

    All writes go through one queue into one transaction at a time; reads see every write that was acknowledged.
    """

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        """Use ``open``."""
        self._database = database
        self._clock = clock
        self._queue: CommitQueue[Work] = CommitQueue(self._commit, _QUEUED_BYTES)
        self._desk = Desk(database, self._queue, clock)
        self._stream_room = StreamRoom(self._desk)
        self.streams: Streams = self._stream_room
        self._file_room = FileRoom(self._desk)
        self.files: Files = self._file_room
        self._answer_room = AnswerRoom(self._desk, lambda: self._hearing_since_s)
        self.answers: Answers = self._answer_room
        self.batches: Batches = BatchRoom(self._desk)
        self.keys: Keys = KeyRoom(self._desk)
        self._hearing_since_s = clock()
        self.responses = SqlResponses(self._desk, lambda: self._hearing_since_s)
        self.conversations = SqlConversations(self._desk)

    @classmethod
    async def open(cls, url: str, *, clock: Callable[[], float] = time.time) -> SqlStore:
        """Creates what is missing, migrates, checks the settings. ``StoreError``, on one line, when that cannot be."""
        target, flavour = parse(url)
        try:
            await migrate(url)
        except CommandError:
            raise StoreError("The store's database was made by a newer version of this program.") from None
        except Exception as error:
            raise StoreError(f"The store did not start: {reason(error)}.") from None
        database = Database(target, flavour)
        try:
            await database.verify()
        except BaseException:
            await database.close()
            raise
        return cls(database, clock)

    async def close(self) -> None:
        """What was queued is written first."""
        await self._queue.close()
        await self._database.close()

    async def write(self, entries: Sequence[Opened | Closed]) -> frozenset[str]:
        if not entries:
            return frozenset()
        try:
            work = ledger(entries)
        except (TypeError, ValueError, RecursionError):
            raise ValueError("entries that are not JSON cannot be written, now or later") from None
        refused: frozenset[str] = await self._queue.submit(work, work.size())
        return refused

    async def beat(self, writer: str) -> None:
        await self._desk.write(lambda connection: writes.hear(connection, [writer], self._clock()))

    async def reap(self, older_than_s: float) -> int:
        """Also forgets what is kept for a time only.

        A store that could not listen, being down or its database, gives every writer the whole time again.
        """
        await self._stream_room.sweep()
        await self._file_room.sweep()
        await self._answer_room.sweep()
        silent_since_s = self._clock() - older_than_s
        if self._hearing_since_s > silent_since_s:
            return 0
        return await self._desk.write(lambda connection: writes.reap(connection, silent_since_s))

    async def completions(self, tenant: str, query: CompletionQuery) -> Page:
        async with self._database.reading() as connection:
            return await reads.completions(connection, tenant, query)

    async def completion(self, tenant: str, completion_id: str) -> Json | None:
        async with self._database.reading() as connection:
            return await reads.completion(connection, tenant, completion_id)

    async def set_metadata(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> Json | None:
        return await self._desk.write(
            lambda connection: writes.set_metadata(connection, tenant, completion_id, metadata)
        )

    async def delete_completion(self, tenant: str, completion_id: str) -> bool:
        return await self._desk.write(lambda connection: writes.delete_turn(connection, tenant, completion_id))

    async def messages(self, tenant: str, completion_id: str, query: CompletionQuery) -> Page | None:
        async with self._database.reading() as connection:
            return await reads.request_messages(connection, tenant, completion_id, query)

    async def check(self) -> None:
        """By a write: a full disk and a lost lock show in nothing less."""
        await self.beat("(check)")

    async def _commit(self, works: Sequence[Work]) -> list[Any]:
        """In order; entries that stand next to each other are written as one set of rows."""
        results: list[Any] = []
        try:
            async with self._database.writing() as connection:
                for _, group in groupby(works, key=type):
                    results += await self._execute(connection, list(group))
        except StoreError:
            self._hearing_since_s = self._clock()
            raise
        return results

    async def _execute(self, connection: AsyncConnection, works: list[Work]) -> list[Any]:
        """Of one kind."""
        ledgers = [work for work in works if isinstance(work, Ledger)]
        if ledgers:
            refused = await writes.record(connection, joined(ledgers), self._clock())
            return [refused] * len(ledgers)
        return [await work.run(connection) for work in works if isinstance(work, Operation)]
