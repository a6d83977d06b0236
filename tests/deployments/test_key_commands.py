from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from deployments.cli import app
from tests.api.everything import MODEL, Everything
from tests.api.keyed import KeyedHouse, keyed_house


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def told(*arguments: str) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "keyed.db"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{path}")
    return path


def test_a_key_is_made_shown_listed_and_revoked(database: Path) -> None:
    made = told("create", "ci", "--project", "team", "--model", "llama", "--model", "gpt-4", "--weight", "2")
    text = made.pop("value")
    assert text.startswith("sk-lb-")
    assert (made["models"], made["weight"], made["scopes"]) == (["llama", "gpt-4"], 2.0, ["inference"])
    assert told("show", made["id"]) == told("list") == [made]
    revoked = told("revoke", made["id"])[0]
    assert revoked["revoked_at"] is not None
    assert told("list") == []
    assert told("list", "--all") == [revoked]
    assert text.encode() not in database.read_bytes()


def test_the_text_alone_is_on_standard_output(database: Path) -> None:
    made = run("create", "[bold]ci", "--expires", "90d")
    assert made.exit_code == 0
    assert len(made.stdout.strip()) == 49
    assert made.stdout.startswith("sk-lb-")
    assert "not shown again" in made.stderr
    assert "bold" in run("list").stdout


def test_two_keys_of_one_name_of_project_are_of_one_project(database: Path) -> None:
    first, second, other = told("create", "a"), told("create", "b"), told("create", "c", "--project", "else")
    assert first["project"] == second["project"] != other["project"]
    assert [key["id"] for key in told("list", "--project", other["project"])] == [other["id"]]


@pytest.mark.parametrize(
    "arguments",
    [
        ("show", "key_none"),
        ("revoke", "key_none"),
        ("rotate", "key_none"),
        ("create", "x", "--admin", "--model", "llama"),
        ("create", "x", "--expires", "soon"),
        ("create", "x", "--weight", "0"),
    ],
)
def test_what_cannot_be_fails_in_a_line(database: Path, arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.output


async def statuses(house: KeyedHouse, *texts: str) -> list[int]:
    found = []
    for text in texts:
        async with house.client(text) as client:
            found.append((await client.get("/v1/models")).status_code)
    return found


async def test_it_works_on_the_database_of_a_server_that_is_running(
    database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with keyed_house(tmp_path, {MODEL: Everything()}) as house:
        first = await asyncio.to_thread(told, "create", "ci")
        assert await statuses(house, first["value"], "nonsense") == [200, 401]
        turned = await asyncio.to_thread(told, "rotate", first["id"], "--overlap", "1h")
        assert turned["id"] == first["id"]
        assert await statuses(house, first["value"], turned["value"]) == [200, 200]
        again = await asyncio.to_thread(told, "rotate", first["id"])
        assert await statuses(house, again["value"], turned["value"], first["value"]) == [200, 401, 401]
        await asyncio.to_thread(told, "revoke", first["id"])
        await house.context.admission.keys_changed()
        assert await statuses(house, again["value"]) == [401]
        await house.store.check()


async def test_an_admin_key_administers_and_does_nothing_else(database: Path, tmp_path: Path) -> None:
    admin = await asyncio.to_thread(told, "create", "boss", "--admin")
    async with keyed_house(tmp_path, {MODEL: Everything()}) as house, house.client(admin["value"]) as client:
        assert (await client.get("/v1/organization/projects")).status_code == 200
        assert (await client.get("/v1/models")).status_code == 403


def test_a_database_that_is_out_is_told_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://user:hunter2@127.0.0.1:1/none")
    result = run("list")
    assert result.exit_code == 1
    assert "hunter2" not in result.output
