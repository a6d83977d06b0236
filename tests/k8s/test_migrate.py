"""What the migration job runs."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from deployments.cli import app


def migrate(url: str, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.setenv("DATABASE_URL", url)
    return CliRunner().invoke(app, ["db", "migrate"])


def test_an_empty_database_gets_its_tables_and_a_second_run_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.db"
    schemas = []
    for _ in range(2):
        result = migrate(f"sqlite:///{file}", monkeypatch)
        assert result.exit_code == 0, result.output
        with closing(sqlite3.connect(file)) as database:
            schemas.append(database.execute("select name, sql from sqlite_master order by name").fetchall())
    assert "alembic_version" in {name for name, _ in schemas[0]}
    assert schemas[0] == schemas[1]


def test_a_database_that_does_not_answer_fails_the_job_without_showing_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result = migrate("postgresql://llm:very-secret@127.0.0.1:9/llm", monkeypatch)
    assert result.exit_code == 1
    assert "The store did not start" in result.output
    assert "very-secret" not in result.output
