"""The tables. ``migrations`` makes them; this is how the code names them.

Client JSON is bytes, not the database's JSON or text: both databases must give back what was sent, to the byte, NUL
characters, lone surrogates, number spelling and key order included, and Postgres takes no NUL in either.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Dialect,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    literal,
    text,
)
from sqlalchemy.types import TypeEngine

IN_PROGRESS = literal("in_progress", literal_execute=True)
"""In the SQL text, not a parameter: only so can a planner know that the partial indexes apply."""

RESPONSE_OPEN = literal("open", literal_execute=True)

OPEN = ("in_progress", "incomplete")
"""What a closing may still change: the reaper's verdict is a guess, the writer's is the truth."""


class Name(TypeDecorator[str]):
    """Text that is compared by bytes. NUL and lone surrogates, which Postgres refuses, become replacement marks.

    Names are ours or the operator's; a client's odd one is then recorded, or looked up in vain, instead of failing.
    """

    impl = Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return Text(collation="C") if dialect.name == "postgresql" else Text()

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None:
            return None
        return value.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


METADATA = MetaData()

messages = Table(
    "messages",
    METADATA,
    Column("hash", LargeBinary, primary_key=True),
    Column("parent", LargeBinary, ForeignKey("messages.hash")),
    Column("body", LargeBinary, nullable=False),
    Column("item", LargeBinary),
    Index("ix_messages_parent", "parent"),
    Index(
        "ix_messages_item",
        "item",
        sqlite_where=text("item IS NOT NULL"),
        postgresql_where=text("item IS NOT NULL"),
    ),
)
"""Immutable, addressed by content: ``hash`` covers the tenant, the body and all messages before it.

The items of responses and conversations are messages too; ``item`` is the digest of such a one's tenant and id.
"""

turns = Table(
    "turns",
    METADATA,
    Column("completion_id", Name, primary_key=True),
    Column("tenant", Name, primary_key=True),
    Column("tip", LargeBinary, ForeignKey("messages.hash")),
    Column("model", Name, nullable=False),
    Column("created", Double, nullable=False),
    Column("status", Name, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("completion", LargeBinary),
    Column("writer", Name, nullable=False),
    Index("ix_turns_tip", "tip"),
    Index(
        "ix_turns_listed",
        "tenant",
        "created",
        "completion_id",
        sqlite_where=text("completion IS NOT NULL"),
        postgresql_where=text("completion IS NOT NULL"),
    ),
    Index(
        "ix_turns_listed_by_model",
        "tenant",
        "model",
        "created",
        "completion_id",
        sqlite_where=text("completion IS NOT NULL"),
        postgresql_where=text("completion IS NOT NULL"),
    ),
    Index(
        "ix_turns_in_progress",
        "writer",
        sqlite_where=text("status = 'in_progress'"),
        postgresql_where=text("status = 'in_progress'"),
    ),
)
"""One chat completion: ``tip`` is its last request message. Clients see it once ``completion`` is there.

A deleted turn stays as a row without content (status ``deleted``): a late retry of its writing must not revive it,
and a list that was being read page by page can go on after it.
"""

labels = Table(
    "labels",
    METADATA,
    Column("completion_id", Name, primary_key=True),
    Column("tenant", Name, primary_key=True),
    Column("pair", LargeBinary, primary_key=True),
    ForeignKeyConstraint(["completion_id", "tenant"], ["turns.completion_id", "turns.tenant"]),
    Index("ix_labels_pair", "tenant", "pair", "completion_id"),
)
"""The metadata of turns clients see, for filters: ``pair`` is the digest of one key and its value."""

usage = Table(
    "usage",
    METADATA,
    Column("entry_id", Name, primary_key=True),
    Column("tenant", Name, nullable=False),
    Column("request_id", Name, nullable=False),
    Column("model", Name, nullable=False),
    Column("route", Name, nullable=False),
    Column("served_by", Name, nullable=False),
    Column("user", Name),
    Column("status", Name, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("started_s", Double, nullable=False),
    Column("duration_s", Double),
    Column("first_token_s", Double),
    Column("failure", Name),
    Column("writer", Name, nullable=False),
    Index("ix_usage_tenant", "tenant", "started_s"),
    Index(
        "ix_usage_in_progress",
        "writer",
        sqlite_where=text("status = 'in_progress'"),
        postgresql_where=text("status = 'in_progress'"),
    ),
)
"""One request, stored or not: who asked what of which model, and what it cost."""

writers = Table(
    "writers",
    METADATA,
    Column("writer", Name, primary_key=True),
    Column("seen_s", Double, nullable=False),
)
"""When each writer was last heard, in epoch seconds of the store's clock."""

streams = Table(
    "streams",
    METADATA,
    Column("tenant", Name, primary_key=True),
    Column("stream_id", Name, primary_key=True),
    Column("following", BigInteger, nullable=False),
    Column("ended", Boolean, nullable=False),
    Column("heard_s", Double, nullable=False),
    Index("ix_streams_heard", "heard_s"),
)
"""One recorded stream: ``following`` is the position after its last event; ``heard_s`` when its recorder wrote last."""

stretches = Table(
    "stretches",
    METADATA,
    Column("tenant", Name, primary_key=True),
    Column("stream_id", Name, primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("following", BigInteger, nullable=False),
    Column("events", LargeBinary, nullable=False),
)
"""Events that were written together: positions ``first`` up to, not including, ``following``."""

responses = Table(
    "responses",
    METADATA,
    Column("response_id", Name, primary_key=True),
    Column("tenant", Name, primary_key=True),
    Column("given", LargeBinary, ForeignKey("messages.hash")),
    Column("tip", LargeBinary, ForeignKey("messages.hash")),
    Column("conversation", Name),
    Column("status", Name, nullable=False),
    Column("response", LargeBinary),
    Column("background", Boolean, nullable=False),
    Column("request", LargeBinary),
    Column("attempts", BigInteger, nullable=False),
    Column("writer", Name, nullable=False),
    Index("ix_responses_given", "given"),
    Index("ix_responses_tip", "tip"),
    Index(
        "ix_responses_open",
        "tenant",
        "conversation",
        sqlite_where=text("status = 'open'"),
        postgresql_where=text("status = 'open'"),
    ),
)
"""One response: ``given`` is the last item the model was given, ``tip`` the last that it said, once it ended.

``status`` is ``open``, ``ended`` or ``deleted``; ``response``, what clients see, says more. A deleted one stays as a
row without content: a late retry of its writing must not revive it. An open one holds its conversation.
"""

conversations = Table(
    "conversations",
    METADATA,
    Column("conversation_id", Name, primary_key=True),
    Column("tenant", Name, primary_key=True),
    Column("tip", LargeBinary, ForeignKey("messages.hash")),
    Column("conversation", LargeBinary, nullable=False),
    Index("ix_conversations_tip", "tip"),
)
"""A name for a history that moves on: ``tip`` is its last item, none while it is empty."""

answers = Table(
    "answers",
    METADATA,
    Column("tenant", Name, primary_key=True),
    Column("key", Name, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("attempt", Name, nullable=False),
    Column("writer", Name, nullable=False),
    Column("begun_s", Double, nullable=False),
    Column("status", BigInteger),
    Column("headers", LargeBinary),
    Column("body", LargeBinary),
    Index("ix_answers_begun", "begun_s"),
)
"""The work of one idempotency key: whose attempt is at it, and, once ``status`` is there, what it answered."""
