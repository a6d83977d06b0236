"""The ledger and the stored completions, in SQLite or Postgres."""

from serve_app.store.store import SqlStore

__all__ = ["SqlStore"]
