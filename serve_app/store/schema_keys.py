"""The tables of keys, projects and service accounts."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, Index, LargeBinary, Table

from serve_app.store.schema import METADATA, Name

projects = Table(
    "projects",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("name", Name, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("archived_s", Double),
    Index("ix_projects_listed", "created_s", "id"),
)

accounts = Table(
    "service_accounts",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("project", Name, nullable=False),
    Column("name", Name, nullable=False),
    Column("created_s", Double, nullable=False),
    Index("ix_service_accounts_listed", "project", "created_s", "id"),
)

api_keys = Table(
    "api_keys",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("digest", Name, nullable=False, unique=True),
    Column("former_digest", Name),
    Column("former_until_s", Double),
    Column("hint", Name, nullable=False),
    Column("name", Name, nullable=False),
    Column("scopes", Name, nullable=False),
    Column("project", Name),
    Column("account", Name),
    Column("models", LargeBinary),
    Column("weight", Double, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double),
    Column("revoked_s", Double),
    Index("ix_api_keys_listed", "project", "created_s", "id"),
)
"""``scopes`` are words with spaces between them. Rows are never deleted: a door that had keys stays one that asks."""

keyring = Table("keyring", METADATA, Column("id", BigInteger, primary_key=True), Column("version", BigInteger))
"""One row, once there was a key: its version grows in every transaction that changes what opens the door."""
