"""``llm-backend keys …``: on the database itself, whether or not a server is running on it."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from config import settings
from serve_app.protocol import ENTROPY_BYTES, Account, Key, KeyQuery, Keys, Project, Secret, StoreError

app = typer.Typer(no_args_is_help=True, help="API keys: who may ask, in which project's name.")

_say = Console(highlight=False, soft_wrap=True)
_complain = Console(stderr=True, highlight=False, soft_wrap=True)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}

ResultT = TypeVar("ResultT")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
KeyId = Annotated[str, typer.Argument(help="The id of a key, as `keys list` shows it.")]


def _duration(text: str) -> float:
    """``90d``, ``12h``, ``30m``, ``45s``."""
    match = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if match is None:
        raise typer.BadParameter("a number and s, m, h or d, such as 90d")
    return float(int(match[1]) * _UNITS[match[2]])


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    project: Annotated[str, typer.Option(help="Its project: made when there is none of that name.")] = "default",
    admin: Annotated[bool, typer.Option("--admin", help="For /v1/organization, and nothing else.")] = False,
    model: Annotated[list[str] | None, typer.Option(help="A model it may call; again for more. Default: all.")] = None,
    weight: Annotated[float, typer.Option(min=0.01, max=100, help="Its part when a model is busy.")] = 1.0,
    expires: Annotated[float | None, typer.Option(parser=_duration, help="After how long, such as 90d.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a key. It is printed now and never again; the server takes it at once."""
    if admin and (model or weight != 1.0):
        _fail("A key for /v1/organization calls no models: it takes neither --model nor --weight.")
    secret, now_s = Secret.of(secrets.token_bytes(ENTROPY_BYTES)), time.time()
    expires_s = None if expires is None else now_s + expires

    async def make(keys: Keys) -> Key:
        if admin:
            key = Key(_id("key"), name, secret.hint, ("admin",), now_s, expires_s=expires_s)
            await keys.add(key, secret.digest)
            return key
        of = await keys.open_project(Project(_id("proj"), project, now_s))
        account = Account(_id("svcacct"), of.id, name, now_s)
        models = tuple(model) if model else None
        key = Key(_id("key"), name, secret.hint, ("inference",), now_s, of.id, account.id, models, weight, expires_s)
        if not await keys.add(key, secret.digest, account):
            _fail(f"The project {project!r} was archived meanwhile.")
        return key

    _print_made(_run(make), secret, as_json=as_json)


@app.command("list")
def list_keys(
    project: Annotated[str | None, typer.Option(help="Only those of the project with this id.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Those that are revoked too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Keys, oldest first."""

    async def collect(keys: Keys) -> list[Key]:
        found: list[Key] = []
        while True:
            after = found[-1].id if found else None
            page = await keys.keys(KeyQuery(project=project, revoked=everything, after=after, limit=100))
            found += page.data
            if not page.has_more:
                return found

    _print_keys(_run(collect), as_json=as_json)


@app.command()
def show(key_id: KeyId, as_json: AsJson = False) -> None:
    """One key."""
    _print_keys([_found(_run(lambda keys: keys.key(key_id)))], as_json=as_json)


@app.command()
def rotate(
    key_id: KeyId,
    overlap: Annotated[
        float | None, typer.Option(parser=_duration, help="How long the old text still works, such as 1h.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give a key another text; what it may, and whose it is, stays."""
    secret = Secret.of(secrets.token_bytes(ENTROPY_BYTES))
    key = _found(_run(lambda keys: keys.rotate(key_id, (secret.digest, secret.hint), overlap or 0.0)))
    _print_made(key, secret, as_json=as_json)


@app.command()
def revoke(key_id: KeyId, as_json: AsJson = False) -> None:
    """End a key, for good. Servers refuse it after 5 seconds at most."""
    _print_keys([_found(_run(lambda keys: keys.revoke(key_id)))], as_json=as_json)


def _run(work: Callable[[Keys], Awaitable[ResultT]]) -> ResultT:
    # Here, not above: the other commands do without SQLAlchemy, 0.6 s of imports.
    from serve_app.store.store import SqlStore

    async def with_store(url: str) -> ResultT:
        store = await SqlStore.open(url)
        try:
            return await work(store.keys)
        finally:
            await store.close()

    try:
        return asyncio.run(with_store(settings.load().database_url.get_secret_value()))
    except settings.SettingsError as error:
        _fail(f"The configuration is wrong: {error}")
    except StoreError as error:
        _fail(str(error))


def _id(kind: str) -> str:
    return f"{kind}_{uuid.uuid4().hex}"


def _found(key: Key | None) -> Key:
    return key if key is not None else _fail("There is no such key, or it is revoked.")


def _print_made(key: Key, secret: Secret, *, as_json: bool) -> None:
    """The text alone on standard output, for whoever pipes it on."""
    if as_json:
        _say.print_json(json.dumps(_shape(key) | {"value": secret.text}))
        return
    _complain.print(_table([key]))
    _complain.print("This is the key. It is not shown again:")
    _say.print(secret.text, markup=False)


def _print_keys(keys: list[Key], *, as_json: bool) -> None:
    if as_json:
        _say.print_json(json.dumps([_shape(key) for key in keys]))
    else:
        _say.print(_table(keys))


def _shape(key: Key) -> dict[str, Any]:
    times = {name: _moment(getattr(key, f"{name[:-2]}s")) for name in ("created_at", "expires_at", "revoked_at")}
    return {name: value for name, value in asdict(key).items() if not name.endswith("_s")} | times


def _table(keys: list[Key]) -> Table:
    table = Table("id", "name", "key", "scopes", "project", "models", "weight", "expires", "revoked", box=None)
    for key in keys:
        models = "all" if key.models is None else ", ".join(key.models)
        whose, ends = key.project or "-", (_moment(key.expires_s) or "-", _moment(key.revoked_s) or "-")
        cells = (key.id, key.name, key.hint, " ".join(key.scopes), whose, models, f"{key.weight:g}", *ends)
        table.add_row(*(cell.replace("[", r"\[") for cell in cells), style="dim" if key.revoked_s else None)
    return table


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _fail(line: str) -> NoReturn:
    """One line on standard error, exit code 1."""
    _complain.print(line, style="red", markup=False)
    raise typer.Exit(1)
