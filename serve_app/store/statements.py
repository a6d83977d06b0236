"""The statements of the write path, made once: making one takes as long as SQLite takes to run it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Executable, Insert, Select, Update, bindparam, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from serve_app.store.schema import OPEN, labels, messages, turns, usage, writers

CLOSING = ("status", "metadata", "completion")
"""What closing a turn changes."""


@dataclass(frozen=True, slots=True)
class Statements:
    """``turn_statuses`` takes ``ids``; ``close_turn`` takes the key and ``CLOSING``, each with ``its_`` before the
    name; the others take rows."""

    turn_statuses: Select[tuple[str, str, str]]
    add_messages: Executable
    add_turns: Insert
    close_turn: Update
    add_labels: Insert
    open_usage: Executable
    close_usage: Executable
    hear_writer: Executable


@cache
def statements(dialect: str) -> Statements:
    """ON CONFLICT is spelt alike by both dialects, but SQLAlchemy keeps them apart."""
    insert_into: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    add_usage, add_writer = insert_into(usage), insert_into(writers)
    values = {column.name: column for column in add_usage.excluded if column.name != "entry_id"}
    still_open = or_(*(usage.c.status == status for status in OPEN))
    seen = {"seen_s": add_writer.excluded.seen_s}
    ids: BindParameter[list[str]] = bindparam("ids", expanding=True)
    return Statements(
        turn_statuses=select(turns.c.completion_id, turns.c.tenant, turns.c.status).where(
            turns.c.completion_id.in_(ids)
        ),
        add_messages=insert_into(messages).on_conflict_do_nothing(),
        add_turns=insert(turns),
        close_turn=_close_turn(),
        add_labels=insert(labels),
        open_usage=add_usage.on_conflict_do_nothing(),
        close_usage=add_usage.on_conflict_do_update(index_elements=["entry_id"], set_=values, where=still_open),
        hear_writer=add_writer.on_conflict_do_update(index_elements=["writer"], set_=seen),
    )


def _close_turn() -> Update:
    key = turns.c.completion_id == bindparam("its_completion_id"), turns.c.tenant == bindparam("its_tenant")
    return update(turns).where(*key).values({name: bindparam(f"its_{name}") for name in CLOSING})
