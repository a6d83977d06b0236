"""The statements of the write path, made once: making one takes as long as SQLite takes to run it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Executable, Insert, Select, Update, bindparam, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from serve_app.store.schema import OPEN, labels, messages, responses, turns, usage, writers

CLOSING = ("status", "metadata", "completion")
"""What closing a turn changes."""


@dataclass(frozen=True, slots=True)
class Statements:
    """``turn_statuses`` and ``response_standings`` take ``ids``, ``messages_there`` takes ``hashes``; ``close_turn``
    takes the key and ``CLOSING``, ``end_response`` the key and what ends it, each with ``its_`` before the name; the
    others take rows."""

    turn_statuses: Select[tuple[str, str, str]]
    add_messages: Executable
    add_turns: Insert
    close_turn: Update
    add_labels: Insert
    open_usage: Executable
    close_usage: Executable
    hear_writer: Executable
    response_standings: Select[tuple[str, str, str, str]]
    messages_there: Select[tuple[bytes]]
    add_responses: Insert
    end_response: Update


@cache
def statements(dialect: str) -> Statements:
    """ON CONFLICT is spelt alike by both dialects, but SQLAlchemy keeps them apart."""
    insert_into: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    add_usage, add_writer = insert_into(usage), insert_into(writers)
    values = {column.name: column for column in add_usage.excluded if column.name != "entry_id"}
    still_open = or_(*(usage.c.status == status for status in OPEN))
    seen = {"seen_s": add_writer.excluded.seen_s}
    ids: BindParameter[list[str]] = bindparam("ids", expanding=True)
    hashes: BindParameter[list[bytes]] = bindparam("hashes", expanding=True)
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
        response_standings=select(
            responses.c.response_id, responses.c.tenant, responses.c.status, responses.c.writer
        ).where(responses.c.response_id.in_(ids)),
        messages_there=select(messages.c.hash).where(messages.c.hash.in_(hashes)),
        add_responses=insert(responses),
        end_response=_end_response(),
        hear_writer=add_writer.on_conflict_do_update(index_elements=["writer"], set_=seen),
    )


def _close_turn() -> Update:
    key = turns.c.completion_id == bindparam("its_completion_id"), turns.c.tenant == bindparam("its_tenant")
    return update(turns).where(*key).values({name: bindparam(f"its_{name}") for name in CLOSING})


def _end_response() -> Update:
    key = responses.c.response_id == bindparam("its_response_id"), responses.c.tenant == bindparam("its_tenant")
    ended: dict[str, Any] = {
        "status": "ended",
        "request": None,
        "response": bindparam("its_response"),
        "tip": bindparam("its_tip"),
    }
    return update(responses).where(*key).values(ended)
