"""Files, and uploads with their parts.

Only what is known of them: bytes in a database make every backup and every vacuum as large as the files are. A file's
row is written after its bytes are safe, and goes before they do, so that a row always has its bytes.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    name = sa.Text(collation="C") if op.get_bind().dialect.name == "postgresql" else sa.Text()
    op.create_table(
        "files",
        sa.Column("id", name, primary_key=True),
        sa.Column("tenant", name, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("filename", name, nullable=False),
        sa.Column("purpose", name, nullable=False),
        sa.Column("expires_s", sa.Double),
    )
    op.create_table(
        "uploads",
        sa.Column("id", name, primary_key=True),
        sa.Column("tenant", name, nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("expires_s", sa.Double, nullable=False),
        sa.Column("filename", name, nullable=False),
        sa.Column("purpose", name, nullable=False),
        sa.Column("keep_s", sa.Double),
        sa.Column("status", name, nullable=False),
        sa.Column("file_id", name),
    )
    op.create_table(
        "parts",
        sa.Column("id", name, primary_key=True),
        sa.Column("upload_id", name, sa.ForeignKey("uploads.id"), nullable=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
    )
    op.create_index("ix_files_listed", "files", ["tenant", "created_s", "id"])
    op.create_index("ix_files_expires", "files", ["expires_s"])
    op.create_index("ix_uploads_expires", "uploads", ["expires_s"])
    op.create_index("ix_parts_upload", "parts", ["upload_id"])


def downgrade() -> None:
    for table in ("parts", "uploads", "files"):
        op.drop_table(table)
