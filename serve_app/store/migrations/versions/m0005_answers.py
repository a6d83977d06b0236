"""Kept answers: one row for each idempotency key of a day, from the moment its work begins."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    name = sa.Text(collation="C") if op.get_bind().dialect.name == "postgresql" else sa.Text()
    op.create_table(
        "answers",
        sa.Column("tenant", name, primary_key=True),
        sa.Column("key", name, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("attempt", name, nullable=False),
        sa.Column("writer", name, nullable=False),
        sa.Column("begun_s", sa.Double, nullable=False),
        sa.Column("status", sa.BigInteger),
        sa.Column("headers", sa.LargeBinary),
        sa.Column("body", sa.LargeBinary),
    )
    op.create_index("ix_answers_begun", "answers", ["begun_s"])


def downgrade() -> None:
    op.drop_table("answers")
