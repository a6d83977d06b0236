"""Responses and conversations.

Their items are messages like a chat's: addressed by content and by all that comes before, so that a response costs one
row for each item it adds, however long the history that it goes on from and however many others do. A response points
at two places of its history, before and after its own output; a conversation points at one and moves. Items have
names, by which clients refer to them: ``item`` is the digest of tenant and name.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    name = sa.Text(collation="C") if op.get_bind().dialect.name == "postgresql" else sa.Text()
    named, running = sa.text("item IS NOT NULL"), sa.text("status = 'open'")
    op.add_column("messages", sa.Column("item", sa.LargeBinary))
    op.create_index("ix_messages_item", "messages", ["item"], sqlite_where=named, postgresql_where=named)
    _create_responses(name)
    op.create_table(
        "conversations",
        sa.Column("conversation_id", name, primary_key=True),
        sa.Column("tenant", name, primary_key=True),
        sa.Column("tip", sa.LargeBinary, sa.ForeignKey("messages.hash")),
        sa.Column("conversation", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_responses_given", "responses", ["given"])
    op.create_index("ix_responses_tip", "responses", ["tip"])
    columns = ["tenant", "conversation"]
    op.create_index("ix_responses_open", "responses", columns, sqlite_where=running, postgresql_where=running)
    op.create_index("ix_conversations_tip", "conversations", ["tip"])


def downgrade() -> None:
    for table in ("conversations", "responses"):
        op.drop_table(table)
    op.drop_index("ix_messages_item", "messages")
    op.drop_column("messages", "item")


def _create_responses(name: sa.Text) -> None:
    op.create_table(
        "responses",
        sa.Column("response_id", name, primary_key=True),
        sa.Column("tenant", name, primary_key=True),
        sa.Column("given", sa.LargeBinary, sa.ForeignKey("messages.hash")),
        sa.Column("tip", sa.LargeBinary, sa.ForeignKey("messages.hash")),
        sa.Column("conversation", name),
        sa.Column("status", name, nullable=False),
        sa.Column("response", sa.LargeBinary),
        sa.Column("background", sa.Boolean, nullable=False),
        sa.Column("request", sa.LargeBinary),
        sa.Column("attempts", sa.BigInteger, nullable=False),
        sa.Column("writer", name, nullable=False),
    )
