"""Batches.

A batch is one row, however many lines it has: what became of its lines is appended to files until it ends, since fifty
thousand answers that are kept for an hour would leave the database as large for good.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    name = sa.Text(collation="C") if op.get_bind().dialect.name == "postgresql" else sa.Text()
    op.create_table(
        "batches",
        sa.Column("id", name, primary_key=True),
        sa.Column("tenant", name, nullable=False),
        sa.Column("endpoint", name, nullable=False),
        sa.Column("input_file_id", name, nullable=False),
        sa.Column("completion_window", name, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("expires_s", sa.Double, nullable=False),
        sa.Column("keep_s", sa.Double, nullable=False),
        sa.Column("metadata", sa.LargeBinary, nullable=False),
        sa.Column("status", name, nullable=False),
        sa.Column("total", sa.BigInteger, nullable=False),
        sa.Column("completed", sa.BigInteger, nullable=False),
        sa.Column("failed", sa.BigInteger, nullable=False),
        sa.Column("times", sa.LargeBinary, nullable=False),
        sa.Column("problems", sa.LargeBinary, nullable=False),
        sa.Column("model", name),
        sa.Column("output_file_id", name),
        sa.Column("error_file_id", name),
        sa.Column("usage", sa.LargeBinary, nullable=False),
        sa.Column("owner", name),
        sa.Column("ended_s", sa.Double),
    )
    still_open = sa.text("ended_s IS NULL")
    op.create_index("ix_batches_listed", "batches", ["tenant", "created_s", "id"])
    op.create_index("ix_batches_open", "batches", ["created_s"], sqlite_where=still_open, postgresql_where=still_open)


def downgrade() -> None:
    op.drop_table("batches")
