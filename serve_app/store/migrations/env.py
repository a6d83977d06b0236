"""What Alembic runs to migrate: on the connection it is given, in the transaction that is already open there."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

from serve_app.store.schema import METADATA


def run(connection: Connection) -> None:
    """Batch mode copies a table where SQLite cannot alter it; its DDL is transactional, whatever Alembic assumes."""
    context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True, transactional_ddl=True)
    with context.begin_transaction():
        context.run_migrations()


run(context.config.attributes["connection"])
