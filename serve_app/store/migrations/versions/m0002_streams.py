"""Recorded streams, and the stretches of events they consist of.

A stream is written a few times a second while its answer is generated, and read again only by a client that lost its
connection: events that were written together stay together, one row for each write instead of one for each event.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    name = sa.Text(collation="C") if op.get_bind().dialect.name == "postgresql" else sa.Text()
    op.create_table(
        "streams",
        sa.Column("tenant", name, primary_key=True),
        sa.Column("stream_id", name, primary_key=True),
        sa.Column("following", sa.BigInteger, nullable=False),
        sa.Column("ended", sa.Boolean, nullable=False),
        sa.Column("heard_s", sa.Double, nullable=False),
    )
    op.create_index("ix_streams_heard", "streams", ["heard_s"])
    op.create_table(
        "stretches",
        sa.Column("tenant", name, primary_key=True),
        sa.Column("stream_id", name, primary_key=True),
        sa.Column("first", sa.BigInteger, primary_key=True),
        sa.Column("following", sa.BigInteger, nullable=False),
        sa.Column("events", sa.LargeBinary, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("stretches")
    op.drop_table("streams")
