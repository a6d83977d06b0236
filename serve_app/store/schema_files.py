"""The tables of files, uploads and batches."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, LargeBinary, Table, text

from serve_app.store.schema import METADATA, Name

files = Table(
    "files",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("tenant", Name, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("filename", Name, nullable=False),
    Column("purpose", Name, nullable=False),
    Column("expires_s", Double),
    Index("ix_files_listed", "tenant", "created_s", "id"),
    Index("ix_files_expires", "expires_s"),
)
"""What is known of a file; its bytes are on a disk, under its id."""

uploads = Table(
    "uploads",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("tenant", Name, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Column("filename", Name, nullable=False),
    Column("purpose", Name, nullable=False),
    Column("keep_s", Double),
    Column("status", Name, nullable=False),
    Column("file_id", Name),
    Index("ix_uploads_expires", "expires_s"),
)
"""A file that comes in parts. One that was not completed in time is expired, whatever its status says."""

parts = Table(
    "parts",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("upload_id", Name, ForeignKey("uploads.id"), nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created_s", Double, nullable=False),
    Index("ix_parts_upload", "upload_id"),
)
"""What came of an upload that is pending."""

batches = Table(
    "batches",
    METADATA,
    Column("id", Name, primary_key=True),
    Column("tenant", Name, nullable=False),
    Column("endpoint", Name, nullable=False),
    Column("input_file_id", Name, nullable=False),
    Column("completion_window", Name, nullable=False),
    Column("created_s", Double, nullable=False),
    Column("expires_s", Double, nullable=False),
    Column("keep_s", Double, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("status", Name, nullable=False),
    Column("total", BigInteger, nullable=False),
    Column("completed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("times", LargeBinary, nullable=False),
    Column("problems", LargeBinary, nullable=False),
    Column("model", Name),
    Column("output_file_id", Name),
    Column("error_file_id", Name),
    Column("usage", LargeBinary, nullable=False),
    Column("key", Name),
    Column("owner", Name),
    Column("ended_s", Double),
    Index("ix_batches_listed", "tenant", "created_s", "id"),
    Index(
        "ix_batches_open",
        "created_s",
        sqlite_where=text("ended_s IS NULL"),
        postgresql_where=text("ended_s IS NULL"),
    ),
)
"""A file of requests. Open until ``ended_s``; ``owner`` is the writer that works on it. Its lines are in files."""
