"""Keys, the projects they are of, and the service accounts that hold them.

A batch names the key that made it, so that its lines may call what that key may.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    name = sa.Text(collation="C") if op.get_bind().dialect.name == "postgresql" else sa.Text()
    op.create_table(
        "projects",
        sa.Column("id", name, primary_key=True),
        sa.Column("name", name, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("archived_s", sa.Double),
    )
    op.create_index("ix_projects_listed", "projects", ["created_s", "id"])
    op.create_table(
        "service_accounts",
        sa.Column("id", name, primary_key=True),
        sa.Column("project", name, nullable=False),
        sa.Column("name", name, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
    )
    op.create_index("ix_service_accounts_listed", "service_accounts", ["project", "created_s", "id"])
    op.create_table(
        "api_keys",
        sa.Column("id", name, primary_key=True),
        sa.Column("digest", name, nullable=False, unique=True),
        sa.Column("former_digest", name),
        sa.Column("former_until_s", sa.Double),
        sa.Column("hint", name, nullable=False),
        sa.Column("name", name, nullable=False),
        sa.Column("scopes", name, nullable=False),
        sa.Column("project", name),
        sa.Column("account", name),
        sa.Column("models", sa.LargeBinary),
        sa.Column("weight", sa.Double, nullable=False),
        sa.Column("created_s", sa.Double, nullable=False),
        sa.Column("expires_s", sa.Double),
        sa.Column("revoked_s", sa.Double),
    )
    op.create_index("ix_api_keys_listed", "api_keys", ["project", "created_s", "id"])
    op.create_table("keyring", sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("version", sa.BigInteger))
    op.add_column("batches", sa.Column("key", name))


def downgrade() -> None:
    op.drop_column("batches", "key")
    for table in ("keyring", "api_keys", "service_accounts", "projects"):
        op.drop_table(table)
