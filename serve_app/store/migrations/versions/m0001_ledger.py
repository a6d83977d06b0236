"""The ledger: messages, turns, labels, usage, writers.

Messages are stored by content and not by conversation, because clients send the whole conversation with each request:
stored as sent, a chat of n turns would cost n² messages. A row's key is the hash of its body, its tenant and the row
before it, so equal beginnings are one chain, a fork shares it, and no tenant's rows can be another's. Turns point at
the chain's tip and hold what only they have. Usage stands apart from turns, because most requests are not stored but
all are accounted, and because the account outlives the deletion of the text. Labels exist only to be searched: digests,
since an index takes no long values and a filter needs no more. The partial indexes keep the reaper's and the lists'
work proportional to what is in progress and to what clients can see.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    name = _name()
    op.create_table(
        "messages",
        sa.Column("hash", sa.LargeBinary, primary_key=True),
        sa.Column("parent", sa.LargeBinary, sa.ForeignKey("messages.hash")),
        sa.Column("body", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "turns",
        sa.Column("completion_id", name, primary_key=True),
        sa.Column("tenant", name, primary_key=True),
        sa.Column("tip", sa.LargeBinary, sa.ForeignKey("messages.hash")),
        sa.Column("model", name, nullable=False),
        sa.Column("created", sa.Double, nullable=False),
        sa.Column("status", name, nullable=False),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.Column("completion", sa.LargeBinary),
        sa.Column("writer", name, nullable=False),
    )
    op.create_table(
        "labels",
        sa.Column("completion_id", name, primary_key=True),
        sa.Column("tenant", name, primary_key=True),
        sa.Column("pair", sa.LargeBinary, primary_key=True),
        sa.ForeignKeyConstraint(["completion_id", "tenant"], ["turns.completion_id", "turns.tenant"]),
    )
    _create_usage(name)
    op.create_table(
        "writers",
        sa.Column("writer", name, primary_key=True),
        sa.Column("seen_s", sa.Double, nullable=False),
    )
    _create_indexes()


def downgrade() -> None:
    for table in ("writers", "usage", "labels", "turns", "messages"):
        op.drop_table(table)


def _name() -> sa.Text:
    return sa.Text(collation="C") if op.get_bind().dialect.name == "postgresql" else sa.Text()


def _create_usage(name: sa.Text) -> None:
    op.create_table(
        "usage",
        sa.Column("entry_id", name, primary_key=True),
        sa.Column("tenant", name, nullable=False),
        sa.Column("request_id", name, nullable=False),
        sa.Column("model", name, nullable=False),
        sa.Column("route", name, nullable=False),
        sa.Column("served_by", name, nullable=False),
        sa.Column("user", name),
        sa.Column("status", name, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cached_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("started_s", sa.Double, nullable=False),
        sa.Column("duration_s", sa.Double),
        sa.Column("first_token_s", sa.Double),
        sa.Column("failure", name),
        sa.Column("writer", name, nullable=False),
    )


def _create_indexes() -> None:
    visible, running = sa.text("completion IS NOT NULL"), sa.text("status = 'in_progress'")
    _create_index("ix_messages_parent", "messages", ["parent"])
    _create_index("ix_turns_tip", "turns", ["tip"])
    _create_index("ix_turns_listed", "turns", ["tenant", "created", "completion_id"], visible)
    _create_index("ix_turns_listed_by_model", "turns", ["tenant", "model", "created", "completion_id"], visible)
    _create_index("ix_turns_in_progress", "turns", ["writer"], running)
    _create_index("ix_labels_pair", "labels", ["tenant", "pair", "completion_id"])
    _create_index("ix_usage_tenant", "usage", ["tenant", "started_s"])
    _create_index("ix_usage_in_progress", "usage", ["writer"], running)


def _create_index(name: str, table: str, columns: list[str], where: sa.TextClause | None = None) -> None:
    op.create_index(name, table, columns, sqlite_where=where, postgresql_where=where)
