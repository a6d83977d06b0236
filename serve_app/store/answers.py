"""The room of kept answers: ``Answers`` over SQLAlchemy."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sqlalchemy import ColumnElement, delete, insert, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from serve_app.protocol import Answers, Attempt, Claim, KeptAnswer
from serve_app.store.desk import Desk
from serve_app.store.rows import decode, encode
from serve_app.store.schema import answers, writers
from serve_app.store.waiting import Bell
from serve_app.store.writes import hear

_KEPT_S = 86_400.0
_SILENT_S = 20.0
"""A writer that was not heard for so long is dead, and its attempts with it."""

_LONGEST_S = 900.0
"""No request takes that long: an attempt that does has lost its end."""

_SWEPT = 200


class AnswerRoom(Answers):
    """Belongs to the store's event loop. ``hearing_since_s``: since when writers could be heard without a break."""

    def __init__(self, desk: Desk, hearing_since_s: Callable[[], float]) -> None:
        self._desk = desk
        self._hearing_since_s = hearing_since_s
        self._bell = Bell()

    async def claim(self, attempt: Attempt, wait_s: float = 0.0) -> KeptAnswer | Claim:
        with self._bell.listening((attempt.tenant, attempt.key)) as rung:
            found = await self._desk.write(lambda connection: self._claim(connection, attempt))
            if found is not Claim.RUNNING or not wait_s:
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await rung.wait()
        return await self._desk.write(lambda connection: self._claim(connection, attempt))

    async def keep(self, attempt: Attempt, answer: KeptAnswer) -> bool:
        headers = encode([[name.decode("latin-1"), value.decode("latin-1")] for name, value in answer.headers])
        values = {"status": answer.status, "headers": headers, "body": answer.body}
        change = update(answers).where(*_mine(attempt)).values(values)
        kept = await self._desk.write(lambda connection: _changed(connection, change), 1024 + len(answer.body))
        self._bell.ring((attempt.tenant, attempt.key))
        return kept

    async def release(self, attempt: Attempt) -> None:
        gone = delete(answers).where(*_mine(attempt), answers.c.status.is_(None))
        await self._desk.write(lambda connection: _changed(connection, gone))
        self._bell.ring((attempt.tenant, attempt.key))

    async def sweep(self) -> None:
        """Forgets what is past its time, a bounded number at once."""
        old = select(answers.c.tenant, answers.c.key).where(answers.c.begun_s < self._desk.clock() - _KEPT_S)
        async with self._desk.reading() as connection:
            keys = [(row.tenant, row.key) for row in await connection.execute(old.limit(_SWEPT))]
        if keys:
            gone = delete(answers).where(tuple_(answers.c.tenant, answers.c.key).in_(keys))
            await self._desk.write(lambda connection: _changed(connection, gone))

    async def _claim(self, connection: AsyncConnection, attempt: Attempt) -> KeptAnswer | Claim:
        now_s = self._desk.clock()
        its = answers.c.tenant == attempt.tenant, answers.c.key == attempt.key
        seen = writers.c.seen_s.label("seen_s")
        query = select(answers, seen).outerjoin(writers, writers.c.writer == answers.c.writer).where(*its)
        row = (await connection.execute(query)).first()
        if row is not None and row.begun_s >= now_s - _KEPT_S:
            if row.digest != attempt.digest:
                return Claim.ANOTHER
            if row.status is not None:
                return _answer(row)
            if row.attempt != attempt.id and not self._dead(row, now_s):
                return Claim.RUNNING
        await connection.execute(delete(answers).where(*its))
        values = {"tenant": attempt.tenant, "key": attempt.key, "digest": attempt.digest, "attempt": attempt.id}
        await connection.execute(insert(answers), values | {"writer": attempt.writer, "begun_s": now_s})
        await hear(connection, [attempt.writer], now_s)
        return Claim.MINE

    def _dead(self, row: Any, now_s: float) -> bool:
        heard_s = max(row.seen_s or 0.0, self._hearing_since_s())
        return heard_s < now_s - _SILENT_S or row.begun_s < now_s - _LONGEST_S


async def _changed(connection: AsyncConnection, change: Any) -> bool:
    """Whether a row was there to change."""
    return bool((await connection.execute(change)).rowcount)


def _mine(attempt: Attempt) -> tuple[ColumnElement[bool], ...]:
    return answers.c.tenant == attempt.tenant, answers.c.key == attempt.key, answers.c.attempt == attempt.id


def _answer(row: Any) -> KeptAnswer:
    headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in decode(row.headers))
    return KeptAnswer(row.status, headers, row.body)
